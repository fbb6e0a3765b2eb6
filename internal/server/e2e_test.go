package server_test

import (
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

func mail(subject, text string) []byte {
	return []byte("From: =?UTF-8?Q?J=C3=BCrgen_Gro=C3=9F?= <juergen@example.org>\r\nTo: <alice@rig.test>\r\n" +
		"Subject: " + subject + "\r\nMessage-ID: <" + strings.ReplaceAll(subject, " ", ".") + "@example.org>\r\n\r\n" + text + "\r\n")
}

// TestRoad is the whole road: a delivery in a real Dovecot reaches a phone on each transport, in both
// user forms, on both databases.
func TestRoad(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		for _, form := range []string{"login", "metadata"} {
			t.Run(engine+"/"+form, func(t *testing.T) {
				t.Parallel()
				url := "sqlite:" + filepath.Join(t.TempDir(), "posthorn.db")
				if engine == "postgres" {
					url = testpeer.PostgresURL(t)
				}
				testRoad(t, url, form)
			})
		}
	}
}

func testRoad(t *testing.T, databaseURL, form string) {
	w := newWorld(t, databaseURL, form)
	w.start()
	const alice, bob, password = "alice@rig.test", "bob@rig.test", "pä\"ss\\word" //nolint:gosec // of a disposable server
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{
		Users: map[string]string{alice: password, bob: password}, NotifyURL: w.notifyURL(), UserFromMetadata: form == "metadata",
	})
	w.provision(d, api.MailHost{KeyedAlias: form == "metadata"}, alice, bob)

	token := w.signIn(alice, password, "alice's secret")
	phones := []phone{w.webpushPhone(), w.apnsPhone(), w.fcmPhone()}
	var ids []string
	for _, p := range phones {
		ids = append(ids, w.subscribe(token, p.transport, p.token, "registered"))
	}
	value, ok := d.Metadata(t, alice)
	if want := "user=1@1"; !ok || !strings.HasPrefix(value, want) || (form == "login") != (value == want) {
		t.Fatalf("registration is %q, %v", value, ok)
	}

	d.DeliverLMTP(t, []string{alice}, mail("=?utf-8?b?R3LDvMOfZSDwn5OvIGF1cyBkZXIgRmVybmU=?=", "Hallo"))
	want := shown{Sender: "Jürgen Groß", Subject: "Grüße 📯 aus der Ferne", Folder: "INBOX", UID: "1", Unseen: "1"}
	for _, p := range phones {
		if got := w.receive(p); got != want {
			t.Errorf("%s shows %+v, want %+v", p.transport, got, want)
		}
	}
	d.DeliverLDA(t, alice, mail("By LDA", "Hallo"))
	want.Subject, want.UID, want.Unseen = "By LDA", "2", "2"
	for _, p := range phones {
		if got := w.receive(p); got != want {
			t.Errorf("%s shows %+v, want %+v", p.transport, got, want)
		}
	}

	var listed api.List[api.PushUser]
	must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/push/users", nil, nil, &listed))
	if len(listed.Items) != 1 || listed.Items[0].User != "1@1" || listed.Items[0].Devices != 3 || listed.Items[0].State != "registered" {
		t.Errorf("push users: %+v", listed.Items)
	}

	// Bob writes alice's id into his own METADATA: his mail must not ring her phones. In the login form
	// Dovecot says bob, who has no device; in the metadata form it says alice, without the proof.
	d.SetMetadata(t, bob, "user=1@1")
	d.DeliverLMTP(t, []string{bob}, mail("Not for alice", "x"))
	reason := map[string]string{"login": `result="no_subscription"`, "metadata": `reason="unverified_user"`}[form]
	if !strings.Contains(w.metrics(), reason) {
		t.Errorf("no metric with %s", reason)
	}

	// Unsubscribed, she hears nothing, and Dovecot has nothing to tell us any more.
	for _, id := range ids {
		w.call("DELETE", "/api/v1/subscriptions/"+id, token, nil, 204)
	}
	w.call("GET", "/api/v1/subscriptions/"+ids[0], token, nil, 404)
	w.waitFor("registration removed", func() bool { _, ok := d.Metadata(t, alice); return !ok })
	d.DeliverLMTP(t, []string{alice}, mail("Silence", "x"))
	for name, n := range map[string]int{
		"webpush": len(w.webpush.Deliveries()), "apns": len(w.apns.Deliveries()), "fcm": len(w.fcm.Deliveries()),
	} {
		if n != 2 {
			t.Errorf("%s got %d notifications, want 2", name, n)
		}
	}
}

// metrics is the page that Prometheus would read.
func (w *world) metrics() string {
	w.tb.Helper()
	req, err := http.NewRequestWithContext(w.tb.Context(), http.MethodGet, w.internal+"/metrics", nil)
	must(w.tb, err)
	res, err := http.DefaultClient.Do(req)
	must(w.tb, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	must(w.tb, err)
	return string(raw)
}
