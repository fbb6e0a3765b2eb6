package apns

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// conn is one HTTP/2 connection (RFC 9113). Everything is guarded by pool.mu, save what says otherwise.
type conn struct {
	p     *pool
	since time.Time
	nc    net.Conn
	raw   net.Conn // below TLS: to end it without the courtesies that could block

	// The way out. frames writes into out, which the writer takes as a whole.
	out    buffer
	frames *http2.Framer
	blocks *blocks
	work   *sync.Cond // signalled when there is something to do for the writer, which is idle
	idle   bool
	// sentID is the first stream of which the writer took nothing yet.
	sentID uint32
	// replies counts the frames in out that answer frames of the peer.
	replies int

	streams map[uint32]*stream
	nextID  uint32
	answers uint64 // requests answered so far

	// What the peer allows. greeted: its SETTINGS came; proven: it took a request of ours.
	greeted, proven bool
	peerStreams     uint32
	peerWindow      int64 // of a new stream
	window          int64 // of the connection
	blocked         list  // streams that wait for window

	// retired connections take no more requests; dead ones are out of the pool.
	retired, dead bool
	graceful      bool   // dead without a fault: take leave of the peer
	lastID        uint32 // of the GOAWAY
	goAway        error  // set by it

	// For the keeper.
	frameCount, seenCount uint64
	quietSince            time.Time
	wasBusy, pinged       bool
	pingedAt              time.Time

	// The reader's own, without the lock.
	in         *http2.Framer
	head       head
	recvWindow int64 // what the peer may still send
	unread     uint32
	greetings  int // SETTINGS and PING in the second that began at greetedAt
	greetedAt  time.Time
}

const (
	// defaultWindow is what both sides start with (RFC 9113 section 6.9.2).
	defaultWindow = 65535
	// connWindow is what the peer may have under way to us on all streams, in bytes. It allows for a
	// thousand error documents and is topped up as they are read.
	connWindow = 1 << 20
	// streamWindow is never topped up: what does not fit is not wanted.
	streamWindow = 2 * maxBody
	// defaultStreams is for a peer that sets no limit, and maxStreams for one that sets an absurd one.
	defaultStreams = 1000
	maxStreams     = 10_000
	// maxFrame is the default SETTINGS_MAX_FRAME_SIZE, which we leave in force for both sides.
	maxFrame = 16 << 10
)

// newConn begins a connection with our preface and settings (RFC 9113 section 3.4). p.mu is held.
func newConn(p *pool, nc net.Conn) *conn {
	now := time.Now()
	c := &conn{
		p: p, since: now, nc: nc, raw: nc, work: sync.NewCond(&p.mu),
		streams: map[uint32]*stream{}, nextID: p.firstID, sentID: p.firstID, lastID: maxStreamID,
		proven: !p.single, peerStreams: defaultStreams, peerWindow: defaultWindow, window: defaultWindow,
		quietSince: now, recvWindow: connWindow,
	}
	if t, ok := nc.(*tls.Conn); ok {
		c.raw = t.NetConn()
	}
	c.frames = http2.NewFramer(&c.out, nil)
	c.blocks = newBlocks(p.host)
	c.in = http2.NewFramer(nil, bufio.NewReaderSize(nc, maxFrame))
	c.in.SetReuseFrames()
	c.in.SetMaxReadFrameSize(maxFrame)
	c.head.init()

	c.out = append(c.out, http2.ClientPreface...)
	c.put(c.frames.WriteSettings(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderList},
	))
	c.put(c.frames.WriteWindowUpdate(0, connWindow-defaultWindow))
	return c
}

// limit is how many streams may be open at once. With token authentication Apple takes one until a
// token has proved itself, and says so in its SETTINGS; until those are here nothing larger may be
// assumed, although RFC 9113 would allow it. A refused credential so costs one request at a time.
func (c *conn) limit() int {
	if !c.greeted || !c.proven {
		return int(min(1, c.peerStreams))
	}
	return int(min(maxStreams, c.peerStreams))
}

// free says whether c takes another request.
func (c *conn) free() bool {
	return !c.retired && c.nextID <= maxStreamID && len(c.streams) < c.limit()
}

// settle draws the consequences after streams ended: their places are taken by others, and a retired
// connection without streams is done.
func (c *conn) settle() {
	if !c.retired && c.nextID > maxStreamID {
		c.retired = true // another one takes its place in the pool
	}
	if c.retired && !c.dead && len(c.streams) == 0 {
		c.graceful = true
		c.die(http2.ErrCodeNo, "")
	}
	c.p.fill()
}

// retire lets c finish what it has, and nothing more.
func (c *conn) retire() {
	c.retired = true
	c.settle()
}

var (
	errSilent = &fault{reason: "connection", err: errors.New("http2: the peer sends nothing, not even the answer to a ping")}
	errCut    = errors.New("http2: the connection ended")
)

// fail ends c because of err. Streams without an answer end with it.
func (c *conn) fail(err error) {
	if c.dead {
		return
	}
	if c.goAway != nil {
		err = c.goAway
	}
	code, text := http2.ErrCodeNo, ""
	if v := (*violation)(nil); errors.As(err, &v) {
		code, text = v.code, v.what
	}
	neverSent := &fault{reason: "connection", unseen: true, err: err}
	for id, st := range c.streams {
		if id >= c.sentID { // not one octet of it left
			c.end(st, neverSent)
		} else {
			c.end(st, err)
		}
	}
	c.retired = true
	c.die(code, text)
	c.p.fill()
}

// steadyAfter is how long a connection must have lived to count as a good one: after its end the next
// attempt to dial is a first attempt.
const steadyAfter = time.Minute

// closeAllowed bounds the farewell of a connection.
const closeAllowed = time.Second

// die takes c out of the pool. The writer sends what is left, says goodbye and closes.
func (c *conn) die(code http2.ErrCode, text string) {
	c.dead = true
	now := time.Now()
	if c.answers > 0 && now.Sub(c.since) >= steadyAfter {
		c.p.attempts = 0
	}
	conns := make([]*conn, 0, len(c.p.conns))
	for _, other := range c.p.conns {
		if other != c {
			conns = append(conns, other)
		}
	}
	c.p.conns = conns
	if c.graceful || code != http2.ErrCodeNo {
		c.put(c.frames.WriteGoAway(0, code, []byte(text)))
	}
	_ = c.raw.SetDeadline(now.Add(closeAllowed)) // fails only where there is nothing to end
	c.wakeWriter()
}

// leave is for the sender, which was told to go by an answer.
func (c *conn) leave() {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.p.leave(c, time.Now())
}

// goneAway handles GOAWAY (RFC 9113 section 6.8): the streams above its last were not looked at and
// go to another connection; the others still get their answers, unless the connection ends first.
func (c *conn) goneAway(f *http2.GoAwayFrame) {
	reason, _ := parseBody(f.DebugData())
	c.goAway = &fault{reason: "http2_goaway", err: fmt.Errorf("http2: GOAWAY %s with the reason %q", f.ErrCode, printable(reason))}
	c.lastID = min(c.lastID, f.LastStreamID)
	unseen := &fault{reason: "http2_goaway", unseen: true, err: c.goAway}
	c.retired = true
	for id, st := range c.streams {
		if id > c.lastID {
			c.end(st, unseen)
		}
	}
	c.settle()
}
