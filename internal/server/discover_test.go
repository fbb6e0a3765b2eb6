package server_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/onboard"
)

// describe fetches what the server says of itself by a host, as a page of another origin does.
func (w *world) describe(host string) onboard.WellKnown {
	w.tb.Helper()
	req, err := http.NewRequestWithContext(w.tb.Context(), http.MethodGet, w.public+"/.well-known/posthorn", nil)
	must(w.tb, err)
	req.Host = host
	req.Header.Set("Origin", "https://app.example.net")
	res, err := http.DefaultClient.Do(req)
	must(w.tb, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	must(w.tb, err)
	if res.StatusCode != 200 || res.Header.Get("Access-Control-Allow-Origin") != "*" || res.Header.Get("Content-Type") != "application/json" {
		w.tb.Errorf("%s: %d %v", host, res.StatusCode, res.Header)
	}
	var doc onboard.WellKnown
	must(w.tb, json.Unmarshal(raw, &doc))
	return doc
}

// TestWellKnown: what a server says of itself depends on the host that it is asked by, and on nothing else.
func TestWellKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.write(filepath.Dir(w.config), "mailapp-config.yml", []byte(`default: {host: all, mail_app_enabled: true}
off: {host: off.example.org, mail_app_enabled: false}
red: {host: "*.red.example", mail_app_enabled: false}
`))
	w.start()
	must(t, w.admin.Do(t.Context(), "POST", "/admin/v1/providers", nil, api.Provider{
		Name: "blue", Title: "Blue Mail", Colour: "#1c6ea4", Hosts: []string{"mail.blue.example"}, BaseURL: "https://push.blue.example", Contact: "help@blue.example",
		SignIn: "oidc", OIDC: &api.ProviderOIDC{Issuer: "https://login.blue.example", ClientID: "posthorn"},
	}, nil))
	must(t, w.admin.Do(t.Context(), "POST", "/admin/v1/providers", nil, api.Provider{
		Name: "red", Title: "Red Mail", Colour: "#a41c1c", Hosts: []string{"mail.red.example"}, Contact: "help@red.example",
	}, nil))

	doc := w.describe("push.example.org")
	if doc.Schema != 1 || doc.Server.Name != "Posthorn" || doc.API != "/api/v1" || !doc.App.Enabled || len(doc.SignIn) != 1 || doc.SignIn[0] != "password" ||
		doc.Provider != nil || doc.App.Contact != "" || doc.Directory.URL != "/api/v1/directory" || len(doc.Transports) != 3 {
		t.Errorf("%+v", doc)
	}
	for _, path := range []string{doc.Directory.URL, doc.Directory.Key} {
		if res, err := http.Get(w.public + path); err != nil || res.StatusCode != 200 { //nolint:noctx // a test
			t.Errorf("%s: %v %v", path, res, err)
		} else {
			_ = res.Body.Close()
		}
	}
	doc = w.describe("Mail.Blue.Example:8443")
	if doc.Provider == nil || doc.Provider.Title != "Blue Mail" || doc.SignIn[0] != "oidc" || doc.API != "https://push.blue.example/api/v1" || doc.App.Contact != "help@blue.example" || !doc.App.Enabled {
		t.Errorf("%+v", doc)
	}
	w.call("GET", doc.Provider.Branding, "", nil, 200)
	doc = w.describe("mail.red.example")
	if doc.App.Enabled || doc.App.Reason != "host_not_allowed" || doc.App.Contact != "help@red.example" || doc.App.Detail == "" {
		t.Errorf("%+v", doc)
	}
	if doc = w.describe("off.example.org"); doc.App.Enabled || doc.Provider != nil {
		t.Errorf("%+v", doc)
	}
}

// TestDiscoverForAll: anybody may ask, not without end, and nobody gets at internal addresses, also not at those that
// the operator allows for himself.
func TestDiscoverForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.edit(`outbound: {allow: ["`, `outbound: {allow: ["https://127.0.0.1:1", "`)
	w.start()
	ask := func(input string) map[string]any {
		t.Helper()
		return w.call("POST", "/api/v1/discover", "", map[string]any{"input": input}, 200)
	}
	fault := func(out map[string]any) any { return out["steps"].([]any)[0].(map[string]any)["fault"] }
	for _, input := range []string{"https://127.0.0.1:1", "https://10.1.2.3/", "http://169.254.169.254/latest", "[::1]", "localhost"} {
		if out := ask(input); out["found"] != "nothing" || fault(out) != "internal_address" {
			t.Errorf("%s: %v", input, out)
		}
	}
	var out map[string]any
	must(t, w.admin.Do(t.Context(), "POST", "/admin/v1/discover", nil, api.Discover{Input: "https://127.0.0.1:1"}, &out))
	if fault(out) != "tcp_refused" {
		t.Errorf("the operator: %v", out)
	}
	if out := w.call("POST", "/api/v1/discover", "", map[string]any{"input": "a b@"}, 422); out["field"] != "input" {
		t.Errorf("%v", out)
	}
	for n := 0; ; n++ {
		status, _ := w.try("POST", "/api/v1/discover", "", map[string]any{"input": ""})
		if status == http.StatusTooManyRequests {
			break
		}
		if status != 422 || n > api.DiscoverAttempts {
			t.Fatalf("%d after %d questions", status, n)
		}
	}
}
