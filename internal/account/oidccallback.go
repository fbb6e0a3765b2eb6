package account

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// ErrIdentityProvider says that an identity provider cannot be asked, or that what it says is not good.
var ErrIdentityProvider = errors.New("the identity provider cannot be asked")

// OIDCCallback is what a browser brings back from an identity provider.
type OIDCCallback struct {
	Provider string // of the path
	State    string
	Code     string
	Issuer   string // the parameter iss (RFC 9207)
	Error    string // the identity provider's own
	Address  netip.Addr
}

// OIDCEnd is how a sign-in at an identity provider ended.
type OIDCEnd struct {
	// Redirect is where the browser goes: to the app, with a code or with an error; or to the identity provider once
	// more, for the user's consent. It is "" when nobody knows which app it was.
	Redirect string
	// User is who it was, if that is known; Client is the app.
	User             tenant.UserID
	Provider, Client string
	// Err is nil when the app has a code now, or the user is asked once more; else a *FlowError, or ErrBadCode without Redirect.
	Err error
}

// FlowError is why a sign-in at an identity provider ended without a code.
type FlowError struct {
	// Code is that of RFC 6749 section 4.1.2.1, for the app.
	Code string
	// Detail is for people, and says nothing that an attacker does not know.
	Detail string
	// Cause is for the log.
	Cause error
}

func (e *FlowError) Error() string { return e.Detail }

// Unwrap is the cause.
func (e *FlowError) Unwrap() error { return e.Cause }

func denied(detail string) *FlowError { return &FlowError{Code: "access_denied", Detail: detail} }

func broken(detail string, cause error) *FlowError {
	return &FlowError{Code: "server_error", Detail: detail, Cause: cause}
}

// FinishOIDC takes what a browser brings back. It works on any node, once for each state.
func (s *Service) FinishOIDC(ctx context.Context, cb OIDCCallback) OIDCEnd {
	end := OIDCEnd{Provider: cb.Provider}
	var f flow
	if err := s.takeFlow(ctx, "state", cb.State, &f); err != nil {
		end.Err = err
		return end
	}
	end.Provider, end.Client = f.Provider, f.Client
	answer := url.Values{}
	if f.State != "" {
		answer.Set("state", f.State)
	}
	g, user, err := s.proveOIDC(ctx, cb, f)
	end.User = user
	var code string
	if errors.Is(err, errNoGrant) && !f.Consent {
		// Identity providers that are strict (OpenID Connect Core 1.0 section 11), or gave a refresh token before, want
		// the user's consent for one. Others may forbid to ask for it, so it is not asked for at once.
		f.Consent = true
		if end.Redirect, err = s.again(ctx, f); err == nil {
			return end
		}
	}
	if err == nil {
		code, err = s.putFlow(ctx, "code", g, codeLife)
	}
	if err == nil {
		answer.Set("code", code)
	} else {
		failed, ok := errors.AsType[*FlowError](err)
		if !ok {
			failed = broken("this is our fault; the server's log says more", err)
		}
		if failed.Cause != nil {
			s.Log.WarnContext(ctx, "sign-in at the identity provider failed", slog.String("provider", f.Provider), slog.Any("err", failed.Cause))
		}
		end.Err = failed
		answer.Set("error", failed.Code)
		answer.Set("error_description", failed.Detail)
	}
	end.Redirect = withQuery(f.RedirectURI, answer)
	return end
}

// again sends a user back to his identity provider.
func (s *Service) again(ctx context.Context, f flow) (authorizationURL string, err error) {
	p, err := s.oidcProvider(ctx, f.Provider)
	if err != nil {
		return "", err
	}
	is, err := s.issuers.of(ctx, s, f.Issuer)
	if err != nil {
		return "", err
	}
	return s.askUser(ctx, is, p, f)
}

