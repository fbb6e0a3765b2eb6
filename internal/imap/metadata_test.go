package imap

import (
	"maps"
	"strings"
	"testing"
)

func TestGetMetadata(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, answer, value string
		ok                  bool
	}{
		{name: "quoted", answer: `S: * METADATA "" (/private/x "a \"b\" \\ c")`, value: `a "b" \ c`, ok: true},
		{name: "literal", answer: "R: \"* METADATA \\\"\\\" (/private/x {8}\\r\\nuser=3@1)\\r\\n\"", value: "user=3@1", ok: true},
		{name: "literal with line ends", answer: "R: \"* METADATA \\\"\\\" (/private/x {6}\\r\\na\\r\\n)\\r\\n)\\r\\n\"", value: "a\r\n)\r\n", ok: true},
		{name: "literal8", answer: "R: \"* METADATA \\\"\\\" (/private/x ~{3}\\r\\na\\x00b)\\r\\n\"", value: "a\x00b", ok: true},
		{name: "literal with plus", answer: "R: \"* METADATA \\\"\\\" (/private/x {1+}\\r\\nz)\\r\\n\"", value: "z", ok: true},
		{name: "empty", answer: `S: * METADATA "" (/private/x "")`, ok: true},
		{name: "empty literal", answer: "R: \"* METADATA \\\"\\\" (/private/x {0}\\r\\n)\\r\\n\"", ok: true},
		{name: "utf-8", answer: `S: * METADATA "" (/private/x "ü")`, value: "ü", ok: true},
		{name: "nil", answer: `S: * METADATA "" (/private/x nil)`},
		{name: "nothing said", answer: ``},
		{name: "empty list", answer: `S: * METADATA "" ()`},
		{name: "quoted names", answer: `S: * METADATA {0}` + "\n" + `S:  ("/PRIVATE/X" "v")`, value: "v", ok: true},
		{name: "among others", answer: `S: * METADATA "" (/private/w "no" /private/x "yes" /shared/x NIL)`, value: "yes", ok: true},
		{name: "another mailbox", answer: `S: * METADATA INBOX (/private/x "no")`},
		{name: "changes announced", answer: "S: * METADATA \"\" /private/x /private/y\nS: * METADATA INBOX {2}\nS: /x", value: ""},
		{
			name: "amid unsolicited data", value: "v", ok: true,
			answer: "S: * 4 EXISTS\nS: * OK [ALERT] be (careful {5}\nS: * 1 FETCH (FLAGS (\\Seen) BODY[] {4}\nS: a)\nS:  UID 5)\n" +
				"S: * NO something\nS: * METADATA \"\" (/private/x v\")\nS: * XYZ",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			answer := strings.Replace(tt.answer, `(/private/x v")`, `(/private/x "v")`, 1)
			c := play(t, greetAll+lines["get metadata"]+answer+"\nS: p1 OK done")
			value, ok, err := c.GetMetadata(t.Context(), "", "/private/x")
			if err != nil || value != tt.value || ok != tt.ok {
				t.Fatalf("got %q, %v, %v; want %q, %v", value, ok, err, tt.value, tt.ok)
			}
		})
	}
}

