package account

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

const (
	// flowLife is how long a user may take at his identity provider.
	flowLife = 10 * time.Minute
	// codeLife is how long an app may take to come with the code that it was given.
	codeLife = time.Minute
	// maxFlows bounds the sign-ins under way; they come from whoever asks.
	maxFlows = 20_000
	// issuerLife is for how long what an identity provider says of itself is good.
	issuerLife = time.Hour
	maxIssuers = 1000
)

// ErrBadCode says that a code was never given, was used, is too old, or was given to somebody else.
var ErrBadCode = errors.New("the code is not good: sign in again")

// CallbackPath is where identity providers send users back, before the provider's name. Each provider has a path of its
// own: what one identity provider gave out cannot be brought back as if it came from another (RFC 9700 section 4.4.2).
const CallbackPath = "/api/v1/sign-in/callback/"

// OIDCStart is what an app asks a sign-in at an identity provider with.
type OIDCStart struct {
	Provider                   string
	Client, Device, DeviceName string
	// RedirectURI is where the user comes back to the app, one of Config.RedirectURIs.
	RedirectURI string
	// Challenge is the app's own (RFC 7636 section 4.2, S256): only who has its verifier gets the session.
	Challenge string
	// State is the app's own; it comes back with the code.
	State   string
	Address netip.Addr
}

// flow is a sign-in under way, as it is sealed in the database. It is never logged: the verifier is a secret.
type flow struct {
	Provider, Issuer, ClientID, Callback string
	Verifier, Nonce                      string
	Client, Device, DeviceName           string
	RedirectURI, Challenge, State        string
	Consent                              bool // the user is asked for his consent again, for a refresh token
}

// grantedCode is what a one-time code stands for, as it is sealed. It is never logged either.
type grantedCode struct {
	User                       tenant.UserID
	Provider                   string
	Client, Device, DeviceName string
	Challenge                  string
	Refresh                    string
}

const (
	sqlPurgeSignIns = `DELETE FROM sign_ins WHERE expires_ms <= ?`
	sqlCountSignIns = `SELECT COUNT(*) FROM sign_ins`
	sqlAddSignIn    = `INSERT INTO sign_ins (state_hash, sealed, expires_ms) VALUES (?, ?, ?)`
	sqlTakeSignIn   = `DELETE FROM sign_ins WHERE state_hash = ? RETURNING sealed, expires_ms`
)

// putFlow keeps a value under the hash of a new random secret, which it returns.
func (s *Service) putFlow(ctx context.Context, purpose string, v any, life time.Duration) (secret string, err error) {
	secret = oauth2.GenerateVerifier() // 256 random bits
	raw, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode sign-in: %w", err)
	}
	hash := hashOf(purpose, secret)
	sealed, now := s.Keys.Seal("sign-in/"+hash, raw), s.Now()
	err = s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, sqlPurgeSignIns, db.Millis(now)); err != nil {
			return err
		}
		var n int64
		if err := tx.QueryRow(ctx, sqlCountSignIns).Scan(&n); err != nil {
			return err
		}
		if n >= maxFlows {
			return &TooManyError{RetryAfter: codeLife}
		}
		_, err := tx.Exec(ctx, sqlAddSignIn, hash, sealed, db.Millis(now.Add(life)))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("keep sign-in: %w", err)
	}
	return secret, nil
}

// takeFlow finds what was kept under a secret, once. Errors are ErrBadCode.
func (s *Service) takeFlow(ctx context.Context, purpose, secret string, v any) error {
	hash := hashOf(purpose, secret)
	var sealed string
	var expires int64
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		return tx.QueryRow(ctx, sqlTakeSignIn, hash).Scan(&sealed, &expires)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows) || err == nil && !s.Now().Before(db.Time(expires)):
		return ErrBadCode
	case err != nil:
		return fmt.Errorf("find sign-in: %w", err)
	}
	raw, err := s.Keys.Open("sign-in/"+hash, sealed)
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		return fmt.Errorf("open sign-in: %w", err)
	}
	return nil
}

