package imap

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func decode(s string) *decoder { return newDecoder(bufio.NewReader(strings.NewReader(s))) }

func TestDepth(t *testing.T) {
	t.Parallel()
	for depth, want := range map[int]error{1: nil, maxDepth: nil, maxDepth + 1: errTooLong} {
		d := decode(strings.Repeat("(", depth) + strings.Repeat(")", depth) + "\r\n")
		var element func() error
		element = func() error { return d.list(element) }
		if err := d.list(element); !errors.Is(err, want) {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
	// Lists beside each other are no depth.
	d := decode("(" + strings.Repeat("() ", maxDepth) + "(()))\r\n")
	var element func() error
	element = func() error { return d.list(element) }
	if err := d.list(element); err != nil {
		t.Error(err)
	}
	if err := d.crlf(); err != nil {
		t.Error(err)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]uint32{"0 ": 0, "4294967295 ": 4294967295, "007 ": 7} {
		if n, err := decode(in).number(); n != want || err != nil {
			t.Errorf("%q = %d, %v", in, n, err)
		}
	}
	for _, in := range []string{" ", "-1 ", "4294967296 ", "18446744073709551617 ", "99999999999999999999999999 ", "1"} {
		if n, err := decode(in).number(); err == nil {
			t.Errorf("%q = %d", in, n)
		}
	}
}

// responses are seeds: real servers' words, and what once was a corner.
var responses = []string{
	"* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ STARTTLS AUTH=PLAIN AUTH=LOGIN] ready\r\n",
	"* METADATA \"\" (/private/vendor/vendor.dovecot/http-notify {8}\r\nuser=3@1)\r\nr3 OK Getmetadata completed (0.001 + 0.000 secs).\r\n",
	"* METADATA \"\" (/private/vendor/vendor.dovecot/http-notify NIL)\r\n",
	"* METADATA INBOX /private/x ~{1}\r\n\x00\r\n",
	"* METADATA \"\" (/x ~{3}\r\na\x00b)\r\n",
	"* ID (\"name\" \"Dovecot\" \"v\" NIL)\r\n* ID NIL\r\n",
	"* 12 FETCH (FLAGS (\\Seen $x) BODY[HEADER] {3}\r\na\r\n UID 4)\r\n+ \r\n+\r\n+ idling\r\n",
	"* BYE [ALERT] bye\r\np1 NO [METADATA LONGENTRIES 5] x\r\n* OK\r\n* NO \r\n",
	"* LIST () \"/\" {99999999999999999999}\r\n",
	"* CAPABILITY \r\n* LIST {4194304}\r\n",
	"p1 OK [X \"]\"] y]\r\n* OK {5}\r\n",
	"* 3 EXISTS\r\n* 2 EXPUNGE\r\n* VANISHED (EARLIER) 1:5,7\r\n* VANISHED 4294967295:1\r\n",
	"* STATUS &AOQ- (UIDNEXT 5 UNSEEN 2 HIGHESTMODSEQ 9223372036854775807 X-GUID 5af1)\r\n",
	"* LIST (\\HasNoChildren \\Sent) \"/\" \"&ZeVnLIqe-&-\" (\"OLDNAME\" (x) CHILDINFO (\"SUBSCRIBED\"))\r\n",
	"* 1 FETCH (UID 4 FLAGS (\\Seen) INTERNALDATE \" 7-Jul-2026 02:44:25 +0000\" MODSEQ (5) PREVIEW (FUZZY \"x\") BODY[1.2 (A)]<0> NIL)\r\n",
	"* 1 FETCH (ENVELOPE (\"d\" {1}\r\ns ((\"n\" NIL \"m\" \"h\")(NIL NIL \"g\" NIL)) NIL NIL NIL NIL NIL NIL \"<i>\"))\r\n",
	"* ESEARCH (TAG \"p1\") UID MIN 2 MAX 4 COUNT 2 ALL 2,4 MODSEQ 5\r\n* SEARCH 5 4 (MODSEQ 9)\r\n",
}

// FuzzResponse reads whatever comes as a client would that awaits everything at once.
func FuzzResponse(f *testing.F) {
	for _, s := range responses {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		rest := bytes.NewReader(in)
		d := newDecoder(bufio.NewReader(rest))
		for {
			left := rest.Len() + d.r.Buffered()
			r, err := d.response()
			if err == nil && r.tag == untagged && r.status == "" {
				switch r.name {
				case "CAPABILITY":
					_, err = d.capabilities()
				case "METADATA":
					err = d.metadata(func(_, _, value string, has bool) {
						if !has && value != "" {
							t.Error("NIL has a value")
						}
						if len(value) > maxLiteral {
							t.Error("value beyond its bound")
						}
					})
				case "ID":
					_, err = d.id()
				case "ESEARCH":
					_, err = d.esearch()
				case "SEARCH":
					_, err = d.search()
				default:
					var u Update
					var known bool
					if u, known, err = d.update(r); err == nil && !known {
						err = d.skip()
						r.name = "" // has read the end of the line
					}
					fuzzUpdate(t, u)
				}
				if err == nil && r.name != "" {
					err = d.crlf()
				}
			}
			if err != nil {
				return
			}
			if rest.Len()+d.r.Buffered() >= left {
				t.Fatal("nothing was read")
			}
			for _, s := range []string{r.text, r.code, r.codeArgs, r.name} {
				if strings.ContainsAny(s, "\r\n\x00") {
					t.Fatalf("%q goes over the line", s)
				}
			}
			if r.status != "" && len(r.err().Error()) > 5*maxErrorText {
				t.Fatal("error beyond its bound")
			}
		}
	})
}

// fuzzUpdate looks for what no update may hold.
func fuzzUpdate(t *testing.T, u Update) {
	t.Helper()
	switch u := u.(type) {
	case Vanished:
		u.UIDs.Newest(50)
		if u.UIDs.Len() < 0 {
			t.Error("fewer than none")
		}
	case Message:
		if len(u.Envelope.From) > maxAddresses || u.ModSeq > 1<<63-1 {
			t.Error("beyond the bounds")
		}
	case Status:
		if !utf8.ValidString(u.Mailbox) {
			t.Errorf("name %q", u.Mailbox)
		}
	case Mailbox:
		if !utf8.ValidString(u.Name) || !utf8.ValidString(u.OldName) {
			t.Errorf("name %q", u.Name)
		}
	}
}

// FuzzName: a name that we write is read as the same, and what we read is a name.
func FuzzName(f *testing.F) {
	for _, s := range []string{"INBOX", "A & B", "日本語", "&AOQ-", "&", "&-", "\xff", "&2D0-", "🐘ä"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, err := decode("{" + strconv.Itoa(len(s)) + "}\r\n" + s + " ").mailboxName(); err == nil && !utf8.ValidString(name) {
			t.Fatalf("%q is read as %q", s, name)
		}
		if checkName(s) != nil || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == utf8.RuneError }) {
			return
		}
		wire := encodeName(s)
		if !quotable(wire[:min(len(wire), maxQuoted)]) || decodeName(wire) != s {
			t.Fatalf("%q is written as %q and read as %q", s, wire, decodeName(wire))
		}
	})
}

