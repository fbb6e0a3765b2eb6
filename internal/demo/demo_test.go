package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// emptyTemp makes the demo put its state where the test can look, and checks that nothing is left.
func emptyTemp(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	})
}

func TestOnce(t *testing.T) {
	emptyTemp(t)
	var out bytes.Buffer
	err := Run(t.Context(), Config{Once: true, Out: &out})
	t.Log("\n" + out.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range append([]string{onceMail.Subject, "Jörg Müller", "1/1", "1@1"}, hopTitles[hopMail], hopTitles[hopNotify], hopTitles[hopAnswer], hopTitles[hopPush], hopTitles[hopPhone]) {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q", want)
		}
	}
	if n := strings.Count(out.String(), "as sent"); n != 8 {
		t.Errorf("%d fields compared", n)
	}
	noGoroutines(t, "internal/demo.Run", "internal/demo.(*", "internal/server.(*", "internal/fake.(*")
}

// runningDemo is a demo with its page.
type runningDemo struct {
	*testing.T
	page, smtp string
	stop       func() error
}

func startDemo(t *testing.T) *runningDemo {
	t.Helper()
	emptyTemp(t)
	ctx, cancel := context.WithCancel(t.Context())
	out, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := Run(ctx, Config{PageAddr: anyPort, SMTPAddr: anyPort, Out: w})
		_ = w.CloseWithError(io.EOF)
		ended <- err
	}()
	d := &runningDemo{T: t}
	stopped := false
	d.stop = func() error {
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if !stopped {
			_ = d.stop()
		}
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if m := regexp.MustCompile(`http://(\S+)/$`).FindStringSubmatch(lines.Text()); m != nil {
			d.page = m[1]
		}
		if m := regexp.MustCompile(`SMTP at (\S+)$`).FindStringSubmatch(lines.Text()); m != nil {
			d.smtp = m[1]
		}
		if strings.HasPrefix(lines.Text(), "Ctrl-C") {
			break
		}
	}
	if d.page == "" || d.smtp == "" {
		t.Fatalf("not announced: %v", d.stop())
	}
	return d
}

// answer is what the page said to a request.
type answer struct {
	status int
	header http.Header
	body   string
}