// StartOIDC begins a sign-in at a provider's identity provider, and returns the address that the app is to open in a
// browser. Errors are *tenant.InvalidError, *TooManyError and ErrIdentityProvider.
func (s *Service) StartOIDC(ctx context.Context, req OIDCStart) (authorizationURL string, err error) {
	if err := s.checkStart(req); err != nil {
		return "", err
	}
	if wait, ok := s.limits.starts.take(addressKey(req.Address)); !ok {
		return "", &TooManyError{RetryAfter: wait}
	}
	p, err := s.oidcProvider(ctx, req.Provider)
	if err != nil {
		return "", err
	}
	base := strings.TrimSuffix(p.BaseURL, "/")
	if base == "" {
		base = strings.TrimSuffix(s.PublicURL, "/")
	}
	if base == "" {
		return "", &tenant.InvalidError{Field: "provider", Problem: "cannot be signed in at: it has no base URL, and public.url is not set"}
	}
	is, err := s.issuers.of(ctx, s, p.OIDC.Issuer)
	if err != nil {
		return "", err
	}
	return s.askUser(ctx, is, p, flow{
		Provider: p.Name, Issuer: p.OIDC.Issuer, ClientID: p.OIDC.ClientID, Callback: base + CallbackPath + url.PathEscape(p.Name),
		Client: req.Client, Device: req.Device, DeviceName: req.DeviceName,
		RedirectURI: req.RedirectURI, Challenge: req.Challenge, State: req.State,
	})
}

// askUser returns the address at which a user proves who he is.
func (s *Service) askUser(ctx context.Context, is *issuer, p tenant.Provider, f flow) (authorizationURL string, err error) {
	f.Verifier, f.Nonce = oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	state, err := s.putFlow(ctx, "state", f, flowLife)
	if err != nil {
		return "", err
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier)}
	if !is.offline {
		options = append(options, oauth2.AccessTypeOffline) // Google's word for the scope offline_access; others ignore it
	}
	if f.Consent {
		options = append(options, oauth2.SetAuthURLParam("prompt", "consent"))
	}
	return is.config(p, f.Callback).AuthCodeURL(state, options...), nil
}

func (s *Service) checkStart(req OIDCStart) error {
	as := SignIn{Login: "login", Password: "password", Client: req.Client, Device: req.Device, DeviceName: req.DeviceName}
	if err := as.check(); err != nil {
		return err
	}
	sum, err := base64.RawURLEncoding.Strict().DecodeString(req.Challenge)
	if err != nil || len(sum) != sha256.Size {
		return &tenant.InvalidError{Field: "code_challenge", Problem: "must be the SHA-256 of the code verifier in base64url (S256)"}
	}
	if len(req.State) > 512 || strings.ContainsFunc(req.State, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return &tenant.InvalidError{Field: "state", Problem: "must be at most 512 printable ASCII characters"}
	}
	if !slices.ContainsFunc(s.RedirectURIs, func(allowed string) bool { return sameRedirect(allowed, req.RedirectURI) }) {
		return &tenant.InvalidError{Field: "redirect_uri", Problem: "is not one of sign_in.redirect_uris: the operator adds it there"}
	}
	return nil
}

// sameRedirect compares an address with one that is allowed: as texts (RFC 9700 section 4.1.3), save the port of a
// loopback address, which the system gives a native app (RFC 8252 section 7.3).
func sameRedirect(allowed, uri string) bool {
	if allowed == uri {
		return true
	}
	a, err := url.Parse(allowed)
	if err != nil || a.Scheme != "http" {
		return false
	}
	host := a.Hostname() // 127.0.0.1 or ::1, or the configuration would have been refused
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	rest, ok := strings.CutPrefix(uri, "http://"+host+":")
	if !ok {
		return false
	}
	port := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	return port != "" && len(port) <= 5 && "http://"+host+rest[len(port):] == "http://"+host+a.RequestURI()
}

// oidcProvider finds a provider whose users sign in at an identity provider.
func (s *Service) oidcProvider(ctx context.Context, name string) (tenant.Provider, error) {
	p, err := s.Tenants.Provider(ctx, name)
	switch {
	case errors.Is(err, tenant.ErrNotFound):
		return p, &tenant.InvalidError{Field: "provider", Problem: "there is no such provider"}
	case err != nil:
		return p, fmt.Errorf("find provider: %w", err)
	case p.SignIn != tenant.SignInOIDC:
		return p, &tenant.InvalidError{Field: "provider", Problem: "its users sign in with a password"}
	case p.Damaged != nil:
		return p, fmt.Errorf("open the secrets of provider %s: %w", name, p.Damaged)
	}
	return p, nil
}

// issuers remembers what identity providers say of themselves.
type issuers struct {
	mu  sync.Mutex // guards all
	all map[string]*issuer
}

