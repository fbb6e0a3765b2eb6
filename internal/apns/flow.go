package apns

import "golang.org/x/net/http2"

// maxWindow is the largest window (RFC 9113 section 6.9.1).
const maxWindow = 1<<31 - 1

// sendBody sends as much of the payload as the windows of the stream and of the connection allow. A
// stream that is short of the connection's window waits in blocked; one that is short of its own
// waits for WINDOW_UPDATE or SETTINGS, which find it by its number.
func (c *conn) sendBody(st *stream) {
	for len(st.rest) > 0 && st.window > 0 {
		if c.window <= 0 {
			if st.in == nil {
				c.blocked.push(st)
			}
			return
		}
		n := int(min(int64(len(st.rest)), st.window, c.window, maxFrame))
		part := st.rest[:n]
		st.rest = st.rest[n:]
		st.window -= int64(n)
		c.window -= int64(n)
		c.put(c.frames.WriteData(st.id, len(st.rest) == 0, part))
	}
	st.leaveList()
}

// windowUpdate handles WINDOW_UPDATE.
func (c *conn) windowUpdate(f *http2.WindowUpdateFrame) error {
	if f.StreamID == 0 {
		if int64(f.Increment) > maxWindow-c.window {
			return &violation{http2.ErrCodeFlowControl, "the connection's window overflows"}
		}
		c.window += int64(f.Increment)
		for c.window > 0 && c.blocked.n > 0 {
			c.sendBody(c.blocked.first)
		}
		return nil
	}
	st, err := c.lookup(f.StreamID)
	if st == nil {
		return err
	}
	if int64(f.Increment) > maxWindow-st.window {
		c.reset(st, http2.ErrCodeFlowControl, streamFault("the peer overflowed the stream's window"))
		c.settle()
		return nil
	}
	st.window += int64(f.Increment)
	c.sendBody(st)
	return nil
}

// setPeerWindow handles SETTINGS_INITIAL_WINDOW_SIZE, which also moves the windows of open streams,
// even below zero (RFC 9113 section 6.9.2).
func (c *conn) setPeerWindow(v uint32) error {
	delta := int64(v) - c.peerWindow
	c.peerWindow = int64(v)
	for _, st := range c.streams {
		if st.window += delta; st.window > maxWindow {
			return &violation{http2.ErrCodeFlowControl, "SETTINGS overflow a stream's window"}
		}
		if st.state == open {
			c.sendBody(st)
		}
	}
	return nil
}

// received accounts for n bytes of DATA, whichever stream they were for, and lets the peer send as
// many again. Only the reader comes here, with the lock held for what goes out.
func (c *conn) received(n uint32) error {
	if c.recvWindow -= int64(n); c.recvWindow < 0 {
		return &violation{http2.ErrCodeFlowControl, "more data than the connection's window"}
	}
	if c.unread += n; c.unread >= connWindow/4 {
		c.put(c.frames.WriteWindowUpdate(0, c.unread))
		c.recvWindow += int64(c.unread)
		c.unread = 0
	}
	return nil
}
