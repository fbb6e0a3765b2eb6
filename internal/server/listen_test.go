package server_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// pushUser is what a listing says of a user; its State is "" when he is not in it.
func (w *world) pushUser(user string) api.PushUser {
	w.tb.Helper()
	var all api.List[api.PushUser]
	must(w.tb, w.admin.Do(w.tb.Context(), "GET", "/admin/v1/push/users", nil, nil, &all))
	i := slices.IndexFunc(all.Items, func(u api.PushUser) bool { return u.User == user })
	if i < 0 {
		return api.PushUser{}
	}
	return all.Items[i]
}

// TestIdleRoad: a mail server that cannot notify is listened to: new mail reaches the phone, reading it elsewhere
// takes it back, and a server that comes back is listened to again.
func TestIdleRoad(t *testing.T) {
	t.Parallel()
	const alice = "alice@rig.test"
	w := newWorld(t, sqliteURL(t), "login")
	w.configure("push: {", "push: {coalesce: 0s, coalesce_max: 0s, ")
	w.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NoMetadata: true})
	w.provision(d, api.MailHost{}, alice) // source auto: no METADATA, so IDLE
	d.DeliverLMTP(t, []string{alice}, mail("before anybody listened", "x"))
	token := w.signIn(alice, secret, "phone")
	p := w.apnsPhone()
	w.subscribe(token, p.transport, p.token, "listening")
	if u := w.pushUser("1@1"); u.Source != "idle" || !u.Permanent || u.Node == "" || u.Devices != 1 {
		t.Errorf("%+v", u)
	}
	d.DeliverLMTP(t, []string{alice}, mail("first", "x"))
	if got := w.receive(p); got.Subject != "first" || got.UID != "2" || got.Unseen != "2" {
		t.Errorf("%+v", got)
	}
	d.Doveadm(t, "flags", "add", "-u", alice, `\Seen`, "mailbox", "INBOX", "uid", "2")
	w.wants(p, "read elsewhere", payload{"topic": "mail:clear", "uid": "2"})
	if u := w.pushUser("1@1"); u.LastEvent == "" {
		t.Errorf("%+v", u)
	}
	// Another device wants to hear of another folder.
	d.Doveadm(t, "mailbox", "create", "-u", alice, "Archive")
	archive := w.fcmPhone()
	w.call("POST", "/api/v1/subscriptions", token, map[string]any{
		"client": "posthorn-app", "transport": archive.transport, "topics": []string{"mail:new:Archive"}, "token": archive.token,
	}, 201)
	for n, told := 1, false; !told; n++ { // the first is there before anybody looks, or not
		d.Save(t, alice, "Archive", mail(fmt.Sprintf("filed %d", n), "x"))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		got, err := archive.next(ctx, archive.target)
		cancel()
		if told = err == nil; told {
			if shown := read(t, archive.transport, got.Payload); shown.Folder != "Archive" || !strings.HasPrefix(shown.Subject, "filed ") {
				t.Errorf("%+v", shown)
			}
		} else if n == 5 {
			t.Fatal("nobody tells of the other folder")
		}
	}
	d.Stop(t)
	w.waitFor("the connection's end is noticed", func() bool { return w.pushUser("1@1").State == "pending" })
	d.Start(t)
	w.waitFor("listening again", func() bool { return w.pushUser("1@1").State == "listening" })
	d.DeliverLMTP(t, []string{alice}, mail("after the restart", "x"))
	for got := w.receive(p); got.Subject != "after the restart"; got = w.receive(p) {
		if got.Subject != "" { // counts may come between
			t.Errorf("%+v", got)
		}
	}
}

// TestReconcile: what was delivered while Posthorn was down is told at its start, once, as the newest state: to those
// who are registered, with a password from the database or by the master user, and to those we listen for.
func TestReconcile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, state string
		host        api.MailHost
	}{
		{"dovecot", "registered", api.MailHost{Source: "dovecot"}},
		{"idle", "listening", api.MailHost{Source: "idle"}},
		{"master", "registered", api.MailHost{Source: "dovecot", PasswordSource: "global", MasterLogin: "master", MasterPassword: "master-secret"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const users = 4
			w := newWorld(t, sqliteURL(t), "login")
			if c.name == "master" {
				w.configure("credentials: {store: database}", "credentials: {store: none}")
			}
			w.start()
			config := testpeer.DovecotConfig{Users: map[string]string{}, Master: "master", MasterPassword: "master-secret"}
			var logins []string
			for i := range users {
				logins = append(logins, fmt.Sprintf("user%d@rig.test", i+1))
				config.Users[logins[i]] = secret
			}
			d := testpeer.StartDovecot(t, config)
			w.provision(d, c.host, logins...)
			phones := make([]phone, users)
			for i, login := range logins {
				token := w.signIn(login, secret, login)
				phones[i] = w.apnsPhone()
				w.subscribe(token, phones[i].transport, phones[i].token, c.state)
			}
			w.stop()
			for n := range 5 {
				d.DeliverLMTP(t, logins, mail(fmt.Sprintf("missed %d", n+1), "x"))
			}
			w.start()
			for _, p := range phones {
				if got := w.receive(p); got.Subject != "missed 5" || got.UID != "5" || got.Unseen != "5" {
					t.Errorf("%+v", got)
				}
			}
			// Nothing more comes, also not with the next restart.
			w.stop()
			w.start()
			w.waitFor("everybody is looked at", func() bool {
				for i := range users {
					if u := w.pushUser(fmt.Sprintf("%d@1", i+1)); u.State != c.state || u.Source == "" {
						return false
					}
				}
				return true
			})
			d.DeliverLMTP(t, logins, mail("the next", "x")) // of the registered, nobody tells us: there is no driver
			w.stop()
			if n := len(w.apns.Deliveries()); n != users && (c.state == "registered" || n > 2*users) {
				t.Errorf("%d notifications for %d devices", n, users)
			}
		})
	}
}