func TestSetMetadata(t *testing.T) {
	t.Parallel()
	long, longer := strings.Repeat("x", 1025), strings.Repeat("x", 4097)
	for _, tt := range []struct {
		name, caps, script string
		value              string
		remove             bool
		want               error
	}{
		{name: "quoted", value: "user=3@1", script: `C: p1 SETMETADATA "" (/private/x "user=3@1")`},
		{name: "escaped", value: `a"\`, script: `C: p1 SETMETADATA "" (/private/x "a\"\\")`},
		{name: "empty", script: `C: p1 SETMETADATA "" (/private/x "")`},
		{name: "the word nil", value: "NIL", script: `C: p1 SETMETADATA "" (/private/x "NIL")`},
		{name: "removed", remove: true, script: `C: p1 SETMETADATA "" (/private/x NIL)`},
		{name: "literal", value: "a\tb", script: "C: p1 SETMETADATA \"\" (/private/x {3}\nS: + go\nC: a\tb)"},
		{name: "literal, amid data", value: "a\tb", script: "C: p1 SETMETADATA \"\" (/private/x {3}\nS: * 1 EXISTS\nS: +\nC: a\tb)"},
		{name: "literal+", caps: "LITERAL+", value: "ü", script: "C: p1 SETMETADATA \"\" (/private/x {2+}\nC: ü)"},
		{name: "literal+, long", caps: "LITERAL+", value: longer, script: "C: p1 SETMETADATA \"\" (/private/x {4097+}\nC: " + longer + ")"},
		{name: "literal-", caps: "LITERAL-", value: long, script: "C: p1 SETMETADATA \"\" (/private/x {1025+}\nC: " + long + ")"},
		{name: "literal-, long", caps: "LITERAL-", value: longer, script: "C: p1 SETMETADATA \"\" (/private/x {4097}\nS: + go\nC: " + longer + ")"},
		{name: "literal refused", value: "ü", script: "C: p1 SETMETADATA \"\" (/private/x {2}\nS: p1 NO [METADATA MAXSIZE 1] no\nEOF:", want: &ResponseError{}},
		{name: "literal ignored", value: "ü", script: "C: p1 SETMETADATA \"\" (/private/x {2}\nS: p1 OK fine\nEOF:", want: errSyntax},
		{name: "refused", value: "v", script: "C: p1 SETMETADATA \"\" (/private/x \"v\")\nS: p1 NO [METADATA TOOMANY] no\nEOF:", want: &ResponseError{}},
		{name: "nul", value: "a\x00", script: "EOF:", want: errAny},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := play(t, "S: * OK [CAPABILITY METADATA "+tt.caps+"] hi\n"+tt.script+"\nS: p1 OK done")
			value := &tt.value
			if tt.remove {
				value = nil
			}
			check(t, c.SetMetadata(t.Context(), "", "/private/x", value), tt.want)
		})
	}
}

func TestMetadataIsChecked(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		caps, mailbox, entry string
		want                 error
	}{
		{"X", "", "/private/x", ErrUnsupported},
		{"X", "INBOX", "/private/x", ErrUnsupported},
		{"METADATA-SERVER", "INBOX", "/private/x", ErrUnsupported},
		{"METADATA", "", "private/x", errAny},
		{"METADATA", "", "", errAny},
		{"METADATA", "", "/private//x", errAny},
		{"METADATA", "", "/private/", errAny},
		{"METADATA", "", "/private/*", errAny},
		{"METADATA", "", "/private/%", errAny},
		{"METADATA", "", "/private/ü", errAny},
		{"METADATA", "", "/private/x\r\np2 LOGOUT", errAny},
		{"METADATA", "Entw\xfcrfe", "/private/x", errAny},
		{"METADATA", "a\r\nb", "/private/x", errAny},
	} {
		c := play(t, "S: * OK [CAPABILITY "+tt.caps+"] hi")
		_, _, err := c.GetMetadata(t.Context(), tt.mailbox, tt.entry)
		check(t, err, tt.want)
		check(t, c.SetMetadata(t.Context(), tt.mailbox, tt.entry, nil), tt.want)
	}
	c := play(t, `S: * OK [CAPABILITY METADATA-SERVER] hi
		C: p1 GETMETADATA "" (/private/x)
		S: p1 OK done`)
	if _, ok, err := c.GetMetadata(t.Context(), "", "/private/x"); ok || err != nil {
		t.Fatal(ok, err)
	}
	c = play(t, `S: * OK [CAPABILITY METADATA] hi
		C: p1 GETMETADATA "my box" ("/private/x y")
		S: * METADATA "my box" ("/private/x y" v)
		EOF:`)
	if _, _, err := c.GetMetadata(t.Context(), "my box", "/private/x y"); err == nil {
		t.Fatal("an atom is taken for a value")
	}
	c = play(t, `S: * OK [CAPABILITY METADATA] hi
		C: p1 GETMETADATA Inbox (/private/x)
		S: * METADATA INBOX (/private/x "v")
		S: p1 OK done`)
	if v, _, err := c.GetMetadata(t.Context(), "Inbox", "/private/x"); v != "v" || err != nil {
		t.Fatal(v, err)
	}
}

func TestID(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, script string
		send, want   map[string]string
		err          error
	}{
		{
			name: "both", send: map[string]string{"version": "1", "name": `Post"horn`},
			script: "C: p1 ID (\"name\" \"Post\\\"horn\" \"version\" \"1\")\nS: * ID (\"name\" \"Dovecot\" \"os\" NIL \"x\" {2}\nS: yz)\nS: p1 OK done",
			want:   map[string]string{"name": "Dovecot", "x": "yz"},
		},
		{name: "nil", script: "C: p1 ID NIL\nS: * ID NIL\nS: p1 OK done", want: map[string]string{}},
		{name: "silent", script: "C: p1 ID NIL\nS: p1 OK done"},
		{name: "string", script: "C: p1 ID NIL\nS: * ID \"x\"\nEOF:", err: errSyntax},
		{name: "odd", script: "C: p1 ID NIL\nS: * ID (\"x\")\nEOF:", err: errSyntax},
		{name: "no value", script: "C: p1 ID NIL\nS: * ID (\"x\" )\nEOF:", err: errSyntax},
		{name: "atom", script: "C: p1 ID NIL\nS: * ID (x \"y\")\nEOF:", err: errSyntax},
		{name: "no space", script: "C: p1 ID NIL\nS: * ID\nEOF:", err: errSyntax},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := play(t, greetAll+tt.script).ID(t.Context(), tt.send)
			check(t, err, tt.err)
			if err == nil && !maps.Equal(got, tt.want) {
				t.Fatalf("got %v", got)
			}
		})
	}
	_, err := play(t, "S: * OK [CAPABILITY X] hi").ID(t.Context(), nil)
	check(t, err, ErrUnsupported)
}

func TestLogout(t *testing.T) {
	t.Parallel()
	c := play(t, greetAll+"C: p1 LOGOUT\nS: * BYE so long\nS: p1 OK done")
	check(t, c.Logout(t.Context()), nil)
	check(t, c.Logout(t.Context()), ErrClosed)
	c = play(t, greetAll+"C: p1 LOGOUT\nS: * BYE so long\nEOF:")
	check(t, c.Logout(t.Context()), errAny)
	check(t, c.Logout(t.Context()), ErrClosed)
}
