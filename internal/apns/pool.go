package apns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// pool is our own way to Apple: a queue of requests, and the connections that take them from it.
//
//	pool.go    queue, choice of connection, dialling
//	keeper.go  everything that happens because time passed
//	conn.go    life and death of one connection
//	stream.go  the requests, from the queue to their end
//	block.go   header blocks out; head.go header blocks in
//	writer.go, reader.go, flow.go  frames and windows
//
// Rules of concurrency: mu guards the pool, its connections and their streams; it is held for well
// under a microsecond a request, never while waiting for the network. A caller encodes its own request
// into the connection's buffer, since HPACK wants header blocks on the wire in the order in which they
// were encoded. The connection's writer sends whatever has gathered there; its reader finishes streams
// and fills the places they leave from the queue. So while requests are queued no place is free.
type pool struct {
	host string // for :authority
	size int    // how many connections at most
	// single: the server allows one stream until a request was accepted (token authentication).
	single bool
	// dial opens a connection.
	dial    func(ctx context.Context) (net.Conn, error)
	firstID uint32 // first stream of a connection

	// ctx ends with close; dialling ends with it.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	kick   chan struct{} // wakes the keeper
	spare  sync.Pool     // of streams

	mu      sync.Mutex
	started bool // the keeper runs
	asleep  bool // it has nothing to do soon: kick it when that changes
	wakesAt time.Time
	closed  bool
	queue   list
	// conns are all connections that are not dead; the retired ones take no more requests. The slice
	// is replaced, not changed, when one leaves.
	conns   []*conn
	dialing bool
	// attempts counts dials since there was a good connection, and dialAt is when the next one may be.
	attempts int
	dialAt   time.Time
	// lastErr is why the last attempt failed; nil after one that did not.
	lastErr error
	left    time.Time // when a connection was last left of our own will
	answers uint64
}

const (
	// From attempt to attempt to get a good connection the pause doubles. It is drawn from the upper
	// half, so that many senders that lost the same server come back one by one. The pause runs from
	// the attempt: a connection that lived for longer is replaced at once.
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
)

func newPool(host string, conf *tls.Config, size int, single bool) *pool {
	addr := dialAddress(host)
	p := &pool{host: host, size: size, single: single, firstID: 1, kick: make(chan struct{}, 1)}
	p.dial = func(ctx context.Context) (net.Conn, error) { return dialTLS(ctx, addr, conf) }
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

var (
	errClosed  = &fault{reason: "canceled", err: errors.New("the sender is closed")}
	errTimeout = &fault{reason: "timeout", err: fmt.Errorf("no answer within %s", sendTimeout)}
)

// do makes one request.
func (p *pool) do(ctx context.Context, r request) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, ended(ctx, err)
	}
	st := p.newStream(&r, time.Now())
	for moves := 0; ; moves++ {
		p.submit(st, moves > 0)
		select {
		case <-st.done:
		case <-ctx.Done():
			p.abandon(ctx, st)
			<-st.done
		}
		if f, ok := st.err.(*fault); ok && f.unseen && moves < maxUnsent && ctx.Err() == nil { //nolint:errorlint // ours, and never wrapped
			st.again()
			continue
		}
		a := answer{status: st.status, apnsID: st.apnsID, retryAfter: st.retryAfter, via: st.conn}
		if len(st.body) > 0 {
			a.body = slices.Clone(st.body)
		}
		err := st.err
		p.free(st)
		return a, err
	}
}

// submit gives st to a connection, or queues it; again for what already had its turn.
func (p *pool) submit(st *stream, again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		st.finish(errClosed)
		return
	}
	if !p.started {
		p.started = true
		p.wg.Go(p.keep)
	}
	if p.asleep {
		p.wakeKeeper()
	}
	if c := p.pick(); c != nil {
		c.open(st)
		return
	}
	if p.lastErr != nil && !p.dialing && len(p.conns) == 0 && time.Now().Before(p.dialAt) {
		// What waits here is not what is newest any more when the next attempt comes: the caller keeps it.
		st.finish(p.lastErr)
		return
	}
	st.state, st.mark = queued, p.answers
	if again {
		p.queue.pushFront(st)
	} else {
		p.queue.push(st)
	}
	p.want()
}

