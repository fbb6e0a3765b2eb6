package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// configure changes the configuration file before a start.
func (w *world) configure(old, replacement string) {
	w.tb.Helper()
	raw, err := os.ReadFile(w.config)
	must(w.tb, err)
	if !bytes.Contains(raw, []byte(old)) {
		w.tb.Fatalf("%q is not in the configuration", old)
	}
	must(w.tb, os.WriteFile(w.config, bytes.Replace(raw, []byte(old), []byte(replacement), 1), 0o600)) //nolint:gosec // the test's own
}

// tell reports an event as a mail server with the wider driver does.
func (w *world) tell(user, event string, uidValidity, uid, more string) string {
	w.tb.Helper()
	body := fmt.Sprintf(`{"user":%q,"event":%q,"folder":"INBOX","imap-uidvalidity":%s,"imap-uid":%s%s}`, user, event, uidValidity, uid, more)
	req, err := http.NewRequestWithContext(w.tb.Context(), http.MethodPut, w.notifyURL(), strings.NewReader(body))
	must(w.tb, err)
	res, err := http.DefaultClient.Do(req)
	must(w.tb, err)
	defer res.Body.Close()
	var v struct{ Result, Reason string }
	must(w.tb, json.NewDecoder(res.Body).Decode(&v))
	return strings.TrimSuffix(v.Result+" "+v.Reason, " ")
}

// payload is a notification as an app reads it: of FCM the data, with every value a text.
type payload map[string]string

func (w *world) payload(p phone) payload {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(w.tb.Context(), 30*time.Second)
	defer cancel()
	d, err := p.next(ctx, p.target)
	if err != nil {
		w.tb.Fatalf("no notification on %s: %v", p.transport, err)
	}
	var v struct {
		APS struct {
			Alert struct{ Title, Body string }
			Badge *json.Number
		}
		Data map[string]string
	}
	flat := map[string]any{}
	must(w.tb, json.Unmarshal(d.Payload, &v))
	must(w.tb, json.Unmarshal(d.Payload, &flat))
	out := payload{}
	for key, value := range flat {
		if text, ok := value.(string); ok {
			out[key] = text
		} else if number, ok := value.(float64); ok {
			out[key] = fmt.Sprintf("%.0f", number)
		}
	}
	maps.Copy(out, v.Data)
	if p.transport == "apns" {
		out["sender"], out["subject"] = v.APS.Alert.Title, v.APS.Alert.Body
		if v.APS.Badge != nil {
			out["badge"] = v.APS.Badge.String()
		}
	}
	return out
}

func (w *world) wants(p phone, what string, want payload) payload {
	w.tb.Helper()
	got := w.payload(p)
	for key, text := range want {
		if got[key] != text {
			w.tb.Errorf("%s, %s: %s is %q, want %q: %v", what, p.transport, key, got[key], text, got)
		}
	}
	return got
}

// TestElsewhere: two devices of one user, one of which has another user too. What is read on a computer is
// taken back from both, and each icon shows the sum of its accounts.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			url := sqliteURL(t)
			if engine == "postgres" {
				url = testpeer.PostgresURL(t)
			}
			w := newWorld(t, url, "login")
			w.configure("push: {", "push: {coalesce: 1s, coalesce_max: 2s, badge_delay: 3s, ")
			w.start()
			const alice, bob = "alice@rig.test", "bob@rig.test"
			d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret, bob: secret}, NotifyURL: w.notifyURL()})
			w.provision(d, api.MailHost{}, alice, bob)
			both, hers := w.apnsPhone(), w.fcmPhone()
			w.subscribe(w.signIn(alice, secret, "one"), both.transport, both.token, "registered")
			w.subscribe(w.signIn(bob, secret, "one"), both.transport, both.token, "registered")
			w.subscribe(w.signIn(alice, secret, "two"), hers.transport, hers.token, "registered")

			d.DeliverLMTP(t, []string{bob}, mail("for bob", "x"))
			w.wants(both, "bob's mail", payload{"user": "2@1", "badge": "1"})
			d.DeliverLMTP(t, []string{alice}, mail("for alice", "x"))
			first := w.wants(both, "alice's mail", payload{"user": "1@1", "badge": "2", "subject": "for alice"})
			w.wants(hers, "alice's mail", payload{"badge": "1", "subject": "for alice"})

			validity, uid := first["uidvalidity"], first["uid"]
			if got := w.tell(alice, "MessageRead", validity, uid, `,"unseen":0`); got != "queued" {
				t.Fatalf("read: %s", got)
			}
			cleared := payload{"topic": "mail:clear", "user": "1@1", "uid": uid, "uidvalidity": validity, "subject": ""}
			cleared["badge"] = "1"
			if tag := w.wants(both, "read", cleared)["tag"]; tag == "" {
				t.Error("which notification is to be cleared is not told")
			}
			cleared["badge"] = "0"
			w.wants(hers, "read", cleared)

			// Another message than the one shown: the count alone.
			if got := w.tell(alice, "FlagsClear", validity, uid, `,"flags":["\\Seen"],"unseen":4`); got != "queued" {
				t.Fatalf("unread again: %s", got)
			}
			w.wants(both, "counted", payload{"topic": "mail:badge", "badge": "5", "uid": ""})
			w.wants(hers, "counted", payload{"topic": "mail:badge", "badge": "4", "uid": ""})
			if got := w.tell(alice, "MessageExpunge", validity, uid, `,"unseen":4`); got != "ignored unchanged" {
				t.Errorf("expunged: %s", got)
			}
		})
	}
}

