package account

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/posthorn-mail/posthorn/internal/outbound"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// elsewhere is a service whose provider "blue" has an identity provider, and a mail host that takes its access tokens.
type elsewhere struct {
	*Service
	t     *testing.T
	idp   *idp
	clock *watch
	alice tenant.User
	log   *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

const (
	oidcApp   = "com.example.mail:/signed-in"
	imapTaken = "%s OK [CAPABILITY IMAP4rev1] in\r\n"
)

func newElsewhere(t *testing.T, url, authenticate string) *elsewhere {
	t.Helper()
	e := &elsewhere{t: t, clock: &watch{}, log: &lockedBuffer{}}
	e.idp = newIDP(t, "posthorn", e.clock.now)
	guard, err := outbound.New(outbound.Config{Allow: []string{e.idp.url}})
	must(t, err)
	client := guard.Client()
	t.Cleanup(client.CloseIdleConnections)
	e.Service = newService(t, url, func(c *Config) {
		c.Now, c.Outbound, c.PublicURL = e.clock.now, client, "https://push.example.org/"
		c.AttemptsPerAddress = 100
		c.RedirectURIs = []string{oidcApp, "http://127.0.0.1/cb", "https://mail.example.org/cb?x=1"}
		c.Log = slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), e.log), &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	h := scripted(t, map[string]string{
		"greeting": "* OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2 SASL-IR] hello\r\n", "AUTHENTICATE": authenticate, "LOGOUT": "%s OK bye\r\n",
	})
	h.PasswordSource, h.OAuthTokenURL, h.OAuthClientID, h.OAuthClientSecret = tenant.PasswordsOAuth, e.idp.url+"/token", "posthorn", tenant.Secret(e.idp.secret)
	addHost(t, e.Service, h)
	addHost(t, e.Service, nowhere("other"))
	e.alice = addUser(t, e.Service, "Alice@example.org", "dove")
	_, err = e.Tenants.AddProvider(t.Context(), tenant.Provider{
		Name: "blue", Title: "Blue", Colour: "#1c6ea4", MailHosts: []string{"dove"}, SignIn: tenant.SignInOIDC,
		OIDC: tenant.OIDC{Issuer: e.idp.url, ClientID: "posthorn", ClientSecret: tenant.Secret(e.idp.secret)},
	}, true)
	must(t, err)
	setProperty(t, e.Tenants, cascade.Provider.Name(), "blue")
	return e
}

func challengeOf(verifier string) string { return oauth2.S256ChallengeFromVerifier(verifier) }

func startRequest(verifier string) OIDCStart {
	return OIDCStart{
		Provider: "blue", Client: "posthorn-app", Device: "phone", DeviceName: "Alice's phone", RedirectURI: oidcApp,
		Challenge: challengeOf(verifier), State: "the app's own", Address: netip.MustParseAddr("192.0.2.7"),
	}
}

// start begins a sign-in and has the user consent.
func (e *elsewhere) start(verifier string) OIDCCallback {
	e.t.Helper()
	req := startRequest(verifier)
	req.State = "its-own"
	to, err := e.StartOIDC(e.t.Context(), req)
	must(e.t, err)
	return e.idp.authorize(to)
}

// back returns what the app is told.
func (e *elsewhere) back(end OIDCEnd) url.Values {
	e.t.Helper()
	u, err := url.Parse(end.Redirect)
	if err != nil || u.Scheme != "com.example.mail" || u.Path != "/signed-in" || u.Query().Get("state") != "its-own" {
		e.t.Errorf("sent to %q", end.Redirect)
		return url.Values{}
	}
	return u.Query()
}

func (e *elsewhere) redeem(code, verifier string) (Session, string, error) {
	sess, token, _, err := e.RedeemOIDC(e.t.Context(), code, verifier, "push.example.org", netip.MustParseAddr("192.0.2.7"))
	return sess, token, err
}

// TestOIDC signs in at an identity provider, on one node and back on another, and has a listener sign in later.
func TestOIDC(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		e := newElsewhere(t, url, imapTaken)
		verifier := oauth2.GenerateVerifier()
		cb := e.start(verifier)
		other := &elsewhere{Service: New(e.Config), t: t}
		end := other.FinishOIDC(t.Context(), cb)
		if end.Err != nil || end.User != e.alice.ID || end.Client != "posthorn-app" {
			t.Fatalf("%+v", end)
		}
		code := e.back(end).Get("code")
		sess, token, err := e.redeem(code, verifier)
		if err != nil || sess.User != e.alice.ID || sess.Client != "posthorn-app" || sess.DeviceName != "Alice's phone" || sess.Device != hashOf("device", "phone") {
			t.Fatalf("%+v, %v", sess, err)
		}
		if got, err := e.Authenticate(t.Context(), token); err != nil || got.ID != sess.ID {
			t.Errorf("%+v, %v", got, err)
		}
		for range 2 { // the refresh token is another one each time
			e.clock.pass(time.Hour)
			c, err := e.Dial(t.Context(), e.alice)
			if err != nil {
				t.Fatalf("by the refresh token: %v", err)
			}
			c.Close()
		}
		if ok, err := e.knows(t.Context(), "alice@example.org", devicePlace("phone"), time.Hour*3); err != nil || !ok {
			t.Errorf("her phone is not known: %v", err)
		}
		if n := count(t, e.Service, "SELECT COUNT(*) FROM sign_ins"); n != 0 {
			t.Errorf("%d sign-ins are left", n)
		}
		// Nothing of it can be used again, and nothing of it stands in the log.
		if end := e.FinishOIDC(t.Context(), cb); !errors.Is(end.Err, ErrBadCode) || end.Redirect != "" {
			t.Errorf("the state again: %+v", end)
		}
		if _, _, err := e.redeem(code, verifier); !errors.Is(err, ErrBadCode) {
			t.Errorf("the code again: %v", err)
		}
		e.log.mu.Lock()
		defer e.log.mu.Unlock()
		var disk []byte
		if file, ok := strings.CutPrefix(url, "sqlite:"); ok {
			for _, suffix := range []string{"", "-wal"} {
				content, err := os.ReadFile(file + suffix) //nolint:gosec // the test's own
				must(t, err)
				disk = append(disk, content...)
			}
		}
		for _, leak := range append(e.idp.given, code, verifier, token, e.idp.secret, cb.State) {
			if leak != "" && (strings.Contains(e.log.b.String(), leak) || bytes.Contains(disk, []byte(leak))) {
				t.Errorf("the log or the database holds %q", leak)
			}
		}
	})
}

