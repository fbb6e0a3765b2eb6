// Package bus carries small messages between the parts of Posthorn, in one process or across nodes: NATS
// core: a server inside this process that listens nowhere, several of them that are meshed by routes, or an
// external one. Callers cannot tell which, but for [Bus.Alone].
//
// It promises little, on purpose. A message is delivered at most once, to whoever is subscribed and keeps
// up; nothing is stored. Messages of one publisher arrive in order. What must not be lost is committed
// to the database first; the bus only makes others look sooner. Therefore a subscriber is told when it
// may have missed messages (missed, given to [Bus.Subscribe]) and then forgets what it derived from
// them. Two losses are not told to anybody: a publisher's while its own connection breaks, and those in the
// moment in which the other servers of a NATS cluster or a mesh learn of a new subscription. So caches also
// need an age at which entries die, and a node applies its own changes to its own caches directly.
//
// The connection is made anew for ever, here and not by nats.go: its own reconnecting holds the
// lock that every Publish needs while it dials, and gives up for good on some errors of the server.
// While there is no connection, publishing fails at once instead of buffering.
//
// Everybody who can publish on the external server, or has a certificate for the mesh, is trusted: nothing here
// is authenticated.
//
// Concurrency: all methods may be called from any goroutine. Each subscription has one goroutine, which
// calls its handler and missed one at a time. Handlers must return soon after their context ends, and
// must not close their own subscription or the Bus: Close waits for them.
package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

var (
	// ErrNotConnected means that the message was not sent, because there is no connection to the server.
	ErrNotConnected = errors.New("the bus is not connected")
	// ErrNoResponder means that nobody is subscribed to the subject of a request.
	ErrNoResponder = errors.New("nobody answers")
	// ErrTooLarge means more bytes than the server takes: 1 MiB, unless an external one has another limit.
	ErrTooLarge = errors.New("the message is too large")

	errClosed = errors.New("it is closed")
	errOpened = errors.New("it has just been opened")
)

// requestTimeout is how long a request waits for its answer when its context would wait longer. An
// answer can be lost like any message.
const requestTimeout = 10 * time.Second

