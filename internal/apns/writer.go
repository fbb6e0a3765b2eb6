package apns

import (
	"runtime"

	"golang.org/x/net/http2"
)

// buffer collects frames; it never fails.
type buffer []byte

func (b *buffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

const (
	// keptBuffer is the largest buffer that is used again, in bytes: a thousand requests with the usual
	// payload. A burst of large ones may need more.
	keptBuffer = 1 << 20
	// maxReplies bounds the replies that wait for a peer which asks but does not read.
	maxReplies = 1000
)

// put follows each frame written into out. The framer has no error to give: its writer does not fail,
// and the streams are valid.
func (c *conn) put(error) { c.wakeWriter() }

// reply is put for frames that the peer can make us send.
func (c *conn) reply(err error) {
	c.put(err)
	if c.replies++; c.replies > maxReplies {
		c.fail(&violation{http2.ErrCodeEnhanceYourCalm, "more questions than the peer lets us answer"})
	}
}

func (c *conn) wakeWriter() {
	if c.idle {
		c.idle = false
		c.work.Signal()
	}
}

// write sends what others put into out, as much as there is at a time: while one batch is on its way
// the next one gathers. There is no delay by the clock and no size to reach.
func (c *conn) write() {
	mu := &c.p.mu
	var spare buffer
	mu.Lock()
	for {
		for len(c.out) == 0 && !c.dead {
			c.idle = true
			c.work.Wait()
			// The first frame woke us. Those who can run now get to add theirs: under load this makes
			// the difference between a record for each request and one for dozens.
			mu.Unlock()
			runtime.Gosched()
			mu.Lock()
		}
		if len(c.out) == 0 {
			break
		}
		batch := c.out
		c.out, c.replies, c.sentID = spare, 0, c.nextID
		mu.Unlock()
		_, err := c.nc.Write(batch)
		spare = batch[:0]
		if cap(spare) > keptBuffer {
			spare = nil
		}
		mu.Lock()
		if err != nil {
			c.fail(err)
			c.out, c.graceful = nil, false
		}
	}
	graceful := c.graceful
	mu.Unlock()
	if graceful {
		_ = c.nc.Close() // the last word of TLS may fail; everything before it arrived or was given up
	}
	_ = c.raw.Close()
}

// ping asks the peer for a sign of life. Any frame will do for one.
func (c *conn) ping() {
	c.put(c.frames.WritePing(false, [8]byte{'p', 'o', 's', 't', 'h', 'o', 'r', 'n'}))
}
