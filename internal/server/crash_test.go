package server_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/server"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// serveEnv makes the test binary be a server with the configuration file it names.
const serveEnv = "POSTHORN_TEST_SERVE"

func TestMain(m *testing.M) {
	if path := os.Getenv(serveEnv); path != "" {
		if err := serveProcess(path); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveProcess(path string) error {
	cfg, _, err := config.Load(path, func(string) (string, bool) { return "", false })
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := server.New(ctx, cfg, server.Options{})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, s.PublicAddr(), s.InternalAddr()); err != nil {
		return err
	}
	return s.Run(ctx)
}

// startProcess runs the server as a process of its own; w.stop kills it without a word.
func (w *world) startProcess() {
	w.tb.Helper()
	exe, err := os.Executable()
	must(w.tb, err)
	cmd := exec.CommandContext(w.tb.Context(), exe) //nolint:gosec // ourselves
	cmd.Env = append(os.Environ(), serveEnv+"="+w.config)
	cmd.Stderr = w.tb.Output()
	out, err := cmd.StdoutPipe()
	must(w.tb, err)
	must(w.tb, cmd.Start())
	var public, internal string
	line, err := bufio.NewReader(out).ReadString('\n')
	must(w.tb, err)
	_, err = fmt.Sscan(line, &public, &internal)
	must(w.tb, err)
	w.reached(public, internal)
	dead := false
	w.stop = func() {
		if !dead {
			dead = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	w.tb.Cleanup(w.stop)
}

// notify reports a new mail as Dovecot would, and returns what became of it.
func (w *world) notify(user string, uid int) string {
	w.tb.Helper()
	body := fmt.Sprintf(`{"user":%q,"event":"messageNew","folder":"INBOX","imap-uidvalidity":%s,"imap-uid":%d,`+
		`"from":"Eve <eve@example.org>","subject":"mail %d","snippet":"","unseen":%d}`, user, cmp.Or(w.validity, "7"), uid, uid, uid)
	req, err := http.NewRequestWithContext(w.tb.Context(), http.MethodPut, w.notifyURL(), strings.NewReader(body))
	must(w.tb, err)
	res, err := http.DefaultClient.Do(req)
	must(w.tb, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	must(w.tb, err)
	var v struct{ Result string }
	must(w.tb, json.Unmarshal(raw, &v))
	if res.StatusCode != http.StatusOK {
		w.tb.Fatalf("notify: %d %s", res.StatusCode, raw)
	}
	return v.Result
}

func sqliteURL(tb testing.TB) string {
	tb.Helper()
	return "sqlite:" + filepath.Join(tb.TempDir(), "posthorn.db")
}

// TestKill kills the server between its 200 and the provider's answer: the push arrives after the
// restart, under the same name, and what was delivered before does not come again.
func TestKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.startProcess()
	const alice, password = "alice@rig.test", "secret"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: password}})
	w.provision(d, api.MailHost{}, alice)
	token := w.signIn(alice, password, "device")
	apns, web := w.apnsPhone(), w.webpushPhone()
	w.subscribe(token, apns.transport, apns.token, "registered")
	w.subscribe(token, web.transport, web.token, "registered")

	asked := make(chan fake.Delivery, 8)
	w.apns.Script(func(d fake.Delivery) *fake.Answer {
		asked <- d
		return &fake.Answer{Hang: true}
	})
	if got := w.notify(alice, 1); got != "queued" {
		t.Fatalf("notify: %s", got)
	}
	if got := w.receive(web); got.Subject != "mail 1" {
		t.Fatalf("webpush shows %+v", got)
	}
	first := <-asked
	w.waitFor("delivery on webpush is settled", func() bool {
		return strings.Contains(w.metrics(), `posthorn_push_outcomes_total{outcome="delivered",reason="",status="201",transport="webpush"} 1`)
	})
	w.stop()
	w.apns.Script(nil)
	w.startProcess()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	again, err := w.apns.NextFor(ctx, apns.target)
	must(t, err)
	if again.ID != first.ID || read(t, "apns", again.Payload).Subject != "mail 1" {
		t.Errorf("after the restart %s %s, before it %s", again.ID, again.Payload, first.ID)
	}
	if got := w.notify(alice, 1); got != "duplicate" {
		t.Errorf("the same mail after the restart: %s", got)
	}
	if n := len(w.webpush.Deliveries()); n != 1 {
		t.Errorf("webpush got %d notifications, want 1", n)
	}
}

// TestOutage has the provider refuse ten users for a while, in real time: all arrive afterwards, none
// twice. The minute's outage in virtual time is package push's.
func TestOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	users := map[string]string{}
	var logins []string
	for i := range 10 {
		login := fmt.Sprintf("user%d@rig.test", i)
		users[login] = "secret"
		logins = append(logins, login)
	}
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: users, NotifyURL: w.notifyURL()})
	w.provision(d, api.MailHost{}, logins...)
	var phones []phone
	for _, login := range logins {
		p := w.apnsPhone()
		w.subscribe(w.signIn(login, "secret", login), p.transport, p.token, "registered")
		phones = append(phones, p)
	}
	var away atomic.Bool
	var refused atomic.Int64
	away.Store(true)
	w.apns.Script(func(fake.Delivery) *fake.Answer {
		if !away.Load() {
			return nil
		}
		refused.Add(1)
		return &fake.Answer{Status: 503, Reason: "ServiceUnavailable"}
	})
	d.DeliverLMTP(t, logins, mail("through the storm", "x"))
	w.waitFor("every device refused, some twice", func() bool { return refused.Load() > 15 })
	away.Store(false)
	for _, p := range phones {
		if got := w.receive(p); got.Subject != "through the storm" || got.UID != "1" {
			t.Errorf("%s shows %+v", p.target[:6], got)
		}
	}
	if n := len(w.apns.Deliveries()); n != len(phones) {
		t.Errorf("%d notifications for %d devices", n, len(phones))
	}
}