// TestOIDCTokens has the identity provider, or who plays it, say what is not good. No session comes of any of it.
func TestOIDCTokens(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t, testpeer.SQLiteURL(t), imapTaken)
	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	public, err := x509.MarshalPKIXPublicKey(&e.idp.key.PublicKey)
	must(t, err)
	own := e.idp.key
	claim := func(name string, value any) func(map[string]any) {
		return func(c map[string]any) {
			if c[name] = value; value == nil {
				delete(c, name)
			}
		}
	}
	for name, c := range map[string]struct {
		spoil  func(map[string]any)
		header map[string]any
		sign   func(string) []byte
		key    *rsa.PrivateKey
		want   string
	}{
		"good":                          {},
		"another nonce":                 {spoil: claim("nonce", oauth2.GenerateVerifier()), want: "server_error"},
		"no nonce":                      {spoil: claim("nonce", nil), want: "server_error"},
		"another audience":              {spoil: claim("aud", "somebody else"), want: "server_error"},
		"several audiences, no azp":     {spoil: claim("aud", []string{"posthorn", "somebody else"}), want: "server_error"},
		"given to another client":       {spoil: claim("azp", "somebody else"), want: "server_error"},
		"given to us":                   {spoil: claim("azp", "posthorn")},
		"another issuer":                {spoil: claim("iss", "https://login.example.net"), want: "server_error"},
		"expired":                       {spoil: claim("exp", e.clock.now().Add(-time.Second).Unix()), want: "server_error"},
		"no expiry":                     {spoil: claim("exp", nil), want: "server_error"},
		"of the future":                 {spoil: claim("nbf", e.clock.now().Add(time.Hour).Unix()), want: "server_error"},
		"another access token":          {spoil: claim("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), want: "server_error"},
		"no login":                      {spoil: claim("email", nil), want: "server_error"},
		"a login that is no text":       {spoil: claim("email", []string{"alice@example.org"}), want: "server_error"},
		"a login with a line break":     {spoil: claim("email", "alice@example.org\r\nx"), want: "server_error"},
		"an address that is not proven": {spoil: claim("email_verified", false), want: "access_denied"},
		"somebody unknown":              {spoil: claim("email", "mallory@example.org"), want: "access_denied"},
		"another key":                   {key: foreign, want: "server_error"},
		"no signature":                  {header: map[string]any{"alg": "none"}, sign: func(string) []byte { return nil }, want: "server_error"},
		"signed with the client secret": {header: map[string]any{"alg": "HS256"}, sign: signedWith([]byte(e.idp.secret)), want: "server_error"},
		"signed with the public key":    {header: map[string]any{"alg": "HS256"}, sign: signedWith(public), want: "server_error"},
		"a key of its own":              {header: map[string]any{"jwk": map[string]any{"kty": "RSA", "n": "AQAB", "e": "AQAB"}}, key: foreign, want: "server_error"},
	} {
		t.Run(name, func(t *testing.T) {
			e.idp.mu.Lock()
			e.idp.spoil, e.idp.header, e.idp.sign, e.idp.key = c.spoil, c.header, c.sign, own
			if c.key != nil {
				e.idp.key = c.key
			}
			e.idp.mu.Unlock()
			verifier := oauth2.GenerateVerifier()
			end := e.FinishOIDC(t.Context(), e.start(verifier))
			back := e.back(end)
			var failed *FlowError
			if back.Get("error") != c.want || (back.Get("code") == "") != (c.want != "") || errors.As(end.Err, &failed) != (c.want != "") {
				t.Fatalf("%v, %v", back, end.Err)
			}
			if c.want != "" && (back.Get("error_description") == "" || strings.Contains(end.Redirect, "access-")) {
				t.Errorf("%v", back)
			}
		})
	}
	if n := count(t, e.Service, "SELECT COUNT(*) FROM sessions"); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// TestOIDCFlows spoils what travels through the browser.
func TestOIDCFlows(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t, testpeer.SQLiteURL(t), imapTaken)
	_, err := e.Tenants.AddProvider(t.Context(), tenant.Provider{
		Name: "red", Title: "Red", Colour: "#aa0000", MailHosts: []string{"dove"}, SignIn: tenant.SignInOIDC,
		OIDC: tenant.OIDC{Issuer: e.idp.url, ClientID: "red", ClientSecret: "x"},
	}, true)
	must(t, err)
	verifier := oauth2.GenerateVerifier()
	for _, c := range []struct {
		name   string
		change func(*OIDCCallback)
		want   string // the error, or "" for a page
	}{
		{"no state", func(cb *OIDCCallback) { cb.State = "" }, ""},
		{"a made up state", func(cb *OIDCCallback) { cb.State = oauth2.GenerateVerifier() }, ""},
		{"too late", func(*OIDCCallback) { e.clock.pass(flowLife) }, ""},
		{"the path of another provider", func(cb *OIDCCallback) { cb.Provider = "red" }, "access_denied"},
		{"another issuer", func(cb *OIDCCallback) { cb.Issuer = "https://login.example.net" }, "access_denied"},
		{"no issuer", func(cb *OIDCCallback) { cb.Issuer = "" }, "access_denied"},
		{"the user said no", func(cb *OIDCCallback) { cb.Code, cb.Error = "", "access_denied" }, "access_denied"},
		{"it has trouble", func(cb *OIDCCallback) { cb.Code, cb.Error = "", "temporarily_unavailable" }, "temporarily_unavailable"},
		{"it says something else", func(cb *OIDCCallback) { cb.Code, cb.Error = "", "<script>\r\n" }, "server_error"},
		{"no code", func(cb *OIDCCallback) { cb.Code = "" }, "server_error"},
		{"a made up code", func(cb *OIDCCallback) { cb.Code = oauth2.GenerateVerifier() }, "server_error"},
		{"the code of another sign-in", func(cb *OIDCCallback) { cb.Code = e.start(oauth2.GenerateVerifier()).Code }, "server_error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cb := e.start(verifier)
			c.change(&cb)
			end := e.FinishOIDC(t.Context(), cb)
			if c.want == "" {
				if end.Redirect != "" || !errors.Is(end.Err, ErrBadCode) {
					t.Errorf("%+v", end)
				}
				return
			}
			if back := e.back(end); back.Get("error") != c.want || back.Get("code") != "" || strings.ContainsAny(end.Redirect, "<\r\n") {
				t.Errorf("%s", end.Redirect)
			}
			if again := e.FinishOIDC(t.Context(), cb); again.Redirect != "" {
				t.Errorf("the state is still good: %+v", again)
			}
		})
	}

	// An identity provider that never names itself need not.
	e.idp.mu.Lock()
	e.idp.silent = true
	e.idp.mu.Unlock()
	e.clock.pass(issuerLife)
	code := e.back(e.FinishOIDC(t.Context(), e.start(verifier))).Get("code")

	// Only who has the verifier gets the session, once, and soon.
	if _, _, err := e.redeem(code, verifier[1:]); !errors.Is(err, ErrBadCode) {
		t.Errorf("another verifier: %v", err)
	}
	if _, _, err := e.redeem(code, verifier); !errors.Is(err, ErrBadCode) {
		t.Errorf("after another verifier: %v", err)
	}
	code = e.back(e.FinishOIDC(t.Context(), e.start(verifier))).Get("code")
	e.clock.pass(codeLife)
	if _, _, err := e.redeem(code, verifier); !errors.Is(err, ErrBadCode) {
		t.Errorf("too late: %v", err)
	}
	cb := e.start(verifier)
	if _, _, err := e.redeem(cb.State, verifier); !errors.Is(err, ErrBadCode) {
		t.Errorf("a state is no code: %v", err)
	}

	// What was changed meanwhile is begun again.
	_, err = e.Tenants.ChangeProvider(t.Context(), "blue", true, func(p *tenant.Provider) error { p.OIDC.ClientID = "other"; return nil })
	must(t, err)
	if back := e.back(e.FinishOIDC(t.Context(), cb)); back.Get("error") != "access_denied" {
		t.Errorf("%v", back)
	}
	if n := count(t, e.Service, "SELECT COUNT(*) FROM sessions"); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// TestOIDCUsers: an identity provider speaks for the users of its provider, and for nobody else.
func TestOIDCUsers(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t, testpeer.SQLiteURL(t), imapTaken)
	two, err := e.Tenants.AddContext(t.Context(), tenant.Context{})
	must(t, err)
	add := func(context int64, login, host string) tenant.User {
		t.Helper()
		u, err := e.Tenants.AddUser(t.Context(), tenant.User{ID: tenant.UserID{Context: context}, Login: login, MailHost: host})
		must(t, err)
		return u
	}
	bob := add(two.ID, "bob@example.org", "dove")
	add(1, "carol@example.org", "other")
	add(1, "dave@example.org", "other")
	dave := add(1, "dave@example.org", "dove")
	try := func(email string) OIDCEnd {
		t.Helper()
		e.idp.mu.Lock()
		e.idp.email = email
		e.idp.mu.Unlock()
		return e.FinishOIDC(t.Context(), e.start(oauth2.GenerateVerifier()))
	}
	must(t, e.Tenants.UnsetProperty(t.Context(), tenant.Subject{Scope: cascade.Server}, cascade.Provider.Name()))
	must(t, e.Tenants.SetProperty(t.Context(), tenant.Subject{Scope: cascade.Context, Name: "1"}, cascade.Provider.Name(), "blue", "test"))
	if end := try("ALICE@example.org"); end.Err != nil || end.User != e.alice.ID {
		t.Errorf("alice: %+v", end)
	}
	if end := try("dave@example.org"); end.Err != nil || end.User != dave.ID {
		t.Errorf("dave: %+v", end)
	}
	for _, email := range []string{"bob@example.org", "carol@example.org", "nobody@example.org"} { // of no provider; at another mail host; nobody
		if end := try(email); e.back(end).Get("error") != "access_denied" || end.User.ID != 0 {
			t.Errorf("%s: %+v", email, end)
		}
	}
	must(t, e.Tenants.SetProperty(t.Context(), tenant.Subject{Scope: cascade.Context, Name: fmt.Sprint(two.ID)}, cascade.Provider.Name(), "blue", "test"))
	if end := try("bob@example.org"); end.Err != nil || end.User != bob.ID {
		t.Errorf("bob: %+v", end)
	}
}

