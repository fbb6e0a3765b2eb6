package testpeer

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const message = "From: a@example.org\nTo: b@example.org\nSubject: hello\n\n.dot\nbody\n"

// notices listens for Dovecot's push requests.
func notices(t *testing.T) (url string, got <-chan string) {
	t.Helper()
	ch := make(chan string, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		login, password, _ := r.BasicAuth()
		ch <- login + ":" + password + " " + string(body)
	}))
	t.Cleanup(srv.Close)
	return strings.Replace(srv.URL, "http://", "http://us%25er:p%40ss@", 1) + "/notify?x=%20", ch
}

func wait(t *testing.T, got <-chan string) (user, subject string) {
	t.Helper()
	select {
	case s := <-got:
		body, ok := strings.CutPrefix(s, "us%er:p@ss ")
		if !ok {
			t.Fatalf("credentials of %q", s)
		}
		var n struct{ User, Event, Subject string }
		if err := json.Unmarshal([]byte(body), &n); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
		return n.User, n.Subject
	case <-time.After(30 * time.Second):
		t.Fatal("no push request")
	}
	return "", ""
}

func TestDovecotDelivers(t *testing.T) {
	t.Parallel()
	url, got := notices(t)
	d := StartDovecot(t, DovecotConfig{
		Users:     map[string]string{"a@example.org": "secret", "b@example.org": "pass", "c": "x"},
		NotifyURL: url, UserFromMetadata: true, NotifyOptions: "max_retries=0",
	})
	if v, ok := d.Metadata(t, "a@example.org"); ok {
		t.Fatalf("registration before any: %q", v)
	}
	d.SetMetadata(t, "a@example.org", "user=3@1")
	d.SetMetadata(t, "b@example.org", "user=4@1")
	if v, ok := d.Metadata(t, "a@example.org"); !ok || v != "user=3@1" {
		t.Fatalf("registration = %q, %v", v, ok)
	}
	d.DeliverLMTP(t, []string{"a@example.org", "c", "b@example.org"}, []byte(message))
	for _, want := range []string{"3@1", "4@1"} {
		if user, subject := wait(t, got); user != want || subject != "hello" {
			t.Fatalf("push for %q about %q, want %s", user, subject, want)
		}
	}
	d.DeliverLDA(t, "b@example.org", []byte(message))
	if user, _ := wait(t, got); user != "4@1" {
		t.Fatalf("push after LDA for %q", user)
	}

	// Ports and data survive a restart.
	port := d.IMAPPort
	d.Stop(t)
	if err := greets(t.Context(), d.Host, port, "* OK"); err == nil {
		t.Fatal("stopped Dovecot answers")
	}
	d.Start(t)
	if v, ok := d.Metadata(t, "a@example.org"); !ok || v != "user=3@1" {
		t.Fatalf("registration after restart = %q, %v", v, ok)
	}
	d.SetMetadata(t, "a@example.org", "")
	if v, ok := d.Metadata(t, "a@example.org"); !ok || v != "" {
		t.Fatalf("empty registration = %q, %v", v, ok)
	}
	d.ClearMetadata(t, "a@example.org")
	if v, ok := d.Metadata(t, "a@example.org"); ok {
		t.Fatalf("registration after clear: %q", v)
	}
	d.DeliverLMTP(t, []string{"a@example.org", "b@example.org"}, []byte(message))
	if user, _ := wait(t, got); user != "4@1" {
		t.Fatalf("push for %q, who is not registered", user)
	}
}

