package testpeer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sender is the envelope sender of every delivery.
const sender = "sender@example.org"

// DeliverLMTP puts one message in the INBOX of each recipient, in one LMTP session, as a mail server
// would. Line ends may be LF. It returns when Dovecot has taken the message for all of them, which is
// after its push driver's requests were answered or given up.
func (d *Dovecot) DeliverLMTP(tb testing.TB, to []string, message []byte) {
	tb.Helper()
	if err := d.lmtp(tb.Context(), to, message); err != nil {
		tb.Fatalf("deliver by LMTP: %v", err)
	}
}

func (d *Dovecot) lmtp(ctx context.Context, to []string, message []byte) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(d.LMTPPort)))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	c := textproto.NewConn(conn)
	defer c.Close() //nolint:errcheck // QUIT was answered, or there is a better error
	if err := conn.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if _, _, err := c.ReadResponse(220); err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	cmd := func(code int, format string, args ...any) error {
		line := fmt.Sprintf(format, args...)
		if err := c.PrintfLine("%s", line); err != nil {
			return fmt.Errorf("send %s: %w", line, err)
		}
		if _, _, err := c.ReadResponse(code); err != nil {
			return fmt.Errorf("answer to %s: %w", line, err)
		}
		return nil
	}
	if err := cmd(250, "LHLO localhost"); err != nil {
		return err
	}
	if err := cmd(250, "MAIL FROM:<%s>", sender); err != nil {
		return err
	}
	for _, rcpt := range to {
		if err := cmd(250, "RCPT TO:<%s>", rcpt); err != nil {
			return err
		}
	}
	if err := cmd(354, "DATA"); err != nil {
		return err
	}
	w := c.DotWriter()
	if _, err := w.Write(message); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	for _, rcpt := range to { // RFC 2033 section 4.2: one answer for each recipient
		if _, _, err := c.ReadResponse(250); err != nil {
			return fmt.Errorf("answer for %s: %w", rcpt, err)
		}
	}
	return cmd(221, "QUIT")
}

// DeliverLDA puts one message in the user's INBOX with Dovecot's delivery program.
func (d *Dovecot) DeliverLDA(tb testing.TB, to string, message []byte) {
	tb.Helper()
	if _, err := run(tb.Context(), message, d.lda, "-c", d.conf, "-f", sender, "-d", to); err != nil {
		tb.Fatalf("deliver by dovecot-lda: %v", err)
	}
}

// Metadata reads the user's push registration. ok is false when there is no entry.
func (d *Dovecot) Metadata(tb testing.TB, user string) (value string, ok bool) {
	tb.Helper()
	// "get" prints nothing for an empty entry and for none at all; "list" prints a line for the former.
	out, err := run(tb.Context(), nil, d.adm, "-c", d.conf, "mailbox", "metadata", "list", "-u", user, "-s", "", MetadataKey)
	if err != nil {
		tb.Fatalf("list metadata: %v", err)
	}
	if out == "" {
		return "", false
	}
	out, err = run(tb.Context(), nil, d.adm, "-c", d.conf, "-f", "flow", "mailbox", "metadata", "get", "-u", user, "-s", "", MetadataKey)
	if err != nil {
		tb.Fatalf("get metadata: %v", err)
	}
	return strings.TrimSuffix(out, "\n"), true
}

// SetMetadata writes the user's push registration as an operator would, not over IMAP.
func (d *Dovecot) SetMetadata(tb testing.TB, user, value string) {
	tb.Helper()
	if _, err := run(tb.Context(), nil, d.adm, "-c", d.conf, "mailbox", "metadata", "set", "-u", user, "-s", "", MetadataKey, value); err != nil {
		tb.Fatalf("set metadata: %v", err)
	}
}

// ClearMetadata removes the user's push registration.
func (d *Dovecot) ClearMetadata(tb testing.TB, user string) {
	tb.Helper()
	if _, err := run(tb.Context(), nil, d.adm, "-c", d.conf, "mailbox", "metadata", "unset", "-u", user, "-s", "", MetadataKey); err != nil {
		tb.Fatalf("clear metadata: %v", err)
	}
}

// SetPassword changes the password of one user; logins are judged by the new one from the next on.
func (d *Dovecot) SetPassword(tb testing.TB, user, password string) {
	tb.Helper()
	path := filepath.Join(d.dir, "users")
	text, err := os.ReadFile(path) //nolint:gosec // G304: our own file
	if err != nil {
		tb.Fatalf("read users: %v", err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, user+":") {
			line = fmt.Sprintf("%s:{PLAIN}%s::::::\n", user, password)
		}
		b.WriteString(line)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil { //nolint:gosec // G306: Dovecot's auth process is another user
		tb.Fatalf("write users: %v", err)
	}
}

// Doveadm runs Dovecot's administration program and returns what it printed.
func (d *Dovecot) Doveadm(tb testing.TB, args ...string) string {
	tb.Helper()
	out, err := run(tb.Context(), nil, d.adm, append([]string{"-c", d.conf}, args...)...)
	if err != nil {
		tb.Fatalf("doveadm %s: %v", args[0], err)
	}
	return out
}

// Save puts one message in a folder as another client of the user would, which no push driver reports.
func (d *Dovecot) Save(tb testing.TB, user, folder string, message []byte) {
	tb.Helper()
	if _, err := run(tb.Context(), message, d.adm, "-c", d.conf, "save", "-u", user, "-m", folder); err != nil {
		tb.Fatalf("save a message: %v", err)
	}
}

// RemoveMailbox removes all of the user's mail from the disk, as after a loss. Dovecot makes an empty INBOX at
// the next look, with another UIDVALIDITY and without a registration.
func (d *Dovecot) RemoveMailbox(tb testing.TB, user string) {
	tb.Helper()
	// A UIDVALIDITY is the second in which the mailbox was made: another one must have begun.
	now := time.Now()
	select {
	case <-time.After(now.Truncate(time.Second).Add(time.Second).Sub(now)):
	case <-tb.Context().Done():
		tb.Fatalf("remove mailbox: %v", tb.Context().Err())
	}
	if err := os.RemoveAll(filepath.Join(d.dir, "mail", user)); err != nil {
		tb.Fatalf("remove mailbox: %v", err)
	}
}

// run runs one of Dovecot's programs and returns what it printed.
func run(ctx context.Context, stdin []byte, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // G204: Dovecot's own programs
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return "", fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(exit.Stderr))
		}
		return "", fmt.Errorf("%s: %w", program, err)
	}
	return string(out), nil
}
