package imap

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// idling is how far an Idle is.
type idling struct {
	tag string // of the command that is not answered; of whoever has the turn

	mu     sync.Mutex
	state  idleState     // guarded by mu
	wanted bool          // an Interrupt came that no Idle has seen; guarded by mu
	within time.Duration // of the Interrupt; guarded by mu
}

type idleState uint8

const (
	idleNot   idleState = iota
	idleAsked           // IDLE is sent, the server has not said that it idles
	idleOn
	idleDone // DONE is sent
)

// Idle waits for the server to tell news (RFC 2177), and hands it to [Client.Handle]'s function, until somebody calls
// [Client.Interrupt]. It has no context, which would cost each of thousands of connections some hundred bytes: Close
// ends it at once.
//
// The server may end a connection that idles for 30 minutes. Whoever holds one interrupts it in time, and idles again.
func (c *Client) Idle() error {
	c.turn <- struct{}{}
	err := deep(c.beginIdle)
	for err == nil && c.idle.tag != "" {
		if err = c.park(); err == nil {
			err = deep(c.readIdle)
		} else {
			err = c.lost(err)
		}
	}
	return c.endIdle(err)
}

// beginIdle gives the command, unless there is nothing to wait for.
func (c *Client) beginIdle() error {
	if err := c.usable(); err != nil {
		return err
	}
	if !c.Has("IDLE") && !c.Has("IMAP4REV2") {
		return fmt.Errorf("IDLE is %w", ErrUnsupported)
	}
	if c.idle.begin() {
		return nil
	}
	c.idle.tag = c.tag()
	if _, err := io.WriteString(c.conn, c.idle.tag+" IDLE\r\n"); err != nil {
		return c.fail(fmt.Errorf("send: %w", err))
	}
	r, err := c.await(c.idle.tag, command{})
	switch {
	case err != nil:
		return err
	case r.tag == continuation:
		if err := c.idle.on(c); err != nil {
			return err
		}
		if c.dec.r.Buffered() > 0 {
			return c.readIdle()
		}
		return nil
	}
	return c.idleEnds(r)
}

// readIdle reads what has come, and the rest of a response that has begun.
func (c *Client) readIdle() error {
	for c.dec.r.Buffered() > 0 {
		r, ended, err := c.awaitOne(c.idle.tag, command{})
		switch {
		case err != nil:
			return err
		case ended && r.tag == continuation:
			return c.fail(fmt.Errorf("server asks for more than there is: %w", errSyntax))
		case ended:
			return c.idleEnds(r)
		}
	}
	return nil
}

// idleEnds takes the answer to IDLE.
func (c *Client) idleEnds(r response) error {
	c.idle.tag = ""
	if r.status != "OK" {
		return r.err()
	}
	return nil
}

// lost makes an error of the connection's end.
func (c *Client) lost(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return c.fail(fmt.Errorf("read answer: %w", err))
}

// endIdle makes the connection fit for commands again, and gives the turn back.
func (c *Client) endIdle(err error) error {
	c.idle.mu.Lock()
	if c.idle.state == idleDone {
		_ = c.raw.SetReadDeadline(time.Time{}) // on a closed connection: it does not matter any more
	}
	if c.idle.state != idleNot {
		c.idle.state, c.idle.wanted = idleNot, false
	}
	c.idle.mu.Unlock()
	c.idle.tag = ""
	<-c.turn
	if err != nil {
		return fmt.Errorf("imap: idle: %w", err)
	}
	return nil
}

// begin reports whether an Interrupt came already, which is done with then.
func (i *idling) begin() (over bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.wanted {
		i.wanted = false
		return true
	}
	i.state = idleAsked
	return false
}

// on takes note that the server idles.
func (i *idling) on(c *Client) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.state = idleOn
	if i.wanted {
		return c.done()
	}
	return nil
}

// Interrupt has the running Idle return soon, or the next one at once when none runs. It may be called from anywhere,
// also by Handle's function, and as often as one likes. A server that does not answer within the time given is
// dead: Idle returns an error then.
func (c *Client) Interrupt(within time.Duration) {
	c.idle.mu.Lock()
	defer c.idle.mu.Unlock()
	if c.idle.state == idleDone {
		return
	}
	c.idle.wanted, c.idle.within = true, within
	if c.idle.state == idleOn {
		_ = c.done() // Idle's reader learns of it
	}
}

// done ends the server's idling. The caller has idle.mu.
func (c *Client) done() error {
	c.idle.state, c.idle.wanted = idleDone, false
	end := time.Now().Add(c.idle.within)
	err := c.raw.SetDeadline(end)
	if err == nil {
		_, err = io.WriteString(c.conn, "DONE\r\n")
	}
	// A write that timed out has closed TLS for writing; one that did not must not fail later.
	err = errors.Join(err, c.raw.SetWriteDeadline(time.Time{}))
	if err != nil {
		return c.fail(fmt.Errorf("send: %w", err))
	}
	return nil
}
