package imap

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Client is one connection to a server.
type Client struct {
	cfg  Config
	raw  net.Conn      // as dialled; closing it stops whatever reads or writes, at once
	turn chan struct{} // holds an element while a command runs

	// Owned by whoever has the turn.
	conn   net.Conn // raw, or TLS over it
	dec    *decoder
	secure bool // encrypted, and verified unless cfg.Insecure
	authed bool
	tags   int // how many were used
	told   int // how often the server told its capabilities

	mu   sync.Mutex
	caps map[string]bool // upper case; guarded by mu
	err  error           // why the connection cannot be used any more; guarded by mu
}

// Dial connects, encrypts and reads the server's capabilities. A greeting of BYE is a [ResponseError].
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("imap: %w", err)
	}
	conn, err := cfg.Dial(ctx, "tcp", cfg.addr())
	if err != nil {
		return nil, fmt.Errorf("imap: connect to %s: %w", cfg.addr(), err)
	}
	c := &Client{cfg: cfg, raw: conn, turn: make(chan struct{}, 1)}
	c.use(conn)
	if err := c.do(ctx, "connect to "+cfg.addr(), func() error { return c.open(ctx) }); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// use has commands read from and write to conn. What was read ahead from the previous one is lost.
func (c *Client) use(conn net.Conn) {
	c.conn = conn
	c.dec = newDecoder(bufio.NewReader(conn))
}

// open brings a new connection to where commands can be given.
func (c *Client) open(ctx context.Context) error {
	if c.cfg.Security == SecurityTLS {
		if err := c.encrypt(ctx); err != nil {
			return err
		}
	}
	if err := c.greeting(); err != nil {
		return err
	}
	if c.cfg.Security == SecuritySTARTTLS {
		if err := c.startTLS(ctx); err != nil {
			return err
		}
	}
	return c.needCapabilities(ctx, 0)
}

// greeting reads the first response (RFC 9051 section 7.1).
func (c *Client) greeting() error {
	r, err := c.dec.response()
	if err != nil {
		return c.fail(fmt.Errorf("read greeting: %w", err))
	}
	if r.tag != untagged {
		return c.fail(fmt.Errorf("read greeting: %w", errSyntax))
	}
	switch r.status {
	case "OK":
	case "PREAUTH":
		c.authed = true
	case "BYE":
		return c.fail(r.err())
	default:
		return c.fail(fmt.Errorf("read greeting: %w", errSyntax))
	}
	c.noteCode(r)
	return nil
}

// encrypt puts TLS on the connection.
func (c *Client) encrypt(ctx context.Context) error {
	conn := tls.Client(c.raw, &tls.Config{
		ServerName:         c.cfg.Host,
		RootCAs:            c.cfg.RootCAs,
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: c.cfg.Insecure, //nolint:gosec // G402: only on the operator's word
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return c.fail(fmt.Errorf("encrypt: %w", err))
	}
	c.use(conn)
	c.secure = true
	return nil
}

// do runs f in its turn. The end of ctx closes the connection and with it ends f; what f may have
// achieved nevertheless is not known to the caller then.
func (c *Client) do(ctx context.Context, verb string, f func() error) error {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil { // also when both were ready: the connection need not suffer
		return fmt.Errorf("imap: %s: %w", verb, context.Cause(ctx))
	}
	if err := c.usable(); err != nil {
		return fmt.Errorf("imap: %s: %w", verb, err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = c.fail(fmt.Errorf("%s: %w", verb, context.Cause(ctx))) // f learns it from its read or write
	})
	err := f()
	if !stop() { // the function may only have begun
		err = context.Cause(ctx)
		_ = c.fail(fmt.Errorf("%s: %w", verb, err))
	}
	if err != nil {
		return fmt.Errorf("imap: %s: %w", verb, err)
	}
	return nil
}

// fail marks the connection as unusable, closes it, and returns the first reason.
func (c *Client) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	_ = c.raw.Close() // a second close, or one that fails, changes nothing
	return c.err
}

// usable returns an error once the connection has ended. The reason is only told, not wrapped: it
// was another call's.
func (c *Client) usable() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err == nil:
		return nil
	case errors.Is(c.err, ErrClosed):
		return ErrClosed
	default:
		return fmt.Errorf("%w: %v", ErrClosed, c.err) //nolint:errorlint // not wrapped, see above
	}
}

