package fake

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"net"
	"slices"
	"sync/atomic"
)

// firstStream makes a connection of net/http's server follow Apple's rule for token authentication:
// one stream at a time until a notification was accepted, the full number after that.
//
// net/http fixes SETTINGS_MAX_CONCURRENT_STREAMS when a connection starts. So firstStream sits between
// TLS and the server and edits frames (RFC 9113 section 4.1): it lowers the value in the server's first
// SETTINGS, sends a second SETTINGS with the real one after the first success, and keeps the client's
// acknowledgement of that from the server, which knows nothing of it. Nothing else is touched, and
// nothing at all on connections that are not HTTP/2 or carry a client certificate.
type firstStream struct {
	net.Conn
	tls *tls.Conn

	unlocked atomic.Bool  // a notification was accepted
	running  atomic.Int32 // requests under way

	// The reading side belongs to the server's reading goroutine.
	in      *bufio.Reader
	started bool
	head    []byte // the part of a frame header not yet handed on
	left    int    // octets of the frame (first: of the connection preface) not yet handed on
	acks    int    // SETTINGS acknowledgements seen

	// The writing side belongs to whichever goroutine the server writes from, one at a time. plain is
	// set before the server first writes: it reads first.
	plain  bool
	out    []byte // the start of a frame whose end was not written yet
	raised bool
	limit  uint32 // what the server advertised
}

// RFC 9113 sections 4.1, 6.4, 6.5 and 7.
const (
	frameHeader   = 9
	frameRST      = 0x3
	frameSettings = 0x4
	flagACK       = 0x1
	maxStreamsID  = 0x3
	internalError = 0x2
	refusedStream = 0x7
	prefaceLength = 24
)

func newFirstStream(c *tls.Conn) *firstStream {
	return &firstStream{Conn: c, tls: c, in: bufio.NewReader(c), left: prefaceLength}
}

// enter admits a request, or says that its stream must be refused.
func (f *firstStream) enter() bool {
	if f.running.Add(1) == 1 || f.plain || f.unlocked.Load() {
		return true
	}
	f.running.Add(-1)
	return false
}

func (f *firstStream) leave()  { f.running.Add(-1) }
func (f *firstStream) unlock() { f.unlocked.Store(true) }

func (f *firstStream) Read(p []byte) (int, error) {
	if !f.started {
		if _, err := f.in.Peek(1); err != nil { // makes the TLS handshake
			return 0, err
		}
		state := f.tls.ConnectionState()
		f.plain = state.NegotiatedProtocol != "h2" || len(state.PeerCertificates) > 0
		f.started = true
	}
	for !f.plain && f.acks < 2 {
		if len(f.head) > 0 {
			n := copy(p, f.head)
			f.head = f.head[n:]
			return n, nil
		}
		if f.left > 0 {
			n, err := f.in.Read(p[:min(len(p), f.left)])
			f.left -= n
			return n, err
		}
		head, err := f.in.Peek(frameHeader)
		if err != nil {
			return 0, err
		}
		length := frameLength(head)
		ack := head[3] == frameSettings && head[4]&flagACK != 0
		if ack {
			f.acks++
		}
		if f.acks < 2 {
			f.head, f.left = slices.Clone(head), length
		}
		_, _ = f.in.Discard(frameHeader) // just peeked
	}
	return f.in.Read(p)
}

func (f *firstStream) Write(p []byte) (int, error) {
	if f.plain {
		return f.Conn.Write(p)
	}
	f.out = append(f.out, p...)
	done := 0
	for rest := f.out; len(rest) >= frameHeader; rest = f.out[done:] {
		size := frameHeader + frameLength(rest)
		if len(rest) < size {
			break
		}
		f.edit(rest[:size])
		done += size
	}
	send := f.out[:done]
	if !f.raised && f.unlocked.Load() && f.limit > 0 {
		f.raised = true
		send = append(settingsFrame(f.limit), send...)
	}
	if len(send) > 0 {
		if _, err := f.Conn.Write(send); err != nil {
			return 0, err
		}
	}
	f.out = append(f.out[:0], f.out[done:]...)
	return len(p), nil
}

// edit lowers the stream limit in the server's first SETTINGS, and names the reason why it resets a
// stream: the only internal errors here are the streams that enter refused.
func (f *firstStream) edit(frame []byte) {
	body := frame[frameHeader:]
	switch {
	case frame[3] == frameSettings && frame[4]&flagACK == 0 && f.limit == 0:
		for ; len(body) >= 6; body = body[6:] {
			if binary.BigEndian.Uint16(body) == maxStreamsID {
				f.limit = binary.BigEndian.Uint32(body[2:])
				binary.BigEndian.PutUint32(body[2:], 1)
			}
		}
	case frame[3] == frameRST && len(body) == 4 && binary.BigEndian.Uint32(body) == internalError:
		binary.BigEndian.PutUint32(body, refusedStream)
	}
}

func frameLength(head []byte) int {
	return int(head[0])<<16 | int(head[1])<<8 | int(head[2])
}

func settingsFrame(streams uint32) []byte {
	frame := []byte{0, 0, 6, frameSettings, 0, 0, 0, 0, 0, 0, maxStreamsID}
	return binary.BigEndian.AppendUint32(frame, streams)
}
