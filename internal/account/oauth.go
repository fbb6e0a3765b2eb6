package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

const (
	// spare is how long before its end an access token is not used any more.
	spare = time.Minute
	// unknownLife is how long one is used whose server does not say when it ends (RFC 6749 section 5.1).
	unknownLife = 10 * time.Minute
	// maxGrants bounds the access tokens remembered.
	maxGrants = 50_000
)

// grants remembers users' access tokens until they end, in this process only.
type grants struct {
	mu  sync.Mutex // guards all below
	all map[tenant.UserID]*grant
}

// grant is one user's. Whoever asks the token server for him has the turn: a refresh token that is used twice at
// once may be taken for a stolen one.
type grant struct {
	turn   chan struct{} // room for one; guards all below
	from   string        // the token server and client that gave it
	access Password
	ends   time.Time
	// unsaved is a refresh token that the server gave in place of the kept one, spent, and that could not be kept.
	unsaved, spent Password
}

func (g *grants) of(id tenant.UserID) *grant {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.all[id]
	if one == nil {
		if g.all == nil {
			g.all = map[tenant.UserID]*grant{}
		}
		for other := range g.all { // any: to ask again costs one request
			if len(g.all) < maxGrants {
				break
			}
			delete(g.all, other)
		}
		one = &grant{turn: make(chan struct{}, 1)}
		g.all[id] = one
	}
	return one
}

func (g *grants) drop(id tenant.UserID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.all, id)
}

// PutToken keeps a refresh token, from which Dial makes access tokens at a mail host that asks for them.
func (s *Service) PutToken(ctx context.Context, id tenant.UserID, refresh Password) error {
	defer s.grants.drop(id) // what was made of another one
	return s.keepToken(ctx, id, refresh)
}

func (s *Service) keepToken(ctx context.Context, id tenant.UserID, refresh Password) error {
	sealed := s.Keys.Seal(tokens.owner(id), []byte(refresh))
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := tx.Lock(ctx, passwords.owner(id)); err != nil {
			return err
		}
		return s.keep(ctx, tx, tokens, id, sealed)
	})
	if err != nil {
		return fmt.Errorf("keep refresh token: %w", err)
	}
	return nil
}

// replaceToken keeps a refresh token in place of the one that it was given for. Where that is not kept any more, a sign-in
// brought another one meanwhile, or a sign-out has ended it: neither is undone.
func (s *Service) replaceToken(ctx context.Context, id tenant.UserID, old, next Password) error {
	sealed, ended := s.Keys.Seal(tokens.owner(id), []byte(next)), false
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := tx.Lock(ctx, passwords.owner(id)); err != nil {
			return err
		}
		now, err := s.secretBy(ctx, tx.QueryRow, tokens, id)
		ended = errors.Is(err, ErrNoCredential)
		if ended || err == nil && now != old {
			return nil
		} else if err != nil {
			return err
		}
		return s.keep(ctx, tx, tokens, id, sealed)
	})
	if err != nil {
		return fmt.Errorf("keep refresh token: %w", err)
	}
	if ended {
		s.revokeLater(ctx, id, next)
	}
	return nil
}

