package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
)

// The embedded IMAP library has no METADATA (RFC 5464), which is how Posthorn registers itself at
// Dovecot. So a thin front stands before it: it answers the two METADATA commands in Dovecot's words,
// adds the capability once somebody has signed in, and hands everything else through, byte for byte.
//
// One command at a time: a command goes to the library whole, and the next one is looked at when its
// tagged answer came back. The library speaks only within a command (updates belong to NOOP or IDLE),
// so the front's own answers never fall into the middle of another one, and no lock is needed.

const (
	// maxLine bounds a command or response line, maxMetadata a whole METADATA command; both in bytes.
	maxLine     = 64 << 10
	maxMetadata = 64 << 10
)

// frontConn is one client connection: two goroutines, one for each direction. serve owns both.
type frontConn struct {
	client, backend net.Conn
	fromClient      *bufio.Reader
	events          chan frontEvent

	mu   sync.Mutex
	user *mailUser // nil until signed in
}

// frontEvent is what the command loop waits for in the responses: the greeting ("*"), a continuation
// request ("+") or the tagged end of a command.
type frontEvent string

// signedIn is called by the library's session, before it writes the answer to LOGIN or AUTHENTICATE.
func (c *frontConn) signedIn(u *mailUser) {
	c.mu.Lock()
	c.user = u
	c.mu.Unlock()
}

func (c *frontConn) signedInAs() *mailUser {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.user
}

// serve returns when either side has closed the connection or ctx ended, and both are closed.
func (c *frontConn) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		_ = c.client.Close()
		_ = c.backend.Close()
	})
	defer stop()

	c.fromClient = bufio.NewReader(c.client)
	c.events = make(chan frontEvent)
	responses := make(chan error, 1)
	go func() {
		err := c.passResponses(ctx)
		cancel() // wakes a command loop that waits for the client
		responses <- err
	}()
	err := c.passCommands(ctx)
	if ctx.Err() != nil {
		err = nil // the other side ended first, or we were told to
	}
	cancel()
	_ = c.client.Close()
	_ = c.backend.Close()
	if e := <-responses; err == nil {
		err = e
	}
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// passCommands reads the client's commands until the connection ends.
func (c *frontConn) passCommands(ctx context.Context) error {
	if _, err := c.wait(ctx, "*"); err != nil {
		return err
	}
	for {
		line, err := readLine(c.fromClient)
		if err != nil {
			return err
		}
		tag, rest, _ := bytes.Cut(line, []byte(" "))
		name, _, _ := bytes.Cut(bytes.TrimRight(rest, "\r\n"), []byte(" "))
		user := c.signedInAs()
		if user != nil && (bytes.EqualFold(name, []byte("GETMETADATA")) || bytes.EqualFold(name, []byte("SETMETADATA"))) {
			err = c.answerMetadata(user, string(tag), rest)
		} else {
			err = c.passCommand(ctx, string(tag), line)
		}
		if err != nil {
			return err
		}
	}
}

// passCommand hands one command to the library and returns when it has been answered.
func (c *frontConn) passCommand(ctx context.Context, tag string, line []byte) error {
	for {
		if _, err := c.backend.Write(line); err != nil {
			return err
		}
		n, sync, literal := literalAtEnd(line)
		if !literal || sync {
			ev, err := c.wait(ctx, "+", frontEvent(tag))
			if err != nil || ev != "+" {
				return err
			}
		}
		// The library takes what the client sends next: a literal and the rest of the line that
		// announced it, or a line of its own (DONE after IDLE, a SASL answer).
		if literal {
			if _, err := io.CopyN(c.backend, c.fromClient, n); err != nil {
				return err
			}
		}
		var err error
		if line, err = readLine(c.fromClient); err != nil {
			return err
		}
	}
}

