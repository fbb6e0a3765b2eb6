package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestExplainUser follows a user from nothing to a phone that rings, and on to one that does not: each time the
// first closed gate is the one that is.
func TestExplainUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	const alice, bob = "alice@rig.test", "bob@rig.test"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret, bob: secret}, NotifyURL: w.notifyURL()})
	explain := func(user, closed string) api.PushExplanation {
		t.Helper()
		var e api.PushExplanation
		must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/push/explain/"+user, nil, nil, &e))
		if e.Closed != closed {
			t.Errorf("%s: the first closed gate is %q, want %q: %+v", user, e.Closed, closed, e)
		}
		return e
	}
	explain("1@1", "user")
	w.provision(d, api.MailHost{}, alice, bob)
	e := explain("1@1", "subscription")
	if g := e.Gates[len(e.Gates)-1]; !strings.Contains(g.Detail, "none is signed in") || e.Login != alice || e.MailHost != "dove" {
		t.Errorf("%+v", e)
	}
	token := w.signIn(alice, secret, "phone")
	e = explain("1@1", "subscription")
	if g := e.Gates[len(e.Gates)-1]; !strings.Contains(g.Detail, "sessions: 1") {
		t.Errorf("%+v", g)
	}

	p := w.apnsPhone()
	id := w.subscribe(token, p.transport, p.token, "registered")
	e = explain("1@1", "")
	if states := statesOf(e.Devices[0]); states != "client=open expiry=open rules=open quiet_hours=open transport=open credential=open lane=open token=open slot=unknown answer=unknown" {
		t.Errorf("before the first mail: %s", states)
	}
	d.DeliverLMTP(t, []string{alice}, mail("one", "x"))
	w.receive(p)
	w.waitFor("the answer is committed", func() bool { return !strings.Contains(statesOf(explain("1@1", "").Devices[0]), "unknown") })

	// Another phone, whose token Apple does not know; the first one rings on.
	lost := w.apnsPhone()
	lost.token = map[string]string{"device_token": strings.Repeat("0f", 32)}
	other := w.subscribe(token, lost.transport, lost.token, "registered")
	d.DeliverLMTP(t, []string{alice}, mail("two", "x"))
	w.receive(p)
	w.waitFor("the other's answer is committed", func() bool {
		var e api.PushExplanation
		must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/push/explain/1@1", nil, nil, &e))
		return len(e.Devices) == 2 && e.Devices[0].Closed+e.Devices[1].Closed == "token"
	})
	e = explain("1@1", "token of device "+other)
	if e.Devices[0].ID != id || e.Devices[0].Closed != "" || e.Devices[0].Client != "posthorn-app" || !strings.HasPrefix(e.Devices[0].Target, "…") {
		t.Errorf("%+v", e.Devices[0])
	}

	// One whose time is over, and a client that nobody allowed.
	theirs := w.signIn(bob, secret, "")
	p = w.apnsPhone()
	w.call("POST", "/api/v1/subscriptions", theirs, map[string]any{
		"client": "other-app", "transport": p.transport, "topics": []string{"mail:new"}, "token": p.token,
		"expires": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
	}, 201)
	e = explain("2@1", "listener")
	if states := statesOf(e.Devices[0]); !strings.HasPrefix(states, "client=closed expiry=open") || e.Devices[0].Gates[1].Until == "" {
		t.Errorf("%s %+v", states, e.Devices[0].Gates)
	}
	// His session's listener has registered by then: else it may do so after what comes now.
	w.waitFor("bob's registration", func() bool { _, ok := d.Metadata(t, bob); return ok })
	d.SetMetadata(t, bob, "user=17@4")
	w.subscribe(theirs, p.transport, p.token, "foreign")
	e = explain("2@1", "listener")
	if g := e.Gates[len(e.Gates)-1]; !strings.HasPrefix(g.Detail, "foreign: another system") {
		t.Errorf("%+v", g)
	}
	if err := w.admin.Do(t.Context(), "GET", "/admin/v1/push/explain/nobody", nil, nil, nil); err == nil {
		t.Error("explained a user that is no number")
	}
}

// statesOf is the walk in short.
func statesOf(d api.PushDeviceGates) string {
	var all []string
	for _, g := range d.Gates {
		all = append(all, g.Gate+"="+g.State)
	}
	return strings.Join(all, " ")
}
