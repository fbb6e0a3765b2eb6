package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
	"github.com/posthorn-mail/posthorn/internal/webpush"
)

// house is a brand as its owner would set it up: an app of its own at Apple, and a VAPID key of its own.
type house struct {
	name, colour, topic string
	apple               *fake.APNs
	provider            api.Provider
	vapidKey            string // public
}

// newHouse makes a brand. Its Apple knows this brand's key and topic, and no other's.
func (w *world) newHouse(name, colour string) *house {
	w.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.tb, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(w.tb, err)
	h := &house{name: name, colour: colour, topic: "com.example." + name}
	keyID, team := strings.ToUpper((name + "0000000000")[:10]), strings.ToUpper((name + "1111111111")[:10])
	h.apple, err = fake.NewAPNs(fake.APNsConfig{Keys: []fake.APNsKey{{KeyID: keyID, TeamID: team, Public: &key.PublicKey}}, Topics: []string{h.topic}})
	must(w.tb, err)
	w.tb.Cleanup(func() { must(w.tb, h.apple.Close()) })
	vapid, err := webpush.GenerateKey()
	must(w.tb, err)
	text, err := webpush.MarshalKey(vapid)
	must(w.tb, err)
	sender, err := webpush.New(webpush.Config{Key: vapid, Subject: "mailto:push@" + name + ".example.org", HTTP: http.DefaultClient})
	must(w.tb, err)
	h.vapidKey = sender.PublicKey()
	h.provider = api.Provider{
		Name: name, Title: strings.ToUpper(name) + " Mail", Colour: colour, BaseURL: "https://mail." + name + ".example",
		Hosts: []string{"mail." + name + ".example"}, Contact: "help@" + name + ".example", MailHosts: []string{"dove"}, Listed: true,
		APNs: []api.ProviderAPNs{{
			Topic: h.topic, Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), KeyID: keyID, TeamID: team,
			URL: h.apple.URL(), CA: string(h.apple.CAPEM()),
		}},
		VAPIDKey: string(text), VAPIDSubject: "mailto:push@" + name + ".example.org",
	}
	return h
}

// at makes a request by a host's name, as an app that is configured for it does.
func (w *world) at(host, method, path, token string, in any) (int, map[string]any) {
	w.tb.Helper()
	raw, err := json.Marshal(in)
	must(w.tb, err)
	req, err := http.NewRequestWithContext(w.tb.Context(), method, w.public+path, bytes.NewReader(raw))
	must(w.tb, err)
	req.Host = host
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	must(w.tb, err)
	defer res.Body.Close()
	raw, err = io.ReadAll(res.Body)
	must(w.tb, err)
	out := map[string]any{}
	if len(raw) > 0 {
		must(w.tb, json.Unmarshal(raw, &out))
	}
	return res.StatusCode, out
}

// comesIn signs in with the app by a host, or says with which code that is refused.
func (w *world) comesIn(host, login string) (token, code string, answer map[string]any) {
	w.tb.Helper()
	status, out := w.at(host, "POST", "/api/v1/sessions", "", map[string]any{
		"login": login, "password": secret, "client": "open-xchange-mailapp", "device": "phone of " + login,
	})
	if status == http.StatusCreated {
		return out["token"].(string), "", out
	}
	code, _ = out["reason"].(string)
	return "", fmt.Sprint(status, " ", code), out
}

// set sets a property as "posthorn property set" does.
func (w *world) set(scope, subject, property, value string) {
	w.tb.Helper()
	must(w.tb, w.admin.Do(w.tb.Context(), "PUT", "/admin/v1/properties", nil, api.PropertyValue{Scope: scope, Subject: subject, Property: property, Value: value}, nil))
}

// explain is the value that holds for a user, and where it was set.
func (w *world) explain(property, user string) string {
	w.tb.Helper()
	var e api.PropertyExplanation
	must(w.tb, w.admin.Do(w.tb.Context(), "GET", "/admin/v1/properties/explain/"+property, url.Values{"user": {user}}, nil, &e))
	return strings.TrimSpace(e.Value + " by " + e.Winner.Scope + " " + e.Winner.Subject)
}