// TestQuietHours by the API: an alert waits, the count comes, a VIP breaks through, and who ends them is told.
func TestQuietHours(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.configure("push: {", "push: {badge_delay: 0s, ")
	w.start()
	const alice = "alice@rig.test"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NotifyURL: w.notifyURL()})
	w.provision(d, api.MailHost{}, alice)
	token, p := w.signIn(alice, secret, "one"), w.apnsPhone()
	id := w.subscribe(token, p.transport, p.token, "registered")
	quiet := map[string]any{
		"quiet_hours": map[string]any{"time_zone": "Europe/Berlin", "windows": []any{map[string]any{"from": "00:00", "to": "24:00"}}},
		"vips":        []string{"boss@example.org"},
	}
	path := "/api/v1/subscriptions/" + id
	w.call("PATCH", path, token, map[string]any{"policy": quiet}, 200)
	if got := w.call("GET", path, token, nil, 200)["policy"]; fmt.Sprint(got) == "" || got == nil {
		t.Errorf("the policy is not shown: %v", got)
	}
	d.DeliverLMTP(t, []string{alice}, mail("in the night", "x"))
	w.wants(p, "in the night", payload{"topic": "mail:badge", "badge": "1", "subject": ""})
	if got := w.tell(alice, "messageNew", "7", "1", `,"from":"boss@example.org","subject":"urgent","unseen":2`); got != "queued" {
		t.Fatalf("VIP: %s", got)
	}
	w.wants(p, "VIP", payload{"topic": "mail:new", "badge": "2", "subject": "urgent"})
	if !strings.Contains(w.metrics(), `posthorn_push_held_total{reason="quiet_hours"}`) {
		t.Error("no metric says that quiet hours held something back")
	}
	w.call("PATCH", path, token, map[string]any{"policy": map[string]any{}}, 200)
	w.wants(p, "in the morning", payload{"topic": "mail:new", "subject": "in the night"})
}

// TestSealed: what leaves for Apple and Google tells nothing, and the app reads all of it.
func TestSealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.configure("apps: [{topic:", "apps: [{privacy: sealed, topic:")
	w.configure("apps: [{service", "apps: [{privacy: sealed, service")
	w.start()
	const alice = "alice@rig.test"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NotifyURL: w.notifyURL()})
	w.provision(d, api.MailHost{}, alice)
	token := w.signIn(alice, secret, "one")
	device, err := fake.NewDeviceKeys()
	must(t, err)
	phones := []phone{w.apnsPhone(), w.fcmPhone()}
	for _, p := range phones {
		out := w.call("POST", "/api/v1/subscriptions", token, map[string]any{
			"transport": p.transport, "topics": []string{"mail:new"}, "token": p.token, "keys": json.RawMessage(device.JSON()),
		}, 201)
		if out["keys"] != true {
			t.Errorf("subscribed with keys: %v", out)
		}
	}
	keyless := w.fcmPhone()
	w.subscribe(token, keyless.transport, keyless.token, "registered")
	d.DeliverLMTP(t, []string{alice}, mail("Top secret", "x"))
	for _, p := range phones {
		got := w.payload(p)
		if strings.Contains(fmt.Sprint(got), "secret") || strings.Contains(fmt.Sprint(got), "INBOX") {
			t.Errorf("%s tells %v", p.transport, got)
		}
		plain, err := device.Open(got["sealed"])
		must(t, err)
		var v struct{ Subject, Folder string }
		must(t, json.Unmarshal(plain, &v))
		if v.Subject != "Top secret" || v.Folder != "INBOX" {
			t.Errorf("%s: the app reads %s", p.transport, plain)
		}
	}
	if got := w.payload(keyless); got["subject"] != "" || got["sender"] != "" || got["sealed"] != "" || got["uid"] != "1" {
		t.Errorf("without keys: %v", got)
	}
}
