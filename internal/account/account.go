// Package account is a user's way in: sign-in against the mail server, sessions, and the sealed mail
// password or token that listeners need.
//
// It never decides whether a password is right: the user's IMAP server does. Session tokens and
// device secrets are kept as hashes, mail passwords sealed for their owner; nothing here logs them.
//
// A Service is safe for concurrent use. Methods that dial the mail server last as long as it takes
// to answer, at most dialTimeout, and end with their context.
package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Errors of sign-in and of reaching the mailbox.
var (
	// ErrBadLogin: the mail server refused the login, or nobody here has it. The two are not told apart.
	ErrBadLogin = errors.New("login or password is wrong")
	// ErrMailServer: the mail server could not be asked.
	ErrMailServer = errors.New("the mail server cannot be reached")
	// ErrNoCredential: no password is stored for the user; a sign-in stores one.
	ErrNoCredential = errors.New("no stored password: the user must sign in again")
	// ErrNoSession: the token belongs to no session, or to one that has ended.
	ErrNoSession = errors.New("session is not valid")
)

// TooManyError says that a login or an address has to wait.
type TooManyError struct{ RetryAfter time.Duration }

func (e *TooManyError) Error() string { return "too many sign-in attempts" }

// Password is a mail password. It cannot be logged or formatted.
type Password string

// LogValue keeps the password out of logs.
func (Password) LogValue() slog.Value { return slog.StringValue("[password redacted]") }

// Format keeps the password out of formatted text, whatever the verb.
func (Password) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[password redacted]") }

// MarshalText keeps the password out of JSON, as part of a logged value too.
func (Password) MarshalText() ([]byte, error) { return []byte("[password redacted]"), nil }

// Config is what a Service is made of. Every field is needed, but Memory only for StoreMemory.
type Config struct {
	// Store is where what listeners sign in with is kept; "" is StoreDatabase.
	Store   string
	Memory  *bus.Memory
	DB      *db.DB
	Keys    *seal.Keyring
	Tenants *tenant.Store
	Log     *slog.Logger
	Now     func() time.Time
	// SessionLifetime is how long a session lives from sign-in.
	SessionLifetime time.Duration
	// MaxSessions bounds a user's sessions; the oldest give way.
	MaxSessions int
	// AttemptsPerLogin and AttemptsPerAddress bound failed sign-ins within Window.
	AttemptsPerLogin, AttemptsPerAddress int
	Window                               time.Duration
}

// Service signs users in and opens their mailboxes.
type Service struct {
	Config
	byLogin, byAddress *limiter
	passing            passing // what StoreNone keeps for a while
}

// New returns a Service.
func New(c Config) *Service {
	return &Service{
		Config:    c,
		byLogin:   newLimiter(c.AttemptsPerLogin, c.Window, c.Now),
		byAddress: newLimiter(c.AttemptsPerAddress, c.Window, c.Now),
	}
}

const (
	// dialTimeout bounds connect, TLS and login together. Dovecot delays a refusal by 2 s, and after
	// refusals to an address any login from there by up to 15 s more.
	dialTimeout = 20 * time.Second
	// logoutTimeout bounds the goodbye to a server that has already said what we wanted to know.
	logoutTimeout = time.Second
	// failureFloor is how early a refused sign-in may be answered. It hides whether the mail server was
	// asked, and so whether a login exists.
	failureFloor = 2500 * time.Millisecond
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
	case errors.Is(err, ErrMailServer):
		return "the mail server cannot be reached; it is tried again"
	}
	return "the stored password cannot be read: the operator finds the cause in the log"
}

// Dial connects to the user's mail server and logs in with what is kept of him. Errors are
// ErrNoCredential, ErrBadLogin and ErrMailServer, wrapped, or seal.ErrOpen for a damaged store.
func (s *Service) Dial(ctx context.Context, u tenant.User) (*imap.Client, error) {
	password, err := s.secret(ctx, passwords, u.ID)
	if err != nil {
		return nil, err
	}
	return s.dial(ctx, u, password, netip.Addr{})
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
	_, err = s.kept(ctx, k, u.ID)
	if errors.Is(err, ErrNoCredential) {
		return false, nil
	}
	return err == nil, err
}

// dial logs a user in. from is the device's address, if one asks.
func (s *Service) dial(ctx context.Context, u tenant.User, password Password, from netip.Addr) (*imap.Client, error) {
	h, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return nil, err
	}
	conf := imap.Config{Host: h.IMAPHost, Port: h.IMAPPort, Security: h.Security, Insecure: h.Insecure}
	if h.CA != "" {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM([]byte(h.CA))
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := imap.Dial(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMailServer, err)
	}
	if from.IsValid() && c.Has("ID") {
		// Dovecot counts a wrong password against this address instead of ours, and logs it, if its
		// login_trusted_networks has ours. Others take no notice. A broken connection shows at the login.
		_, _ = c.ID(ctx, map[string]string{"name": "Posthorn", "x-originating-ip": from.Unmap().WithZone("").String()})
	}
	if err := c.Login(ctx, u.Login, string(password)); err != nil {
		c.Close()
		if errors.Is(err, imap.ErrAuth) {
			return nil, fmt.Errorf("%w: %w", ErrBadLogin, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrMailServer, err)
	}
	return c, nil
}

// newToken returns a bearer token of 256 random bits and the hash that is kept of it.
func newToken() (token, hash string) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	token = "ph_" + base64.RawURLEncoding.EncodeToString(b[:])
	return token, hashOf("token", token)
}

// hashOf hashes a random secret for look-up; purpose keeps hashes of different kinds apart.
func hashOf(purpose, secret string) string {
	sum := sha256.Sum256([]byte(purpose + "\x00" + secret))
	return hex.EncodeToString(sum[:])
}