// TestProviderCredentials: what cannot be opened is refused, and says what to do.
func TestProviderCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}})
	w.provision(d, api.MailHost{}, alice)
	add := func(change func(*api.Provider)) error {
		p := w.newHouse("blue", "#1c6ea4").provider
		change(&p)
		return w.admin.Do(t.Context(), "POST", "/admin/v1/providers", nil, p, nil)
	}
	certificate := func(ends time.Time, password string) func(*api.Provider) {
		return func(p *api.Provider) {
			file, _ := p12(t, "com.example.blue", "geheim", ends)
			p.APNs = []api.ProviderAPNs{{Topic: "com.example.blue", Certificate: base64.StdEncoding.EncodeToString(file), CertificatePassword: password}}
		}
	}
	for name, c := range map[string]struct {
		change func(*api.Provider)
		says   []string
	}{
		"an expired certificate": {certificate(time.Now().Add(-time.Hour), "geheim"), []string{"apns[0].certificate", "expired on", "renew it"}},
		"a wrong password":       {certificate(time.Now().Add(time.Hour), "falsch"), []string{"apns[0].certificate", "password"}},
		"a key that is none": {func(p *api.Provider) {
			p.APNs[0].Key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
		}, []string{"apns[0].key"}},
		"a VAPID key that is none": {func(p *api.Provider) { p.VAPIDKey = "x" }, []string{"vapid_key"}},
		"no service account":       {func(p *api.Provider) { p.FCM = []api.ProviderFCM{{ServiceAccount: "{}"}} }, []string{"fcm[0].service_account"}},
	} {
		err := add(c.change)
		for _, says := range c.says {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v, want %q in it", name, err, says)
			}
		}
	}
	if err := add(func(*api.Provider) {}); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

