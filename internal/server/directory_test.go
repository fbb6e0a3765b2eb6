package server_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const blueLogo = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><!-- by hand --><rect width="4" height="4" fill="#1c6ea4"/></svg>`

func redLogo(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, png.Encode(&b, image.NewGray(image.Rect(0, 0, 4, 4))))
	return b.Bytes()
}

// page fetches a document of everybody's.
func (w *world) page(path string, header ...string) (paged, []byte) {
	w.tb.Helper()
	req, err := http.NewRequestWithContext(w.tb.Context(), http.MethodGet, w.public+path, nil)
	must(w.tb, err)
	if len(header) == 2 {
		req.Header.Set(header[0], header[1])
	}
	res, err := http.DefaultClient.Do(req)
	must(w.tb, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	must(w.tb, err)
	return paged{res.StatusCode, res.Header}, raw
}

type paged struct {
	StatusCode int
	Header     http.Header
}

// brands adds three providers: one with all, one red, one that is not listed.
func (w *world) brands(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	must(t, w.admin.Do(ctx, "POST", "/admin/v1/providers", nil, api.Provider{
		Name: "blue", Title: "Bläue Mail", Colour: "#1c6ea4", BaseURL: "https://push.blue.example", Hosts: []string{"push.blue.example"}, Domains: []string{"blue.example"},
		Contact: "help@blue.example", Listed: true, Logo: []byte(blueLogo), SignIn: "oidc",
		OIDC: &api.ProviderOIDC{Issuer: "https://login.blue.example", ClientID: "posthorn", ClientSecret: "the oidc secret"},
	}, nil))
	must(t, w.admin.Do(ctx, "POST", "/admin/v1/providers", nil, api.Provider{Name: "red", Title: "Red", Colour: "#e4002b", Listed: true, Logo: redLogo(t)}, nil))
	must(t, w.admin.Do(ctx, "POST", "/admin/v1/providers", nil, api.Provider{Name: "hidden", Title: "Hidden blue", Colour: "#333"}, nil))
}

// The directory is what its schema says, is signed, and names nobody who is not listed.
func TestDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	res, empty := w.page("/api/v1/directory")
	if string(empty) != `{"version":1,"issuer":"https://push.example.org","providers":[]}` {
		t.Errorf("no providers: %s", empty)
	}
	first := res.Header.Get("ETag")
	w.brands(t)
	res, body := w.page("/api/v1/directory", "If-None-Match", first)
	sum := sha256.Sum256(body)
	if tag := res.Header.Get("ETag"); res.StatusCode != 200 || tag != `"`+hex.EncodeToString(sum[:])+`"` || tag == first ||
		res.Header.Get("Cache-Control") != "public, max-age=60" || res.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	for _, secret := range []string{"hidden", "secret", "reseller"} {
		if bytes.Contains(body, []byte(secret)) {
			t.Errorf("the directory says %q: %s", secret, body)
		}
	}
	if same, none := w.page("/api/v1/directory", "If-None-Match", res.Header.Get("ETag")); same.StatusCode != 304 || len(none) > 0 {
		t.Errorf("unchanged: %d", same.StatusCode)
	}

	// The schema that is published holds for the documents that are.
	_, schema := w.page("/api/v1/directory/schema.json")
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	must(t, err)
	c := jsonschema.NewCompiler()
	must(t, c.AddResource("schema.json", parsed))
	judge, err := c.Compile("schema.json")
	must(t, err)
	keyText := func() []byte { _, b := w.page("/api/v1/directory/key.pem"); return b }()
	block, _ := pem.Decode(keyText)
	parsedKey, err := x509.ParsePKIXPublicKey(block.Bytes)
	must(t, err)
	for _, path := range []string{"/api/v1/directory", "/api/v1/providers/blue", "/api/v1/providers/hidden"} {
		res, body := w.page(path)
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
		must(t, err)
		if err := judge.Validate(doc); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		m := regexp.MustCompile(`^keyid="([0-9a-f]{16})"; alg="ed25519"; sig="([^"]+)"$`).FindStringSubmatch(res.Header.Get("Posthorn-Signature"))
		if m == nil {
			t.Fatalf("%s: signature %q", path, res.Header.Get("Posthorn-Signature"))
		}
		signature, err := base64.StdEncoding.DecodeString(m[2])
		must(t, err)
		if !ed25519.Verify(parsedKey.(ed25519.PublicKey), body, signature) {
			t.Errorf("%s: the signature is of something else", path)
		}
	}

	// The key stays when the server does not.
	w.stop()
	w.start()
	if _, again := w.page("/api/v1/directory/key.pem"); !bytes.Equal(again, keyText) {
		t.Error("another key after a restart")
	}
	if _, again := w.page("/api/v1/directory"); !bytes.Equal(again, body) {
		t.Error("another directory after a restart")
	}
}

