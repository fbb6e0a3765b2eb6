package account

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

const (
	// dialTimeout bounds connect, TLS and login together. Dovecot delays a refusal by 2 s, and after
	// refusals to an address any login from there by up to 15 s more.
	dialTimeout = 20 * time.Second
	// logoutTimeout bounds the goodbye to a server that has already said what we wanted to know.
	logoutTimeout = time.Second
)

// Faults that no user can mend by signing in. They wrap ErrMailServer, so nobody takes them for a rejected
// password.
var (
	errMaster      = fmt.Errorf("%w: it rejects the master user", ErrMailServer)
	errTokenServer = fmt.Errorf("%w: the token server gives no access token", ErrMailServer)
	errTokenClient = fmt.Errorf("%w: the token server rejects Posthorn", ErrMailServer)
	// errUnanswered: the mail server was shown a password, and said nothing of it.
	errUnanswered = fmt.Errorf("%w: it did not answer a login", ErrMailServer)
)

// Reason says in a sentence, for the operator, why Dial could not sign in.
func Reason(err error) string {
	switch {
	case errors.Is(err, ErrNoCredential):
		return "waiting for sign-in: no password is stored"
	case errors.Is(err, ErrBadLogin):
		return "the mail server rejects the stored password: the user must sign in again"
	case errors.Is(err, imap.ErrInsecure):
		return "the connection to the mail server is not safe enough for a password"
	case errors.Is(err, errMaster):
		return "the mail server rejects the master user for this user; it is tried again"
	case errors.Is(err, errTokenClient):
		return "the token server rejects Posthorn's client id, secret or scope; it is tried again"
	case errors.Is(err, errTokenServer):
		return "the token server gives no access token; it is tried again"
	case errors.Is(err, imap.ErrUnsupported):
		return "the mail server does not offer the way of signing in that its password source needs"
	case errors.Is(err, ErrMailServer):
		return "the mail server cannot be reached; it is tried again"
	}
	return "the stored password cannot be read: the operator finds the cause in the log"
}

// Dial connects to the user's mail server and signs in by what its password source is: the user's password, the
// master user, or an access token. Errors are ErrNoCredential, ErrBadLogin and ErrMailServer, wrapped, or
// seal.ErrOpen for a damaged store. ErrBadLogin is a verdict on what is kept of this user, and on nothing else.
func (s *Service) Dial(ctx context.Context, u tenant.User) (*imap.Client, error) {
	h, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	switch h.PasswordSource {
	case tenant.PasswordsGlobal:
		c, err := s.connect(ctx, h, func(c *imap.Client) error {
			return c.LoginAs(ctx, u.Login, h.MasterLogin, string(h.MasterPassword))
		})
		if errors.Is(err, ErrBadLogin) {
			return nil, fmt.Errorf("%w: %v", errMaster, err) //nolint:errorlint // no verdict on the user
		}
		return c, err
	case tenant.PasswordsOAuth:
		return s.dialByToken(ctx, h, u)
	}
	password, err := s.secret(ctx, passwords, u.ID)
	if err != nil {
		return nil, err
	}
	return s.connect(ctx, h, func(c *imap.Client) error { return c.Login(ctx, u.Login, string(password)) })
}

// dialByToken signs in with an access token. One that was good a while ago may have been revoked: then a new one
// is tried.
func (s *Service) dialByToken(ctx context.Context, h tenant.MailHost, u tenant.User) (*imap.Client, error) {
	token, fresh, err := s.accessToken(ctx, h, u, "")
	for err == nil {
		var c *imap.Client
		c, err = s.connect(ctx, h, func(c *imap.Client) error { return c.LoginToken(ctx, u.Login, string(token)) })
		if err == nil || fresh || !errors.Is(err, ErrBadLogin) {
			return c, err
		}
		token, fresh, err = s.accessToken(ctx, h, u, token)
	}
	return nil, err
}

