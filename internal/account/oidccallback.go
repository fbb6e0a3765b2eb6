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
	// Redirect is where the browser goes: to the app, with a code or with an error. It is "" when nobody knows which
	// app it was.
	Redirect string
	// User is who it was, if that is known; Client is the app.
	User             tenant.UserID
	Provider, Client string
	// Err is nil when the app has a code now; else a *FlowError, or ErrBadCode without Redirect.
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
	login, err := verifyIDToken(ctx, s, is, p, token, f.Nonce)
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

// verifyIDToken returns the login that an ID token proves (OpenID Connect Core 1.0 section 3.1.3.7).
func verifyIDToken(ctx context.Context, s *Service, is *issuer, p tenant.Provider, token *oauth2.Token, nonce string) (login string, err error) {
	const detail = "what the identity provider says of you is not good"
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return "", broken(detail, fmt.Errorf("%w: there is no ID token", ErrIdentityProvider))
	}
	id, err := is.Verifier(&oidc.Config{ClientID: p.OIDC.ClientID, Now: s.Now}).Verify(ctx, raw)
	if err != nil {
		return "", broken(detail, fmt.Errorf("%w: %w", ErrIdentityProvider, err))
	}
	var claims map[string]any
	if err := id.Claims(&claims); err != nil {
		return "", broken(detail, fmt.Errorf("%w: %w", ErrIdentityProvider, err))
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
		return "", broken(detail, fmt.Errorf("%w: the ID token is not good: %w", ErrIdentityProvider, err))
	}
	login, _ = claims[p.OIDC.LoginClaim].(string)
	if verified, told := claims["email_verified"]; p.OIDC.LoginClaim == "email" && told && verified != true {
		return "", denied("the identity provider has not verified your address")
	}
	if tenant.CheckLogin(login) != nil {
		return "", broken(detail, fmt.Errorf("%w: the ID token has no claim %q that is a login", ErrIdentityProvider, p.OIDC.LoginClaim))
	}
	return login, nil
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
		return broken("the identity provider gave no lasting access to your mail", fmt.Errorf(
			"provider %s: the identity provider gave no refresh token: it may want the scope offline_access, or a setting of the client", p.Name))
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
