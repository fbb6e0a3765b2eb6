package apns

import (
	"time"

	"golang.org/x/net/http2"
)

// stream is one request on its way: first in the pool's queue, then as a stream of a connection.
//
// Streams are reused. While the request is under way, pool.mu guards everything below "guarded";
// with the receive from done it all goes back to the caller, and nobody else may touch it.
type stream struct {
	req request
	// began is when the caller came; sendTimeout later it leaves. Of a lingering stream, when the
	// keeper first saw it.
	began time.Time
	// done gets one value when the result is there.
	done chan struct{}

	// guarded
	state stage
	id    uint32
	conn  *conn
	// in is the list that the stream stands in: the pool's queue, or those of its connection that
	// wait for the connection's window.
	in         *list
	prev, next *stream
	// rest is what is still to be sent of the payload, and window what the peer lets this stream send.
	rest   []byte
	window int64
	// mark is the count of answers, of the pool or of the connection, when the wait began: at the
	// deadline it tells a slow request from a dead connection.
	mark uint64

	status     int // 0 until the header fields came
	apnsID     string
	retryAfter string
	body       []byte
	err        error
}

type stage uint8

const (
	queued stage = iota
	open
	closed
	// lingering is a stream whose answer was handed over before its end came. It has no caller, but
	// keeps its place among the concurrent streams until it ends.
	lingering
)

// newStream takes one that is not in use, with its channel and its room for an error document.
func (p *pool) newStream(r *request, now time.Time) *stream {
	st, ok := p.spare.Get().(*stream)
	if !ok {
		st = &stream{done: make(chan struct{}, 1)}
	}
	st.req, st.began = *r, now
	return st
}

// free gives the stream back; nothing of it may be used afterwards.
func (p *pool) free(st *stream) {
	*st = stream{done: st.done, body: st.body[:0]}
	p.spare.Put(st)
}

// again makes the stream ready to be sent once more.
func (st *stream) again() {
	*st = stream{req: st.req, began: st.began, done: st.done, body: st.body[:0]}
}

// finish hands the stream to its caller. p.mu is held, and st is out of every list and table.
func (st *stream) finish(err error) {
	if st.status != 0 {
		err = nil // the status is known and counts, whatever became of the body
	}
	st.state, st.err = closed, err
	st.done <- struct{}{}
}

// list is a queue of streams.
type list struct {
	first, last *stream
	n           int
}

func (l *list) push(st *stream) {
	st.in, st.prev, st.next = l, l.last, nil
	if l.last != nil {
		l.last.next = st
	} else {
		l.first = st
	}
	l.last = st
	l.n++
}

func (l *list) pushFront(st *stream) {
	st.in, st.prev, st.next = l, nil, l.first
	if l.first != nil {
		l.first.prev = st
	} else {
		l.last = st
	}
	l.first = st
	l.n++
}

// leaveList takes st out of whichever list it stands in.
func (st *stream) leaveList() {
	l := st.in
	if l == nil {
		return
	}
	if st.prev != nil {
		st.prev.next = st.next
	} else {
		l.first = st.next
	}
	if st.next != nil {
		st.next.prev = st.prev
	} else {
		l.last = st.prev
	}
	st.in, st.prev, st.next = nil, nil, nil
	l.n--
}

// maxStreamID is the last identifier; a connection that has used it up takes no more requests
// (RFC 9113 section 5.1.1).
const maxStreamID = 1<<31 - 1

// open sends st as the next stream. p.mu is held, and pick has chosen c.
func (c *conn) open(st *stream) {
	st.id, st.conn, st.state = c.nextID, c, open
	c.nextID += 2
	st.window = c.peerWindow
	st.rest = st.req.m.Payload
	st.mark = c.answers
	c.streams[st.id] = st
	// A header block of ours is below 2 KiB and a payload at most 4: no peer may set
	// SETTINGS_MAX_FRAME_SIZE so low that they would not fit a frame (RFC 9113 section 4.2).
	c.put(c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: st.id, BlockFragment: c.blocks.encode(&st.req), EndHeaders: true}))
	c.sendBody(st)
}

// end takes st out of c and gives its result to the caller. p.mu is held; fill follows.
func (c *conn) end(st *stream, err error) {
	delete(c.streams, st.id)
	st.leaveList()
	if st.state == open {
		st.finish(err)
	}
}

// reset ends st for both sides.
func (c *conn) reset(st *stream, code http2.ErrCode, err error) {
	c.put(c.frames.WriteRSTStream(st.id, code))
	c.end(st, err)
}

// answered hands over a result whose stream goes on, and leaves a stand-in for it in the table.
func (c *conn) answered(st *stream) {
	st.leaveList()
	c.streams[st.id] = &stream{state: lingering, id: st.id, conn: c}
	st.finish(nil)
}
