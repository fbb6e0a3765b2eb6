package imap

import (
	"context"
	"fmt"
	"strings"
)

// StatusItems says which of a Status are asked for, or known.
type StatusItems uint8

// The items of a Status.
const (
	StatusMessages StatusItems = 1 << iota
	StatusUIDNext
	StatusUIDValidity
	StatusUnseen
	StatusHighestModSeq // asked for where the server has CONDSTORE
	StatusGUID          // Dovecot's own; asked for by name only
)

// statusNames are the items as on the wire.
var statusNames = []struct {
	item StatusItems
	name string
}{
	{StatusMessages, "MESSAGES"},
	{StatusUIDNext, "UIDNEXT"},
	{StatusUIDValidity, "UIDVALIDITY"},
	{StatusUnseen, "UNSEEN"},
	{StatusHighestModSeq, "HIGHESTMODSEQ"},
	{StatusGUID, "X-GUID"},
}

// Status is what a server counts of a mailbox (RFC 9051 section 6.3.11).
type Status struct {
	Mailbox string // UTF-8
	// Has says which of the others the server told.
	Has                  StatusItems
	UIDNext, UIDValidity uint32
	Messages, Unseen     uint32
	HighestModSeq        uint64
	GUID                 string
}

// Status asks for items of a mailbox, which should not be the selected one. The server may leave some out. One that
// answers for another name only, gives [ErrUnsupported].
func (c *Client) Status(ctx context.Context, mailbox string, items StatusItems) (Status, error) {
	var found *Status
	err := c.do(ctx, "status", func() error {
		if err := checkName(mailbox); err != nil {
			return err
		}
		names := c.statusItems(items)
		if _, err := c.run(ctx, command{
			name: "STATUS",
			args: func(e *encoder) {
				e.text(" ")
				e.mailbox(mailbox)
				e.text(" " + names)
			},
			data: func(r response, d *decoder) (bool, error) {
				if r.name != "STATUS" {
					return false, nil
				}
				s, err := d.status()
				if err == nil && sameMailbox(s.Mailbox, mailbox) {
					found = &s
				} else if err == nil {
					c.deliver(s)
				}
				return true, err
			},
		}); err != nil {
			return err
		}
		if found == nil {
			return fmt.Errorf("an answer for this mailbox is %w", ErrUnsupported)
		}
		return nil
	})
	if err != nil {
		return Status{}, err
	}
	return *found, nil
}

// statusItems writes the items that the server understands.
func (c *Client) statusItems(items StatusItems) string {
	if !c.condstore() {
		items &^= StatusHighestModSeq
	}
	var names []string
	for _, n := range statusNames {
		if items&n.item != 0 {
			names = append(names, n.name)
		}
	}
	return "(" + strings.Join(names, " ") + ")"
}

// status reads what follows "* STATUS".
func (d *decoder) status() (s Status, err error) {
	if err := d.expect(' '); err != nil {
		return s, err
	}
	if s.Mailbox, err = d.mailboxName(); err != nil {
		return s, err
	}
	if err := d.expect(' '); err != nil {
		return s, err
	}
	return s, d.list(func() error { return d.statusItem(&s) })
}

func (d *decoder) statusItem(s *Status) error {
	name, err := d.atom()
	if err != nil {
		return err
	}
	if err := d.expect(' '); err != nil {
		return err
	}
	number := func(item StatusItems, to *uint32) error {
		s.Has |= item
		*to, err = d.number()
		return err
	}
	switch strings.ToUpper(name) {
	case "MESSAGES":
		return number(StatusMessages, &s.Messages)
	case "UIDNEXT":
		return number(StatusUIDNext, &s.UIDNext)
	case "UIDVALIDITY":
		return number(StatusUIDValidity, &s.UIDValidity)
	case "UNSEEN":
		return number(StatusUnseen, &s.Unseen)
	case "HIGHESTMODSEQ":
		s.Has |= StatusHighestModSeq
		s.HighestModSeq, err = d.modSeq()
		return err
	case "X-GUID":
		s.Has |= StatusGUID
		s.GUID, err = d.astring()
		return err
	}
	return d.value()
}
