package server_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// The push credentials of a provider are tried at Apple's and Google's wires before it is added, and tell what is wrong.
func TestProviderIsCheckedOnTheWires(t *testing.T) {
	t.Parallel()
	const alice = "alice@rig.test"
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NotifyURL: w.notifyURL()})
	w.provision(d, api.MailHost{}, alice)
	dir := filepath.Dir(w.config)
	file := func(name string) string {
		raw, err := os.ReadFile(filepath.Join(dir, name)) //nolint:gosec // the test's own
		must(t, err)
		return string(raw)
	}
	blue := func() *api.Provider {
		return &api.Provider{
			Name: "blue", Colour: "#1c6ea4", MailHosts: []string{"dove"},
			APNs: []api.ProviderAPNs{{Topic: apnsTopic, Key: file("apns.p8"), KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", URL: w.apns.URL(), CA: file("apns-ca.pem")}},
			FCM:  []api.ProviderFCM{{ServiceAccount: file("firebase.json"), Endpoint: w.fcm.URL()}},
		}
	}
	check := func(in api.ProviderCheck) (r api.DoctorReport) {
		t.Helper()
		must(t, w.admin.Do(t.Context(), "POST", "/admin/v1/providers/blue/check", nil, in, &r))
		return r
	}
	says := func(r api.DoctorReport, name, state, words string) {
		t.Helper()
		for _, c := range r.Checks {
			if c.Name == name && string(c.State) == state && strings.Contains(c.Detail+" "+c.Do, words) {
				return
			}
		}
		t.Errorf("no %s is %s and says %q: %+v", name, state, words, r.Checks)
	}
	r := check(api.ProviderCheck{Provider: blue(), Accounts: []api.ProviderAccount{{Login: alice, Password: secret}}})
	says(r, "push_credential", "ok", "apns "+apnsTopic+": taken")
	says(r, "push_credential", "ok", "fcm ")
	says(r, "sign_in", "ok", alice)
	says(r, "logo", "warning", "--logo")

	p := blue()
	p.APNs[0].KeyID = "XXXXXXXXXX"
	says(check(api.ProviderCheck{Provider: p}), "push_credential", "failed", "InvalidProviderToken")
	p = blue()
	p.APNs[0].Topic = "example.of.nobody"
	says(check(api.ProviderCheck{Provider: p}), "push_credential", "failed", "TopicDisallowed")
	p = blue()
	p.FCM[0].ServiceAccount = regexp.MustCompile(`("project_id":\s*")`).ReplaceAllString(p.FCM[0].ServiceAccount, "${1}not-")
	says(check(api.ProviderCheck{Provider: p}), "push_credential", "failed", "Firebase console")

	// Nothing of that is kept, and what cannot be right is refused before anything is asked.
	var all api.List[api.Provider]
	must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/providers", nil, nil, &all))
	if len(all.Items) != 0 {
		t.Errorf("%d are kept", len(all.Items))
	}
	p = blue()
	p.Colour = "#ffffff"
	if err := w.admin.Do(t.Context(), "POST", "/admin/v1/providers/blue/check", nil, api.ProviderCheck{Provider: p}, nil); err == nil || !strings.HasPrefix(err.Error(), "colour: ") {
		t.Errorf("white: %v", err)
	}
	if err := w.admin.Do(t.Context(), "POST", "/admin/v1/providers/blue/check", nil, api.ProviderCheck{}, nil); err == nil {
		t.Error("one that there is not is examined")
	}

	// A test goes to the phone of a user of the provider by the provider's own credential.
	must(t, w.admin.Do(t.Context(), "POST", "/admin/v1/providers", nil, blue(), nil))
	w.exec(`INSERT INTO properties (scope, subject, name, value, set_by, set_ms) VALUES ('context', '1', 'provider', 'blue', 'test', 1)`)
	w.stop()
	w.start()
	phone := w.apnsPhone()
	w.subscribe(w.signIn(alice, secret, "phone"), phone.transport, phone.token, "registered")
	says(check(api.ProviderCheck{User: "1@1"}), "test_push", "ok", "taken over")
	w.receive(phone)
}

// Each check is told when it is made: that of a mail host which waits until the first is heard of comes after it. It may
// take longer than the public listener waits for a request.
func TestProviderCheckTellsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	heard, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			<-heard
			_, _ = io.WriteString(c, "* BYE gone fishing\r\n")
			_ = c.Close()
		}
	}()
	host := api.MailHost{Name: "slow", IMAP: l.Addr().String(), Security: "none"}
	must(t, w.admin.Do(t.Context(), "POST", "/admin/v1/mailhosts", nil, host, nil))
	in := api.ProviderCheck{
		Provider: &api.Provider{Name: "blue", Colour: "#1c6ea4", MailHosts: []string{"slow"}},
		Accounts: []api.ProviderAccount{{Login: "alice", Password: "x"}},
	}
	var names, details []string
	waits := false
	err = api.Each(t.Context(), w.admin, "POST", "/admin/v1/providers/blue/check", in, func(r api.DoctorReport) error {
		if names == nil {
			close(heard)
		}
		for _, c := range r.Checks {
			names = append(names, c.Name)
			details = append(details, c.Detail)
			waits = waits || strings.Contains(c.Detail, "gone fishing")
		}
		return nil
	})
	must(t, err)
	if !waits || names[0] != "colour" {
		t.Errorf("the checks came together: %v %v", names, details)
	}
	must(t, l.Close())
	<-done
	if err := api.Each(t.Context(), w.admin, "POST", "/admin/v1/providers/red/check", api.ProviderCheck{}, func(api.DoctorReport) error { return nil }); err == nil {
		t.Error("one that there is not is examined")
	}
}
