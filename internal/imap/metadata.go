package imap

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// GetMetadata returns the value of one annotation (RFC 5464 section 4.2). ok is false when there is
// none. Mailbox "" stands for the server's annotations of this user. A server without METADATA gives [ErrUnsupported].
func (c *Client) GetMetadata(ctx context.Context, mailbox, entry string) (value string, ok bool, err error) {
	err = c.do(ctx, "get metadata", func() error {
		if err := c.checkMetadata(mailbox, entry); err != nil {
			return err
		}
		_, err := c.run(ctx, command{
			name: "GETMETADATA",
			args: func(e *encoder) {
				e.text(" ")
				e.mailbox(mailbox)
				e.text(" (")
				e.astring(entry)
				e.text(")")
			},
			data: func(r response, d *decoder) (bool, error) {
				if r.name != "METADATA" {
					return false, nil
				}
				return true, d.metadata(func(box, name, v string, has bool) {
					if sameMailbox(box, mailbox) && strings.EqualFold(name, entry) {
						value, ok = v, has
					}
				})
			},
		})
		return err
	})
	if err != nil {
		return "", false, err
	}
	return value, ok, nil
}

// SetMetadata writes one annotation, or removes it when value is nil (RFC 5464 section 4.3). An empty
// value is a value.
func (c *Client) SetMetadata(ctx context.Context, mailbox, entry string, value *string) error {
	return c.do(ctx, "set metadata", func() error {
		if err := c.checkMetadata(mailbox, entry); err != nil {
			return err
		}
		if value != nil && strings.Contains(*value, "\x00") {
			return errors.New("value holds NUL")
		}
		_, err := c.run(ctx, command{
			name: "SETMETADATA",
			args: func(e *encoder) {
				e.text(" ")
				e.mailbox(mailbox)
				e.text(" (")
				e.astring(entry)
				e.text(" ")
				if value == nil {
					e.text("NIL")
				} else {
					e.string(*value)
				}
				e.text(")")
			},
		})
		return err
	})
}

// checkMetadata finds out what the server would refuse, or would take for something else: "*" and "%"
// mean nothing good in an entry's name (RFC 5464 section 3.2).
func (c *Client) checkMetadata(mailbox, entry string) error {
	if !c.Has("METADATA") && (mailbox != "" || !c.Has("METADATA-SERVER")) {
		return fmt.Errorf("METADATA is %w", ErrUnsupported)
	}
	if err := checkName(mailbox); err != nil {
		return err
	}
	if !quotable(entry) || !strings.HasPrefix(entry, "/") || strings.HasSuffix(entry, "/") ||
		strings.Contains(entry, "//") || strings.ContainsAny(entry, "*%") {
		return fmt.Errorf("malformed entry name %q", entry)
	}
	return nil
}

// sameMailbox compares names as RFC 9051 section 5.1 says: INBOX alone has no case.
func sameMailbox(a, b string) bool {
	return a == b || strings.EqualFold(a, "INBOX") && strings.EqualFold(b, "INBOX")
}

// metadata reads what follows "* METADATA" (RFC 5464 section 5) and calls f for each value; has is false
// for NIL. The form without values, an unsolicited notice that entries have changed, yields none.
func (d *decoder) metadata(f func(mailbox, entry, value string, has bool)) error {
	if err := d.expect(' '); err != nil {
		return err
	}
	mailbox, err := d.mailboxName()
	if err != nil {
		return err
	}
	if err := d.expect(' '); err != nil {
		return err
	}
	if b, err := d.peek(); err != nil || b != '(' {
		return d.entryNames()
	}
	return d.list(func() error {
		entry, err := d.astring()
		if err != nil {
			return err
		}
		if err := d.expect(' '); err != nil {
			return err
		}
		value, has, err := d.nstring()
		if err != nil {
			return err
		}
		f(mailbox, entry, value, has)
		return nil
	})
}

// entryNames reads names parted by spaces.
func (d *decoder) entryNames() error {
	for {
		if _, err := d.astring(); err != nil {
			return err
		}
		if more, err := d.accept(' '); err != nil || !more {
			return err
		}
	}
}
