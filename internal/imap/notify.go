package imap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The events of NOTIFY (RFC 5465 section 5). A server may want them together: it sends what it must not leave out.
const (
	MessageNew     = "MessageNew"
	MessageExpunge = "MessageExpunge"
	FlagChange     = "FlagChange"
	MailboxName    = "MailboxName"
)

// A Watch is a group of mailboxes, and the events that the server shall tell of them.
type Watch struct {
	// Group is "selected", "inboxes", "personal" or "subscribed"; "" stands for Names.
	Group string
	Names []string // UTF-8
	// Events are empty when the server shall tell nothing of these.
	Events []string
}

// Notify has the server tell of other mailboxes than the selected one, as updates (RFC 5465). It replaces what was
// asked for before; nothing at all ends it. The first group that a mailbox is in counts.
func (c *Client) Notify(ctx context.Context, watches ...Watch) error {
	return c.do(ctx, "notify", func() error {
		if !c.Has("NOTIFY") {
			return fmt.Errorf("NOTIFY is %w", ErrUnsupported)
		}
		for _, w := range watches {
			if err := w.check(); err != nil {
				return err
			}
		}
		_, err := c.run(ctx, command{name: "NOTIFY", args: func(e *encoder) {
			if len(watches) == 0 {
				e.text(" NONE")
				return
			}
			e.text(" SET")
			for _, w := range watches {
				w.write(e)
			}
		}})
		return err
	})
}

func (w Watch) check() error {
	if !slices.Contains([]string{"selected", "inboxes", "personal", "subscribed", ""}, w.Group) {
		return fmt.Errorf("unknown group %q", w.Group)
	}
	if w.Group == "" && len(w.Names) == 0 {
		return errors.New("nothing to watch")
	}
	for _, e := range w.Events {
		if !isAtom(e) {
			return fmt.Errorf("malformed event %q", e)
		}
	}
	for _, n := range w.Names {
		if err := checkName(n); err != nil {
			return err
		}
	}
	return nil
}

func (w Watch) write(e *encoder) {
	e.text(" (")
	if w.Group != "" {
		e.text(w.Group)
	} else {
		e.text("mailboxes (")
		for i, n := range w.Names {
			if i > 0 {
				e.text(" ")
			}
			e.mailbox(n)
		}
		e.text(")")
	}
	if len(w.Events) == 0 {
		e.text(" NONE)")
		return
	}
	e.text(" (" + strings.Join(w.Events, " ") + "))")
}
