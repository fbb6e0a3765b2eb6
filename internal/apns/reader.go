package apns

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/net/http2"
)

// maxGreetings is how many SETTINGS and PING a peer may send in a second.
const maxGreetings = 1000

// errDone ends the reader of a connection that others have ended.
var errDone = errors.New("the connection is dead")

// streamFault is an error of one stream. The connection is good.
func streamFault(what string) error {
	return &fault{reason: "http2_stream", err: errors.New("http2: " + what)}
}

// read takes frames until the connection ends. Its errors are errors of the connection.
func (c *conn) read() {
	for {
		f, err := c.in.ReadFrame()
		if err != nil {
			err = c.readError(err)
		} else {
			err = c.frame(f)
		}
		if err != nil {
			c.p.mu.Lock()
			c.fail(err)
			c.p.mu.Unlock()
			return
		}
	}
}

// readError explains what the framer found. Errors of one stream among them are treated as the
// connection's, as RFC 9113 section 5.4.1 allows: no peer in order makes them.
func (c *conn) readError(err error) error {
	var (
		connection http2.ConnectionError
		stream     http2.StreamError
	)
	switch {
	case errors.As(err, &connection):
		return &violation{http2.ErrCode(connection), detail(c.in.ErrorDetail())}
	case errors.As(err, &stream):
		return &violation{stream.Code, detail(stream.Cause)}
	case errors.Is(err, http2.ErrFrameTooLarge):
		return &violation{http2.ErrCodeFrameSize, "a frame is too large, or this is not HTTP/2"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errCut
	}
	return fmt.Errorf("read: %w", err)
}

func detail(err error) string {
	if err == nil {
		return "a frame is not as it must be"
	}
	return clip(err.Error(), 100)
}

// frame handles one frame.
func (c *conn) frame(f http2.Frame) error {
	// Header blocks are decoded before the lock is taken.
	switch f := f.(type) {
	case *http2.HeadersFrame:
		c.head.begin(f)
		if err := c.head.write(f.HeaderBlockFragment(), f.HeadersEnded()); err != nil || !f.HeadersEnded() {
			return err
		}
	case *http2.ContinuationFrame: // the framer sees to it that it continues a block
		if err := c.head.write(f.HeaderBlockFragment(), f.HeadersEnded()); err != nil || !f.HeadersEnded() {
			return err
		}
	}
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.dead {
		return errDone
	}
	c.frameCount++
	if !c.greeted {
		// RFC 9113 section 3.4: the peer's preface is a SETTINGS frame.
		if s, ok := f.(*http2.SettingsFrame); !ok || s.IsAck() {
			return &violation{http2.ErrCodeProtocol, "the first frame is not SETTINGS"}
		}
	}
	switch f := f.(type) {
	case *http2.HeadersFrame, *http2.ContinuationFrame:
		return c.headers()
	case *http2.DataFrame:
		return c.data(f)
	case *http2.RSTStreamFrame:
		return c.resetByPeer(f)
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		if f.IsAck() {
			return nil // counted as a sign of life
		}
		c.reply(c.frames.WritePing(true, f.Data))
		return c.greeting()
	case *http2.GoAwayFrame:
		c.goneAway(f)
	case *http2.PushPromiseFrame:
		return &violation{http2.ErrCodeProtocol, "a push, which we do not allow"}
	}
	return nil // PRIORITY, and what is not known (RFC 9113 sections 5.3.2 and 5.5)
}

// lookup finds the stream of a frame; nil for one that is closed. Frames for it may still be under
// way; frames for one that we never opened are an error.
func (c *conn) lookup(id uint32) (*stream, error) {
	if st := c.streams[id]; st != nil {
		return st, nil
	}
	if id%2 == 0 || id >= c.nextID || id < c.p.firstID {
		return nil, &violation{http2.ErrCodeProtocol, "a frame for a stream that was never opened"}
	}
	return nil, nil
}

// headers handles a header block, which c.head holds: an answer, or the trailers after it.
func (c *conn) headers() error {
	h := &c.head
	st, err := c.lookup(h.stream)
	if st == nil {
		return err
	}
	switch {
	case st.state == lingering:
		if h.endStream {
			c.end(st, nil)
		}
	case h.size > maxHeaderList:
		c.reset(st, http2.ErrCodeCancel, streamFault("the answer's header list is too large"))
	case h.malformed, st.status == 0 && h.status == 0, st.status != 0 && (h.status != 0 || !h.endStream):
		c.reset(st, http2.ErrCodeProtocol, streamFault("the answer is malformed"))
	case st.status != 0: // trailers
		c.end(st, nil)
	case h.status < 200: // an interim answer (RFC 9110 section 15.2)
		if h.endStream {
			c.reset(st, http2.ErrCodeProtocol, streamFault("the answer is malformed"))
		}
		return nil
	default:
		c.answer(st)
	}
	c.settle()
	return nil
}

// answer takes the final status of st from c.head.
func (c *conn) answer(st *stream) {
	h := &c.head
	c.answers++
	c.p.answers++
	if h.status != 403 { // whatever it says, it is not about our credential
		c.proven = true
	}
	st.status, st.apnsID, st.retryAfter = h.status, h.apnsID, h.retryAfter
	switch complete := h.endStream || h.status == 200; { // after 200, what could still come says nothing
	case complete && len(st.rest) > 0:
		// Answered before all was sent: our half of the stream is still to be closed.
		c.reset(st, http2.ErrCodeCancel, nil)
	case h.endStream:
		c.end(st, nil)
	case complete:
		c.answered(st)
	}
}

// data handles a part of an answer's body.
func (c *conn) data(f *http2.DataFrame) error {
	if err := c.received(f.Length); err != nil {
		return err
	}
	st, err := c.lookup(f.StreamID)
	if st == nil {
		return err
	}
	switch {
	case st.state == lingering:
		if !f.StreamEnded() {
			return nil
		}
		c.end(st, nil)
	case st.status == 0:
		c.reset(st, http2.ErrCodeProtocol, streamFault("a body before the header fields"))
	default:
		room := maxBody - len(st.body)
		st.body = append(st.body, f.Data()[:min(room, len(f.Data()))]...)
		switch {
		case f.StreamEnded() && len(st.rest) == 0:
			c.end(st, nil)
		case f.StreamEnded(), len(f.Data()) > room: // the rest is not wanted
			c.reset(st, http2.ErrCodeCancel, nil)
		default:
			return nil
		}
	}
	c.settle()
	return nil
}

// resetByPeer handles RST_STREAM.
func (c *conn) resetByPeer(f *http2.RSTStreamFrame) error {
	st, err := c.lookup(f.StreamID)
	if st == nil {
		return err
	}
	err = fmt.Errorf("http2: the peer ended the stream: %s", f.ErrCode)
	c.end(st, &fault{reason: "http2_stream", unseen: f.ErrCode == http2.ErrCodeRefusedStream, err: err})
	c.settle()
	return nil
}

// settings handles SETTINGS (RFC 9113 section 6.5.2), on the first occasion and on every other.
func (c *conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.greeted = true
	err := f.ForeachSetting(func(s http2.Setting) error {
		switch s.ID {
		case http2.SettingHeaderTableSize:
			c.blocks.setTableSize(s.Val)
		case http2.SettingEnablePush:
			if s.Val != 0 {
				return &violation{http2.ErrCodeProtocol, "a server that sets ENABLE_PUSH"}
			}
		case http2.SettingMaxConcurrentStreams:
			c.peerStreams = s.Val
		case http2.SettingInitialWindowSize:
			return c.setPeerWindow(s.Val)
		case http2.SettingMaxFrameSize:
			if s.Val < maxFrame || s.Val > 1<<24-1 {
				return &violation{http2.ErrCodeProtocol, "SETTINGS_MAX_FRAME_SIZE out of range"}
			}
		default: // advice, or nothing that we know (RFC 9113 section 6.5.2)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.reply(c.frames.WriteSettingsAck())
	if err := c.greeting(); err != nil {
		return err
	}
	c.settle()
	return nil
}

// greeting bounds how often the peer can make us answer.
func (c *conn) greeting() error {
	if now := time.Now(); now.Sub(c.greetedAt) >= time.Second {
		c.greetedAt, c.greetings = now, 0
	}
	if c.greetings++; c.greetings > maxGreetings {
		return &violation{http2.ErrCodeEnhanceYourCalm, "too many PING or SETTINGS frames"}
	}
	return nil
}
