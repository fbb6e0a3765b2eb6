// Package push sends the newest state of each device to its provider, and never loses it.
//
// The queue is a table of slots, one per subscription and collapse key. A slot holds the facts of the
// newest state and its version; it is dirty while its version is above the one last sent. A newer
// state replaces an unsent one, so the queue is bounded by devices, not by events. Payloads are
// rendered when they are sent. After a crash a slot in flight is still dirty and is sent again with
// the same ids, so that the provider can drop the repetition.
//
// It does not decide who hears of what (dispatch), nor what a provider's words mean (the wires).
//
// Concurrency: a Service is safe for concurrent use. Run, which is called once, owns every goroutine
// that sends; one slot has at most one send in flight, a lane (one provider credential, for Web Push one
// push service) at most MaxInFlight, and all lanes of a transport twice that, so that one slow provider
// holds up nobody else.
package push

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// ErrNoTransport is returned when no provider is configured for a transport and client.
var ErrNoTransport = errors.New("transport is not enabled for this client")

// Transport is one provider. Its methods are safe for concurrent use.
type Transport interface {
	// Name is "apns", "fcm" or "webpush".
	Name() string
	// Lane names the credential, and where that is finer the service, that a subscription is sent with.
	// ok is false when none is configured for its client. The token has no body.
	Lane(sub subscription.Subscription) (lane string, ok bool)
	// Credential tells of the credential of a lane that Lane named, or that Web Push services share.
	Credential(lane string) Credential
	// Watch tells of every credential, with lanes or without.
	Watch() []Watched
	// ParseToken reads the token of a subscription request. Errors are *TokenError.
	ParseToken(raw json.RawMessage) (subscription.Token, error)
	// Send renders and sends one notification. It returns when there is an answer, or none.
	Send(ctx context.Context, n Notification) outcome.Outcome
}

// TokenError names the field of a token that is wrong ("token.endpoint"), and why.
type TokenError struct{ Field, Problem string }

func (e *TokenError) Error() string { return e.Field + ": " + e.Problem }

// Notification is one state on its way to one device.
type Notification struct {
	Subscription subscription.Subscription
	Version      int64
	Input        Input
	// Badge is the number of unseen messages of all accounts on the device, negative when unknown.
	Badge int
	// Collapse is the slot's name, 32 hexadecimal digits: newer states replace older ones of it.
	Collapse string
	// ID names this state of this slot: the same on every try.
	ID [16]byte
	// Expires is when it is of no use any more.
	Expires time.Time
	// AskElsewhere allows for a token that the provider does not know to be tried where it may be known.
	AskElsewhere bool
	// Short asks for a payload without the subject, after the provider found the whole one too large.
	Short bool
}

// Config is what a Service is made of. Every field is needed.
type Config struct {
	DB            *db.DB
	Subscriptions *subscription.Store
	Transports    []Transport
	Log           *slog.Logger
	Metrics       prometheus.Registerer
	Now           func() time.Time
	// NewMailTTL is how long a notification of new mail is worth delivering.
	NewMailTTL time.Duration
	// Coalesce and CoalesceMax are how long news that follows a notification waits for more, and the longest;
	// BadgeDelay is how long a change of the count alone does. 0 is not at all.
	Coalesce, CoalesceMax, BadgeDelay time.Duration
	// MaxInFlight bounds the unanswered requests of a lane, whose own limit moves between 1 and it.
	MaxInFlight int
	// Node names this server among those on the same database. It is the same after a restart, so that a server
	// need not wait for itself.
	Node string
	// Lease is how long the others wait for a sign of life before they send what this server owns.
	Lease time.Duration
}

// Service is the slots and what empties them.
type Service struct {
	Config
	sched   *scheduler
	metrics *metrics
	pruning pruneGuard
	count   func(ctx context.Context, subscriptionID string) (int, error) // see CountWith
	lease   lease
	endings struct {
		mu   sync.Mutex
		said map[ending]int // how many of endWarnings
	}
	// disturbed is true from a failure of the store to the next outcome it took.
	disturbed atomic.Bool
}

