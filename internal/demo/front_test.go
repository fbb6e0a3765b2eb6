package demo

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// rawIMAP is an IMAP connection on which a test says and expects exact bytes.
type rawIMAP struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (rig *mailRig) dialIMAP(t *testing.T) *rawIMAP {
	t.Helper()
	conn := dial(t, rig.imap.Addr())
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &rawIMAP{t, conn, bufio.NewReader(conn)}
}

func (c *rawIMAP) say(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, format, args...); err != nil {
		c.t.Fatal(err)
	}
}

// line reads one line without its CRLF.
func (c *rawIMAP) line() string {
	c.t.Helper()
	s, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("after %q: %v", s, err)
	}
	if !strings.HasSuffix(s, "\r\n") {
		c.t.Fatalf("line without CRLF: %q", s)
	}
	return strings.TrimSuffix(s, "\r\n")
}

func (c *rawIMAP) expect(lines ...string) {
	c.t.Helper()
	for _, want := range lines {
		if got := c.line(); got != want {
			c.t.Fatalf("got  %q\nwant %q", got, want)
		}
	}
}

func (c *rawIMAP) expectPrefix(want string) string {
	c.t.Helper()
	got := c.line()
	if !strings.HasPrefix(got, want) {
		c.t.Fatalf("got  %q\nwant %q…", got, want)
	}
	return got
}

// until reads lines up to the one with the prefix, and returns all.
func (c *rawIMAP) until(prefix string) []string {
	c.t.Helper()
	for lines := []string{}; ; {
		lines = append(lines, c.line())
		if strings.HasPrefix(lines[len(lines)-1], prefix) {
			return lines
		}
	}
}

func (c *rawIMAP) login() {
	c.t.Helper()
	c.expectPrefix("* OK [CAPABILITY IMAP4rev1 ")
	c.say("l1 LOGIN %s {%d+}\r\n%s\r\n", testLogin, len(testPhrase), testPhrase)
	c.expectPrefix("l1 OK ")
}

func TestMetadataIsAdvertisedAfterLogin(t *testing.T) {
	rig := startMail(t)
	c := rig.dialIMAP(t)
	if s := c.expectPrefix("* OK [CAPABILITY IMAP4rev1 "); strings.Contains(s, "METADATA") {
		t.Errorf("greeting %q", s)
	}
	c.say("a CAPABILITY\r\n")
	if s := c.expectPrefix("* CAPABILITY "); strings.Contains(s, "METADATA") {
		t.Errorf("before login %q", s)
	}
	c.expect("a OK CAPABILITY completed")
	c.say("b AUTHENTICATE PLAIN\r\n")
	c.expectPrefix("+ ")
	c.say("AGxlbmFAZGVtby5leGFtcGxlAHdyb25n\r\n") // wrong password
	c.expectPrefix("b NO ")
	c.say("c LOGIN {%d}\r\n", len(testLogin))
	c.expectPrefix("+ ")
	c.say("%s {%d}\r\n", testLogin, len(testPhrase))
	c.expectPrefix("+ ")
	c.say("%s\r\n", testPhrase)
	if s := c.expectPrefix("c OK [CAPABILITY IMAP4rev1 "); !strings.HasSuffix(s, " METADATA] Logged in") {
		t.Errorf("after login %q", s)
	}
	c.say("d CAPABILITY\r\n")
	if s := c.expectPrefix("* CAPABILITY "); !strings.HasSuffix(s, " METADATA") {
		t.Errorf("after login %q", s)
	}
	c.expect("d OK CAPABILITY completed")
	c.say("e LOGOUT\r\n")
	c.expectPrefix("* BYE ")
	c.expect("e OK LOGOUT completed")
	if _, err := c.r.ReadByte(); err != io.EOF {
		t.Errorf("after logout: %v", err)
	}
}

