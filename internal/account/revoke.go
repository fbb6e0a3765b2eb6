package account

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

const (
	// maxRevocations bounds the refresh tokens that wait to be revoked, and revokers how many are at once.
	maxRevocations = 1000
	revokers       = 4
	// revokeTimeout bounds one of them, and what is done at the end.
	revokeTimeout = 5 * time.Second
)

// revocation is a refresh token that nobody needs any more.
type revocation struct {
	host  tenant.MailHost // as it was then
	user  tenant.UserID
	token Password
}

// revokeLater has a user's refresh token revoked where it is from (RFC 7009), if that can be done. Nobody waits for it,
// and nothing depends on it: here it is forgotten in any case.
func (s *Service) revokeLater(ctx context.Context, id tenant.UserID, token Password) {
	if token == "" {
		return
	}
	u, err := s.Tenants.User(ctx, id)
	if err != nil {
		return // gone, and with him what says where
	}
	h, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil || h.PasswordSource != tenant.PasswordsOAuth {
		return
	}
	select {
	case s.revocations <- &revocation{host: h, user: id, token: token}:
	default:
		s.Log.WarnContext(ctx, "refresh token not revoked at the identity provider", slog.String("account", id.String()), slog.String("err", "too many are waiting"))
	}
}

// EndGrant has what is kept of a user who is about to be removed revoked.
func (s *Service) EndGrant(ctx context.Context, id tenant.UserID) {
	if token, err := s.secret(ctx, tokens, id); err == nil {
		s.revokeLater(ctx, id, token)
	}
}

// Run revokes refresh tokens until ctx ends; then it does, for a moment, what is left.
func (s *Service) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for range revokers {
		all.Go(func() {
			for {
				select {
				case r := <-s.revocations:
					s.revokeGrant(context.WithoutCancel(ctx), r)
					continue
				case <-ctx.Done():
				}
				break
			}
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
			defer cancel()
			for {
				select {
				case r := <-s.revocations:
					s.revokeGrant(ending, r)
				default:
					return
				}
			}
		})
	}
	all.Wait()
	return nil
}

func (s *Service) revokeGrant(ctx context.Context, r *revocation) {
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	if err := s.tryRevoke(ctx, r); err != nil {
		s.Log.WarnContext(ctx, "refresh token not revoked at the identity provider", slog.String("account", r.user.String()), slog.Any("err", err))
	}
}

// tryRevoke asks the revocation endpoint that the identity provider of the user's provider names. It must be where the
// mail host's token server is, which is shown the token anyway: what is named by others is shown none.
func (s *Service) tryRevoke(ctx context.Context, r *revocation) error {
	p, ok, err := s.Tenants.ProviderOf(ctx, r.user)
	if err != nil || !ok || p.SignIn != tenant.SignInOIDC || p.OIDC.ClientID != r.host.OAuthClientID {
		return err
	}
	is, err := s.issuers.of(ctx, s, p.OIDC.Issuer)
	if err != nil || is.revocation == "" || !sameOrigin(is.revocation, r.host.OAuthTokenURL) {
		return err
	}
	for _, inHeader := range []bool{false, true} {
		status, err := s.postRevocation(ctx, is.revocation, r, inHeader)
		switch {
		case err != nil:
			return err
		case status == http.StatusOK:
			return nil
		case inHeader || r.host.OAuthClientSecret == "" || status != http.StatusUnauthorized && status != http.StatusBadRequest:
			return fmt.Errorf("%w: the revocation endpoint answers %d", ErrIdentityProvider, status)
		}
	}
	return nil
}

// postRevocation is one request (RFC 7009 section 2.1).
func (s *Service) postRevocation(ctx context.Context, endpoint string, r *revocation, inHeader bool) (status int, err error) {
	form := url.Values{"token": {string(r.token)}, "token_type_hint": {"refresh_token"}}
	id, secret := r.host.OAuthClientID, string(r.host.OAuthClientSecret)
	if !inHeader {
		form.Set("client_id", id)
		if secret != "" {
			form.Set("client_secret", secret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, errors.New("its revocation endpoint is no address")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if inHeader {
		req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret)) // RFC 6749 section 2.3.1
	}
	res, err := s.Outbound.Do(req)
	if err != nil {
		return 0, fmt.Errorf("ask the revocation endpoint: %w", err)
	}
	_, _ = io.Copy(io.Discard, res.Body) // bounded by Outbound; the connection is used again
	return res.StatusCode, res.Body.Close()
}

func sameOrigin(a, b string) bool {
	one, err := url.Parse(a)
	if err != nil {
		return false
	}
	other, err := url.Parse(b)
	return err == nil && one.Host != "" && one.User == nil && strings.EqualFold(one.Host, other.Host) && one.Scheme == other.Scheme
}