// Options are what Open needs. Log and Metrics must be set.
type Options struct {
	// URL is empty for a server inside this process. Otherwise nats://user:password@host:port, or tls:// for
	// verified TLS; several are separated by commas.
	URL string
	// Mesh joins the server inside this process with those of others; nil: it is for this process alone. Not
	// with a URL.
	Mesh    *Mesh
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Bus is a connection to the NATS server, made anew whenever it breaks.
type Bus struct {
	url      string
	password string // at a server inside this process that has a mesh
	log      *slog.Logger
	metrics  *metrics
	server   *server.Server // nil when external
	state    atomic.Pointer[state]

	stop    context.CancelFunc // ends run
	stopped chan struct{}      // closed when run has ended
	watched chan struct{}      // closed when watchRoutes has ended; nil without a mesh
	closing sync.Once
	closed  error // what Close returns, once closing is done

	mu   sync.Mutex
	subs map[*Subscription]struct{} // guarded by mu; nil once Close has begun
}

// state is either a link or the reason why there is none.
type state struct {
	link *link
	err  error
}

// Open starts the server inside this process if the URL is empty, and makes a first attempt to connect.
// When that fails the Bus is returned nevertheless and keeps trying: Ready says how it stands. ctx bounds
// the first attempt only. Close must follow.
func Open(ctx context.Context, o Options) (*Bus, error) {
	if err := checkURL(o.URL); err != nil {
		return nil, fmt.Errorf("open the bus: %w", err)
	}
	if o.URL != "" && o.Mesh != nil {
		return nil, errors.New("open the bus: either an external server or a mesh, not both")
	}
	b := &Bus{url: o.URL, password: rand.Text(), log: o.Log, stopped: make(chan struct{}), subs: map[*Subscription]struct{}{}}
	b.state.Store(&state{err: errOpened})
	var err error
	if b.metrics, err = newMetrics(o.Metrics, b); err != nil {
		return nil, fmt.Errorf("open the bus: %w", err)
	}
	if o.URL == "" {
		if b.server, err = startServer(ctx, o.Mesh, b.password, o.Log); err != nil {
			return nil, fmt.Errorf("open the bus: %w", err)
		}
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	if o.Mesh != nil {
		b.watched = make(chan struct{})
		go b.watchRoutes(running)
	}
	tried := make(chan struct{})
	go b.run(running, sync.OnceFunc(func() { close(tried) }))
	select {
	case <-tried:
		return b, nil
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("open the bus: %w", ctx.Err()), b.Close(ctx))
	}
}

// Ready is nil while there is a connection, and otherwise an ErrNotConnected that says why. It never
// waits.
func (b *Bus) Ready() error {
	if s := b.state.Load(); s.err != nil {
		return fmt.Errorf("%w: %w", ErrNotConnected, s.err)
	}
	return nil
}

// Alone reports whether nobody but this process can ever be on the bus, so that there is nobody to wait for.
func (b *Bus) Alone() bool { return b.server != nil && b.watched == nil }

// Publish hands data over to be sent; it does not wait for anybody to receive it. The error wraps
// ErrNotConnected, ErrTooLarge or ErrSubject; it is counted already.
func (b *Bus) Publish(s Subject, data []byte) error {
	if err := b.publish(s, s.name, data); err != nil {
		return fmt.Errorf("publish %s: %w", s, err)
	}
	return nil
}

// publish sends to a name, which is that of s, or that of a reply to a message of s.
func (b *Bus) publish(s Subject, name string, data []byte) (err error) {
	defer func() {
		if err != nil {
			b.metrics.unsent.WithLabelValues(s.area).Inc()
		}
	}()
	if err := s.check(); err != nil {
		return err
	}
	l := b.state.Load().link
	if l == nil {
		return b.Ready()
	}
	err = l.nc.Publish(name, data)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		return ErrTooLarge
	case errors.Is(err, nats.ErrBadSubject): // of a reply: somebody foreign asked
		return ErrSubject
	default:
		// A failed write has thrown away the messages of others that were waiting with this one.
		l.lose(err)
		return fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
}

// Request sends data and returns the first answer. It waits until ctx ends, but at most 10 seconds. The
// error wraps ErrNoResponder, ErrNotConnected, ErrTooLarge, ErrSubject or the context's.
func (b *Bus) Request(ctx context.Context, s Subject, data []byte) ([]byte, error) {
	answer, err := b.request(ctx, s, data)
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", s, err)
	}
	return answer, nil
}

func (b *Bus) request(ctx context.Context, s Subject, data []byte) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	l := b.state.Load().link
	if l == nil {
		return nil, b.Ready()
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := l.nc.RequestWithContext(ctx, s.name, data)
	switch {
	case err == nil:
		return m.Data, nil
	case errors.Is(err, nats.ErrNoResponders):
		return nil, ErrNoResponder
	case errors.Is(err, nats.ErrMaxPayload):
		return nil, ErrTooLarge
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		l.lose(err)
		return nil, fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
}

// Close takes no new subscription, lets the handlers finish what was published before, sends what they
// sent, and ends the connection and the server. Until then publishing works. When ctx ends first, the
// handlers' contexts end and what is waiting for them is dropped; that is the error. Close waits for
// every goroutine; a second call waits for the first.
func (b *Bus) Close(ctx context.Context) error {
	b.closing.Do(func() { b.closed = b.close(ctx) })
	return b.closed
}

func (b *Bus) close(ctx context.Context) error {
	b.mu.Lock()
	subs := b.subs
	b.subs = nil
	b.mu.Unlock()
	flush := func() {
		if l := b.state.Load().link; l != nil {
			l.flush(ctx)
		}
	}
	// After this, what this process published and subscribed to is in the queues.
	flush()
	for s := range subs {
		s.finish()
	}
	var err error
	for s := range subs {
		select {
		case <-s.done:
		case <-ctx.Done():
			s.stop()
			<-s.done
			err = fmt.Errorf("close the bus: %w before all messages were handled", ctx.Err())
		}
	}
	flush()
	b.stop()
	<-b.stopped
	if b.watched != nil {
		<-b.watched
	}
	if b.server != nil {
		b.server.Shutdown()
		b.server.WaitForShutdown()
	}
	return err
}