type issuer struct {
	*oidc.Provider
	read time.Time
	// names: it says who it is when it sends a user back (RFC 9207).
	names   bool
	offline bool // it knows the scope offline_access
	// revocation is where tokens are revoked (RFC 8414 section 2), or "".
	revocation string
}

// of reads what an issuer says of itself, unless it was read a while ago.
func (is *issuers) of(ctx context.Context, s *Service, name string) (*issuer, error) {
	is.mu.Lock()
	known := is.all[name]
	is.mu.Unlock()
	if known != nil && s.Now().Sub(known.read) < issuerLife {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	p, err := oidc.NewProvider(oidc.ClientContext(ctx, s.Outbound), name)
	if err != nil {
		return nil, fmt.Errorf("%w: read what %s says of itself: %w", ErrIdentityProvider, name, brief(err, ""))
	}
	fresh := &issuer{Provider: p, read: s.Now()}
	var meta struct {
		Names  bool     `json:"authorization_response_iss_parameter_supported"`
		Scopes []string `json:"scopes_supported"`
		Revoke string   `json:"revocation_endpoint"`
	}
	if err := p.Claims(&meta); err != nil {
		return nil, fmt.Errorf("%w: read what %s says of itself: %w", ErrIdentityProvider, name, err)
	}
	fresh.names, fresh.offline, fresh.revocation = meta.Names, slices.Contains(meta.Scopes, oidc.ScopeOfflineAccess), meta.Revoke
	// A browser is sent there, and what is posted to the other is a secret.
	for _, raw := range []string{p.Endpoint().AuthURL, p.Endpoint().TokenURL} {
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !strings.HasPrefix(name, "http://")) {
			return nil, fmt.Errorf("%w: %s names an endpoint that is no https address", ErrIdentityProvider, name)
		}
	}
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.all == nil || len(is.all) >= maxIssuers {
		is.all = map[string]*issuer{} // to read them again costs a request each
	}
	is.all[name] = fresh
	return fresh, nil
}

// config is what a provider's sign-ins are made with.
func (i *issuer) config(p tenant.Provider, callback string) *oauth2.Config {
	scopes := p.OIDC.Scopes
	if len(scopes) == 0 {
		scopes = []string{"email"}
		if i.offline {
			scopes = append(scopes, oidc.ScopeOfflineAccess) // for a refresh token (OpenID Connect Core 1.0 section 11)
		}
	}
	if !slices.Contains(scopes, oidc.ScopeOpenID) {
		scopes = append([]string{oidc.ScopeOpenID}, scopes...)
	}
	endpoint := i.Endpoint()
	if p.OIDC.ClientSecret == "" {
		endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client (RFC 6749 section 3.2.1); else both ways are tried
	}
	return &oauth2.Config{
		ClientID: p.OIDC.ClientID, ClientSecret: string(p.OIDC.ClientSecret), Endpoint: endpoint, RedirectURL: callback, Scopes: scopes,
	}
}

// RedeemOIDC opens a session for an app that comes with the code of a sign-in and with the verifier that it began it
// with. method says by whose identity provider. Errors are ErrBadCode, *RefusedError, *TooManyError.
func (s *Service) RedeemOIDC(ctx context.Context, code, verifier, host string, from netip.Addr) (sess Session, token, method string, err error) {
	var tried attempt
	if err := tried.take(s.limits.byAddress, addressKey(from)); err != nil {
		return Session{}, "", "", err
	}
	var g grantedCode
	if err := s.takeFlow(ctx, "code", code, &g); err != nil {
		return Session{}, "", "", err
	}
	method = "provider " + g.Provider
	sum := sha256.Sum256([]byte(verifier))
	if subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(g.Challenge)) != 1 {
		return Session{User: g.User}, "", method, ErrBadCode // and the code is used up
	}
	tried.giveBack()
	u, err := s.Tenants.User(ctx, g.User)
	if errors.Is(err, tenant.ErrNotFound) {
		return Session{}, "", method, ErrBadCode
	} else if err != nil {
		return Session{}, "", method, fmt.Errorf("find user: %w", err)
	}
	req := SignIn{Client: g.Client, Device: g.Device, DeviceName: g.DeviceName, Host: host, Address: from, refresh: Password(g.Refresh)}
	if s.Gate != nil {
		if err := s.Gate(ctx, GateRequest{User: u, Client: req.Client, Host: host, Address: from}); err != nil {
			return Session{User: g.User}, "", method, err
		}
	}
	sess, token, err = s.open(ctx, u, req)
	return sess, token, method, err
}