// abandon ends st because its caller has had enough, unless the result overtakes it.
func (p *pool) abandon(ctx context.Context, st *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if st.state != closed {
		p.giveUp(st, ended(ctx, ctx.Err()), errors.Is(ctx.Err(), context.DeadlineExceeded), time.Now())
	}
}

// giveUp ends st without a full answer; late says that its time is over.
func (p *pool) giveUp(st *stream, err error, late bool, now time.Time) {
	if st.state == queued {
		st.leaveList()
		if late {
			// Waited in vain for a connection: why there is none says more than that there is none.
			if p.lastErr != nil {
				err = p.lastErr
			}
			if st.mark == p.answers { // nor did anybody else have an answer
				for _, c := range p.conns {
					p.leave(c, now)
				}
			}
		}
		st.finish(err)
		return
	}
	c := st.conn
	silent := late && st.status == 0 && st.mark == c.answers
	c.reset(st, http2.ErrCodeCancel, err)
	if silent {
		// A black hole keeps its connection "open" until a ping fails; do not wait for that.
		p.leave(c, now)
	}
	c.settle()
}

// pick returns a connection with a place for another stream, the emptiest if there are several.
func (p *pool) pick() *conn {
	var best *conn
	for _, c := range p.conns {
		if c.free() && (best == nil || len(c.streams) < len(best.streams)) {
			best = c
		}
	}
	return best
}

// fill moves requests from the queue to the connections.
func (p *pool) fill() {
	for p.queue.n > 0 {
		c := p.pick()
		if c == nil {
			p.want()
			return
		}
		st := p.queue.first
		st.leaveList()
		c.open(st)
	}
}

// want opens another connection if requests wait, one may be had, and it is time.
func (p *pool) want() {
	if p.queue.n == 0 || p.dialing || p.closed {
		return
	}
	live := 0
	for _, c := range p.conns {
		if c.retired {
			continue
		}
		if !c.proven || !c.greeted {
			return // what it will take is not known yet
		}
		live++
	}
	if live >= p.size {
		return
	}
	now := time.Now()
	if now.Before(p.dialAt) {
		if p.dialAt.Before(p.wakesAt) { // let the keeper come here at that time
			p.wakeKeeper()
		}
		return
	}
	p.attempts++
	pause := min(maxPause, firstPause<<min(p.attempts-1, 10))
	p.dialAt = now.Add(pause/2 + rand.N(pause/2)) //nolint:gosec // spreads load, guards nothing
	p.dialing = true
	p.wg.Go(p.connect)
}

// connect dials and then reads the connection until its end.
func (p *pool) connect() {
	nc, err := p.dial(p.ctx)
	p.mu.Lock()
	p.dialing = false
	p.lastErr = err
	if err != nil {
		p.dialFailed(err)
		p.mu.Unlock()
		return
	}
	if p.closed {
		p.mu.Unlock()
		_ = nc.Close() // nothing was sent over it
		return
	}
	c := newConn(p, nc)
	p.conns = append(p.conns, c)
	p.wg.Go(c.write)
	p.fill()
	p.mu.Unlock()
	c.read()
}

// dialFailed tells those who wait, unless another connection will serve them.
func (p *pool) dialFailed(err error) {
	if slices.ContainsFunc(p.conns, func(c *conn) bool { return !c.retired }) {
		return
	}
	for st := p.queue.first; st != nil; st = p.queue.first {
		st.leaveList()
		st.finish(err)
	}
}

// leave retires c, but not in quick succession.
func (p *pool) leave(c *conn, now time.Time) {
	if c.retired || c.dead || (!p.left.IsZero() && now.Sub(p.left) < reconnectPause) {
		return
	}
	p.left = now
	c.retire()
}

func (p *pool) streams() (inFlight, limit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	live, most := 0, 0
	for _, c := range p.conns {
		inFlight += len(c.streams)
		if !c.retired {
			live++
			limit += c.limit()
			most = max(most, c.limit())
		}
	}
	if live == 0 {
		return inFlight, 1
	}
	// A connection that is not open yet will take what the others take.
	return inFlight, limit + (p.size-live)*most
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	for st := p.queue.first; st != nil; st = p.queue.first {
		st.leaveList()
		st.finish(errClosed)
	}
	for _, c := range p.conns {
		for _, st := range c.streams {
			c.reset(st, http2.ErrCodeCancel, errClosed)
		}
		c.retire()
	}
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
}
