package demo

import (
	"bufio"
	"context"
	"encoding/json"
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
	"github.com/emersion/go-smtp"
)

const (
	testLogin  = demoLogin
	testPhrase = `geheim "\ü` // the password: IMAP must escape it or send a literal
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
	u, err := newMailUser(testLogin, testPhrase)
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
	defer func() { _ = c.Close() }()
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
	defer func() { _ = c.Close() }()
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
