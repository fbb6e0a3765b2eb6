package imap

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// A Mailbox is a line of a listing (RFC 9051 section 7.3.1).
type Mailbox struct {
	Name      string // UTF-8
	Delimiter string // one character, or "" when names have no levels
	// Attributes are `\Noselect`, `\Subscribed`, `\Sent` and the like, as the server writes them.
	Attributes []string
	// OldName is what a server that tells of renamings says it was called (RFC 5465 section 5.4), or "".
	OldName string
	// Status is what the server told of it with the listing; nil is nothing.
	Status *Status
}

// Is reports whether the mailbox has the attribute, whatever its case.
func (m Mailbox) Is(attribute string) bool {
	return slices.ContainsFunc(m.Attributes, func(a string) bool { return strings.EqualFold(a, attribute) })
}

// ListOptions says which mailboxes are to be listed, and what of them.
type ListOptions struct {
	// Subscribed lists those alone that the user subscribed to, also when they are no more.
	Subscribed bool
	// SpecialUse asks for `\Sent`, `\Junk` and the like (RFC 6154), where the server has them.
	SpecialUse bool
	// Status asks for counts (RFC 5819), where the server has LIST-STATUS.
	Status StatusItems
}

// maxMailboxes bounds a listing.
const maxMailboxes = 10_000

// List lists the user's mailboxes.
func (c *Client) List(ctx context.Context, opt ListOptions) (all []Mailbox, err error) {
	err = c.do(ctx, "list", func() error {
		extended := c.Has("LIST-EXTENDED") || c.Has("IMAP4REV2")
		name, args := "LIST", ` "" "*"`
		switch {
		case opt.Subscribed && !extended:
			name = "LSUB"
		case opt.Subscribed:
			args = ` (SUBSCRIBED) "" "*"`
		}
		var returns []string
		if opt.SpecialUse && extended && c.Has("SPECIAL-USE") {
			returns = append(returns, "SPECIAL-USE")
		}
		if opt.Status != 0 && extended && c.Has("LIST-STATUS") {
			returns = append(returns, "STATUS "+c.statusItems(opt.Status))
		}
		if len(returns) > 0 {
			args += " RETURN (" + strings.Join(returns, " ") + ")"
		}
		at := map[string]int{}
		_, err := c.run(ctx, command{
			name: name,
			args: func(e *encoder) { e.text(args) },
			data: func(r response, d *decoder) (bool, error) {
				switch {
				case r.name == name || r.name == "LIST":
					m, err := d.mailbox()
					if err == nil && len(all) == maxMailboxes {
						err = fmt.Errorf("%w: more than %d mailboxes", errTooLong, maxMailboxes)
					}
					if err == nil {
						at[m.Name] = len(all)
						all = append(all, m)
					}
					return true, err
				case r.name == "STATUS" && opt.Status != 0:
					s, err := d.status()
					if i, ok := at[s.Mailbox]; err == nil && ok {
						all[i].Status = &s
					}
					return true, err
				}
				return false, nil
			},
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// mailbox reads what follows "* LIST" or "* LSUB".
func (d *decoder) mailbox() (m Mailbox, err error) {
	if err := d.expect(' '); err != nil {
		return m, err
	}
	err = d.list(func() error {
		a, ok, err := d.word()
		if err == nil && !ok {
			err = errSyntax
		}
		m.Attributes = append(m.Attributes, a)
		return err
	})
	if err != nil {
		return m, err
	}
	if err := d.expect(' '); err != nil {
		return m, err
	}
	if m.Delimiter, _, err = d.nstring(); err != nil {
		return m, err
	}
	if err := d.expect(' '); err != nil {
		return m, err
	}
	if m.Name, err = d.mailboxName(); err != nil {
		return m, err
	}
	more, err := d.accept(' ')
	if err != nil || !more {
		return m, err
	}
	if b, err := d.peek(); err == nil && b != '(' { // a space at the end of the line
		return m, nil
	}
	return m, d.list(func() error { return d.mailboxMore(&m) })
}

// mailboxMore reads an element of extended data (RFC 9051 section 9, "mbox-list-extended-item").
func (d *decoder) mailboxMore(m *Mailbox) error {
	tag, err := d.astring()
	if err != nil {
		return err
	}
	if err := d.expect(' '); err != nil {
		return err
	}
	if !strings.EqualFold(tag, "OLDNAME") {
		return d.value()
	}
	return d.list(func() error {
		m.OldName, err = d.mailboxName()
		return err
	})
}