// TestSessionBound: where no node takes permanent listeners, a user is listened for as long as he uses a session,
// and the flow says so.
func TestSessionBound(t *testing.T) {
	t.Parallel()
	const alice = "alice@rig.test"
	w := newWorld(t, sqliteURL(t), "login")
	w.configure("push: {", "listen: {allow_permanent_push: false}\npush: {")
	w.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}})
	w.provision(d, api.MailHost{}, alice)
	token := w.signIn(alice, secret, "phone")
	w.waitFor("a session alone has a listener", func() bool {
		u := w.pushUser("1@1")
		return u.State == "registered" && !u.Permanent && u.Devices == 0
	})
	p := w.apnsPhone()
	w.subscribe(token, p.transport, p.token, "registered")
	if u := w.pushUser("1@1"); u.Permanent || u.Node == "" {
		t.Errorf("%+v", u)
	}
	gates := func() string {
		var e api.PushExplanation
		must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/push/explain/1@1", nil, nil, &e))
		var all []string
		for _, g := range e.Gates {
			if name, ok := strings.CutPrefix(g.Gate, "listener."); ok {
				all = append(all, name+" "+g.State)
			}
		}
		return strings.Join(all, ", ")
	}
	if got := gates(); got != "subscription open, node open, session open" {
		t.Errorf("in session: %s", got)
	}
	w.exec("UPDATE listeners SET session_until_ms = 1")
	if got := gates(); got != "subscription open, node closed, session closed" {
		t.Errorf("after it: %s", got)
	}
	if value, ok := d.Metadata(t, alice); !ok {
		t.Errorf("the registration went with the session: %q", value)
	}
}

// TestSignInAgain: a password that was changed elsewhere stops the listener, the device is asked for the new one, and
// all is well with it.
func TestSignInAgain(t *testing.T) {
	t.Parallel()
	const alice = "alice@rig.test"
	w := newWorld(t, sqliteURL(t), "login")
	w.configure("push: {", "listen: {rejections: 2, rejection_wait: 1s}\npush: {")
	w.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NoMetadata: true, Extra: `
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
`})
	w.provision(d, api.MailHost{}, alice)
	p := w.apnsPhone()
	w.subscribe(w.signIn(alice, secret, "phone"), p.transport, p.token, "listening")
	d.SetPassword(t, alice, "another")
	d.Stop(t)
	d.Start(t)
	got := w.payload(p)
	if got["topic"] != "account:sign_in" || got["user"] != "1@1" {
		t.Errorf("the device is told %v", got)
	}
	w.waitFor("explain says why", func() bool { // it is recorded within a second
		var e api.PushExplanation
		must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/push/explain/1@1", nil, nil, &e))
		i := slices.IndexFunc(e.Gates, func(g api.PushGate) bool { return g.Gate == "listener" })
		return e.Closed == "listener" && strings.Contains(e.Gates[i].Detail, "rejected logins in a row: 2")
	})
	w.signIn(alice, "another", "phone")
	w.waitFor("listening with the new password", func() bool { return w.pushUser("1@1").State == "listening" })
	d.DeliverLMTP(t, []string{alice}, mail("welcome back", "x"))
	if got := w.receive(p); got.Subject != "welcome back" {
		t.Errorf("%+v", got)
	}
}

// TestLastNodeStops: what the memory of the cluster held is gone with its last server. The listeners that need it are
// listed as waiting, and a sign-in is all they need.
func TestLastNodeStops(t *testing.T) {
	t.Parallel()
	const alice = "alice@rig.test"
	w := newWorld(t, sqliteURL(t), "login")
	w.configure("credentials: {store: database}", "credentials: {store: memory}")
	w.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NoMetadata: true})
	w.provision(d, api.MailHost{}, alice)
	p := w.apnsPhone()
	w.subscribe(w.signIn(alice, secret, "phone"), p.transport, p.token, "listening")
	w.stop()
	d.DeliverLMTP(t, []string{alice}, mail("meanwhile", "x"))
	w.start()
	w.waitFor("waiting for sign-in", func() bool {
		u := w.pushUser("1@1")
		return u.State == "waiting_for_sign_in" && u.Reason != "" && u.Devices == 1
	})
	w.signIn(alice, secret, "phone")
	if got := w.receive(p); got.Subject != "meanwhile" {
		t.Errorf("%+v", got)
	}
}
