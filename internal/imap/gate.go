package imap

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// A gate stands between the network and what reads from it. For once it can say that nothing is there instead of
// waiting, also to TLS, which alone knows whether bytes are left that it has not decrypted. So a connection that
// idles waits for its socket alone: on a stack that never grew, and without a buffer.
type gate struct {
	net.Conn
	raw syscall.RawConn // nil: the connection is no socket, and every read waits
	fd  uintptr         // reads do not wait while it is set; of whoever has the turn
}

// errNothing: there is nothing to read now. For crypto/tls it must be a temporary [net.Error], or the connection ends.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing to read" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

func newGate(conn net.Conn) gate {
	g := gate{Conn: conn}
	if s, ok := conn.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			g.raw = raw
		}
	}
	return g
}

// Read implements [io.Reader].
func (g *gate) Read(b []byte) (n int, err error) {
	if g.fd == 0 || len(b) == 0 {
		return g.Conn.Read(b)
	}
	for {
		switch n, err = syscall.Read(int(g.fd), b); {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return 0, errNothing
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// readers are the buffers of connections that are awake.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readBuffer) }}

// park waits until something can be read, without a buffer and with little of the stack. Nothing is read ahead.
func (c *Client) park() error {
	if c.gate.raw == nil {
		_, err := c.dec.r.Peek(1)
		return err
	}
	var err error
	waited := c.gate.raw.Read(func(fd uintptr) bool {
		err = deep(func() error { return c.peek(fd) })
		return err != error(errNothing) //nolint:errorlint // the very value; the socket is waited for then
	})
	if waited != nil { // closed, or not in time
		return errors.Join(waited, deep(c.wake))
	}
	return err
}

// peek has the first byte in the buffer, if one is there.
func (c *Client) peek(fd uintptr) error {
	_ = c.wake()
	c.gate.fd = fd
	_, err := c.dec.r.Peek(1)
	c.gate.fd = 0
	if err == error(errNothing) { //nolint:errorlint // the very value
		c.dec.r.Reset(nil)
		readers.Put(c.dec.r)
		c.dec.r = nil
	}
	return err
}

// wake has a buffer again.
func (c *Client) wake() error {
	if c.dec.r == nil {
		c.dec.r = readers.Get().(*bufio.Reader)
		c.dec.r.Reset(c.conn)
	}
	return nil
}

// deep runs f on a stack of its own, which is not kept: stacks shrink late, and never to their first size.
func deep(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return <-done
}