// openssl verifies the signature with the words of docs/api.md.
func TestDirectoryIsVerifiedByOpenSSL(t *testing.T) {
	t.Parallel()
	openssl := testpeer.Program(t, "openssl")
	doc, err := os.ReadFile("../../docs/api.md")
	must(t, err)
	command := regexp.MustCompile(`(?m)^openssl (pkeyutl .*)$`).FindStringSubmatch(string(doc))
	if command == nil {
		t.Fatal("docs/api.md has no line that begins with openssl pkeyutl")
	}
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	w.brands(t)
	dir := t.TempDir()
	for file, path := range map[string]string{"directory.json": "/api/v1/directory", "directory.sig": "/api/v1/directory.sig", "key.pem": "/api/v1/directory/key.pem"} {
		_, body := w.page(path)
		w.write(dir, file, body)
	}
	verify := func() ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), openssl, strings.Fields(command[1])...) //nolint:gosec // the document's own
		cmd.Dir = dir
		return cmd.CombinedOutput()
	}
	if out, err := verify(); err != nil || !strings.Contains(string(out), "Verified Successfully") {
		t.Errorf("%v: %s", err, out)
	}
	body, err := os.ReadFile(filepath.Join(dir, "directory.json")) //nolint:gosec // the test's own
	must(t, err)
	w.write(dir, "directory.json", bytes.Replace(body, []byte("Red"), []byte("Rod"), 1))
	if out, err := verify(); err == nil {
		t.Errorf("a forged directory is verified: %s", out)
	}
}

// A provider is found by its names, whatever their case and accents, unless it is not listed.
func TestProvidersAreSearched(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	w.brands(t)
	for query, want := range map[string]string{
		"": "blue red", "BLAUE": "blue", "bläue mail": "blue", "mail blaue": "blue", "push.blue": "blue", "BLUE.example": "blue", "red": "red", "hidden": "", "e": "blue red", "nobody": "",
	} {
		res, body := w.page("/api/v1/providers?q=" + url.QueryEscape(query))
		var found api.Providers
		must(t, json.Unmarshal(body, &found))
		var names []string
		for _, e := range found.Items {
			names = append(names, e.Name)
		}
		if got := strings.Join(names, " "); res.StatusCode != 200 || got != want || found.More {
			t.Errorf("%q: %d %q, want %q", query, res.StatusCode, got, want)
		}
	}
	if res, _ := w.page("/api/v1/providers?q=" + strings.Repeat("x", 201)); res.StatusCode != 422 {
		t.Errorf("a long search: %d", res.StatusCode)
	}
}

