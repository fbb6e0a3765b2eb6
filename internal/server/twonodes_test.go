package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/server"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// node returns another server of the same installation: the same database, keys and fakes, a state directory
// of its own.
func (w *world) node() *world {
	w.tb.Helper()
	other := *w
	other.stateDir = filepath.Join(w.tb.TempDir(), "state")
	must(w.tb, os.MkdirAll(other.stateDir, 0o700))
	for _, name := range []string{server.SealKeyFile, server.NotifyPasswordFile, server.VAPIDKeyFile} {
		content, err := os.ReadFile(filepath.Join(w.stateDir, name)) //nolint:gosec // the test's own
		must(w.tb, err)
		w.write(other.stateDir, name, content)
	}
	text, err := os.ReadFile(w.config)
	must(w.tb, err)
	other.config = w.write(filepath.Dir(w.config), "other.yml", []byte(strings.Replace(string(text), w.stateDir, other.stateDir, 1)))
	return &other
}

// TestTwoDrivers: Dovecot reports every delivery to two nodes, and each device hears of it once. One of them may be away.
func TestTwoDrivers(t *testing.T) {
	t.Parallel()
	const alice, password = "alice@rig.test", "secret"
	w := newWorld(t, testpeer.PostgresURL(t), "metadata")
	w.configure("push: {", "push: {coalesce: 0s, coalesce_max: 0s, badge_delay: 0s, ")
	w.start()
	other := w.node()
	other.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{
		Users: map[string]string{alice: password}, NotifyURL: w.notifyURL(), MoreNotifyURLs: []string{other.notifyURL()}, UserFromMetadata: true,
	})
	w.provision(d, api.MailHost{KeyedAlias: true}, alice)
	token := w.signIn(alice, password, "alice's secret")
	phones := []phone{w.webpushPhone(), w.apnsPhone(), w.fcmPhone()}
	for _, p := range phones {
		w.subscribe(token, p.transport, p.token, "registered")
	}
	mails := 0
	deliver := func(subject string) {
		t.Helper()
		mails++
		d.DeliverLMTP(t, []string{alice}, mail(subject, "x"))
		for _, p := range phones {
			if got := w.receive(p); got.Subject != subject {
				t.Errorf("%s shows %+v, want %s", p.transport, got, subject)
			}
		}
	}
	for _, subject := range []string{"first", "second", "third", "fourth", "fifth"} {
		deliver(subject)
	}
	for _, result := range []string{"queued", "duplicate"} { // whichever was told first
		if n := w.notified(result) + other.notified(result); n != mails {
			t.Errorf("%d notifications were %s, want %d", n, result, mails)
		}
	}
	other.stop()
	deliver("the second is away")
	other = w.node()
	other.start()

	// Both at the same moment, as when two mail servers tell them. (FCM bears 20 in a row.)
	for uid := 101; uid <= 110; uid++ {
		mails++
		var wg sync.WaitGroup
		results := make([]string, 2)
		for i, node := range []*world{w, other} {
			wg.Go(func() { results[i] = node.notify(w.alias(d, alice), uid) })
		}
		wg.Wait()
		if (results[0] == "queued") == (results[1] == "queued") {
			t.Errorf("uid %d: %q", uid, results)
		}
		for _, p := range phones {
			w.receive(p)
		}
	}
	for name, n := range map[string]int{
		"webpush": len(w.webpush.Deliveries()), "apns": len(w.apns.Deliveries()), "fcm": len(w.fcm.Deliveries()),
	} {
		if n != mails {
			t.Errorf("%s got %d notifications of %d mails", name, n, mails)
		}
	}
}

// notified counts the notifications of mail servers with a result.
func (w *world) notified(result string) int {
	w.tb.Helper()
	_, rest, ok := strings.Cut(w.metrics(), fmt.Sprintf(`posthorn_notify_requests_total{reason="",result=%q} `, result))
	if !ok {
		return 0
	}
	number, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(number)
	must(w.tb, err)
	return n
}

// alias is what the user is registered as.
func (w *world) alias(d *testpeer.Dovecot, login string) string {
	w.tb.Helper()
	value, ok := d.Metadata(w.tb, login)
	if !ok {
		w.tb.Fatalf("%s is not registered", login)
	}
	return strings.TrimPrefix(value, "user=")
}
