package server_test

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/notify"
	"github.com/posthorn-mail/posthorn/internal/onboard"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestUnregister removes a user's client as "posthorn pushusers -r" does: his devices with it are no longer told,
// and with the last of them the registration goes from the mail server.
func TestUnregister(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	users := map[string]string{"alice@rig.test": secret, "bob@rig.test": secret}
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: users, NotifyURL: w.notifyURL()})
	w.provision(d, api.MailHost{}, "alice@rig.test", "bob@rig.test")
	alice, bob := w.signIn("alice@rig.test", secret, "a"), w.signIn("bob@rig.test", secret, "b")
	for _, token := range []string{alice, alice, bob} {
		p := w.apnsPhone()
		w.subscribe(token, p.transport, p.token, "registered")
	}
	p := w.apnsPhone()
	w.call("POST", "/api/v1/subscriptions", alice, map[string]any{
		"client": "posthorn-web", "transport": p.transport, "topics": []string{"mail:new"}, "token": p.token,
	}, 201)

	const path = "/admin/v1/push/registrations"
	registrations := func() []api.PushRegistration {
		var list api.List[api.PushRegistration]
		must(t, w.admin.Do(t.Context(), "GET", path, nil, nil, &list))
		return list.Items
	}
	want := []api.PushRegistration{{Context: 1, User: 1, Client: "posthorn-app"}, {Context: 1, User: 1, Client: "posthorn-web"}, {Context: 1, User: 2, Client: "posthorn-app"}}
	if got := registrations(); !slices.Equal(got, want) {
		t.Errorf("registrations %v, want %v", got, want)
	}
	remove := func(user, client string) int {
		var done api.Unregistered
		must(t, w.admin.Do(t.Context(), "DELETE", path, url.Values{"context": {"1"}, "user": {user}, "client": {client}}, nil, &done))
		return done.Subscriptions
	}
	for _, c := range []struct {
		user, client string
		want         int
	}{{"1", "posthorn", 0}, {"3", "posthorn-app", 0}, {"1", "posthorn-app", 2}, {"1", "posthorn-app", 0}} {
		if got := remove(c.user, c.client); got != c.want {
			t.Errorf("removed %d subscriptions of %s's %s, want %d", got, c.user, c.client, c.want)
		}
	}
	if got := registrations(); !slices.Equal(got, want[1:]) {
		t.Errorf("registrations %v, want %v", got, want[1:])
	}
	if _, ok := d.Metadata(t, "alice@rig.test"); !ok {
		t.Error("her other client is not listened for any more")
	}
	if got := remove("1", "posthorn-web"); got != 1 {
		t.Errorf("removed %d, want 1", got)
	}
	w.waitFor("registration removed", func() bool { _, ok := d.Metadata(t, "alice@rig.test"); return !ok })
	if _, ok := d.Metadata(t, "bob@rig.test"); !ok {
		t.Error("another user's registration went as well")
	}
	for _, q := range []url.Values{{"context": {"1"}, "user": {"x"}, "client": {"c"}}, {"context": {"1"}, "user": {"1"}}} {
		if err := w.admin.Do(t.Context(), "DELETE", path, q, nil, nil); err == nil {
			t.Errorf("%v was accepted", q)
		}
	}
}

// doctor asks for an examination, and returns the checks of the server and of the mail host by their names.
func (w *world) doctor(in api.Doctor) (server, host map[string]api.DoctorCheck) {
	w.tb.Helper()
	var list api.List[api.DoctorReport]
	must(w.tb, w.admin.Do(w.tb.Context(), "POST", "/admin/v1/doctor", nil, in, &list))
	if len(list.Items) != 2 {
		w.tb.Fatalf("%d reports, want those of the server and of one mail host", len(list.Items))
	}
	all := []map[string]api.DoctorCheck{{}, {}}
	for i, r := range list.Items {
		for _, c := range r.Checks {
			all[i][c.Name] = c
		}
	}
	return all[0], all[1]
}

// TestNotifyPath: two packages that may not know each other name the same endpoint.
func TestNotifyPath(t *testing.T) {
	t.Parallel()
	if onboard.NotifyPath != notify.Path {
		t.Errorf("the doctor calls %s, and %s is served", onboard.NotifyPath, notify.Path)
	}
}

