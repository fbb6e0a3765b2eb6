package server_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const secret = "secret"

// TestSubscriptionRefusals sends every kind of bad subscription: each gets a 422 that names the field
// and none leaves anything behind.
func TestSubscriptionRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	const alice = "alice@rig.test"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}})
	w.provision(d, api.MailHost{}, alice)
	token := w.signIn(alice, secret, "phone")
	good := w.webpushPhone()
	var keys map[string]any
	must(t, json.Unmarshal(good.token.(json.RawMessage), &keys))
	endpoint := func(url string) map[string]any { return map[string]any{"endpoint": url, "keys": keys["keys"]} }
	hex64 := strings.Repeat("ab", 32)

	for _, c := range []struct {
		name  string
		body  map[string]any
		field string
	}{
		{"unknown transport", map[string]any{"transport": "pigeon", "token": map[string]any{}}, "transport"},
		{"no transport", map[string]any{"token": map[string]any{}}, "transport"},
		{"no token", map[string]any{"transport": "apns"}, "token"},
		{"token of another type", map[string]any{"transport": "apns", "token": "abc"}, "token"},
		{"apns without device token", map[string]any{"transport": "apns", "token": map[string]any{}}, "token.device_token"},
		{"apns not hexadecimal", map[string]any{"transport": "apns", "token": map[string]any{"device_token": "xyz"}}, "token.device_token"},
		{"fcm without token", map[string]any{"transport": "fcm", "token": map[string]any{}}, "token.registration_token"},
		{"fcm with a space", map[string]any{"transport": "fcm", "token": map[string]any{"registration_token": "a b"}}, "token.registration_token"},
		{"webpush without endpoint", map[string]any{"transport": "webpush", "token": map[string]any{"keys": keys["keys"]}}, "token.endpoint"},
		{"webpush without keys", map[string]any{"transport": "webpush", "token": map[string]any{"endpoint": "https://push.example.org/1"}}, "token.keys"},
		{"loopback", map[string]any{"transport": "webpush", "token": endpoint("https://127.0.0.1/x")}, "token.endpoint"},
		{"loopback in clear", map[string]any{"transport": "webpush", "token": endpoint("http://127.0.0.1:1/x")}, "token.endpoint"},
		{"mapped loopback", map[string]any{"transport": "webpush", "token": endpoint("https://[::ffff:127.0.0.1]/x")}, "token.endpoint"},
		{"cloud metadata", map[string]any{"transport": "webpush", "token": endpoint("https://169.254.169.254/latest")}, "token.endpoint"},
		{"private", map[string]any{"transport": "webpush", "token": endpoint("https://10.1.2.3/x")}, "token.endpoint"},
		{"carrier-grade NAT", map[string]any{"transport": "webpush", "token": endpoint("https://100.64.0.1/x")}, "token.endpoint"},
		{"unspecified", map[string]any{"transport": "webpush", "token": endpoint("https://0.0.0.0/x")}, "token.endpoint"},
		{"not https", map[string]any{"transport": "webpush", "token": endpoint("http://push.example.org/x")}, "token.endpoint"},
		{"file", map[string]any{"transport": "webpush", "token": endpoint("file:///etc/passwd")}, "token.endpoint"},
		{"no topics", map[string]any{"topics": []string{}}, "topics"},
		{"unknown topic", map[string]any{"topics": []string{"mail:new", "weather"}}, "topics[1]"},
		{"topics of another type", map[string]any{"topics": "mail:new"}, "topics"},
		{"past expiry", map[string]any{"expires": "2020-01-01T00:00:00Z"}, "expires"},
		{"past expiry in milliseconds", map[string]any{"expires": 1577836800000}, "expires"},
		{"expiry that is no time", map[string]any{"expires": "tomorrow"}, "expires"},
		{"client with a space", map[string]any{"client": "my app"}, "client"},
		{"policy of another type", map[string]any{"policy": "loud"}, "policy"},
		{"time zone of another type", map[string]any{"policy": map[string]any{"quiet_hours": map[string]any{"time_zone": 1}}}, "policy.quiet_hours.time_zone"},
		{"unknown time zone", map[string]any{"policy": map[string]any{"quiet_hours": map[string]any{"time_zone": "Mars/Olympus"}}}, "policy.quiet_hours.time_zone"},
		{"rule without a level", map[string]any{"policy": map[string]any{"folders": []any{map[string]any{"folder": "x"}}}}, "policy.folders[0].notify"},
		{"misspelt member of a policy", map[string]any{"policy": map[string]any{"vip": []string{"boss@example.org"}}}, "policy"},
		{"misspelt member of a rule", map[string]any{"policy": map[string]any{"folders": []any{map[string]any{"name": "x"}}}}, "policy"},
		{"keys of another type", map[string]any{"keys": []string{"x"}}, "keys"},
		{"half the keys", map[string]any{"keys": map[string]any{"p256dh": "x"}}, "keys.p256dh"},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := map[string]any{
				"client": "posthorn-app", "transport": "apns", "topics": []string{"mail:new"}, "token": map[string]any{"device_token": hex64},
			}
			if c.body["transport"] != nil || c.body["token"] != nil {
				delete(body, "transport")
				delete(body, "token")
			}
			maps.Copy(body, c.body)
			out := w.call("POST", "/api/v1/subscriptions", token, body, 422)
			if field, _ := out["field"].(string); !strings.HasPrefix(field, c.field) {
				t.Errorf("names %q, want %q: %v", field, c.field, out)
			}
			if out["detail"] == "" || out["title"] == "" || out["status"] != 422.0 {
				t.Errorf("not a whole problem document: %v", out)
			}
		})
	}
	if items := w.call("GET", "/api/v1/subscriptions", token, nil, 200)["items"].([]any); len(items) != 0 {
		t.Errorf("refused subscriptions were kept: %v", items)
	}
	w.call("POST", "/api/v1/subscriptions", "", map[string]any{}, 401)
	w.call("POST", "/api/v1/subscriptions", "ph_nonsense", map[string]any{}, 401)
	w.call("DELETE", "/api/v1/subscriptions/abc", token, nil, 404)
	w.call("PATCH", "/api/v1/subscriptions/abc", token, map[string]any{"policy": map[string]any{}}, 404)
	if out := w.call("PATCH", "/api/v1/subscriptions/abc", token, map[string]any{}, 422); out["field"] != "policy" {
		t.Errorf("a change of nothing: %v", out)
	}
}