// CanDial reports whether there is anything to sign in with, without trying it.
func (s *Service) CanDial(ctx context.Context, u tenant.User) (bool, error) {
	h, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return false, err
	}
	k := passwords
	switch h.PasswordSource {
	case tenant.PasswordsGlobal:
		return true, nil
	case tenant.PasswordsOAuth:
		k = tokens
	}
	_, err = s.kept(ctx, s.DB.QueryRow, k, u.ID)
	if errors.Is(err, ErrNoCredential) {
		return false, nil
	}
	return err == nil, err
}

// check logs a user in with the password that his device sent from an address.
func (s *Service) check(ctx context.Context, u tenant.User, password Password, from netip.Addr) (*imap.Client, error) {
	h, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	shown := false
	c, err := s.connect(ctx, h, func(c *imap.Client) error {
		if from.IsValid() && c.Has("ID") {
			// Dovecot counts a wrong password against this address instead of ours, and logs it, if its
			// login_trusted_networks has ours. Others take no notice. A broken connection shows at the login.
			_, _ = c.ID(ctx, map[string]string{"name": "Posthorn", "x-originating-ip": from.Unmap().WithZone("").String()})
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		err := c.Login(ctx, u.Login, string(password))
		// A BYE may be how a server says no.
		said, ok := errors.AsType[*imap.ResponseError](err)
		shown = err != nil && (!ok || said.Status == "BYE") && !errors.Is(err, imap.ErrInsecure) && !errors.Is(err, imap.ErrUnsupported)
		return err
	})
	if shown && !errors.Is(err, ErrBadLogin) {
		return nil, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	return c, err
}

// connect connects to a mail host and logs in.
func (s *Service) connect(ctx context.Context, h tenant.MailHost, login func(*imap.Client) error) (*imap.Client, error) {
	up, err := s.upstreams.of(h)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMailServer, err)
	}
	c, err := up.imap.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMailServer, err)
	}
	if err := login(c); err != nil {
		c.Close()
		if errors.Is(err, imap.ErrAuth) {
			return nil, fmt.Errorf("%w: %w", ErrBadLogin, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrMailServer, err)
	}
	return c, nil
}

// upstreams keeps what connections to a mail host share: parsed certificates, TLS sessions, idle connections to
// its token server.
type upstreams struct {
	mu  sync.Mutex // guards all below
	all map[string]*upstream
}

type upstream struct {
	made  tenant.MailHost // whom it is for: only what matters to connections
	imap  *imap.Server
	token *http.Client
	basic atomic.Bool // the token server wants the client's secret in the header
}

// of returns what there is for a mail host, made anew when that has changed.
func (us *upstreams) of(h tenant.MailHost) (*upstream, error) {
	us.mu.Lock()
	defer us.mu.Unlock()
	old := us.all[h.Name]
	if old != nil && old.made.IMAPHost == h.IMAPHost && old.made.IMAPPort == h.IMAPPort && old.made.Security == h.Security &&
		old.made.Insecure == h.Insecure && old.made.CA == h.CA {
		return old, nil
	}
	made, err := newUpstream(h)
	if err != nil {
		return nil, err
	}
	if old != nil {
		old.token.CloseIdleConnections()
	}
	if us.all == nil {
		us.all = map[string]*upstream{}
	}
	us.all[h.Name] = made
	return made, nil
}

func newUpstream(h tenant.MailHost) (*upstream, error) {
	conf := imap.Config{Host: h.IMAPHost, Port: h.IMAPPort, Security: h.Security, Insecure: h.Insecure}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if h.CA != "" {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM([]byte(h.CA))
		// The token server may be the operator's own or a public one.
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("read the system's certificates: %w", err)
		}
		pool.AppendCertsFromPEM([]byte(h.CA))
		transport.TLSClientConfig.RootCAs = pool
	}
	server, err := imap.NewServer(conf)
	if err != nil {
		return nil, err
	}
	return &upstream{made: h, imap: server, token: &http.Client{
		Transport: transport,
		// What is posted there is a secret of that address.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}
