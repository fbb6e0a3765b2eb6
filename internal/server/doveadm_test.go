package server_test

import (
	"fmt"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestWithoutPasswords: no user's password is kept anywhere, and a restart is told nothing: what Dovecot lost is
// registered again, and what came meanwhile is told once, as state.
func TestWithoutPasswords(t *testing.T) {
	const key = "the key of doveadm"
	for name, c := range map[string]struct {
		dovecot testpeer.DovecotConfig
		host    func(*testpeer.Dovecot) api.MailHost
	}{
		"doveadm": {
			testpeer.DovecotConfig{NoMetadata: true, DoveadmKey: `"` + key + `"`},
			func(d *testpeer.Dovecot) api.MailHost { return api.MailHost{DoveadmURL: d.DoveadmURL, DoveadmKey: key} },
		},
		"master user": {
			testpeer.DovecotConfig{Master: "posthorn", MasterPassword: "master"},
			func(*testpeer.Dovecot) api.MailHost {
				return api.MailHost{PasswordSource: "global", MasterLogin: "posthorn", MasterPassword: "master"}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			withoutPasswords(t, c.dovecot, c.host)
		})
	}
}

func withoutPasswords(t *testing.T, conf testpeer.DovecotConfig, host func(*testpeer.Dovecot) api.MailHost) {
	const alice, password = "alice@rig.test", "secret"
	w := newWorld(t, sqliteURL(t), "metadata")
	w.configure("credentials: {store: database}", "credentials: {store: none}")
	w.configure("push: {", "push: {coalesce: 0s, coalesce_max: 0s, badge_delay: 0s, ")
	w.start()
	w.configure(`internal: {listen: "127.0.0.1:0"`, fmt.Sprintf("internal: {listen: %q", w.internal[len("http://"):])) // for the restarts
	conf.Users, conf.NotifyURL, conf.UserFromMetadata = map[string]string{alice: password}, w.notifyURL(), true
	d := testpeer.StartDovecot(t, conf)
	h := host(d)
	h.KeyedAlias = true
	w.provision(d, h, alice)
	p := w.apnsPhone()
	w.subscribe(w.signIn(alice, password, "phone"), p.transport, p.token, "registered")
	registered := w.alias(d, alice)
	deliver := func(subject string) { d.DeliverLMTP(t, []string{alice}, mail(subject, "x")) }
	shows := func(subject, uid string) {
		t.Helper()
		if got := w.receive(p); got.Subject != subject || got.UID != uid {
			t.Errorf("%+v, want %s, uid %s", got, subject, uid)
		}
	}
	again := func() {
		t.Helper()
		w.start()
		w.waitFor("it is registered again", func() bool {
			value, _ := d.Metadata(t, alice)
			return value == "user="+registered
		})
	}
	deliver("first")
	shows("first", "1")

	w.stop()
	d.ClearMetadata(t, alice)
	for i := range 5 {
		deliver(fmt.Sprintf("while nobody listened, %d", i+2))
	}
	again()
	shows("while nobody listened, 6", "6")
	deliver("listening again")
	shows("listening again", "7")

	w.stop()
	d.RemoveMailbox(t, alice)
	again()
	if got := w.receive(p); got != (shown{Unseen: "0"}) {
		t.Errorf("%+v, want the count of an empty INBOX", got)
	}
	deliver("in another INBOX")
	shows("in another INBOX", "1")
	if n := len(w.apns.Deliveries()); n != 5 {
		t.Errorf("%d notifications, want 5", n)
	}
}
