package server_test

import (
	"net/url"
	"slices"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/api"
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
