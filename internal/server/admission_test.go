package server_test

import (
	"net/http"
	"path/filepath"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// setProperty sets a value as the operator does.
func (w *world) setProperty(scope, subject, name, value string) {
	w.tb.Helper()
	must(w.tb, w.admin.Do(w.tb.Context(), "PUT", "/admin/v1/properties", nil, api.PropertyValue{Scope: scope, Subject: subject, Property: name, Value: value}, nil))
}

// by is a request as it comes by a host.
func (w *world) by(host, method, path, token string, in any) (int, map[string]any) {
	w.tb.Helper()
	w.host = host
	defer func() { w.host = "" }()
	return w.try(method, path, token, in)
}

// TestTheAppIsOffByDefault walks what the administrator of the system before did: nobody may use the app, then a
// context may, one user in it may not, and a host is switched off for all; and what it means for who was signed in.
func TestTheAppIsOffByDefault(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.edit("properties: {capability.mobile_mail_app: true}\n", "")
	w.start()
	const bob = "bob@rig.test"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret1, bob: secret1}})
	w.provision(d, api.MailHost{}, alice, bob)
	signIn := func(host, login, client string) (int, map[string]any) {
		t.Helper()
		return w.by(host, "POST", "/api/v1/sessions", "", map[string]any{"login": login, "password": secret1, "client": client})
	}
	refused := func(status int, out map[string]any, reason string) {
		t.Helper()
		if status != http.StatusForbidden || out["reason"] != reason || out["detail"] == "" {
			t.Errorf("%d %v, want 403 %s", status, out, reason)
		}
	}
	const app, host = "posthorn-app", "mail.example.org"
	status, out := signIn(host, alice, app)
	refused(status, out, "mobile_mail_app_disabled")
	if status, _ := signIn(host, alice, "thunderbird"); status != http.StatusCreated {
		t.Errorf("another client: %d", status)
	}
	// Who proves nothing is not told.
	if status, out := w.by(host, "POST", "/api/v1/sessions", "", map[string]any{"login": alice, "password": "wrong", "client": app}); status != http.StatusUnauthorized {
		t.Errorf("a wrong password: %d %v", status, out)
	}

	w.setProperty("context", "1", "capability.mobile_mail_app", "true")
	w.setProperty("user", "2@1", "capability.mobile_mail_app", "false")
	status, out = signIn(host, alice, app)
	if status != http.StatusCreated {
		t.Fatalf("switched on for the context: %d %v", status, out)
	}
	token, _ := out["token"].(string)
	status, out = signIn(host, bob, app)
	refused(status, out, "mobile_mail_app_disabled")

	status, out = w.by(host, "GET", "/api/v1/capabilities", token, nil)
	if caps, _ := out["capabilities"].(map[string]any); status != http.StatusOK || caps["mobile_mail_app"] != true || caps["push"] != true {
		t.Errorf("%d %v", status, out)
	}

	// The host is switched off: also for who is signed in. He can still see and end what he has.
	w.write(filepath.Dir(w.config), "mailapp-config.yml", []byte("default: {host: all, mail_app_enabled: true}\noff: {host: off.example.org, mail_app_enabled: false}\n"))
	if _, err := w.reload(); err != nil {
		t.Fatal(err)
	}
	status, out = signIn("off.example.org:8443", alice, app)
	refused(status, out, "host_not_allowed")
	if status, out := signIn("on.example.org", alice, app); status != http.StatusCreated {
		t.Errorf("by another host: %d %v", status, out)
	}
	p := w.apnsPhone()
	subscribe := map[string]any{"client": app, "transport": p.transport, "topics": []string{"mail:new"}, "token": p.token}
	status, out = w.by("off.example.org", "POST", "/api/v1/subscriptions", token, subscribe)
	refused(status, out, "host_not_allowed")
	if status, out := w.by(host, "POST", "/api/v1/subscriptions", token, subscribe); status != http.StatusCreated {
		t.Errorf("by a host that is on: %d %v", status, out)
	}
	w.setProperty("user", "1@1", "capability.mobile_mail_app", "false")
	status, out = w.by(host, "POST", "/api/v1/subscriptions", token, subscribe)
	refused(status, out, "mobile_mail_app_disabled")
	status, out = w.by(host, "GET", "/api/v1/capabilities", token, nil)
	if caps, _ := out["capabilities"].(map[string]any); status != http.StatusOK || caps["mobile_mail_app"] != false {
		t.Errorf("%d %v", status, out)
	}
	if status, _ := w.by(host, "GET", "/api/v1/subscriptions", token, nil); status != http.StatusOK {
		t.Errorf("his subscriptions: %d", status)
	}
	if status, _ := w.by("off.example.org", "DELETE", "/api/v1/sessions/current", token, nil); status != http.StatusNoContent {
		t.Errorf("sign-out: %d", status)
	}
}