// TestDeviceOwnership: a phone may hold several users who signed in with its secret; a token that comes
// without it moves, the users before fall silent, and nobody is told of the other.
func TestDeviceOwnership(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	users := map[string]string{"alice@rig.test": secret, "bob@rig.test": secret, "carol@rig.test": secret}
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: users, NotifyURL: w.notifyURL()})
	w.provision(d, api.MailHost{}, "alice@rig.test", "bob@rig.test", "carol@rig.test")
	p := w.apnsPhone()
	alice := w.signIn("alice@rig.test", secret, "one phone")
	bob := w.signIn("bob@rig.test", secret, "one phone")
	first := w.subscribe(alice, p.transport, p.token, "registered")
	w.subscribe(bob, p.transport, p.token, "registered")
	if again := w.subscribe(alice, p.transport, p.token, "registered"); again != first {
		t.Errorf("renewal changed the id from %s to %s", first, again)
	}
	d.DeliverLMTP(t, []string{"alice@rig.test", "bob@rig.test"}, mail("for both", "x"))
	for range 2 {
		if got := w.receive(p); got.Subject != "for both" {
			t.Errorf("%+v", got)
		}
	}

	// Carol has the phone now: another secret, the same token.
	carol := w.signIn("carol@rig.test", secret, "another secret")
	status, out := w.try("POST", "/api/v1/subscriptions", carol, map[string]any{
		"client": "posthorn-app", "transport": p.transport, "topics": []string{"mail:new"}, "token": p.token,
	})
	if text := fmt.Sprint(out); status != 201 || strings.Contains(text, "alice") || strings.Contains(text, "1@1") {
		t.Errorf("%d %v", status, out)
	}
	for name, token := range map[string]string{"alice": alice, "bob": bob} {
		if items := w.call("GET", "/api/v1/subscriptions", token, nil, 200)["items"].([]any); len(items) != 0 {
			t.Errorf("%s still has %v", name, items)
		}
	}
	w.waitFor("old owners unregistered", func() bool {
		_, a := d.Metadata(t, "alice@rig.test")
		_, b := d.Metadata(t, "bob@rig.test")
		return !a && !b
	})
	d.DeliverLMTP(t, []string{"alice@rig.test", "bob@rig.test", "carol@rig.test"}, mail("for carol", "x"))
	if got := w.receive(p); got.Subject != "for carol" || len(w.apns.Deliveries()) != 3 {
		t.Errorf("%+v, %d deliveries", got, len(w.apns.Deliveries()))
	}

	// She signs out on it: no more mail on its screen, and the registration goes.
	w.call("DELETE", "/api/v1/sessions/current", carol, nil, 204)
	w.call("GET", "/api/v1/subscriptions", carol, nil, 401)
	w.waitFor("signed out and unregistered", func() bool { _, ok := d.Metadata(t, "carol@rig.test"); return !ok })
}