// wait blocks until the library has sent one of the wanted responses.
func (c *frontConn) wait(ctx context.Context, wanted ...frontEvent) (frontEvent, error) {
	for {
		select {
		case ev := <-c.events:
			if slices.Contains(wanted, ev) {
				return ev, nil
			}
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// passResponses copies the library's responses to the client until the connection ends.
func (c *frontConn) passResponses(ctx context.Context) error {
	from, to := bufio.NewReader(c.backend), bufio.NewWriter(c.client)
	greeted := false
	for {
		line, err := readLine(from)
		if err != nil {
			return err
		}
		word, _, _ := bytes.Cut(line, []byte(" "))
		ev := frontEvent(word)
		if c.signedInAs() != nil {
			line = withMetadata(line)
		}
		for {
			if _, err := to.Write(line); err != nil {
				return err
			}
			n, _, literal := literalAtEnd(line)
			if !literal {
				break
			}
			if _, err := io.CopyN(to, from, n); err != nil {
				return err
			}
			if line, err = readLine(from); err != nil {
				return err
			}
		}
		if err := to.Flush(); err != nil {
			return err
		}
		if ev == "*" && greeted {
			continue
		}
		greeted = true
		select {
		case c.events <- ev:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// withMetadata adds METADATA to a capability listing: an untagged response of its own, or a response
// code (RFC 9051 section 7.1).
func withMetadata(line []byte) []byte {
	const ours = " METADATA"
	if bytes.HasPrefix(line, []byte("* CAPABILITY ")) {
		end := len(bytes.TrimRight(line, "\r\n"))
		return append(line[:end:end], ours+"\r\n"...)
	}
	_, status, _ := bytes.Cut(line, []byte(" "))
	_, text, _ := bytes.Cut(status, []byte(" "))
	if !bytes.HasPrefix(text, []byte("[CAPABILITY ")) {
		return line
	}
	end := len(line) - len(text) + bytes.IndexByte(text, ']')
	return append(line[:end:end], append([]byte(ours), line[end:]...)...)
}

// answerMetadata reads the rest of a METADATA command, does it, and answers as Dovecot 2.3 does.
func (c *frontConn) answerMetadata(u *mailUser, tag string, line []byte) error {
	cmd := bytes.Clone(line)
	for {
		n, sync, literal := literalAtEnd(line)
		if !literal {
			break
		}
		if int64(len(cmd))+n > maxMetadata {
			_, _ = io.WriteString(c.client, "* BYE METADATA command too large.\r\n")
			return errors.New("metadata command too large")
		}
		if sync {
			if _, err := io.WriteString(c.client, "+ OK\r\n"); err != nil {
				return err
			}
		}
		buf := make([]byte, n)
		if _, err := io.ReadFull(c.fromClient, buf); err != nil {
			return err
		}
		var err error
		if line, err = readLine(c.fromClient); err != nil {
			return err
		}
		cmd = append(append(cmd, buf...), line...)
	}
	_, err := io.WriteString(c.client, metadataReply(u, tag, cmd))
	return err
}

// metadataReply carries out one METADATA command. A value is always sent as a literal, as Dovecot
// does: a client that reads responses line by line breaks here, and not in production.
func metadataReply(u *mailUser, tag string, line []byte) string {
	cmd, err := parseMetadata(line)
	if err != nil {
		return fmt.Sprintf("%s BAD Error in IMAP command: %s (0.001 + 0.000 secs).\r\n", tag, err)
	}
	if cmd.mailbox != "" && !u.hasMailbox(cmd.mailbox) {
		return tag + " NO [NONEXISTENT] Mailbox doesn't exist (0.001 + 0.000 secs).\r\n"
	}
	if cmd.set {
		for _, e := range cmd.entries {
			u.metadata.set(cmd.mailbox, e.name, e.value)
		}
		return tag + " OK Setmetadata completed (0.001 + 0.000 secs).\r\n"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "* METADATA %s (", quote(cmd.mailbox))
	for i, e := range cmd.entries {
		if i > 0 {
			s.WriteByte(' ')
		}
		if v, ok := u.metadata.get(cmd.mailbox, e.name); ok {
			fmt.Fprintf(&s, "%s {%d}\r\n%s", e.name, len(v), v)
		} else {
			s.WriteString(e.name + " NIL")
		}
	}
	s.WriteString(")\r\n" + tag + " OK Getmetadata completed (0.001 + 0.000 secs).\r\n")
	return s.String()
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// readLine returns one line with its end. The slice is the caller's.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil && len(line) <= maxLine:
			return line, nil
		case len(line) > maxLine:
			return nil, errors.New("line too long")
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
