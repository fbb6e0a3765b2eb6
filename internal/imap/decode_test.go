package imap

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
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
				default:
					err = d.skip()
					r.name = "" // has read the end of the line
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