// FuzzChallenge: what a server says of a token is bounded and no more than a text.
func FuzzChallenge(f *testing.F) {
	f.Add("eyJzdGF0dXMiOiI0MDEifQ==")
	f.Add("e30=")
	f.Fuzz(func(t *testing.T, s string) {
		if got := tokenError(s); len(got) > maxErrorText {
			t.Fatalf("%d bytes", len(got))
		}
	})
}

// FuzzString: what we send as a string, the decoder reads as the same.
func FuzzString(f *testing.F) {
	for _, s := range []string{"", "a", "NIL", `"\`, "ü", "a\r\nb", "]", strings.Repeat("x", maxQuoted+1), "{1}", "%*", "\x7f"} {
		f.Add(s, true, false)
	}
	f.Fuzz(func(t *testing.T, s string, plus, minus bool) {
		if len(s) > maxLiteral {
			return
		}
		e := newEncoder(plus, minus)
		e.astring(s)
		e.text(" ")
		e.string(s)
		parts := e.end()
		for i, p := range parts {
			if i < len(parts)-1 && !bytes.HasSuffix(p, []byte("}\r\n")) {
				t.Fatalf("part %q waits for nothing", p)
			}
		}
		d := newDecoder(bufio.NewReader(bytes.NewReader(bytes.Join(parts, nil))))
		for _, read := range []func() (string, error){d.astring, d.string} {
			if got, err := read(); err != nil || got != s {
				t.Fatalf("%q became %q, %v", s, got, err)
			}
			if _, err := d.accept(' '); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.crlf(); err != nil {
			t.Fatal(err)
		}
		if _, err := d.peek(); !errors.Is(err, io.EOF) {
			t.Fatal("more than was sent")
		}
	})
}