func TestMetadataCommands(t *testing.T) {
	const key = httpNotify
	rig := startMail(t)
	c := rig.dialIMAP(t)
	c.login()
	for i, tc := range []struct {
		say  string
		want []string // without the tag
	}{
		{`GETMETADATA "" (` + key + `)`, []string{`* METADATA "" (` + key + ` NIL)`, "OK Getmetadata completed (0.001 + 0.000 secs)."}},
		{`SETMETADATA "" (` + key + ` "user=3@1")`, []string{"OK Setmetadata completed (0.001 + 0.000 secs)."}},
		{`GETMETADATA "" (` + key + `)`, []string{`* METADATA "" (` + key + ` {8}`, `user=3@1)`, "OK Getmetadata completed (0.001 + 0.000 secs)."}},
		{`getmetadata "" ` + strings.ToUpper(key), []string{`* METADATA "" (` + strings.ToUpper(key) + ` {8}`, `user=3@1)`, "OK Getmetadata completed (0.001 + 0.000 secs)."}},
		{`GETMETADATA INBOX (` + key + ` /shared/comment)`, []string{`* METADATA "INBOX" (` + key + ` NIL /shared/comment NIL)`, "OK Getmetadata completed (0.001 + 0.000 secs)."}},
		{`SETMETADATA "" (` + key + ` "")`, []string{"OK Setmetadata completed (0.001 + 0.000 secs)."}},
		{`GETMETADATA "" ("` + key + `")`, []string{`* METADATA "" (` + key + ` {0}`, `)`, "OK Getmetadata completed (0.001 + 0.000 secs)."}},
		{`SETMETADATA "" (` + key + ` nil /private/comment "a \"b\" \\c")`, []string{"OK Setmetadata completed (0.001 + 0.000 secs)."}},
		{`GETMETADATA "" (` + key + ` /private/comment)`, []string{`* METADATA "" (` + key + ` NIL /private/comment {8}`, `a "b" \c)`, "OK Getmetadata completed (0.001 + 0.000 secs)."}},
		{`SETMETADATA "" (` + key + " {8+}\r\nuser=4@1 /private/comment ~{3+}\r\n\x01\r\n)", []string{"OK Setmetadata completed (0.001 + 0.000 secs)."}},
		{`GETMETADATA "" (` + key + ` /private/comment)`, []string{`* METADATA "" (` + key + ` {8}`, `user=4@1 /private/comment {3}`, "\x01", ")", "OK Getmetadata completed (0.001 + 0.000 secs)."}},
		{`GETMETADATA nowhere (` + key + `)`, []string{"NO [NONEXISTENT] Mailbox doesn't exist (0.001 + 0.000 secs)."}},
		{`SETMETADATA "" ` + key + ` "x"`, []string{"BAD Error in IMAP command: expected a list of entries and values (0.001 + 0.000 secs)."}},
		{`SETMETADATA "" (` + key + ` user)`, []string{"BAD Error in IMAP command: value must be a string or NIL (0.001 + 0.000 secs)."}},
		{`GETMETADATA "" (comment)`, []string{"BAD Error in IMAP command: entry name must begin with /private/ or /shared/ (0.001 + 0.000 secs)."}},
		{`GETMETADATA`, []string{`BAD Error in IMAP command: expected ' ' (0.001 + 0.000 secs).`}},
	} {
		tag := fmt.Sprintf("t%d", i)
		c.say("%s %s\r\n", tag, tc.say)
		last := len(tc.want) - 1
		tc.want[last] = tag + " " + tc.want[last]
		c.expect(tc.want...)
	}

	// A synchronizing literal: one continuation request each.
	c.say("s SETMETADATA \"\" (%s {8}\r\n", key)
	c.expect("+ OK")
	c.say("user=5@2 {%d}\r\n", len("/private/comment"))
	c.expect("+ OK")
	c.say("/private/comment NIL)\r\n")
	c.expect("s OK Setmetadata completed (0.001 + 0.000 secs).")
	if v, _ := rig.user.metadata.get("", key); v != "user=5@2" {
		t.Errorf("stored %q", v)
	}
	c.say("big SETMETADATA \"\" (%s {999999}\r\n", key)
	c.expectPrefix("* BYE ")
}