// New returns a Service. Nothing is sent before Run.
func New(c Config) (*Service, error) {
	s := &Service{Config: c, pruning: newPruneGuard(), lease: newLease(c.Now())}
	s.sched = newScheduler(c.MaxInFlight, s.credential)
	var err error
	if s.metrics, err = newMetrics(c.Metrics, s.sched, c.Now); err != nil {
		return nil, err
	}
	return s, c.Metrics.Register(&credentialGauges{c.Transports, c.Now})
}

// CountWith says how to count the unseen messages of all accounts on a subscription's device; a negative
// number is unknown. It comes before Run. Without it, the count is that of the event.
func (s *Service) CountWith(count func(ctx context.Context, subscriptionID string) (int, error)) {
	s.count = count
}

// transport finds a configured transport by name, or nil.
func (s *Service) transport(name string) Transport {
	i := slices.IndexFunc(s.Transports, func(t Transport) bool { return t.Name() == name })
	if i < 0 {
		return nil
	}
	return s.Transports[i]
}

// laneOf is the lane of a subscription; those that nothing is configured for share one.
func (s *Service) laneOf(sub subscription.Subscription) string {
	if t := s.transport(sub.Token.Transport); t != nil {
		if lane, ok := t.Lane(sub); ok {
			return lane
		}
	}
	return "none/" + sub.Token.Transport
}

// credential tells of a lane's credential.
func (s *Service) credential(lane string) Credential {
	transport, rest, _ := strings.Cut(lane, "/")
	if t := s.transport(transport); t != nil {
		return t.Credential(lane)
	}
	return Credential{Name: rest} // "none/apns"
}

// ParseToken reads the token of a subscription request of client, for a user of provider, and says whose
// credential it belongs to: the provider's, or where he has none for it, the installation's (""). Errors are
// ErrNoTransport and *TokenError.
func (s *Service) ParseToken(transport, provider, client string, raw json.RawMessage) (tok subscription.Token, owner string, err error) {
	t := s.transport(transport)
	if t == nil {
		return subscription.Token{}, "", ErrNoTransport
	}
	if tok, err = t.ParseToken(raw); err != nil {
		return subscription.Token{}, "", err
	}
	for _, owner := range []string{provider, ""} {
		if _, ok := t.Lane(subscription.Subscription{Provider: owner, Client: client, Token: tok}); ok {
			return tok, owner, nil
		}
	}
	return subscription.Token{}, "", ErrNoTransport
}

// Offered lists the transports that there are credentials for, of a provider or of the installation.
func (s *Service) Offered(provider string) (names []string) {
	for _, t := range s.Transports {
		if slices.ContainsFunc(t.Watch(), func(w Watched) bool { return w.Owner == "" || w.Owner == provider }) {
			names = append(names, t.Name())
		}
	}
	return names
}

// Test sends a test notification to one subscription and waits for the provider's answer. It uses no
// slot, has no version (0, below every state's) and is not tried again. Errors are ErrNoTransport and subscription.ErrNotFound.
func (s *Service) Test(ctx context.Context, subscriptionID string) (outcome.Outcome, error) {
	sub, err := s.Subscriptions.Load(ctx, subscriptionID)
	if err != nil {
		return outcome.Outcome{}, err
	}
	t := s.transport(sub.Token.Transport)
	if t == nil {
		return outcome.Outcome{}, ErrNoTransport
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	now := s.Now()
	id := slotID{sub.ID, topicTest}
	o := t.Send(ctx, Notification{
		Subscription: sub, Collapse: id.collapse(), ID: notificationID(id, now.UnixMilli()),
		Expires: now.Add(time.Minute), Badge: -1, AskElsewhere: true,
		Input: Input{
			Topic: topicTest, Sender: "Posthorn", Subject: "Test notification", Unseen: -1, AcceptedMS: db.Millis(now),
		},
	})
	s.metrics.count(sub.Token.Transport, o)
	return o, nil
}
