package server_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// What an identity provider of the tests knows.
const (
	idpSecret  = "c4n4ry-client-sécret"
	idpAccess  = "c4n4ry-access-token"
	idpRefresh = "c4n4ry-refresh-token"
)

// idp is an identity provider, and the introspection endpoint that a Dovecot asks.
type idp struct {
	*httptest.Server
	broken  atomic.Bool // the token endpoint answers with what it was sent
	revoked chan string

	mu    sync.Mutex // guards known
	known []string
}

// secrets are what went through the browser and to the token endpoint.
func (p *idp) secrets() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.known)
}

// startIDP starts one that signs everybody in as the given address. internal/account has a strict one.
func startIDP(t *testing.T, email string) *idp {
	t.Helper()
	p := &idp{revoked: make(chan string, 10)}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	b64 := base64.RawURLEncoding.EncodeToString
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	p.Server = server
	t.Cleanup(server.Close)
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{
			"issuer": server.URL, "authorization_endpoint": server.URL + "/authorize", "token_endpoint": server.URL + "/token", "jwks_uri": server.URL + "/keys",
			"revocation_endpoint": server.URL + "/revoke",
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"keys": []any{map[string]any{"kty": "RSA", "kid": "1", "n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes())}}})
	})
	mux.HandleFunc("/authorize", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query() // the code is the nonce
		p.mu.Lock()
		p.known = append(p.known, q.Get("state"), q.Get("nonce"))
		p.mu.Unlock()
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"state": {q.Get("state")}, "code": {q.Get("nonce")}, "iss": {server.URL}}.Encode(), http.StatusFound) //nolint:gosec // a test's own provider
	})
	mux.HandleFunc("/revoke", func(_ http.ResponseWriter, r *http.Request) { p.revoked <- r.FormValue("token") })
	mux.HandleFunc("/introspect", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{"active": r.FormValue("token") == idpAccess, "username": email})
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if verifier := r.FormValue("code_verifier"); verifier != "" {
			p.mu.Lock()
			p.known = append(p.known, verifier)
			p.mu.Unlock()
		}
		if p.broken.Load() {
			w.WriteHeader(http.StatusBadRequest)
			answer(w, map[string]any{"error": "invalid_grant", "error_description": r.Header.Get("Authorization") + r.Form.Encode()})
			return
		}
		claims, err := json.Marshal(map[string]any{
			"iss": server.URL, "aud": "posthorn", "sub": "1", "email": email, "nonce": r.FormValue("code"), "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
		})
		must(t, err)
		input := b64([]byte(`{"alg":"RS256","kid":"1"}`)) + "." + b64(claims)
		sum := sha256.Sum256([]byte(input))
		signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		must(t, err)
		answer(w, map[string]any{"access_token": idpAccess, "token_type": "Bearer", "refresh_token": idpRefresh, "id_token": input + "." + b64(signature)})
	})
	return p
}

// elsewhere gives the users of context 1 a provider with an identity provider. It comes before start.
func (w *world) elsewhere(idp *idp) {
	w.tb.Helper()
	w.edit("outbound: {allow: [", `sign_in: {redirect_uris: ["com.example.mail:/signed-in"]}`+"\noutbound: {allow: [\""+idp.URL+"\", ")
}

// blue is that provider. It comes after provision.
func (w *world) blue(idp *idp) {
	w.tb.Helper()
	ctx := w.tb.Context()
	must(w.tb, w.admin.Do(ctx, "POST", "/admin/v1/providers", nil, map[string]any{
		"name": "blue", "colour": "#1c6ea4", "mailhosts": []string{"dove"}, "sign_in": "oidc",
		"oidc": map[string]any{"issuer": idp.URL, "client_id": "posthorn", "client_secret": idpSecret},
	}, nil))
	must(w.tb, w.admin.Do(ctx, "PUT", "/admin/v1/properties", nil, map[string]any{"scope": "context", "subject": "1", "property": "provider", "value": "blue"}, nil))
}

