// Package account is a user's way in: sign-in against the mail server or at an identity provider, sessions, and
// the sealed mail password or token that listeners need.
//
// It never decides whether a password is right: the user's IMAP server does; nor who somebody is elsewhere: an
// identity provider does, for the users of its provider. Who guesses is held up (see limits). Session tokens and
// device secrets are kept as hashes, mail passwords sealed for their owner; nothing here logs them.
//
// A Service is safe for concurrent use. Methods that dial the mail server last as long as it takes
// to answer, at most dialTimeout, and end with their context.
package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/db"
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
type TooManyError struct {
	RetryAfter time.Duration
	// Again: the same was said to this network within the last minute.
	Again bool
}

func (e *TooManyError) Error() string { return "too many sign-in attempts" }

// Password is a mail password. It cannot be logged or formatted.
type Password string

// LogValue keeps the password out of logs.
func (Password) LogValue() slog.Value { return slog.StringValue("[password redacted]") }

// Format keeps the password out of formatted text, whatever the verb.
func (Password) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[password redacted]") }

// MarshalText keeps the password out of JSON, as part of a logged value too.
func (Password) MarshalText() ([]byte, error) { return []byte("[password redacted]"), nil }

// Config is what a Service is made of. Every field is needed, but Memory only for StoreMemory, and those from
// Outbound on only for identity providers; without a Gate everybody may sign in who can.
type Config struct {
	// Store is where what listeners sign in with is kept; "" is StoreDatabase.
	Store   string
	Memory  *bus.Memory
	DB      *db.DB
	Keys    *seal.Keyring
	Tenants *tenant.Store
	Log     *slog.Logger
	Now     func() time.Time
	// AttemptsPerLogin and AttemptsPerAddress bound failed sign-ins within Window; see limits.
	AttemptsPerLogin, AttemptsPerAddress int
	Window                               time.Duration
	// Outbound is how identity providers are asked: providers name them.
	Outbound *http.Client
	// PublicURL is the origin at which providers are reached that have none of their own; "" when there is none.
	PublicURL string
	// RedirectURIs are where a user may be sent after a sign-in at an identity provider.
	RedirectURIs []string
	// Gate is asked after a user has proved who he is, and before he has a session. It refuses with a *RefusedError.
	Gate func(ctx context.Context, req GateRequest) error
}

// Service signs users in and opens their mailboxes. While Run runs, refresh tokens that are forgotten are revoked, too.
type Service struct {
	Config
	limits        limits
	keysByAddress *limiter // failed keys of the admin API
	passing       passing  // what StoreNone keeps for a while
	upstreams     upstreams
	grants        grants
	issuers       issuers
	revocations   chan *revocation
	floors        atomic.Int64 // see refusedAt
}

// New returns a Service.
func New(c Config) *Service {
	return &Service{
		Config: c, limits: newLimits(c), keysByAddress: newLimiter(c.AttemptsPerAddress, c.Window, c.Now),
		revocations: make(chan *revocation, maxRevocations),
	}
}

// failureFloor is how early a refused sign-in may be answered, and the unit in which it is. It hides whether the mail
// server was asked, and so whether a login exists.
const failureFloor = 2500 * time.Millisecond

// newToken returns a bearer token of 256 random bits and the hash that is kept of it.
func newToken() (token, hash string) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return token, hashOf("token", token)
}

const tokenPrefix = "ph_"

// hashOf hashes a random secret for look-up; purpose keeps hashes of different kinds apart.
func hashOf(purpose, secret string) string {
	sum := sha256.Sum256([]byte(purpose + "\x00" + secret))
	return hex.EncodeToString(sum[:])
}
