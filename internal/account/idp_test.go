package account

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// idp is an identity provider (OpenID Connect Core 1.0, RFC 6749, 7636 and 9207) that is strict with its clients, and
// whose ID tokens a test may spoil.
type idp struct {
	t      *testing.T
	url    string
	client string
	secret string
	now    func() time.Time

	mu        sync.Mutex // guards all below
	key       *rsa.PrivateKey
	email     string
	codes     map[string]url.Values // code -> the request it was given for
	refresh   map[string]bool
	silent    bool           // does not name itself (RFC 9207)
	noGrant   bool           // gives no refresh token
	asks      bool           // gives one only with the user's consent
	bare      bool           // tells of the user at its userinfo endpoint only
	info      map[string]any // what it says there of the last user
	spoilInfo func(map[string]any)
	header    map[string]any              // in place of what the header says
	spoil     func(claims map[string]any) // changes what it says
	sign      func(input string) []byte   // in place of its signature
	access    string                      // the last access token
	revokeAt  string
	revoked   chan string // what was revoked, while it is not nil
	given     []string    // tokens, to look for them in logs
}

func newIDP(t *testing.T, client string, now func() time.Time) *idp {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	p := &idp{t: t, client: client, secret: "canary client secret", now: now, key: key, email: "alice@example.org", codes: map[string]url.Values{}, refresh: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		p.json(w, 200, map[string]any{
			"issuer": p.url, "authorization_endpoint": p.url + "/authorize", "token_endpoint": p.url + "/token", "jwks_uri": p.url + "/keys", "userinfo_endpoint": p.url + "/userinfo", "revocation_endpoint": p.revokeAt,
			"id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"}, "scopes_supported": []string{"openid", "email", "offline_access"},
			"authorization_response_iss_parameter_supported": !p.silent,
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		b64 := base64.RawURLEncoding.EncodeToString
		p.json(w, 200, map[string]any{"keys": []any{map[string]any{
			"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes()),
		}}})
	})
	mux.HandleFunc("POST /token", p.token)
	mux.HandleFunc("POST /revoke", p.revoke)
	mux.HandleFunc("GET /userinfo", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if bearer := r.Header.Get("Authorization"); p.info == nil || bearer != "Bearer "+p.access {
			p.json(w, 401, map[string]string{"error": bearer})
			return
		}
		p.json(w, 200, p.info)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p.url, p.revokeAt = server.URL, server.URL+"/revoke"
	return p
}

func (p *idp) json(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// authorize is the user's consent in his browser: it returns what the browser brings back.
func (p *idp) authorize(authorizationURL string) OIDCCallback {
	p.t.Helper()
	u, err := url.Parse(authorizationURL)
	must(p.t, err)
	q := u.Query()
	for name, want := range map[string]string{
		"response_type": "code", "client_id": p.client, "code_challenge_method": "S256", "redirect_uri": "https://push.example.org/api/v1/sign-in/callback/blue",
	} {
		if got := q.Get(name); got != want {
			p.t.Errorf("the request has %s %q, want %q", name, got, want)
		}
	}
	if u.Scheme+"://"+u.Host+u.Path != p.url+"/authorize" || len(q.Get("state")) < 40 || len(q.Get("nonce")) < 40 || len(q.Get("code_challenge")) != 43 {
		p.t.Errorf("the request is %s", u)
	}
	code := oauth2.GenerateVerifier()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.codes[code] = q
	p.given = append(p.given, code)
	cb := OIDCCallback{Provider: "blue", State: q.Get("state"), Code: code, Issuer: p.url}
	if p.silent {
		cb.Issuer = ""
	}
	return cb
}

func (p *idp) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	refuse := func(code string) {
		p.json(w, 400, map[string]string{"error": code, "error_description": r.PostFormValue("code")})
	}
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	} else {
		secret, _ = url.QueryUnescape(secret)
	}
	if id != p.client || secret != p.secret {
		refuse("invalid_client")
		return
	}
	claims := map[string]any{
		"iss": p.url, "aud": p.client, "sub": "1", "email": p.email, "email_verified": true,
		"iat": p.now().Unix(), "exp": p.now().Add(time.Minute).Unix(),
	}
	noGrant := p.noGrant
	switch r.PostFormValue("grant_type") {
	case "authorization_code":
		q := p.codes[r.PostFormValue("code")]
		delete(p.codes, r.PostFormValue("code"))
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		if q == nil || q.Get("redirect_uri") != r.PostFormValue("redirect_uri") || q.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
			refuse("invalid_grant")
			return
		}
		claims["nonce"] = q.Get("nonce")
		noGrant = noGrant || p.asks && q.Get("prompt") != "consent"
	case "refresh_token":
		if !p.refresh[r.PostFormValue("refresh_token")] {
			refuse("invalid_grant")
			return
		}
		delete(p.refresh, r.PostFormValue("refresh_token"))
	default:
		refuse("unsupported_grant_type")
		return
	}
	access, refresh := "access-"+oauth2.GenerateVerifier(), "refresh-"+oauth2.GenerateVerifier()
	p.refresh[refresh], p.access = true, access
	p.given = append(p.given, access, refresh, r.PostFormValue("code_verifier"))
	sum := sha256.Sum256([]byte(access))
	claims["at_hash"] = base64.RawURLEncoding.EncodeToString(sum[:16])
	if p.spoil != nil {
		p.spoil(claims)
	}
	if p.bare {
		p.info = map[string]any{}
		for _, name := range []string{"email", "email_verified"} {
			p.info[name] = claims[name]
			delete(claims, name)
		}
		p.info["sub"] = claims["sub"]
		if p.spoilInfo != nil {
			p.spoilInfo(p.info)
		}
	}
	answer := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 300, "id_token": p.idToken(claims)}
	if !noGrant {
		answer["refresh_token"] = refresh
	}
	p.json(w, 200, answer)
}

// revoke takes a refresh token back (RFC 7009), of a client that shows its secret in the header.
func (p *idp) revoke(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	if secret, _ = url.QueryUnescape(secret); id != p.client || secret != p.secret || r.PostFormValue("token_type_hint") != "refresh_token" {
		p.json(w, 401, map[string]string{"error": "invalid_client"})
		return
	}
	token := r.PostFormValue("token")
	if p.refresh[token] {
		p.revoked <- token
	}
	delete(p.refresh, token)
}

// idToken signs claims (RFC 7515 section 5.1). mu is held.
func (p *idp) idToken(claims map[string]any) string {
	header := map[string]any{"alg": "RS256", "kid": "1", "typ": "JWT"}
	maps.Copy(header, p.header)
	part := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	input := part(header) + "." + part(claims)
	var signature []byte
	if p.sign != nil {
		signature = p.sign(input)
	} else {
		sum := sha256.Sum256([]byte(input))
		var err error
		if signature, err = rsa.SignPKCS1v15(rand.Reader, p.key, crypto.SHA256, sum[:]); err != nil {
			panic(err)
		}
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// signedWith signs with a secret (HS256).
func signedWith(secret []byte) func(string) []byte {
	return func(input string) []byte {
		h := hmac.New(sha256.New, secret)
		_, _ = h.Write([]byte(input)) // never fails (hash.Hash)
		return h.Sum(nil)
	}
}
