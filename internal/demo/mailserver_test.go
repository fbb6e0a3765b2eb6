package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-smtp"
)

const (
	testLogin    = "lena@demo.example"
	testPassword = `geheim "\ü`
)

// mailRig is a running mail server and the notify endpoint that it pushes to.
type mailRig struct {
	*mailServer
	puts    chan put
	answer  atomic.Pointer[http.HandlerFunc] // nil: 200 queued
	endMail func()
}

type put struct {
	r    *http.Request
	body string
}

func startMail(t *testing.T) *mailRig {
	t.Helper()
	rig := &mailRig{puts: make(chan put, 100)}
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		rig.puts <- put{r, string(body)}
		if f := rig.answer.Load(); f != nil {
			(*f)(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"success":true,"result":"queued"}`)
	}))
	t.Cleanup(endpoint.Close)
	u, err := newMailUser(testLogin, testPassword)
	if err != nil {
		t.Fatal(err)
	}
	rig.mailServer, err = newMailServer(t.Context(), u, anyPort, newBoard(), slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- rig.serve(ctx, strings.Replace(endpoint.URL, "http://", "http://us%25er:p%40ss@", 1)+"/preliminary/http-notify/v1/notify?x=1")
	}()
	ended := false
	rig.endMail = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	t.Cleanup(rig.endMail)
	return rig
}

func (rig *mailRig) register(value string) { rig.user.metadata.set("", httpNotify, &value) }

// sendMail delivers over SMTP or LMTP.
func (rig *mailRig) sendMail(t *testing.T, lmtp bool, message string) {
	t.Helper()
	ln := rig.smtp
	if lmtp {
		ln = rig.lmtp
	}
	conn := dial(t, ln.Addr())
	c := smtp.NewClient(conn)
	if lmtp {
		c = smtp.NewClientLMTP(conn)
	}
	defer c.Close()
	if err := c.SendMail("sender@example.org", []string{testLogin}, strings.NewReader(message)); err != nil {
		t.Fatal(err)
	}
	if err := c.Quit(); err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, addr net.Addr) net.Conn {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

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
	c.say("l1 LOGIN %s {%d+}\r\n%s\r\n", testLogin, len(testPassword), testPassword)
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
	c.say("%s {%d}\r\n", testLogin, len(testPassword))
	c.expectPrefix("+ ")
	c.say("%s\r\n", testPassword)
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
	defer c.Close()
	if err := c.Login(testLogin, "wrong").Wait(); err == nil {
		t.Fatal("signed in with a wrong password")
	}
	if c.Caps().Has(imap.CapMetadata) {
		t.Error("METADATA before login")
	}
	if err := c.Login(testLogin, testPassword).Wait(); err != nil {
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

// TestDeliveryPushes compares the PUT with what was measured of Dovecot 2.3.
func TestDeliveryPushes(t *testing.T) {
	rig := startMail(t)
	rig.register("user=3@1")
	rig.sendMail(t, true, "From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\r\nSubject: part one\r\n part <two>\r\n\tpart three\r\n"+
		"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n> quoted\r\nHello =FCber   all\r\n& more.\r\n")
	p := <-rig.puts
	const want = `{"user":"lena@demo.example","event":"messageNew","folder":"INBOX","imap-uidvalidity":1,"imap-uid":1,` +
		`"from":"=?utf-8?q?J=C3=BCrgen?= <j@example.org>","subject":"part one\n part <two>\n\tpart three","snippet":"Hello über all & more.","unseen":1}`
	if p.body != want {
		t.Errorf("got  %s\nwant %s", p.body, want)
	}
	if p.r.Method != http.MethodPut || p.r.RequestURI != "/preliminary/http-notify/v1/notify?x=1" {
		t.Errorf("%s %s", p.r.Method, p.r.RequestURI)
	}
	if user, pass, ok := p.r.BasicAuth(); !ok || user != "us%er" || pass != "p@ss" {
		t.Errorf("credentials %q %q", user, pass)
	}
	h := p.r.Header
	if h.Get("Content-Type") != "application/json; charset=utf-8" || h.Get("Date") == "" || p.r.ContentLength != int64(len(want)) {
		t.Errorf("headers %v", h)
	}
	for _, absent := range []string{"User-Agent", "Accept", "Accept-Encoding", "Expect"} {
		if h.Get(absent) != "" {
			t.Errorf("%s: %s", absent, h.Get(absent))
		}
	}

	rig.sendMail(t, false, "X: y\r\n\r\n") // neither From nor Subject
	p = <-rig.puts
	if want := `{"user":"lena@demo.example","event":"messageNew","folder":"INBOX","imap-uidvalidity":1,"imap-uid":2,"snippet":"","unseen":2}`; p.body != want {
		t.Errorf("got  %s\nwant %s", p.body, want)
	}

	js, _, _ := rig.board.since(0)
	if len(js) != 2 || js[0].From != "Jürgen <j@example.org>" || js[0].Subject != "part one part <two>\tpart three" || js[0].Via != "LMTP" || js[1].Via != "SMTP" {
		t.Errorf("%+v", js)
	}
	if len(js[0].Hops) != 3 || js[0].Hops[2].Name != hopAnswer || js[0].Hops[2].Note != "queued" {
		t.Errorf("hops %+v", js[0].Hops)
	}
}

func TestDeliveryWithoutRegistration(t *testing.T) {
	rig := startMail(t)
	for _, value := range []string{"", "expire=1", "user="} {
		rig.register(value)
		rig.sendMail(t, false, "Subject: x\r\n\r\n")
	}
	rig.register("expire=1\tuser=3@1")
	rig.sendMail(t, false, "Subject: last\r\n\r\n")
	if p := <-rig.puts; !strings.Contains(p.body, `"subject":"last"`) {
		t.Errorf("pushed %s", p.body)
	}
	js, _, _ := rig.board.since(0)
	if len(js) != 4 || js[0].Problem == "" || js[3].Problem != "" {
		t.Errorf("%+v", js)
	}
}

// TestFailedPushes: the mail is kept, only a broken connection is tried again.
func TestFailedPushes(t *testing.T) {
	hangUp := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close()
	}
	for name, tc := range map[string]struct {
		answer  http.HandlerFunc
		tries   int
		problem string
	}{
		"hangs up":  {hangUp, 2, "send the notification: EOF"},
		"refuses":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, 1, "the notify endpoint answered 503 Service Unavailable"},
		"redirects": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusFound) }, 1, "the notify endpoint answered 302 Found"},
		"ignores": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"result":"ignored","reason":"event"}`)
		}, 1, `the notify endpoint answered "ignored": event`},
		"not queued": {func(http.ResponseWriter, *http.Request) {}, 1, `the notify endpoint answered "": `},
	} {
		t.Run(name, func(t *testing.T) {
			rig := startMail(t)
			rig.register("user=3@1")
			rig.answer.Store(&tc.answer)
			rig.sendMail(t, true, "Subject: x\r\n\r\n")
			if n := len(rig.puts); n != tc.tries {
				t.Errorf("%d tries, want %d", n, tc.tries)
			}
			if js, _, _ := rig.board.since(0); len(js) != 1 || js[0].Problem != tc.problem {
				t.Errorf("%+v", js)
			}
			s, err := rig.user.boxes.Status("INBOX", &imap.StatusOptions{NumMessages: true})
			if err != nil || *s.NumMessages != 1 {
				t.Errorf("%+v %v", s, err)
			}
		})
	}
}