// TestListenerStates sees each state in a subscription's answer.
func TestListenerStates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{"alice@rig.test": secret, "bob@rig.test": secret}})
	w.provision(d, api.MailHost{}, "alice@rig.test", "bob@rig.test")
	off := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{"dave@rig.test": secret}, NoMetadata: true})
	must(t, w.admin.Do(t.Context(), "POST", "/admin/v1/mailhosts", nil,
		api.MailHost{Name: "off", Security: "none", Source: "dovecot", IMAP: fmt.Sprintf("%s:%d", off.Host, off.IMAPPort)}, nil))
	must(t, w.admin.Do(t.Context(), "POST", "/admin/v1/users", nil, api.User{User: "9@1", Login: "dave@rig.test", MailHost: "off"}, nil))

	dave := w.signIn("dave@rig.test", secret, "")
	p := w.apnsPhone()
	w.subscribe(dave, p.transport, p.token, "unsupported")

	d.SetMetadata(t, "bob@rig.test", "user=17@4")
	bob := w.signIn("bob@rig.test", secret, "")
	p = w.apnsPhone()
	id := w.subscribe(bob, p.transport, p.token, "foreign")
	w.call("DELETE", "/api/v1/subscriptions/"+id, bob, nil, 204)

	out := w.call("POST", "/api/v1/subscriptions", bob, map[string]any{
		"client": "other-app", "transport": p.transport, "topics": []string{"mail:new"}, "token": p.token,
	}, 201)
	if state := out["listener"].(map[string]any)["state"]; state != "client_not_allowed" {
		t.Errorf("client that is not allowed: %v", out)
	}
	if value, _ := d.Metadata(t, "bob@rig.test"); value != "user=17@4" {
		t.Errorf("foreign registration is now %q", value)
	}

	alice := w.signIn("alice@rig.test", secret, "")
	d.Stop(t)
	p = w.apnsPhone()
	start := time.Now()
	w.subscribe(alice, p.transport, p.token, "pending")
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("an absent mail server held the answer for %v", took)
	}
	d.Start(t)
	w.waitFor("registered once the server is back", func() bool { _, ok := d.Metadata(t, "alice@rig.test"); return ok })
}

// TestSignInRefusals: bad sign-ins get their answer, and the limit holds for login and address.
func TestSignInRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{"alice@rig.test": secret}})
	w.provision(d, api.MailHost{}, "alice@rig.test")
	for _, c := range []struct {
		body   any
		status int
		field  string
	}{
		{map[string]any{"login": "", "password": "x", "client": "a"}, 422, "login"},
		{map[string]any{"login": "a\r\nb", "password": "x", "client": "a"}, 422, "login"},
		{map[string]any{"login": "alice@rig.test", "password": "", "client": "a"}, 422, "password"},
		{map[string]any{"login": "alice@rig.test", "password": "x\x00y", "client": "a"}, 422, "password"},
		{map[string]any{"login": "alice@rig.test", "password": "x"}, 422, "client"},
		{map[string]any{"login": 7, "password": "x", "client": "a"}, 422, "login"},
		{[]string{"a"}, 400, ""},
		{"text", 400, ""},
	} {
		out := w.call("POST", "/api/v1/sessions", "", c.body, c.status)
		if field, _ := out["field"].(string); field != c.field {
			t.Errorf("%v: names %q, want %q", c.body, field, c.field)
		}
	}
	bad := map[string]any{"login": "alice@rig.test", "password": "wrong", "client": "a"}
	nobody := map[string]any{"login": "nobody@rig.test", "password": "wrong", "client": "a"}
	wrong := w.call("POST", "/api/v1/sessions", "", bad, 401)
	unknown := w.call("POST", "/api/v1/sessions", "", nobody, 401)
	if fmt.Sprint(wrong) != fmt.Sprint(unknown) {
		t.Errorf("a wrong password and an unknown login are told apart: %v, %v", wrong, unknown)
	}
	// The rest at once: nine more for nobody use up the login's ten, all others are refused unasked.
	results := make(chan int, 30)
	for range cap(results) {
		go func() {
			res, err := http.Post(w.public+"/api/v1/sessions", "application/json", //nolint:noctx // short-lived
				strings.NewReader(`{"login":"nobody@rig.test","password":"x","client":"a"}`))
			if err != nil {
				results <- 0
				return
			}
			_ = res.Body.Close()
			if res.StatusCode == 429 && res.Header.Get("Retry-After") == "" {
				results <- -1
				return
			}
			results <- res.StatusCode
		}()
	}
	count := map[int]int{}
	for range cap(results) {
		count[<-results]++
	}
	if count[401] != 9 || count[429] != 21 {
		t.Errorf("answers by status: %v", count)
	}
	w.signIn("alice@rig.test", secret, "") // an attack on one login locks out no other
}