// do makes a request to the page, with one header field or none ("", "").
func (d *runningDemo) do(method, path, body, field, value string) answer {
	d.Helper()
	req, err := http.NewRequestWithContext(d.Context(), method, "http://"+d.page+path, strings.NewReader(body))
	if err != nil {
		d.Fatal(err)
	}
	if field == "Host" {
		req.Host = value
	} else if field != "" {
		req.Header.Set(field, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		d.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		d.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

// events opens the event stream and returns a function that waits for the next event of a kind.
func (d *runningDemo) events() func(kind string, into any) {
	d.Helper()
	req, err := http.NewRequestWithContext(d.Context(), http.MethodGet, "http://"+d.page+"/events", nil)
	if err != nil {
		d.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() { _ = res.Body.Close() })
	if ct := res.Header.Get("Content-Type"); ct != "text/event-stream" {
		d.Fatalf("content type %q", ct)
	}
	lines := bufio.NewScanner(res.Body)
	return func(kind string, into any) {
		d.Helper()
		at := ""
		for lines.Scan() {
			if k, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				at = k
			}
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && at == kind {
				if err := json.Unmarshal([]byte(data), into); err != nil {
					d.Fatalf("%s: %v", data, err)
				}
				return
			}
		}
		d.Fatalf("no event %q any more: %v", kind, lines.Err())
	}
}

func TestPage(t *testing.T) {
	d := startDemo(t)
	next := d.events()
	var info pageInfo
	next("hello", &info)
	if info.SMTP != d.smtp || info.Login != demoLogin || info.User != "1@1" || info.Listener != "registered" {
		t.Errorf("hello %+v", info)
	}

	arrived := func() journey {
		for {
			var j journey
			next("journey", &j)
			if j.Problem != "" {
				t.Fatal(j.Problem)
			}
			if j.Shown != nil {
				return j
			}
		}
	}
	a := d.do("POST", "/send", `{"from":"Zoë <zoe@example.org>","subject":"Grüße ☕","text":"x"}`, "Sec-Fetch-Site", "same-origin")
	if a.status != http.StatusNoContent {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if j := arrived(); j.Shown.Title != "Zoë" || j.Shown.Body != "Grüße ☕" || j.Shown.Badge != "1" || j.UID != 1 || j.Via != "SMTP" {
		t.Errorf("%+v %+v", j, j.Shown)
	}
	// A mail from outside takes the same way, and a stream opened later gets what was before.
	if err := sendMail(t.Context(), d.smtp, demoLogin, outgoing{From: "a@example.org", Subject: "second"}); err != nil {
		t.Fatal(err)
	}
	for last := ""; last != "second"; {
		last = arrived().Shown.Body
	}
	var j journey
	if d.events()("journey", &j); j.ID != 1 || j.Shown == nil {
		t.Errorf("a new stream begins with %+v", j)
	}

	for name, tc := range map[string]struct {
		method, path, body, field, value string
		status                           int
		answer                           string
	}{
		"no address":      {"POST", "/send", `{"from":"nobody"}`, "", "", 422, "mail address"},
		"header injected": {"POST", "/send", `{"from":"a@example.org","subject":"x\r\nBcc: y"}`, "", "", 422, "one line"},
		"not JSON":        {"POST", "/send", `from=x`, "", "", 400, "could not be read"},
		"too large":       {"POST", "/send", `{"text":"` + strings.Repeat("x", 300<<10) + `"}`, "", "", 400, "256 KiB"},
		"other site":      {"POST", "/send", `{"from":"a@example.org"}`, "Sec-Fetch-Site", "cross-site", 403, ""},
		"other name":      {"GET", "/events", "", "Host", "rebound.example", 421, ""},
		"localhost":       {"GET", "/", "", "Host", "localhost:1", 200, "<title>Posthorn demo"},
		"public API":      {"GET", "/api/v1/transports", "", "", "", 200, "vapid_public_key"},
		"wrong password":  {"POST", "/api/v1/sessions", `{"login":"` + demoLogin + `","password":"x","client":"c"}`, "Content-Type", "application/json", 401, ""},
		"admin":           {"GET", "/admin/v1/contexts", "", "", "", 404, ""},
	} {
		a := d.do(tc.method, tc.path, tc.body, tc.field, tc.value)
		if a.status != tc.status || !strings.Contains(a.body, tc.answer) {
			t.Errorf("%s: %d %.200s", name, a.status, a.body)
		}
	}

	if err := d.stop(); err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
	noGoroutines(t, "internal/demo.Run", "internal/demo.(*", "internal/server.(*", "internal/fake.(*", "go-imap", "go-smtp")
}

// TestPageFiles holds the page to its policy: its own files only, no inline code or style.
func TestPageFiles(t *testing.T) {
	d := startDemo(t)
	err := fs.WalkDir(pageFiles, "page", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(pageFiles, path)
		if err != nil {
			return err
		}
		for _, bad := range []string{"https://", " style=", " onclick=", "innerHTML", "eval(", "<style"} {
			if bytes.Contains(b, []byte(bad)) {
				t.Errorf("%s: contains %q", path, bad)
			}
		}
		for _, m := range regexp.MustCompile(`http://[^\s"'<]+`).FindAllString(string(b), -1) {
			if m != "http://www.w3.org/2000/svg" { // a name, not a place
				t.Errorf("%s: refers to %s", path, m)
			}
		}
		name := strings.TrimPrefix(path, "page")
		if name == "/index.html" {
			name = "/"
		}
		a := d.do("GET", name, "", "", "")
		if a.status != http.StatusOK || a.header.Get("Content-Security-Policy") != contentPolicy || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTakenPorts(t *testing.T) {
	emptyTemp(t)
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	taken := ln.Addr().String()
	for flag, cfg := range map[string]Config{
		"--page-addr": {PageAddr: taken, SMTPAddr: anyPort},
		"--smtp-addr": {PageAddr: anyPort, SMTPAddr: taken},
	} {
		err := Run(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), taken+" is taken") || !strings.Contains(err.Error(), flag+" ") {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestOnceIsCancelled(t *testing.T) {
	emptyTemp(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, Config{Once: true}); err == nil {
		t.Error("a journey that did not happen succeeded")
	}
}

func TestCompareFindsDifferences(t *testing.T) {
	unseen := uint32(1)
	good := journey{
		UIDValidity: 1, UID: 2, Unseen: 1,
		Shown: &shownPush{Title: "Jörg Müller", Body: onceMail.Subject, Badge: "1", data: pushData{
			User: "3@1", Folder: "INBOX", UIDValidity: 1, UID: 2, Unseen: &unseen, Topic: "mail:new",
		}},
	}
	if err := compare(io.Discard, &good, "3@1"); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*journey){
		"sender":    func(j *journey) { j.Shown.Title = "Jörg Müller <joerg@example.org>" },
		"subject":   func(j *journey) { j.Shown.Body = "=?utf-8?q?Kaffee?=" },
		"badge":     func(j *journey) { j.Shown.Badge = "" },
		"no unseen": func(j *journey) { j.Shown.data.Unseen = nil },
		"folder":    func(j *journey) { j.Shown.data.Folder = "Archive" },
		"uid":       func(j *journey) { j.Shown.data.UID = 3 },
		"user":      func(j *journey) { j.Shown.data.User = "4@1" },
	} {
		bad, shown := good, *good.Shown
		bad.Shown = &shown
		change(&bad)
		var out strings.Builder
		if err := compare(&out, &bad, "3@1"); err == nil || !strings.Contains(out.String(), "WRONG") {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}
}

func TestBoard(t *testing.T) {
	b := newBoard()
	start := time.Now()
	for uid := range uint32(3) {
		b.accepted(notification{UIDValidity: 1, UID: uid + 1}, false, start)
	}
	_, rev, changed := b.since(0)
	b.fail(1, 1, "no")
	select {
	case <-changed:
	default:
		t.Error("a change woke nobody")
	}
	// The newest mail's push covers the second mail's, not the one that failed; the push came before the answer.
	b.pushed(shownPush{Title: "x", data: pushData{UIDValidity: 1, UID: 3}}, start.Add(2*time.Millisecond), start.Add(3*time.Millisecond))
	b.hop(1, 3, hopAnswer, start.Add(4*time.Millisecond), "queued")
	js, _, _ := b.since(rev)
	if len(js) != 3 || js[0].Covered || !js[1].Covered || js[2].Covered {
		t.Errorf("%+v", js)
	}
	names := ""
	for _, h := range js[2].Hops {
		names += h.Name + " "
	}
	if names != "mail answer push phone " || js[2].Hops[1].AtMicros != 4000 {
		t.Errorf("%s %+v", names, js[2].Hops)
	}
	// A test push belongs to no mail.
	b.pushed(shownPush{Title: "test"}, start, start)
	if js, _, _ := b.since(0); len(js) != 4 || js[3].Via != "" || js[3].Shown == nil {
		t.Errorf("%+v", js)
	}
	for uid := range uint32(100) {
		b.accepted(notification{UIDValidity: 2, UID: uid + 1}, false, start)
	}
	if js, _, _ := b.since(0); len(js) != maxJourneys || js[maxJourneys-1].UID != 100 {
		t.Errorf("%d journeys", len(js))
	}
}

func TestMillis(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.00 ms", 42 * time.Microsecond: "0.04 ms", 1234 * time.Microsecond: "1.2 ms", 12345 * time.Microsecond: "12 ms", 2 * time.Second: "2000 ms",
	} {
		if got := millis(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}