// withQuery adds to the query that an address may have.
func withQuery(uri string, more url.Values) string {
	u, err := url.Parse(uri)
	if err != nil { // it was one when the sign-in began
		return ""
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += more.Encode()
	return u.String()
}

// proveOIDC has the identity provider say who the user is. Errors are *FlowError, and what is our own fault.
func (s *Service) proveOIDC(ctx context.Context, cb OIDCCallback, f flow) (g grantedCode, user tenant.UserID, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	if cb.Provider != f.Provider {
		return g, user, denied("the answer came back as if from another identity provider")
	}
	p, err := s.oidcProvider(ctx, f.Provider)
	if _, ok := errors.AsType[*tenant.InvalidError](err); ok || err == nil && (p.OIDC.Issuer != f.Issuer || p.OIDC.ClientID != f.ClientID) {
		return g, user, denied("the provider's sign-in was changed meanwhile: begin again")
	} else if err != nil {
		return g, user, err
	}
	is, err := s.issuers.of(ctx, s, f.Issuer)
	if err != nil {
		return g, user, broken("the identity provider cannot be asked now", err)
	}
	switch {
	case cb.Issuer != "" && cb.Issuer != f.Issuer, cb.Issuer == "" && is.names:
		return g, user, denied("the answer does not name the identity provider that was asked")
	case cb.Error != "":
		return g, user, refusedBy(cb.Error)
	case cb.Code == "":
		return g, user, broken("the identity provider gave no code", nil)
	}
	token, err := is.config(p, f.Callback).Exchange(oidc.ClientContext(ctx, s.Outbound), cb.Code, oauth2.VerifierOption(f.Verifier))
	if err != nil {
		return g, user, broken("the identity provider did not take the code", exchangeFault(err))
	}
	login, err := s.loginOf(ctx, is, p, token, f.Nonce)
	if err != nil {
		return g, user, err
	}
	u, err := s.userOf(ctx, p, login)
	if err != nil {
		return g, user, err
	}
	if err := s.tryMailbox(ctx, p, u, token); err != nil {
		return g, u.ID, err
	}
	return grantedCode{
		User: u.ID, Provider: p.Name, Client: f.Client, Device: f.Device, DeviceName: f.DeviceName, Challenge: f.Challenge, Refresh: token.RefreshToken,
	}, u.ID, nil
}

// refusedBy passes the identity provider's own word on, if it is one of RFC 6749 or OpenID Connect Core 1.0.
func refusedBy(code string) *FlowError {
	switch code {
	case "access_denied", "login_required", "consent_required", "interaction_required", "account_selection_required":
		return denied("the identity provider did not sign you in")
	case "temporarily_unavailable":
		return &FlowError{Code: code, Detail: "the identity provider cannot sign you in now"}
	}
	if len(code) > 64 {
		code = code[:64]
	}
	return broken("the identity provider refused the request", fmt.Errorf("%w: it says %q", ErrIdentityProvider, code))
}

// exchangeFault keeps of a token endpoint's answer only what RFC 6749 section 5.2 names: the rest may repeat what
// was sent.
func exchangeFault(err error) error {
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		return fmt.Errorf("%w: the token endpoint answers %d %.64q", ErrIdentityProvider, refused.Response.StatusCode, refused.ErrorCode)
	}
	return fmt.Errorf("%w: %w", ErrIdentityProvider, err)
}

// notGood is what a user is told of what an attacker may have made.
const notGood = "what the identity provider says of you is not good"

// loginOf returns the login that an ID token proves.
func (s *Service) loginOf(ctx context.Context, is *issuer, p tenant.Provider, token *oauth2.Token, nonce string) (login string, err error) {
	claims, err := s.verifyIDToken(ctx, is, p, token, nonce)
	if err != nil {
		return "", broken(notGood, fmt.Errorf("%w: %w", ErrIdentityProvider, err))
	}
	name, from := p.OIDC.LoginClaim, "ID token"
	if _, told := claims[name]; !told && is.UserInfoEndpoint() != "" {
		// Where there is an access token, the claims of a scope may be there only (OpenID Connect Core 1.0 section 5.4).
		if claims, err = s.userInfo(ctx, is, token, claims["sub"]); err != nil {
			return "", broken("the identity provider does not say who you are", fmt.Errorf("%w: %w", ErrIdentityProvider, err))
		}
		from = "ID token or userinfo"
	}
	login, _ = claims[name].(string)
	// Some say it in a text.
	if verified, told := claims["email_verified"]; name == "email" && told && verified != true && verified != "true" {
		return "", denied("the identity provider has not verified your address")
	}
	if tenant.CheckLogin(login) != nil {
		return "", broken(notGood, fmt.Errorf("%w: the %s has no claim %q that is a login", ErrIdentityProvider, from, name))
	}
	return login, nil
}

// verifyIDToken returns what an ID token claims, if it is good (OpenID Connect Core 1.0 section 3.1.3.7).
func (s *Service) verifyIDToken(ctx context.Context, is *issuer, p tenant.Provider, token *oauth2.Token, nonce string) (claims map[string]any, err error) {
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return nil, errors.New("there is no ID token")
	}
	id, err := is.Verifier(&oidc.Config{ClientID: p.OIDC.ClientID, Now: s.Now}).Verify(ctx, raw)
	if err != nil {
		return nil, err
	}
	if err := id.Claims(&claims); err != nil {
		return nil, err
	}
	azp, named := claims["azp"]
	switch {
	case subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1:
		err = errors.New("the nonce is another one")
	case named && azp != p.OIDC.ClientID, !named && len(id.Audience) > 1:
		err = errors.New("it was given to another client")
	case id.AccessTokenHash != "":
		err = id.VerifyAccessToken(token.AccessToken)
	}
	if err != nil {
		return nil, fmt.Errorf("the ID token is not good: %w", err)
	}
	return claims, nil
}

