package imap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Client is one connection to a server.
type Client struct {
	srv  *Server
	raw  net.Conn      // as dialled; closing it stops whatever reads or writes, at once
	gate gate          // before raw
	turn chan struct{} // holds an element while a command runs

	// Owned by whoever has the turn.
	conn    net.Conn // raw, or TLS over it
	dec     decoder
	handle  func(Update) // may be nil
	tags    int          // how many were used
	told    int          // how often the server told its capabilities
	secure  bool         // encrypted, and verified unless Config.Insecure
	authed  bool
	qresync bool // the server has enabled it

	mu   sync.Mutex
	caps *capabilities // nil before the server has told; guarded by mu
	err  error         // why the connection cannot be used any more; guarded by mu

	idle idling
}

// readBuffer is what a connection that is awake reads ahead, in bytes.
const readBuffer = 1024

// use has commands read from and write to conn. What was read ahead from the previous one is lost.
func (c *Client) use(conn net.Conn) {
	c.conn = conn
	if c.dec.r != nil { // it belongs to one connection at a time
		c.dec.r.Reset(nil)
		readers.Put(c.dec.r)
	}
	c.dec = decoder{}
	_ = c.wake()
}

// open brings a new connection to where commands can be given.
func (c *Client) open(ctx context.Context) error {
	if c.srv.cfg.Security == SecurityTLS {
		if err := c.encrypt(ctx); err != nil {
			return err
		}
	}
	if err := c.greeting(); err != nil {
		return err
	}
	if c.srv.cfg.Security == SecuritySTARTTLS {
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
	conn := tls.Client(&c.gate, c.srv.tls)
	// The end of the context closes the connection anyway (do): the handshake need not watch it too.
	if err := conn.HandshakeContext(context.WithoutCancel(ctx)); err != nil {
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
	// note is offered each untagged status response. May be nil.
	note func(r response)
	// reply answers a request for more, whose text it gets, with a line (without CRLF). May be nil.
	reply func(text string) string
	// bye: an untagged BYE is no accident.
	bye bool
	// secrets are what no error may repeat, even when the server does.
	secrets []string
}

// tag returns the next command's.
func (c *Client) tag() string {
	c.tags++
	return "p" + strconv.Itoa(c.tags)
}

// run sends one command and reads until its tagged response. The caller has the turn. NO, BAD and BYE
// become a [*ResponseError]; after any other error the connection is closed.
func (c *Client) run(ctx context.Context, cmd command) (response, error) {
	start := time.Now()
	tag := c.tag()
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
			parts = [][]byte{[]byte(cmd.reply(r.text) + "\r\n")}
		default:
			return response{}, c.fail(fmt.Errorf("server asks for more than there is: %w", errSyntax))
		}
	}
	c.log(ctx, cmd.name, r, start)
	if r.status != "OK" {
		return r, r.err()
	}
	if len(parts) > 0 {
		return r, c.fail(fmt.Errorf("server is content with half a command: %w", errSyntax))
	}
	return r, nil
}

func (c *Client) log(ctx context.Context, name string, r response, start time.Time) {
	if log := c.srv.cfg.Logger; log.Enabled(ctx, slog.LevelDebug) {
		log.LogAttrs(ctx, slog.LevelDebug, "imap command", slog.String("command", name),
			slog.String("status", r.status), slog.String("code", r.code), slog.Duration("took", time.Since(start)))
	}
}

// await reads until the response tagged so, or until the server asks for more.
func (c *Client) await(tag string, cmd command) (response, error) {
	for {
		if r, ended, err := c.awaitOne(tag, cmd); ended || err != nil {
			return r, err
		}
	}
}

// awaitOne reads one response. ended means that it is one that await waits for.
func (c *Client) awaitOne(tag string, cmd command) (r response, ended bool, err error) {
	r, err = c.dec.response()
	if err != nil {
		return response{}, false, c.lost(err)
	}
	r.conceal(cmd.secrets)
	switch {
	case r.tag == continuation:
		return r, true, nil
	case r.tag == tag:
		if r.status == "OK" || r.status == "NO" || r.status == "BAD" {
			c.noteCode(r)
			return r, true, nil
		}
		return response{}, false, c.fail(fmt.Errorf("read answer: %w", errSyntax))
	case r.tag != untagged:
		return response{}, false, c.fail(fmt.Errorf("answer to a command not given: %w", errSyntax))
	case r.status == "":
		return response{}, false, c.data(r, cmd)
	}
	c.noteCode(r)
	if cmd.note != nil {
		cmd.note(r)
	}
	c.deliver(Notice{Status: r.status, Code: r.code, Args: r.codeArgs, Text: r.text})
	if r.status == "BYE" && !cmd.bye {
		return response{}, false, c.fail(r.err())
	}
	return response{}, false, nil
}

// data reads what follows the head of an untagged response: what belongs to the command, and else what
// goes to the handler.
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
		known, err = cmd.data(r, &c.dec)
	}
	if err == nil && !known && c.handle != nil {
		var u Update
		if u, known, err = c.dec.update(r); err == nil && known {
			err = c.dec.crlf()
			if err == nil {
				c.deliver(u)
				return nil
			}
		}
	}
	switch {
	case err != nil:
	case known:
		err = c.dec.crlf()
	default:
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
