package server_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// audited returns what the audit log says of a user, oldest first: acts and outcomes, and all texts at once.
func (w *world) audited(user string) (acts []string, all string) {
	w.tb.Helper()
	var page api.AuditPage
	must(w.tb, w.admin.Do(w.tb.Context(), "GET", "/admin/v1/audit", queryOf("user="+user), nil, &page))
	for _, e := range slices.Backward(page.Items) {
		acts = append(acts, e.Act+" "+e.Outcome)
	}
	return acts, fmt.Sprintf("%+v", page.Items)
}

// Who hangs up before he is refused is written down as whoever waits: he tried this user.
func TestHangUpIsAudited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	const alice = "alice@rig.test"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}})
	w.provision(d, api.MailHost{}, alice)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // Dovecot takes 2 s for a no, and we 2.5 s
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.public+"/api/v1/sessions", strings.NewReader(`{"login":"`+alice+`","password":"wrong","client":"posthorn-app"}`))
	must(t, err)
	if res, err := http.DefaultClient.Do(req); err == nil {
		must(t, res.Body.Close())
		t.Fatalf("answered with %d", res.StatusCode)
	}
	w.waitFor("the audit log", func() bool {
		acts, _ := w.audited("1@1")
		return slices.Contains(acts, "sign_in failed") || slices.Contains(acts, "sign_in refused")
	})
}

// TestDevicesAndTokens walks what a user can do about his devices: see them, rotate tokens, end one, end all; and what
// a stolen token leads to.
func TestDevicesAndTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	const alice, bob = "alice@rig.test", "bob@rig.test"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret, bob: secret}})
	w.provision(d, api.MailHost{}, alice, bob)
	in := func(login, device, name string) string {
		return w.call("POST", "/api/v1/sessions", "", map[string]any{
			"login": login, "password": secret, "client": "posthorn-app", "device": device, "device_name": name,
		}, 201)["token"].(string)
	}
	phone, tablet, bobs := in(alice, "phone", "Alice's phone"), in(alice, "tablet", ""), in(bob, "phone", "")
	p, q := w.webpushPhone(), w.apnsPhone()
	w.subscribe(phone, p.transport, p.token, "registered")
	w.subscribe(bobs, p.transport, p.token, "registered")
	w.subscribe(tablet, q.transport, q.token, "registered")
	list := func(token string) []any { return w.call("GET", "/api/v1/devices", token, nil, 200)["items"].([]any) }
	subscribed := func(token string) int {
		return len(w.call("GET", "/api/v1/subscriptions", token, nil, 200)["items"].([]any))
	}

	devices := list(phone)
	if len(devices) != 2 {
		t.Fatalf("%v", devices)
	}
	var tabletID string
	for _, d := range devices {
		d := d.(map[string]any)
		named := d["name"] == "Alice's phone"
		if d["current"] != named || d["client"] != "posthorn-app" || d["address"] != "127.0.0.1" || d["sessions"] != 1.0 || len(d["subscriptions"].([]any)) != 1 {
			t.Errorf("%v", d)
		}
		if !named {
			tabletID = d["id"].(string)
		}
	}
	w.call("DELETE", "/api/v1/devices/"+tabletID, bobs, nil, 404) // not his
	w.call("DELETE", "/api/v1/devices/"+strings.Repeat("0", 16), phone, nil, 404)
	w.call("DELETE", "/api/v1/devices/"+tabletID, phone, nil, 204)
	w.call("GET", "/api/v1/sessions", tablet, nil, 401)
	if n := subscribed(phone); n != 1 {
		t.Errorf("%d subscriptions are left", n)
	}

	// The phone rotates; who comes with the old token once the new one is in use ends it for both.
	rotated := w.call("POST", "/api/v1/sessions/current/rotate", phone, nil, 200)["token"].(string)
	w.call("POST", "/api/v1/sessions/current/rotate", rotated, nil, 429)
	w.call("GET", "/api/v1/sessions", phone, nil, 200) // within the minute
	w.exec("UPDATE sessions SET rotated_ms = rotated_ms - 60000 WHERE rotated_ms > 0")
	w.call("GET", "/api/v1/sessions", phone, nil, 401)
	w.call("GET", "/api/v1/sessions", rotated, nil, 401)

	// Nothing of her is left: neither subscription nor session.
	again := in(alice, "phone", "Alice's phone")
	if devices := list(again); len(devices) != 1 || len(devices[0].(map[string]any)["subscriptions"].([]any)) != 0 {
		t.Errorf("%v", devices)
	}
	w.subscribe(again, p.transport, p.token, "registered")
	in(alice, "tablet", "")
	w.call("DELETE", "/api/v1/sessions", again, nil, 204)
	w.call("GET", "/api/v1/sessions", again, nil, 401)
	again = in(alice, "phone", "Alice's phone")
	if devices := list(again); len(devices) != 1 || subscribed(again) != 0 {
		t.Errorf("%v", devices)
	}
	w.call("DELETE", "/api/v1/devices/current", again, nil, 204)
	w.call("GET", "/api/v1/sessions", again, nil, 401)

	// Bob, on the same phone, was touched by nothing of it.
	if devices := list(bobs); len(devices) != 1 || subscribed(bobs) != 1 {
		t.Errorf("%v", devices)
	}
	w.try("POST", "/api/v1/sessions", "", map[string]any{"login": alice, "password": "a wrong one", "client": "posthorn-app"})
	want := []string{
		"addUser ok", "sign_in ok", "sign_in ok", "device.revoke ok", "session.rotate ok", "session.theft refused", "sign_in ok", "sign_in ok",
		"sign_out.everywhere ok", "sign_in ok", "device.revoke ok", "sign_in refused",
	}
	var acts []string
	var texts string
	w.waitFor("the audit log", func() bool {
		acts, texts = w.audited("1@1")
		return len(acts) >= len(want)
	})
	if !slices.Equal(acts, want) {
		t.Errorf("audited\n%q, want\n%q", acts, want)
	}
	for _, leak := range []string{secret + " ", "a wrong one", phone, rotated, "ph_"} {
		if strings.Contains(texts, leak) {
			t.Errorf("the audit log holds %q: %s", leak, texts)
		}
	}
}
