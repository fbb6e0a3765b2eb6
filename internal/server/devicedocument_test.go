package server_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestDeviceDocument is TestDocument for the API for devices.
func TestDeviceDocument(t *testing.T) {
	t.Parallel()
	const alice = "alice@rig.test"
	idp := startIDP(t, alice)
	w := newWorld(t, sqliteURL(t), "login")
	w.elsewhere(idp)
	w.start()
	d := readDocument(w, deviceDocument)
	dovecot := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NotifyURL: w.notifyURL()})
	w.provision(dovecot, api.MailHost{}, alice)
	id := func(id string) map[string]string { return map[string]string{"id": id} }

	// What everybody may read.
	signIn := map[string]any{"login": alice, "password": secret, "client": "posthorn-app", "device": "phone"}
	token := d.ask(request{op: "signIn", in: signIn}, "").member(t, "token")
	w.blue(idp)
	must(t, w.admin.Do(t.Context(), "PATCH", "/admin/v1/providers/blue", nil, map[string]any{"logo": []byte(blueLogo), "listed": true}, nil))
	blue := map[string]string{"provider": "blue"}
	for _, r := range []request{
		{op: "describeServer"},
		{op: "getDirectory"},
		{op: "getDirectorySignature"},
		{op: "getDirectoryKey"},
		{op: "getDirectorySchema"},
		{op: "searchProviders", query: url.Values{"q": {"blue"}}},
		{op: "getBranding", path: blue},
		{op: "getLogo", path: blue},
		{op: "getDocument"},
	} {
		if r.known = d.ask(r, "").header.Get("ETag"); r.known == "" {
			continue
		}
		if a := d.send(r, ""); a.status != http.StatusNotModified || len(a.raw) > 0 {
			t.Errorf("%s again: %d %s", r.op, a.status, a.raw)
		}
	}
	d.ask(request{op: "discover", in: api.Discover{Input: "https://127.0.0.1"}}, "")

	d.ask(request{op: "listTransports"}, "")
	d.ask(request{op: "listTransports"}, token)
	d.ask(request{op: "getCapabilities"}, token)
	p, browser := w.apnsPhone(), w.webpushPhone()
	subscription := map[string]any{
		"transport": p.transport, "topics": []string{"mail:new"}, "token": p.token, "client": "posthorn-app",
		"policy": map[string]any{"vips": []string{"boss@example.org"}}, "expires": "2099-01-01T00:00:00Z",
	}
	sub := d.ask(request{op: "subscribe", in: subscription}, token).member(t, "id")
	d.ask(request{op: "subscribe", in: map[string]any{
		"transport": browser.transport, "topics": []string{"mail:new:Lists"}, "token": browser.token, "vapid_public_key": w.vapidKey(),
	}}, token)
	d.ask(request{op: "listSubscriptions"}, token)
	d.ask(request{op: "changeSubscription", path: id(sub), in: map[string]any{"policy": map[string]any{
		"quiet_hours": map[string]any{"time_zone": "Europe/Berlin", "windows": []any{map[string]any{"days": []string{"mon"}, "from": "22:00", "to": "07:00"}}},
		"folders":     []any{map[string]any{"folder": "Lists/*", "notify": "badge"}}, "senders": []any{map[string]any{"sender": "@shop.example", "notify": "none"}},
	}}}, token)
	d.ask(request{op: "getSubscription", path: id(sub)}, token)
	d.ask(request{op: "listSessions"}, token)
	d.ask(request{op: "listDevices"}, token)
	d.ask(request{op: "unsubscribe", path: id(sub)}, token)

	// A sign-in elsewhere, step by step as app and browser make it.
	verifier := oauth2.GenerateVerifier()
	to := d.ask(request{op: "startSignIn", in: map[string]any{
		"provider": "blue", "client": "posthorn-app", "device": "tablet", "redirect_uri": "com.example.mail:/signed-in",
		"code_challenge": oauth2.S256ChallengeFromVerifier(verifier), "code_challenge_method": "S256", "state": "its-own",
	}}, "").member(t, "authorization_url")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, to, nil)
	must(t, err)
	res, err := unfollowed.Do(req)
	must(t, err)
	must(t, res.Body.Close())
	back, err := res.Location()
	must(t, err)
	app, err := url.Parse(d.ask(request{op: "finishSignIn", path: blue, query: back.Query()}, "").header.Get("Location"))
	must(t, err)
	code := map[string]any{"code": app.Query().Get("code"), "code_verifier": verifier}
	tablet := d.ask(request{op: "signIn", in: code}, "").member(t, "token")

	// Requests that are refused are in the document as well.
	for _, c := range []struct {
		status int
		key    string
		request
	}{
		{401, "", request{op: "listSessions"}},
		{401, "ph_nonsense", request{op: "listTransports"}},
		{401, "", request{op: "signIn", in: code}},
		{400, "", request{op: "finishSignIn", path: blue, query: back.Query()}},
		{401, w.adminKey(api.Key{Role: api.RoleOperator}).Key, request{op: "listSubscriptions"}},
		{400, "", request{op: "signIn", in: "{", media: "application/json"}},
		{413, "", request{op: "signIn", in: `{"login":"` + strings.Repeat("x", 65<<10) + `"}`, media: "application/json"}},
		{422, "", request{op: "discover", in: map[string]any{"input": ""}}},
		{422, "", request{op: "searchProviders", query: url.Values{"q": {strings.Repeat("x", 201)}}}},
		{422, token, request{op: "subscribe", in: map[string]any{"transport": "pigeon", "topics": []string{}, "token": 1}}},
		{404, "", request{op: "getBranding", path: map[string]string{"provider": "nowhere"}}},
		{404, token, request{op: "signOut", path: id("nobodys")}},
		{404, token, request{op: "signOutDevice", path: id("nobodys")}},
		{404, token, request{op: "getSubscription", path: id(sub)}},
		{404, token, request{op: "unsubscribe", path: id(sub)}},
	} {
		if a := d.send(c.request, c.key); a.status != c.status {
			t.Errorf("%s: %d, want %d: %s", c.op, a.status, c.status, a.raw)
		}
	}

	third := d.ask(request{op: "signIn", in: map[string]any{"login": alice, "password": secret, "client": "posthorn-app", "device": "third", "device_name": "Third"}}, "")
	d.ask(request{op: "signOut", path: id(third.member(t, "id"))}, token)
	tablet = d.ask(request{op: "rotateSession"}, tablet).member(t, "token")
	if a := d.send(request{op: "rotateSession"}, tablet); a.status != 429 {
		t.Errorf("rotated twice: %d %s", a.status, a.raw)
	}
	d.ask(request{op: "signOutDevice", path: id("current")}, tablet)
	d.ask(request{op: "signOutEverywhere"}, token)
	if a := d.send(request{op: "getCapabilities"}, token); a.status != 401 {
		t.Errorf("after the end: %d %s", a.status, a.raw)
	}
	d.whole()
}