func TestDovecotTLSAndLoginForm(t *testing.T) {
	t.Parallel()
	url, got := notices(t)
	url2, got2 := notices(t)
	d := StartDovecot(t, DovecotConfig{
		Users:     map[string]string{"a": "secret"},
		NotifyURL: url, MoreNotifyURLs: []string{url2}, NoPlaintextAuth: true, Extra: "login_greeting = extra text",
	})
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: d.RootCAs, MinVersion: tls.VersionTLS12}}
	conn, err := dialer.DialContext(t.Context(), "tcp", net.JoinHostPort(d.Host, strconv.Itoa(d.IMAPSPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "extra text") {
		t.Fatalf("greeting %q, %v", line, err)
	}
	if err := greets(t.Context(), d.Host, d.IMAPPort, "* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ STARTTLS LOGINDISABLED]"); err != nil {
		t.Fatal(err)
	}
	d.SetMetadata(t, "a", "user=3@1")
	d.DeliverLDA(t, "a", []byte(message))
	for _, ch := range []<-chan string{got, got2} {
		if user, _ := wait(t, ch); user != "a" {
			t.Fatalf("push for %q", user)
		}
	}
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	one := func(t *testing.T, url, query string) (n int) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
		if err := conn.QueryRow(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	var first, second string
	t.Run("databases", func(t *testing.T) {
		first, second = PostgresURL(t), PostgresURL(t)
		if n := one(t, first, "SELECT 1"); n != 1 {
			t.Fatalf("SELECT 1 = %d", n)
		}
		if err := execute(t.Context(), first, "CREATE TABLE only_here (id int)"); err != nil {
			t.Fatal(err)
		}
		if n := one(t, second, "SELECT count(*) FROM pg_tables WHERE tablename = 'only_here'"); n != 0 {
			t.Fatal("two tests share a database")
		}
	})
	if first == "" {
		t.Skip("no server")
	}
	if err := execute(t.Context(), first, "SELECT 1"); err == nil {
		t.Fatal("the database outlives its test")
	}
}

// roleVariable has this test binary be the process which gets killed.
const roleVariable = "TESTPEER_TEST_VICTIM"

// TestKilledProcessLeavesNothing kills a process that has both servers running, as a time-out of "go
// test" or the kernel would, and watches their directories and processes go.
func TestKilledProcessLeavesNothing(t *testing.T) {
	t.Parallel()
	if os.Getenv(roleVariable) != "" {
		victim(t)
		return
	}
	findDovecot(t)
	PostgresURL(t)
	//nolint:gosec // G204: this very program
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledProcessLeavesNothing$")
	cmd.Env = append(os.Environ(), roleVariable+"=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for out := bufio.NewScanner(stdout); len(dirs) < 2 && out.Scan(); {
		if dir, ok := strings.CutPrefix(out.Text(), "directory "); ok {
			dirs = append(dirs, dir)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if len(dirs) != 2 {
		t.Fatalf("the servers did not start: %v", dirs)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for left := leftovers(t, dirs); len(left) > 0; left = leftovers(t, dirs) {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("left behind: %q", left)
		}
	}
}

// victim starts both servers, tells where they are and waits to be killed.
func victim(t *testing.T) {
	d := StartDovecot(t, DovecotConfig{Users: map[string]string{"a": "b"}})
	PostgresURL(t)
	for _, dir := range []string{d.dir, filepath.Dir(postgres.dir)} {
		if _, err := fmt.Fprintf(os.Stdout, "directory %s\n", dir); err != nil {
			t.Fatal(err)
		}
	}
	<-t.Context().Done()
}

// leftovers returns the directories that exist and the processes that name one of them.
func leftovers(t *testing.T, dirs []string) (left []string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err == nil {
			left = append(left, dir)
		}
		for _, p := range procs {
			line, err := os.ReadFile(p) //nolint:gosec // G304: the kernel's
			if err == nil && strings.Contains(string(line), dir) {
				left = append(left, string(line))
			}
		}
	}
	return left
}

func TestMissingPeer(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if p, ok := find("no-such-program", "/usr/lib/*/bin"); ok {
		t.Fatalf("found %s", p)
	}
	for _, tt := range []struct{ require, want string }{
		{"", "skip SKIPPED PEER: nothing is not installed"},
		{"1", "fatal SKIPPED PEER: nothing is not installed"},
	} {
		t.Setenv(requirePeers, tt.require)
		r := &recorder{TB: t}
		missing(r, "%s is not installed", "nothing")
		if !strings.HasPrefix(r.said, tt.want) {
			t.Errorf("with %s=%q: %q", requirePeers, tt.require, r.said)
		}
	}
}

// recorder notes how the test would have ended first.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Fatal(args ...any) { r.said += "fatal " + fmt.Sprint(args...) }
func (r *recorder) Skip(args ...any)  { r.said += "skip " + fmt.Sprint(args...) }
func (r *recorder) Helper()           {}