// TestFrontPassesThrough sends what looks like METADATA inside literals, in both directions.
func TestFrontPassesThrough(t *testing.T) {
	rig := startMail(t)
	c := rig.dialIMAP(t)
	c.login()
	mail := "Subject: x\r\n\r\na GETMETADATA \"\" (/private/x)\r\n* CAPABILITY IMAP4rev1\r\nz OK [CAPABILITY IMAP4rev1] {3}\r\n"
	c.say("a1 APPEND INBOX {%d}\r\n", len(mail))
	c.expectPrefix("+ ")
	c.say("%s\r\n", mail)
	c.expectPrefix("a1 OK ")
	c.say("a2 APPEND nowhere {5}\r\n") // refused after or instead of the literal
	if strings.HasPrefix(c.line(), "+ ") {
		c.say("abcde\r\n")
		c.expectPrefix("a2 NO ")
	}
	// Pipelined: the answers come in the order of the commands.
	c.say("a3 SELECT INBOX\r\na4 GETMETADATA \"\" (/private/x)\r\na5 FETCH 1 (BODY.PEEK[])\r\na6 GETMETADATA \"\" (/private/x)\r\n")
	if lines := c.until("a3 "); !strings.HasPrefix(lines[len(lines)-1], "a3 OK ") {
		t.Errorf("%q", lines)
	}
	c.expect(`* METADATA "" (/private/x NIL)`, "a4 OK Getmetadata completed (0.001 + 0.000 secs).")
	c.expectPrefix("* 1 FETCH (UID 1 BODY[] {")
	got := make([]byte, len(mail))
	if _, err := io.ReadFull(c.r, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != mail {
		t.Errorf("fetched %q", got)
	}
	c.expect(")", "a5 OK FETCH completed", `* METADATA "" (/private/x NIL)`, "a6 OK Getmetadata completed (0.001 + 0.000 secs).")

	// IDLE hears of a delivery while it lasts, and ends with DONE.
	c.say("a7 IDLE\r\n")
	c.expectPrefix("+ ")
	rig.sendMail(t, false, "Subject: y\r\n\r\nz\r\n")
	c.expect("* 2 EXISTS")
	c.say("DONE\r\n")
	c.expect("a7 OK IDLE completed")
	c.say("a8 NOOP\r\n")
	c.expect("a8 OK NOOP completed")
	c.say("a9 GETMETADATA (DEPTH 1) \"\" (/private/x)\r\n")
	c.expect("a9 BAD Error in IMAP command: options are not supported (0.001 + 0.000 secs).")
}

func TestFrontWithGoClient(t *testing.T) {
	rig := startMail(t)
	c, err := imapclient.DialInsecure(rig.imap.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.Login(testLogin, "wrong").Wait(); err == nil {
		t.Fatal("signed in with a wrong password")
	}
	if c.Caps().Has(imap.CapMetadata) {
		t.Error("METADATA before login")
	}
	if err := c.Login(testLogin, testPhrase).Wait(); err != nil {
		t.Fatal(err)
	}
	if !c.Caps().Has(imap.CapMetadata) {
		t.Errorf("no METADATA after login: %v", c.Caps())
	}
	get := func() *[]byte {
		t.Helper()
		d, err := c.GetMetadata("", []string{httpNotify}, nil).Wait()
		if err != nil {
			t.Fatal(err)
		}
		v, ok := d.Entries[httpNotify]
		if !ok {
			t.Fatalf("no entry in %v", d.Entries)
		}
		return v
	}
	if v := get(); v != nil {
		t.Errorf("at first %q", *v)
	}
	value := []byte("user=3@1")
	if err := c.SetMetadata("", map[string]*[]byte{httpNotify: &value}).Wait(); err != nil {
		t.Fatal(err)
	}
	if v := get(); v == nil || !bytes.Equal(*v, value) {
		t.Errorf("set %q, got %v", value, v)
	}
	if err := c.SetMetadata("", map[string]*[]byte{httpNotify: nil}).Wait(); err != nil {
		t.Fatal(err)
	}
	if v := get(); v != nil {
		t.Errorf("removed, got %q", *v)
	}
	rig.sendMail(t, false, "Subject: hello\r\n\r\nworld\r\n")
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	msgs, err := c.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{{Peek: true}}}).Collect()
	if err != nil || len(msgs) != 1 || msgs[0].UID != 1 {
		t.Fatalf("%v %v", msgs, err)
	}
	if err := c.Logout().Wait(); err != nil {
		t.Fatal(err)
	}
}

func FuzzMetadata(f *testing.F) {
	for _, s := range []string{
		"GETMETADATA \"\" (/private/x)\r\n", "SETMETADATA INBOX (/private/x {3+}\r\na\"b /shared/y NIL)\r\n",
		"SETMETADATA {5}\r\nINBOX (/private/x ~{1}\r\n\x00)\r\n", "GETMETADATA {4294967295}\r\n", "SETMETADATA \"\\", "",
	} {
		f.Add([]byte(s))
	}
	u, err := newMailUser(testLogin, testPhrase)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		reply := metadataReply(u, "tag", b)
		// Whatever came in, the reply ends in one tagged line.
		last := strings.LastIndex(strings.TrimSuffix(reply, "\r\n"), "\n")
		if !strings.HasPrefix(reply[last+1:], "tag ") || !strings.HasSuffix(reply, "\r\n") {
			t.Errorf("%q -> %q", b, reply)
		}
	})
}