// What the mail host does not take is no sign-in: the listeners would not get in either.
func TestOIDCMailbox(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		authenticate string
		change       func(e *elsewhere)
		want         string
	}{
		"refused":    {"%s NO [AUTHENTICATIONFAILED] no\r\n", nil, "access_denied"},
		"in trouble": {"%s NO [UNAVAILABLE] later\r\n", nil, "temporarily_unavailable"},
		"another client": {imapTaken, func(e *elsewhere) {
			_, err := e.Tenants.ChangeMailHost(e.t.Context(), "dove", func(h *tenant.MailHost) (string, error) { h.OAuthClientID = "other"; return "", nil })
			must(e.t, err)
		}, "server_error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newElsewhere(t, testpeer.SQLiteURL(t), c.authenticate)
			if c.change != nil {
				c.change(e)
			}
			end := e.FinishOIDC(t.Context(), e.start(oauth2.GenerateVerifier()))
			if back := e.back(end); back.Get("error") != c.want || end.User != e.alice.ID {
				t.Errorf("%+v", end)
			}
			if n := count(t, e.Service, "SELECT COUNT(*) FROM refresh_tokens"); n != 0 {
				t.Error("a refresh token is kept")
			}
		})
	}
}

// A gate that is closed leaves neither a session nor a token.
func TestOIDCGate(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t, testpeer.SQLiteURL(t), imapTaken)
	e.Gate = func(context.Context, GateRequest) error { return &RefusedError{Reason: "mobile_mail_app_disabled"} }
	verifier := oauth2.GenerateVerifier()
	code := e.back(e.FinishOIDC(t.Context(), e.start(verifier))).Get("code")
	if _, _, err := e.redeem(code, verifier); !errors.As(err, new(*RefusedError)) {
		t.Errorf("%v", err)
	}
	if n := count(t, e.Service, "SELECT COUNT(*) FROM refresh_tokens") + count(t, e.Service, "SELECT COUNT(*) FROM sessions"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestStartOIDCIsChecked(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t, testpeer.SQLiteURL(t), imapTaken)
	_, err := e.Tenants.AddProvider(t.Context(), tenant.Provider{Name: "plain", Colour: "#1c6ea4"}, true)
	must(t, err)
	for i, c := range []struct {
		field  string
		change func(*OIDCStart)
	}{
		{"provider", func(r *OIDCStart) { r.Provider = "none" }},
		{"provider", func(r *OIDCStart) { r.Provider = "plain" }},
		{"client", func(r *OIDCStart) { r.Client = "a b" }},
		{"device", func(r *OIDCStart) { r.Device = strings.Repeat("x", 256) }},
		{"device_name", func(r *OIDCStart) { r.DeviceName = "a\nb" }},
		{"code_challenge", func(r *OIDCStart) { r.Challenge = "" }},
		{"code_challenge", func(r *OIDCStart) { r.Challenge = strings.Repeat("=", 43) }},
		{"code_challenge", func(r *OIDCStart) { r.Challenge += "A" }},
		{"state", func(r *OIDCStart) { r.State = "a b" }},
		{"state", func(r *OIDCStart) { r.State = strings.Repeat("x", 513) }},
		{"redirect_uri", func(r *OIDCStart) { r.RedirectURI = "" }},
		{"redirect_uri", func(r *OIDCStart) { r.RedirectURI = "https://evil.example" }},
	} {
		req := startRequest(oauth2.GenerateVerifier())
		req.State = ""
		c.change(&req)
		var invalid *tenant.InvalidError
		if to, err := e.StartOIDC(t.Context(), req); !errors.As(err, &invalid) || invalid.Field != c.field || to != "" {
			t.Errorf("%d: %v", i, err)
		}
		e.clock.pass(time.Minute)
	}
	// Only so many from one network.
	req := startRequest(oauth2.GenerateVerifier())
	req.State = ""
	e.clock.pass(time.Hour)
	for range e.AttemptsPerAddress {
		_, err := e.StartOIDC(t.Context(), req)
		must(t, err)
	}
	if _, err := e.StartOIDC(t.Context(), req); !errors.As(err, new(*TooManyError)) {
		t.Errorf("%v", err)
	}
	e.clock.pass(time.Hour)
	e.idp.mu.Lock()
	e.idp.url += "/elsewhere" // what it says of itself is not what it is called
	e.idp.mu.Unlock()
	if _, err := e.StartOIDC(t.Context(), req); !errors.Is(err, ErrIdentityProvider) {
		t.Errorf("%v", err)
	}
}
