package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
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
	// unsaved is a refresh token that the server gave in place of the kept one, and that could not be kept.
	unsaved Password
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
	refresh := g.unsaved
	if refresh == "" {
		if refresh, err = s.secret(ctx, tokens, u.ID); err != nil {
			return "", false, err
		}
	}
	got, err := s.refresh(ctx, h, refresh)
	if err != nil {
		if errors.Is(err, ErrBadLogin) {
			g.unsaved = "" // a sign-in may have brought another one
		}
		return "", false, err
	}
	g.access, g.from, g.ends = Password(got.AccessToken), from, s.Now().Add(unknownLife)
	if !got.Expiry.IsZero() {
		g.ends = got.Expiry.Add(-spare)
	}
	if next := Password(got.RefreshToken); next != refresh || g.unsaved != "" {
		// The old one may be void from now on, also for the other nodes: not to be given up for the end of a dial.
		keeping, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		defer cancel()
		g.unsaved = ""
		if err := s.keepToken(keeping, u.ID, next); err != nil {
			g.unsaved = next
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
	// oauth2.Config would leave the scope away. A refresh is the same request as that of client credentials but for
	// what it presents.
	conf := clientcredentials.Config{
		ClientID: h.OAuthClientID, ClientSecret: string(h.OAuthClientSecret), TokenURL: h.OAuthTokenURL, Scopes: strings.Fields(h.OAuthScope),
		EndpointParams: url.Values{"grant_type": {"refresh_token"}, "refresh_token": {string(refresh)}},
		AuthStyle:      oauth2.AuthStyleInParams,
	}
	token, err := conf.Token(context.WithValue(ctx, oauth2.HTTPClient, up.token))
	if err == nil {
		// RFC 6750 section 2.1: no space, and nothing that would end a line of IMAP.
		if strings.ContainsFunc(token.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("%w: what it gives is none", errTokenServer)
		}
		return token, nil
	}
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return nil, fmt.Errorf("%w: %w", errTokenServer, err)
	}
	// Of the answer only what RFC 6749 section 5.2 names: the rest may repeat what was sent.
	code, status := refused.ErrorCode, refused.Response.StatusCode
	switch {
	case code == "invalid_grant" && status < 500:
		return nil, fmt.Errorf("%w: the token server says invalid_grant", ErrBadLogin)
	case status < 500 && (code == "invalid_client" || code == "unauthorized_client" || code == "invalid_scope" ||
		code == "unsupported_grant_type" || code == "invalid_request"):
		return nil, fmt.Errorf("%w: it says %s", errTokenClient, code)
	}
	return nil, fmt.Errorf("%w: it answers %d", errTokenServer, status)
}