// TestDoctor examines a whole installation: the server, a real Dovecot, and the way that its notifications take.
func TestDoctor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	const alice = "alice@rig.test"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NotifyURL: w.notifyURL()})
	w.provision(d, api.MailHost{}, alice)
	want := func(checks map[string]api.DoctorCheck, name, state string) {
		t.Helper()
		if c := checks[name]; string(c.State) != state {
			t.Errorf("%s is %q, want %s: %s → %s", name, c.State, state, c.Detail, c.Do)
		}
	}

	server, host := w.doctor(api.Doctor{User: "1@1"})
	want(server, "database", "ok")
	want(server, "bus", "ok")
	want(server, "listeners", "skipped")
	want(server, "open_files", "ok")
	want(server, "credential", "ok")
	want(host, "sign_in", "failed") // nothing is stored for her yet
	want(host, "notify", "skipped")

	token := w.signIn(alice, secret, "a")
	_, host = w.doctor(api.Doctor{User: "1@1"})
	want(host, "sign_in", "ok")
	want(host, "metadata_write", "ok")
	p := w.apnsPhone()
	w.subscribe(token, p.transport, p.token, "registered")
	server, host = w.doctor(api.Doctor{User: "1@1", NotifyURL: w.notifyURL()})
	want(server, "listeners", "ok")
	for _, name := range []string{"name", "reachable", "tls", "greeting", "sign_in", "METADATA", "IDLE", "metadata_write", "registration", "notify", "notify_credential"} {
		want(host, name, "ok")
	}
	want(host, "notify_from_mailhost", "skipped")

	// A mail, all the way.
	_, host = w.doctor(api.Doctor{User: "1@1", DeliverLMTP: fmt.Sprintf("127.0.0.1:%d", d.LMTPPort)})
	for _, name := range []string{"mailbox", "delivery", "lag_mailbox", "lag_notification"} {
		want(host, name, "ok")
	}
	t.Log(host["delivery"].Detail, host["lag_mailbox"].Detail, host["lag_notification"].Detail)
	if got := w.receive(p); got.Subject != "posthorn doctor" {
		t.Errorf("the phone shows %+v", got)
	}

	// The notify endpoint, called wrongly.
	u, err := url.Parse(w.notifyURL())
	must(t, err)
	for _, c := range []struct {
		name   string
		change func(*url.URL)
		check  string
		state  string
	}{
		{"wrong password", func(u *url.URL) { u.User = url.UserPassword("posthorn", "wrong") }, "notify_credential", "failed"},
		{"wrong login", func(u *url.URL) { u.User = url.UserPassword("dovecot", "x") }, "notify_credential", "failed"},
		{"the installation's", func(u *url.URL) { u.User = nil }, "notify_credential", "ok"},
		{"wrong path", func(u *url.URL) { u.Path = "/notify" }, "notify", "failed"},
		{"another listener", func(u *url.URL) { u.Host = w.public[len("http://"):] }, "notify", "failed"},
		{"nobody there", func(u *url.URL) { u.Host = "127.0.0.1:1" }, "notify", "failed"},
		{"no URL", func(u *url.URL) { u.Scheme = "ftp" }, "notify", "failed"},
	} {
		wrong := *u
		c.change(&wrong)
		_, host := w.doctor(api.Doctor{MailHosts: []string{"dove"}, NotifyURL: wrong.String()})
		if got := host[c.check]; string(got.State) != c.state || c.state == "failed" && got.Do == "" {
			t.Errorf("%s: %s is %s: %s → %s", c.name, c.check, got.State, got.Detail, got.Do)
		}
	}

	// The registration of another system.
	d.SetMetadata(t, alice, "user=9@9")
	_, host = w.doctor(api.Doctor{User: "1@1"})
	want(host, "registration", "warning")
}

// TestDoctorByMaster signs in as a user who never did, by the mail host's master user.
func TestDoctorByMaster(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	const alice = "alice@rig.test"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, Master: "posthorn", MasterPassword: "master-secret"})
	w.provision(d, api.MailHost{PasswordSource: "global", MasterLogin: "posthorn", MasterPassword: "master-secret"}, alice)
	_, host := w.doctor(api.Doctor{User: "1@1"})
	for _, name := range []string{"sign_in", "METADATA", "metadata_write"} {
		if c := host[name]; c.State != "ok" {
			t.Errorf("%s is %s: %s → %s", name, c.State, c.Detail, c.Do)
		}
	}
	must(t, w.admin.Do(t.Context(), "DELETE", "/admin/v1/users/1@1", nil, nil, nil))
	if err := w.admin.Do(t.Context(), "POST", "/admin/v1/doctor", nil, api.Doctor{User: "1@1"}, nil); err == nil {
		t.Error("a user who is not there was examined")
	}
}

// TestMailNotify: a mail server that only sends datagrams, as a Cyrus does, and a phone that shows the mail.
func TestMailNotify(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	free, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	addr := free.LocalAddr().String()
	must(t, free.Close())
	w.edit("push: {", fmt.Sprintf("mailnotify: {enabled: true, listen: %q, domains: [rig.test], delay: 100ms}\npush: {", addr))
	w.start()
	const alice = "alice@rig.test"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NoMetadata: true})
	w.provision(d, api.MailHost{Source: "mailnotify"}, alice)
	token := w.signIn(alice, secret, "a")
	p := w.apnsPhone()
	w.subscribe(token, p.transport, p.token, "registered")

	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	must(t, err)
	defer c.Close() //nolint:errcheck // only sent from
	for _, subject := range []string{"first", "second"} {
		d.DeliverLMTP(t, []string{alice}, mail(subject, "x"))
		for _, datagram := range []string{"", "log", "log\x00MAIL\x00\x00alice\x00INBOX\x000\x00text\x00"} {
			_, err := c.Write([]byte(datagram))
			must(t, err)
		}
		if got := w.receive(p); got.Subject != subject {
			t.Errorf("the phone shows %+v, want %s", got, subject)
		}
	}
	if _, host := w.doctor(api.Doctor{User: "1@1"}); host["mailnotify"].State != "ok" {
		t.Errorf("the doctor finds %+v", host["mailnotify"])
	}
	var list api.List[api.PushUser]
	must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/push/users", nil, nil, &list))
	if len(list.Items) != 1 || list.Items[0].Source != "mailnotify" || list.Items[0].LastEvent == "" || list.Items[0].Node == "" {
		t.Errorf("%+v", list.Items)
	}
}
