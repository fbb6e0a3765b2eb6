package bus

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// queueLength is how many messages may wait for a handler. One more is dropped.
	queueLength = 512
	// warnEvery is the time between two warnings that a subscription drops messages.
	warnEvery = time.Minute
)

// Message is what a handler gets. Its Data is the handler's to keep.
type Message struct {
	Data []byte

	bus     *Bus
	subject Subject
	reply   string // where the answer goes; empty when nobody asked
}

// Reply answers a request. It does nothing when the message was published and not a request. The error
// is as that of Publish.
func (m Message) Reply(data []byte) error {
	if m.reply == "" {
		return nil
	}
	if err := m.bus.publish(m.subject, m.reply, data); err != nil {
		return fmt.Errorf("reply to %s: %w", m.subject, err)
	}
	return nil
}

// Subscription is somebody's interest in a subject, until Close.
type Subscription struct {
	bus     *Bus
	subject Subject
	handle  func(context.Context, Message)
	missed  func(context.Context)
	queue   chan *nats.Msg
	gap     chan struct{} // room for one: missed is to be called
	end     chan struct{} // closed by finish
	done    chan struct{} // closed when run has ended
	stop    context.CancelFunc
	wire    atomic.Pointer[wire] // written under bus.mu
	warned  time.Time            // of run only
}

// wire is a subscription on one link.
type wire struct {
	sub     *nats.Subscription
	dropped int // of those sub dropped, how many are counted; of run only
}

// Subscribe calls handle for every message to a subject, and missed, unless it is nil, whenever messages
// may have been lost: after a new connection, and when handle was so slow that the queue of 512 messages
// was full. missed is called once all later messages will arrive. The messages that were queued
// before follow it, so state rebuilt in missed can see old news once more.
//
// When Subscribe returns, the server knows of the subscription. Without a connection it succeeds too, and
// missed is called when there is one. ctx bounds the wait for the server and gives handle and missed its
// values, not its end.
func (b *Bus) Subscribe(ctx context.Context, subject Subject, handle func(context.Context, Message), missed func(context.Context)) (*Subscription, error) {
	if err := subject.check(); err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	if missed == nil {
		missed = func(context.Context) {}
	}
	s := &Subscription{
		bus: b, subject: subject, handle: handle, missed: missed,
		queue: make(chan *nats.Msg, queueLength), gap: make(chan struct{}, 1), end: make(chan struct{}), done: make(chan struct{}),
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	b.mu.Lock()
	if b.subs == nil {
		b.mu.Unlock()
		stop()
		return nil, fmt.Errorf("subscribe to %s: %w: %w", subject, ErrNotConnected, errClosed)
	}
	b.subs[s] = struct{}{}
	link := b.state.Load().link
	if link != nil {
		s.attach(link)
	}
	go s.run(running)
	b.mu.Unlock()
	if link != nil {
		link.flush(ctx)
	}
	if ctx.Err() != nil {
		s.Close()
		return nil, fmt.Errorf("subscribe to %s: %w", subject, ctx.Err())
	}
	return s, nil
}

// Close ends the subscription: messages that wait are dropped, the context of a running handler ends, and
// when Close returns it has returned.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	delete(s.bus.subs, s)
	s.bus.mu.Unlock()
	s.detach()
	s.stop()
	<-s.done
}

// attach subscribes on a link. The caller holds bus.mu.
func (s *Subscription) attach(l *link) {
	sub, err := l.nc.ChanSubscribe(s.subject.name, s.queue)
	if err != nil { // the link is gone already, and the next one attaches again
		l.lose(err)
		return
	}
	s.wire.Store(&wire{sub: sub})
}

// detach lets no further message into the queue.
func (s *Subscription) detach() {
	if w := s.wire.Load(); w != nil {
		_ = w.sub.Unsubscribe() // fails only when its link is gone, which comes to the same
	}
}

// finish lets run handle what waits in the queue, and end.
func (s *Subscription) finish() {
	s.detach()
	close(s.end)
}

func (s *Subscription) tellMissed() {
	select {
	case s.gap <- struct{}{}:
	default: // is to be told already
	}
}

// run calls the handlers until ctx ends, or, after finish, until the queue is empty.
func (s *Subscription) run(ctx context.Context) {
	defer close(s.done)
	defer s.stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-s.gap:
			s.missed(ctx)
		case m := <-s.queue:
			s.deliver(ctx, m)
		case <-s.end:
			select {
			case m := <-s.queue:
				s.deliver(ctx, m)
			default:
				return
			}
		}
	}
}

func (s *Subscription) deliver(ctx context.Context, m *nats.Msg) {
	s.handle(ctx, Message{Data: m.Data, bus: s.bus, subject: s.subject, reply: m.Reply})
	s.countDropped(ctx)
}

// countDropped looks for messages that found the queue full. To look after each message is soon enough:
// the queue is full when one is dropped, so there is a message to come.
func (s *Subscription) countDropped(ctx context.Context) {
	w := s.wire.Load()
	if w == nil {
		return
	}
	n, err := w.sub.Dropped()
	if err != nil || n == w.dropped {
		return
	}
	s.bus.metrics.dropped.WithLabelValues(s.subject.area).Add(float64(n - w.dropped))
	w.dropped = n
	s.tellMissed()
	if time.Since(s.warned) >= warnEvery {
		s.warned = time.Now()
		s.bus.log.WarnContext(ctx, "bus drops messages, their handler is too slow", slog.String("subject", s.subject.name), slog.Int("dropped", n))
	}
}