// TestAdministratorsStory is what an administrator of the system before is told to do, on a running server with a real
// Dovecot: the app is off by default, and on for a context, and off for one user in it; hosts are blocked and allowed;
// two brands have two colours and two sets of push credentials, and a mail rings at each through its own.
func TestAdministratorsStory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	raw, err := os.ReadFile(w.config)
	must(t, err)
	text := strings.Replace(string(raw), "properties: {capability.mobile_mail_app: true}\n", "", 1)
	text = strings.Replace(text, `push: {allowed_clients: ["posthorn-*"]}`+"\n", "", 1)
	must(t, os.WriteFile(w.config, []byte(text), 0o600)) //nolint:gosec // the test's own
	hosts := filepath.Join(filepath.Dir(w.config), "mailapp-config.yml")
	// As the reference shows it, with its column of spaces.
	rules := ` default:
     host: all
     mail_app_enabled: false

 # Override mail_app_enabled setting for certain hosts
 blue:
     host: mail.blue.example
     mail_app_enabled: true
`
	must(t, os.WriteFile(hosts, []byte(rules), 0o600))
	w.start()
	logins := []string{"ann@rig.test", "ben@rig.test", "rob@rig.test"}
	users := map[string]string{}
	for _, login := range logins {
		users[login] = secret
	}
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: users, NotifyURL: w.notifyURL()})
	ctx := t.Context()
	w.provision(d, api.MailHost{}, logins[:2]...)
	must(t, w.admin.Do(ctx, "POST", "/admin/v1/contexts", nil, api.Context{ID: 2, Name: "two"}, nil))
	must(t, w.admin.Do(ctx, "POST", "/admin/v1/users", nil, api.User{User: "@2", Login: logins[2], MailHost: "dove"}, nil))
	ann, ben, rob := logins[0], logins[1], logins[2]
	refused := func(host, login, want string) map[string]any {
		t.Helper()
		_, code, out := w.comesIn(host, login)
		if code != want {
			t.Errorf("%s by %s: %q, want %q: %v", login, host, code, want, out)
		}
		return out
	}

	// Off by default, wherever one comes from.
	refused("mail.blue.example", ann, "403 mobile_mail_app_disabled")
	refused("mail.red.example", rob, "403 host_not_allowed")
	if got := w.explain("mobile_mail_app", "1@1"); got != "false by default" {
		t.Errorf("explain: %s", got)
	}

	// On for one context, off for one user in it. Not set is not false: the other context is as it was.
	w.set("context", "1", "com.openexchange.capability.mobile_mail_app", "true")
	w.set("user", "2@1", "capability.mobile_mail_app", "false")
	if _, code, _ := w.comesIn("mail.blue.example", ann); code != "" {
		t.Fatalf("ann may not come in: %s", code)
	}
	refused("mail.blue.example", ben, "403 mobile_mail_app_disabled")
	for user, want := range map[string]string{"1@1": "true by context 1", "2@1": "false by user 2@1", "1@2": "false by default"} {
		if got := w.explain("capability.mobile_mail_app", user); got != want {
			t.Errorf("%s: %s, want %s", user, got, want)
		}
	}

	// Two brands; a host rule for the second; a broken file changes nothing, and says so.
	w.set("context", "2", "capability.mobile_mail_app", "true")
	refused("mail.red.example", rob, "403 host_not_allowed")
	must(t, os.WriteFile(hosts, []byte(rules+" red:\n     host: mail.red.example\n     mail_app_enabled: perhaps\n"), 0o600))
	if _, err := w.reload(); err == nil || !strings.Contains(err.Error(), "mailapp-config.yml:11") {
		t.Errorf("a broken hosts file: %v", err)
	}
	refused("mail.red.example", rob, "403 host_not_allowed")
	must(t, os.WriteFile(hosts, []byte(rules+" red:\n     host: mail.red.example\n     mail_app_enabled: true\n"), 0o600))
	if _, err := w.reload(); err != nil {
		t.Fatal(err)
	}
	houses := []*house{w.newHouse("blue", "#1c6ea4"), w.newHouse("red", "#b3261e")}
	for i, h := range houses {
		must(t, w.admin.Do(ctx, "POST", "/admin/v1/providers", nil, h.provider, nil))
		w.set("context", fmt.Sprint(i+1), "provider", h.name)
	}
	// Who is refused learns whom to ask.
	if out := refused("mail.blue.example", ben, "403 mobile_mail_app_disabled"); out["contact"] != "help@blue.example" {
		t.Errorf("whom to ask: %v", out)
	}
	palettes := map[string]bool{}
	for _, h := range houses {
		status, out := w.at("mail."+h.name+".example", "GET", "/api/v1/providers/"+h.name, "", nil)
		palette, err := json.Marshal(out["palette"])
		must(t, err)
		if shown, _ := out["provider"].(map[string]any); status != 200 || shown["colour"] != h.colour {
			t.Errorf("branding of %s: %d %v", h.name, status, out)
		}
		palettes[string(palette)] = true
	}
	if len(palettes) != 2 {
		t.Errorf("two colours have one palette: %v", palettes)
	}

	// A push for each, through its own credentials: each Apple knows one key and one topic.
	phones := map[string][]phone{}
	for i, login := range []string{ann, rob} {
		h := houses[i]
		token, code, _ := w.comesIn("mail."+h.name+".example", login)
		if code != "" {
			t.Fatalf("%s: %s", login, code)
		}
		var offered struct{ Items []map[string]string }
		status, out := w.at("mail."+h.name+".example", "GET", "/api/v1/transports", token, nil)
		back, err := json.Marshal(out)
		must(t, err)
		must(t, json.Unmarshal(back, &offered))
		browser, err := w.webpush.Subscribe(h.vapidKey) // it takes no push under another key
		must(t, err)
		for _, o := range offered.Items {
			if key := o["vapid_public_key"]; o["transport"] == "webpush" && key != h.vapidKey {
				t.Errorf("%d: %s is offered the VAPID key %s, want %s", status, h.name, key, h.vapidKey)
			}
		}
		iphone := w.apnsPhoneAt(h.apple)
		phones[login] = []phone{iphone, {"webpush", json.RawMessage(browser.JSON()), browser.Endpoint, w.webpush.NextFor}}
		for _, p := range phones[login] {
			status, out := w.at("mail."+h.name+".example", "POST", "/api/v1/subscriptions", token, map[string]any{
				"transport": p.transport, "topics": []string{"mail:new"}, "token": p.token,
			})
			if status != http.StatusCreated {
				t.Fatalf("%s subscribes by %s: %d %v", login, p.transport, status, out)
			}
		}
	}
	for _, login := range []string{ann, rob} {
		d.DeliverLMTP(t, []string{login}, mail("For "+login, "x"))
		for _, p := range phones[login] {
			if got := w.receive(p); got.Subject != "For "+login {
				t.Errorf("%s on %s shows %+v", login, p.transport, got)
			}
		}
	}
	for i, h := range houses {
		if n := len(h.apple.Deliveries()); n != 1 {
			t.Errorf("%s's Apple took %d notifications, want 1", h.name, n)
		}
		if n := len(houses[1-i].apple.Deliveries()); n != 1 {
			t.Errorf("the other took %d", n)
		}
	}
	if n := len(w.apns.Deliveries()); n != 0 {
		t.Errorf("the installation's own credential was used %d times", n)
	}

	// Switched off again, nothing rings any more, and explain says why.
	w.set("user", "1@1", "capability.mobile_mail_app", "false")
	d.DeliverLMTP(t, []string{ann}, mail("Not told", "x"))
	var e api.PushExplanation
	must(t, w.admin.Do(ctx, "GET", "/admin/v1/push/explain/1@1", nil, nil, &e))
	if said, err := json.Marshal(e); err != nil || !bytes.Contains(said, []byte("capability.mobile_mail_app")) || e.Closed == "" {
		t.Errorf("explain: %s, %v", said, err)
	}
	silence, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if got, err := phones[ann][0].next(silence, phones[ann][0].target); err == nil {
		t.Errorf("told all the same: %s", got.Payload)
	}
}