func TestUnknownRecipient(t *testing.T) {
	rig := startMail(t)
	c, err := smtp.Dial(rig.smtp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.SendMail("a@example.org", []string{"bob@demo.example"}, strings.NewReader("x: y\r\n\r\n"))
	if err == nil || !strings.Contains(err.Error(), "only mailbox is "+testLogin) {
		t.Errorf("%v", err)
	}
}

// TestEndsWithOpenConnections cancels the server under idle clients of each kind.
func TestEndsWithOpenConnections(t *testing.T) {
	rig := startMail(t)
	c := rig.dialIMAP(t)
	c.login()
	c.say("a IDLE\r\n")
	c.expectPrefix("+ ")
	fresh := rig.dialIMAP(t)
	fresh.expectPrefix("* OK ")
	for _, ln := range []net.Listener{rig.smtp, rig.lmtp} {
		conn := dial(t, ln.Addr())
		defer conn.Close()
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	rig.endMail()
	noGoroutines(t, "go-imap", "go-smtp", "demo.(*frontConn)", "demo.(*mailServer)")
}

// noGoroutines waits until no goroutine's stack names one of the words: what ends a moment after its
// connection was closed is not a leak.
func noGoroutines(t *testing.T, words ...string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		left := ""
		for s := range strings.SplitSeq(stacks, "\n\n") {
			for _, w := range words {
				if strings.Contains(s, w) {
					left = s
				}
			}
		}
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still running:\n%s", left)
		}
		runtime.Gosched()
	}
}

func TestSnippet(t *testing.T) {
	for name, tc := range map[string]struct{ mail, want string }{
		"html":        {"Content-Type: text/html\r\n\r\n<html><head><style>p{}</style></head><p>Hello&nbsp;<b>world</b> &amp; all</p>", "Hello world & all"},
		"alternative": {"Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\nR3LDvMOfZQ==\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>no</p>\r\n--b--\r\n", "Grüße"},
		"long":        {"\r\n" + strings.Repeat("ü", 500), strings.Repeat("ü", 200)},
		"image":       {"Content-Type: image/png\r\n\r\nx", ""},
		"encrypted":   {"Content-Type: multipart/encrypted; boundary=b\r\n\r\n--b\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n--b--\r\n", ""},
		"not a mail":  {"\x00\xff", ""},
		"bad utf-8":   {"Content-Type: text/plain; charset=utf-8\r\n\r\na\xffb", "a\uFFFDb"},
	} {
		if got := snippet([]byte(tc.mail)); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestNotificationIsValidJSON(t *testing.T) {
	rig := startMail(t)
	rig.register("user=3@1")
	rig.sendMail(t, false, "From: \xff\x01\"\r\nSubject: "+strings.Repeat("ä", 450)+"\r\n\r\n")
	p := <-rig.puts
	var n notification
	if err := json.Unmarshal([]byte(p.body), &n); err != nil {
		t.Fatal(err)
	}
	if *n.From != "\uFFFD\x01\"" || *n.Subject != strings.Repeat("ä", 450) {
		t.Errorf("%q %q", *n.From, *n.Subject)
	}
}

func FuzzMetadata(f *testing.F) {
	for _, s := range []string{
		"GETMETADATA \"\" (/private/x)\r\n", "SETMETADATA INBOX (/private/x {3+}\r\na\"b /shared/y NIL)\r\n",
		"SETMETADATA {5}\r\nINBOX (/private/x ~{1}\r\n\x00)\r\n", "GETMETADATA {4294967295}\r\n", "SETMETADATA \"\\", "",
	} {
		f.Add([]byte(s))
	}
	u, err := newMailUser(testLogin, testPassword)
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

func FuzzMessage(f *testing.F) {
	f.Add([]byte("From: a\r\n b\r\nSubject: =?utf-8?q?x?=\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := snippet(b); len([]rune(s)) > maxSnippet {
			t.Errorf("snippet of %d characters", len([]rune(s)))
		}
		if v, ok := rawHeader(b, "Subject"); ok {
			decodeHeader(v)
		}
	})
}