// A logo is served as what it is and as nothing else.
func TestLogos(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	w.brands(t)
	_, branding := w.page("/api/v1/providers/blue")
	var doc struct {
		Provider struct {
			Logo struct {
				URL, SHA256 string
				MediaType   string `json:"media_type"`
			}
		}
		Palette struct{ Light, Dark map[string]string }
	}
	must(t, json.Unmarshal(branding, &doc))
	logo := doc.Provider.Logo
	path, ok := strings.CutPrefix(logo.URL, "https://push.example.org")
	if !ok || doc.Palette.Light["brand"] != "#1c6ea4" || doc.Palette.Dark["surface"] == "" {
		t.Errorf("branding: %s", branding)
	}
	for _, at := range []string{path, "/api/v1/providers/blue/logo"} {
		res, body := w.page(at)
		sum := sha256.Sum256(body)
		h := res.Header
		if res.StatusCode != 200 || hex.EncodeToString(sum[:]) != logo.SHA256 || h.Get("Content-Type") != "image/svg+xml" || h.Get("X-Content-Type-Options") != "nosniff" ||
			!strings.HasPrefix(h.Get("Content-Security-Policy"), "sandbox; default-src 'none'") || bytes.Contains(body, []byte("by hand")) {
			t.Errorf("%s: %d %v %s", at, res.StatusCode, h, body)
		}
		if immutable := strings.Contains(h.Get("Cache-Control"), "immutable"); immutable != (at == path) {
			t.Errorf("%s: %s", at, h.Get("Cache-Control"))
		}
	}
	if res, body := w.page("/api/v1/providers/red/logo"); res.Header.Get("Content-Type") != "image/png" || !bytes.HasPrefix(body, []byte("\x89PNG")) {
		t.Errorf("PNG: %v", res.Header)
	}
	for _, path := range []string{"/api/v1/providers/hidden/logo", "/api/v1/providers/none", "/api/v1/providers/none/logo"} {
		if res, body := w.page(path); res.StatusCode != 404 || res.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	w.call("POST", "/api/v1/directory", "", nil, 405)
}

// A change keeps what it does not name, secrets too; and an answer shows none.
func TestProviderIsChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	w.brands(t)
	ctx := t.Context()
	const at = "/admin/v1/providers/blue"
	change := func(in map[string]any) (p api.Provider) {
		t.Helper()
		must(t, w.admin.Do(ctx, "PATCH", at, nil, in, &p))
		return p
	}
	refused := func(in map[string]any, field string) {
		t.Helper()
		if err := w.admin.Do(ctx, "PATCH", at, nil, in, nil); err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%v: %v, want one of %s", in, err, field)
		}
	}
	key, err := os.ReadFile(filepath.Join(filepath.Dir(w.config), "apns.p8"))
	must(t, err)
	cred := map[string]any{"topic": "example.blue.mail", "key": string(key), "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ"}
	p := change(map[string]any{"apns": []any{cred}})
	raw, err := json.Marshal(p)
	must(t, err)
	if len(p.APNs) != 1 || p.LogoSHA256 == "" || strings.Join(p.Secrets, " ") != "oidc.client_secret apns.key" || bytes.Contains(raw, []byte("PRIVATE")) || bytes.Contains(raw, []byte("the oidc secret")) {
		t.Errorf("%s", raw)
	}
	delete(cred, "key")
	if p = change(map[string]any{"apns": []any{map[string]any{"topic": "example.blue.new", "key": string(key), "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ"}, cred}, "title": "Blue"}); p.Title != "Blue" ||
		len(p.APNs) != 2 || p.OIDC.ClientID != "posthorn" {
		t.Errorf("%+v", p)
	}
	cred["topic"] = "example.blue.other"
	refused(map[string]any{"apns": []any{cred}}, "apns[0].key")
	refused(map[string]any{"name": "other"}, "name")
	refused(map[string]any{"colour": "#ffffff"}, "colour")
	refused(map[string]any{"on_colour": "#1c6ea0"}, "on_colour")
	refused(map[string]any{"logo": []byte(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><script>alert(1)</script></svg>`)}, "logo")
	refused(map[string]any{"hosts": []string{"a b"}}, "hosts[0]")
	if p = change(map[string]any{"logo": "", "apns": []any{}, "sign_in": "password"}); p.LogoSHA256 != "" || p.APNs != nil || p.OIDC != nil || p.Secrets != nil {
		t.Errorf("taken away: %+v", p)
	}
}