// Close ends the connection without a word to the server. It may be called at any time, also more than
// once, and makes a running command return [ErrClosed].
func (c *Client) Close() { _ = c.fail(ErrClosed) }

// A command is what one exchange needs beside its tag.
type command struct {
	name string // "AUTHENTICATE": all that is ever logged
	// args writes what stands after the name, beginning with a space. May be nil.
	args func(e *encoder)
	// data is offered each untagged response that is not a status. It returns false for one it does not
	// want, having read nothing. May be nil.
	data func(r response, d *decoder) (bool, error)
	// reply answers a request for more with a line (without CRLF). May be nil.
	reply func() string
	// bye: an untagged BYE is no accident.
	bye bool
	// secrets are what no error may repeat, even when the server does.
	secrets []string
}

// run sends one command and reads until its tagged response. The caller has the turn. NO, BAD and BYE
// become a [*ResponseError]; after any other error the connection is closed.
func (c *Client) run(ctx context.Context, cmd command) (response, error) {
	start := time.Now()
	c.tags++
	tag := "p" + strconv.Itoa(c.tags)
	e := newEncoder(c.Has("LITERAL+"), c.Has("LITERAL-"))
	e.text(tag + " " + cmd.name)
	if cmd.args != nil {
		cmd.args(e)
	}
	parts := e.end()
	var r response
	for len(parts) > 0 {
		if _, err := c.conn.Write(parts[0]); err != nil {
			return response{}, c.fail(fmt.Errorf("send: %w", err))
		}
		var err error
		parts = parts[1:]
		if r, err = c.await(tag, cmd); err != nil {
			return response{}, err
		}
		if r.tag != continuation {
			break
		}
		switch {
		case len(parts) > 0: // the server waits for a literal
		case cmd.reply != nil:
			parts = [][]byte{[]byte(cmd.reply() + "\r\n")}
		default:
			return response{}, c.fail(fmt.Errorf("server asks for more than there is: %w", errSyntax))
		}
	}
	c.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "imap command", slog.String("command", cmd.name),
		slog.String("status", r.status), slog.String("code", r.code), slog.Duration("took", time.Since(start)))
	if r.status != "OK" {
		return r, r.err()
	}
	if len(parts) > 0 {
		return r, c.fail(fmt.Errorf("server is content with half a command: %w", errSyntax))
	}
	return r, nil
}

// await reads until the response tagged so, or until the server asks for more.
func (c *Client) await(tag string, cmd command) (response, error) {
	for {
		r, err := c.dec.response()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return response{}, c.fail(fmt.Errorf("read answer: %w", err))
		}
		r.conceal(cmd.secrets)
		switch {
		case r.tag == continuation:
			return r, nil
		case r.tag == tag:
			if r.status == "OK" || r.status == "NO" || r.status == "BAD" {
				c.noteCode(r)
				return r, nil
			}
			return response{}, c.fail(fmt.Errorf("read answer: %w", errSyntax))
		case r.tag != untagged:
			return response{}, c.fail(fmt.Errorf("answer to a command not given: %w", errSyntax))
		case r.status == "BYE" && !cmd.bye:
			return response{}, c.fail(r.err())
		case r.status != "":
			c.noteCode(r)
		default:
			if err := c.data(r, cmd); err != nil {
				return response{}, err
			}
		}
	}
}

// data reads what follows the head of an untagged response.
func (c *Client) data(r response, cmd command) error {
	var known bool
	var err error
	switch {
	case r.name == "CAPABILITY":
		var names []string
		if names, err = c.dec.capabilities(); err == nil {
			c.setCapabilities(names)
		}
		known = true
	case cmd.data != nil:
		known, err = cmd.data(r, c.dec)
	}
	if err == nil && known {
		err = c.dec.crlf()
	} else if err == nil {
		err = c.dec.skip()
	}
	if err != nil {
		return c.fail(fmt.Errorf("read data: %w", err))
	}
	return nil
}

// noteCode takes note of a status response's code, where it concerns the connection as a whole.
func (c *Client) noteCode(r response) {
	if r.code == "CAPABILITY" {
		c.setCapabilities(strings.Fields(r.codeArgs))
	}
}