// browse follows redirects as a browser does, up to the app, and returns what that is told.
func (w *world) browse(at string) url.Values {
	w.tb.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for range 5 {
		// The public address is that of a proxy which the test has not.
		at = strings.Replace(at, "https://push.example.org", w.public, 1)
		req, err := http.NewRequestWithContext(w.tb.Context(), http.MethodGet, at, nil)
		must(w.tb, err)
		res, err := client.Do(req)
		must(w.tb, err)
		must(w.tb, res.Body.Close())
		if at = res.Header.Get("Location"); at == "" {
			w.tb.Fatalf("%s answers %d", req.URL, res.StatusCode)
		}
		if back, ok := strings.CutPrefix(at, "com.example.mail:/signed-in?"); ok {
			if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Referrer-Policy") != "no-referrer" || res.StatusCode != http.StatusSeeOther {
				w.tb.Errorf("%d %v", res.StatusCode, res.Header)
			}
			q, err := url.ParseQuery(back)
			must(w.tb, err)
			return q
		}
	}
	w.tb.Fatal("redirected for ever")
	return nil
}

// beginElsewhere returns the address that the app opens in a browser.
func (w *world) beginElsewhere(device, verifier string) string {
	w.tb.Helper()
	return w.call("POST", "/api/v1/sign-in/oidc", "", map[string]any{
		"provider": "blue", "client": "posthorn-app", "device": device, "redirect_uri": "com.example.mail:/signed-in",
		"code_challenge": oauth2.S256ChallengeFromVerifier(verifier), "state": "its-own",
	}, 200)["authorization_url"].(string)
}

// signInElsewhere returns a bearer token.
func (w *world) signInElsewhere(device string) string {
	w.tb.Helper()
	verifier := oauth2.GenerateVerifier()
	out := w.call("POST", "/api/v1/sign-in/oidc", "", map[string]any{
		"provider": "blue", "client": "posthorn-app", "device": device, "redirect_uri": "com.example.mail:/signed-in",
		"code_challenge": oauth2.S256ChallengeFromVerifier(verifier), "state": "its own",
	}, 422)
	if out["field"] != "state" {
		w.tb.Errorf("%v", out)
	}
	back := w.browse(w.beginElsewhere(device, verifier))
	if back.Get("state") != "its-own" || back.Get("code") == "" {
		w.tb.Fatalf("%v", back)
	}
	out = w.call("POST", "/api/v1/sessions", "", map[string]any{"code": back.Get("code"), "code_verifier": verifier}, 201)
	w.call("POST", "/api/v1/sessions", "", map[string]any{"code": back.Get("code"), "code_verifier": verifier}, 401)
	return out["token"].(string)
}

// TestSignInElsewhere signs in at an identity provider as an app and a browser do.
func TestSignInElsewhere(t *testing.T) {
	t.Parallel()
	const alice = "alice@rig.test"
	idp := startIDP(t, alice)
	w := newWorld(t, sqliteURL(t), "login")
	w.elsewhere(idp)
	w.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}})
	w.provision(d, api.MailHost{}, alice)
	w.blue(idp)
	token := w.signInElsewhere("phone")
	if devices := w.call("GET", "/api/v1/devices", token, nil, 200)["items"].([]any); len(devices) != 1 {
		t.Errorf("%v", devices)
	}

	// What nobody began ends as a page, and so does what was sent to another method.
	for method, status := range map[string]int{http.MethodGet: 400, http.MethodPost: 405} {
		req, err := http.NewRequestWithContext(t.Context(), method, w.public+"/api/v1/sign-in/callback/blue?state=<script>&code=x", nil)
		must(t, err)
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		must(t, res.Body.Close())
		if res.StatusCode != status || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") || res.Header.Get("Content-Security-Policy") == "" {
			t.Errorf("%s: %d %v", method, res.StatusCode, res.Header)
		}
	}
	w.waitFor("the audit log", func() bool {
		_, texts := w.audited("1@1")
		return strings.Contains(texts, "provider blue, client posthorn-app") && strings.Contains(texts, "Outcome:ok")
	})
}