// userInfo asks for the claims of the subject that an ID token named.
func (s *Service) userInfo(ctx context.Context, is *issuer, token *oauth2.Token, subject any) (claims map[string]any, err error) {
	info, err := is.UserInfo(oidc.ClientContext(ctx, s.Outbound), oauth2.StaticTokenSource(token))
	if err != nil {
		return nil, fmt.Errorf("ask for userinfo: %w", brief(err, token.AccessToken))
	}
	if info.Subject == "" || info.Subject != subject { // section 5.3.2
		return nil, errors.New("userinfo is of another subject than the ID token")
	}
	if err := info.Claims(&claims); err != nil {
		return nil, fmt.Errorf("read userinfo: %w", err)
	}
	return claims, nil
}

// brief makes of an error that repeats an answer one that fits into the log, without the secret that was sent.
func brief(err error, secret string) error {
	const most = 300
	text := err.Error()
	switch {
	case secret != "" && strings.Contains(text, secret):
		return errors.New("its answer is withheld: it repeats what was sent")
	case len(text) > most:
		return fmt.Errorf("%.*q…", most, text)
	}
	return err
}

// userOf finds the user of a provider that a login means. Whoever may edit a provider names its identity provider, which
// may say anything; so it speaks for users only for whom the operator set this provider, and on its mail hosts.
func (s *Service) userOf(ctx context.Context, p tenant.Provider, login string) (tenant.User, error) {
	users, err := s.Tenants.UsersByLogin(ctx, login)
	if err != nil {
		return tenant.User{}, fmt.Errorf("find user: %w", err)
	}
	users = slices.DeleteFunc(users, func(u tenant.User) bool { return !slices.Contains(p.MailHosts, u.MailHost) })
	var theirs []tenant.User
	for _, u := range users {
		own, ok, err := s.Tenants.ProviderOf(ctx, u.ID)
		if err != nil {
			return tenant.User{}, fmt.Errorf("find provider: %w", err)
		}
		if ok && own.Name == p.Name {
			theirs = append(theirs, u)
		}
	}
	switch len(theirs) {
	case 1:
		return theirs[0], nil
	case 0:
		return tenant.User{}, &FlowError{Code: "access_denied", Detail: "your provider has no such user here: ask whoever set it up", Cause: fmt.Errorf(
			"no user of provider %s on its mail hosts has the login that the ID token names (%d on its mail hosts have another provider)", p.Name, len(users))}
	}
	return tenant.User{}, denied("this login exists on several mail hosts of the provider")
}

// errNoGrant: the listeners could not go on.
var errNoGrant = errors.New("the identity provider gave no refresh token: it may want the scope offline_access, or a setting of the client")

// tryMailbox signs in with the access token at a mail host whose listeners will do so.
func (s *Service) tryMailbox(ctx context.Context, p tenant.Provider, u tenant.User, token *oauth2.Token) error {
	h, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return fmt.Errorf("find mail host: %w", err)
	}
	if h.PasswordSource != tenant.PasswordsOAuth {
		return nil
	}
	if h.OAuthClientID != p.OIDC.ClientID { // a refresh token is bound to the client that it was given to
		return broken("the mail server is not set up for this sign-in", fmt.Errorf(
			"mail host %s has the oauth client %q, and provider %s the client %q: they must be the same", h.Name, h.OAuthClientID, p.Name, p.OIDC.ClientID))
	}
	if token.RefreshToken == "" {
		return broken("the identity provider gave no lasting access to your mail", fmt.Errorf("provider %s: %w", p.Name, errNoGrant))
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := s.connect(ctx, h, func(c *imap.Client) error { return c.LoginToken(ctx, u.Login, token.AccessToken) })
	switch {
	case errors.Is(err, ErrBadLogin):
		return &FlowError{Code: "access_denied", Detail: "the mail server does not take the identity provider's word for you", Cause: fmt.Errorf("mail host %s: %w", h.Name, err)}
	case err != nil:
		return &FlowError{Code: "temporarily_unavailable", Detail: "the mail server cannot be asked now", Cause: err}
	}
	leaving, leave := context.WithTimeout(ctx, logoutTimeout)
	defer leave()
	_ = c.Logout(leaving)
	return nil
}