// accessToken returns a user's access token, other than bad, and whether it is new. Errors are ErrNoCredential,
// ErrBadLogin when the refresh token is not good any more, and ErrMailServer, wrapped.
func (s *Service) accessToken(ctx context.Context, h tenant.MailHost, u tenant.User, bad Password) (token Password, fresh bool, err error) {
	g := s.grants.of(u.ID)
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return "", false, fmt.Errorf("%w: %w", errTokenServer, ctx.Err())
	}
	from := h.OAuthTokenURL + " " + h.OAuthClientID
	if g.access != "" && g.access != bad && g.from == from && s.Now().Before(g.ends) {
		return g.access, false, nil
	}
	kept, refresh := g.spent, g.unsaved
	if refresh == "" {
		if kept, err = s.secret(ctx, tokens, u.ID); err != nil {
			return "", false, err
		}
		refresh = kept
	}
	got, err := s.refresh(ctx, h, refresh)
	if errors.Is(err, ErrBadLogin) {
		g.unsaved, g.spent = "", ""
		// Another node may have been faster, as the doctor's, or a sign-in brought another one.
		now, failed := s.secret(ctx, tokens, u.ID)
		if failed == nil && now != kept && now != refresh {
			kept, refresh = now, now
			got, err = s.refresh(ctx, h, refresh)
		}
	}
	if err != nil {
		return "", false, err
	}
	g.access, g.from, g.ends = Password(got.AccessToken), from, s.Now().Add(unknownLife)
	if !got.Expiry.IsZero() {
		g.ends = got.Expiry.Add(-spare)
	}
	if next := Password(got.RefreshToken); next != kept {
		// The old one may be void from now on, also for the other nodes: not to be given up for the end of a dial.
		keeping, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		defer cancel()
		g.unsaved, g.spent = "", ""
		if err := s.replaceToken(keeping, u.ID, kept, next); err != nil {
			g.unsaved, g.spent = next, kept
			s.Log.ErrorContext(ctx, "cannot keep a refresh token: it is tried again with the next one", slog.String("account", u.ID.String()), slog.Any("err", err))
		}
	}
	return g.access, true, nil
}

// refresh asks the mail host's token server for an access token (RFC 6749 section 6).
func (s *Service) refresh(ctx context.Context, h tenant.MailHost, refresh Password) (*oauth2.Token, error) {
	up, err := s.upstreams.of(h)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errTokenServer, err)
	}
	styles := []oauth2.AuthStyle{oauth2.AuthStyleInParams, oauth2.AuthStyleInHeader}
	switch {
	case h.OAuthClientSecret == "":
		styles = styles[:1] // a public client (RFC 6749 section 3.2.1)
	case up.basic.Load():
		slices.Reverse(styles)
	}
	var token *oauth2.Token
	for _, style := range styles {
		token, err = askToken(ctx, h, up, refresh, style)
		if refused, ok := errors.AsType[*oauth2.RetrieveError](err); !ok || refused.ErrorCode != "invalid_client" {
			up.basic.Store(style == oauth2.AuthStyleInHeader)
			break
		}
	}
	if err == nil {
		if !isToken(token.AccessToken) {
			return nil, fmt.Errorf("%w: what it gives is none", errTokenServer)
		}
		return token, nil
	}
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return nil, fmt.Errorf("%w: %w", errTokenServer, err)
	}
	// Of the answer only what RFC 6749 section 5.2 names, and what OpenID Connect Core 1.0 section 3.1.2.6 adds of the
	// user: the rest may repeat what was sent.
	code, status := refused.ErrorCode, refused.Response.StatusCode
	if status < 500 {
		switch code {
		case "invalid_grant", "interaction_required", "login_required", "consent_required":
			return nil, fmt.Errorf("%w: the token server says %s", ErrBadLogin, code)
		case "invalid_client", "unauthorized_client", "invalid_scope", "unsupported_grant_type", "invalid_request":
			return nil, fmt.Errorf("%w: it says %s", errTokenClient, code)
		}
	}
	return nil, fmt.Errorf("%w: it answers %d", errTokenServer, status)
}

// isToken tells an access token (RFC 6750 section 2.1) from what holds a space, or would end a line of IMAP.
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// askToken makes one request. A server need not take the client's secret in both places (RFC 6749 section 2.3.1).
func askToken(ctx context.Context, h tenant.MailHost, up *upstream, refresh Password, style oauth2.AuthStyle) (*oauth2.Token, error) {
	// oauth2.Config would leave the scope away. A refresh is the same request as that of client credentials but for
	// what it presents.
	conf := clientcredentials.Config{
		ClientID: h.OAuthClientID, ClientSecret: string(h.OAuthClientSecret), TokenURL: h.OAuthTokenURL, Scopes: strings.Fields(h.OAuthScope),
		EndpointParams: url.Values{"grant_type": {"refresh_token"}, "refresh_token": {string(refresh)}},
		AuthStyle:      style,
	}
	return conf.Token(context.WithValue(ctx, oauth2.HTTPClient, up.token))
}
