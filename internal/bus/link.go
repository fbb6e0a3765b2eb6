package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	dialTimeout  = 2 * time.Second  // to one server, handshake included
	writeTimeout = 2 * time.Second  // the longest that a Publish can wait for a server that takes nothing
	startTimeout = 10 * time.Second // of our own server; it needs milliseconds

	// A connection that died without a word is noticed after at most silenceTimeout.
	pingInterval   = 2 * time.Second
	pingsOut       = 2
	silenceTimeout = pingInterval * (pingsOut + 1)

	// Between two attempts to connect lies retryAfter and up to retryJitter more.
	retryAfter  = 500 * time.Millisecond
	retryJitter = time.Second
)

// checkURL refuses what nats.go would read in its own way. Its error, unlike theirs, has no password in it.
func checkURL(list string) error {
	if list == "" {
		return nil
	}
	for raw := range strings.SplitSeq(list, ",") {
		if u, err := url.Parse(strings.TrimSpace(raw)); err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" {
			return errors.New("the URL of the server must be nats:// or tls://, a host and perhaps a port")
		}
	}
	return nil
}

// link is one connection to the server, from dialling to its loss.
type link struct {
	nc   *nats.Conn
	gone chan struct{} // closed when the connection is, and nats.go will call back no more
	why  chan error    // holds the reason of lose, if it was lose that ended the link
}

// lose ends the link, which is then replaced.
func (l *link) lose(why error) { lose(l.nc, l.why, why) }

func lose(nc *nats.Conn, reason chan<- error, why error) {
	if nc.IsClosed() { // what ended it is the reason, not what came of that
		return
	}
	select {
	case reason <- why:
	default: // lost already
	}
	nc.Close()
}

// reason tells why a link that is gone went.
func (l *link) reason() error {
	select {
	case err := <-l.why:
		return err
	default:
	}
	if err := l.nc.LastError(); err != nil {
		return err
	}
	return errors.New("the server closed the connection")
}

// flush waits until the server has seen all that was sent before, and we all that it sent before its
// answer. It gives up when ctx ends or the link does, and ends a link on which no answer comes.
func (l *link) flush(ctx context.Context) {
	waiting, cancel := context.WithTimeout(ctx, silenceTimeout)
	defer cancel()
	if err := l.nc.FlushWithContext(waiting); err != nil && ctx.Err() == nil {
		l.lose(fmt.Errorf("the server does not answer: %w", err))
	}
}

// dialer lets the context end an attempt, and keeps the reason, which nats.go replaces by ErrNoServers.
type dialer struct {
	ctx  context.Context // of one call of nats.Connect, whose Dial has no room for it
	last error
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	nd := net.Dialer{Timeout: dialTimeout}
	conn, err := nd.DialContext(d.ctx, network, address)
	if err != nil {
		d.last = err
	}
	return conn, err
}

// connect makes one attempt.
func (b *Bus) connect(ctx context.Context) (*link, error) {
	l := &link{gone: make(chan struct{}), why: make(chan error, 1)}
	d := &dialer{ctx: ctx}
	options := []nats.Option{
		nats.Name("posthorn"),
		nats.NoReconnect(),
		nats.Timeout(dialTimeout),
		nats.SetCustomDialer(d),
		nats.SkipHostLookup(), // the dialer does it, and can be stopped
		nats.FlusherTimeout(writeTimeout),
		nats.ReconnectOnFlusherError(), // with NoReconnect: close, rather than go on after losing messages
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(pingsOut),
		nats.CustomInboxPrefix(prefix + "reply"), // so that posthorn.> is all that an account must allow
		nats.ClosedHandler(func(*nats.Conn) { close(l.gone) }),
		nats.ErrorHandler(func(nc *nats.Conn, _ *nats.Subscription, err error) {
			// A connection on which we may not do our work is as good as none, and trying again tells us
			// when that changes. A slow subscription tells itself.
			if errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, nats.ErrMaxSubscriptionsExceeded) {
				lose(nc, l.why, err) // l.nc is not set yet when this comes early
			}
		}),
	}
	if b.server != nil {
		options = append(options, nats.InProcessServer(b.server), nats.UserInfo(inProcessUser, b.password))
	}
	var err error
	if l.nc, err = nats.Connect(b.url, options...); err != nil {
		if errors.Is(err, nats.ErrNoServers) && d.last != nil {
			err = d.last
		}
		return nil, err
	}
	return l, nil
}

// run keeps the Bus connected until ctx ends. It calls tried after each attempt.
func (b *Bus) run(ctx context.Context, tried func()) {
	defer close(b.stopped)
	defer func() { b.state.Store(&state{err: errClosed}) }()
	for {
		l, err := b.connect(ctx)
		if err == nil {
			b.attach(ctx, l)
			tried()
			select {
			case <-l.gone:
				err = l.reason()
			case <-ctx.Done():
				l.nc.Close()
				<-l.gone
			}
		}
		if ctx.Err() != nil {
			tried()
			return
		}
		was := b.state.Swap(&state{err: err})
		if was.err == nil || was.err.Error() != err.Error() { // an outage is told once
			b.log.WarnContext(ctx, "bus not connected", slog.Any("err", err))
		}
		tried()
		retry := time.NewTimer(retryAfter + rand.N(retryJitter)) //nolint:gosec // spreads nodes, keeps no secret
		select {
		case <-retry.C:
		case <-ctx.Done():
			retry.Stop()
			return
		}
	}
}

// attach puts a new link into use: subscribes for everybody, and when the server knows, tells them that
// they were away.
func (b *Bus) attach(ctx context.Context, l *link) {
	b.metrics.connections.Inc()
	b.log.InfoContext(ctx, "bus connected", slog.String("server", l.nc.ConnectedAddr()), slog.String("version", l.nc.ConnectedServerVersion()))
	b.mu.Lock()
	for s := range b.subs {
		s.attach(l)
	}
	b.state.Store(&state{link: l})
	b.mu.Unlock()
	l.flush(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		s.tellMissed()
	}
}
