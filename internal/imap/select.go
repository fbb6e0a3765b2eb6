package imap

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Resync is what a client remembers of a mailbox (RFC 7162 section 3.2.5). The server tells then what has
// happened since.
type Resync struct {
	UIDValidity uint32
	ModSeq      uint64
	// Known are the uids that are of interest; empty stands for all.
	Known UIDSet
}

// Selected is a mailbox as it was at the moment when it was selected (RFC 9051 section 6.3.2).
type Selected struct {
	UIDValidity, UIDNext uint32 // 0: the server does not say
	Exists               uint32
	HighestModSeq        uint64 // 0: the server keeps none
	ReadOnly             bool
	// Vanished and Changed are what happened since a Resync whose UIDValidity is still right.
	Vanished UIDSet
	Changed  []Message
}

// maxChanged bounds the changes of one Resync. A caller that was away for more looks as if it knew nothing.
const maxChanged = 10_000

// Select opens a mailbox to read and to write. What was selected before is so no more, also after an error. With a
// Resync, which may be nil, the server must have been told to ENABLE QRESYNC.
func (c *Client) Select(ctx context.Context, mailbox string, since *Resync) (Selected, error) {
	return c.selectAs(ctx, "SELECT", mailbox, since)
}

// Examine is Select to read only: it changes nothing in the mailbox, no message loses \Recent by it.
func (c *Client) Examine(ctx context.Context, mailbox string, since *Resync) (Selected, error) {
	return c.selectAs(ctx, "EXAMINE", mailbox, since)
}

// condstore reports whether the server keeps modification sequences. QRESYNC includes CONDSTORE.
func (c *Client) condstore() bool { return c.Has("CONDSTORE") || c.Has("QRESYNC") }

func (c *Client) selectAs(ctx context.Context, verb, mailbox string, since *Resync) (s Selected, err error) {
	err = c.do(ctx, strings.ToLower(verb), func() error {
		if err := checkName(mailbox); err != nil {
			return err
		}
		params := ""
		switch {
		case since != nil && !c.qresync:
			return errors.New("QRESYNC is not enabled")
		case since != nil && (since.UIDValidity == 0 || since.ModSeq == 0):
			return errors.New("nothing to resynchronise with")
		case since != nil:
			params = " (QRESYNC (" + strconv.FormatUint(uint64(since.UIDValidity), 10) + " " + strconv.FormatUint(since.ModSeq, 10)
			if len(since.Known) > 0 {
				params += " " + since.Known.String()
			}
			params += "))"
		case c.condstore():
			params = " (CONDSTORE)"
		}
		r, err := c.run(ctx, command{
			name: verb,
			args: func(e *encoder) {
				e.text(" ")
				e.mailbox(mailbox)
				e.text(params)
			},
			note: func(r response) { s.note(r) },
			data: func(r response, d *decoder) (bool, error) { return s.data(r, d) },
		})
		if err == nil {
			s.ReadOnly = s.ReadOnly || r.code == "READ-ONLY"
		}
		return err
	})
	return s, err
}

// note takes what status responses tell of the mailbox.
func (s *Selected) note(r response) {
	number := func() uint64 {
		n, err := strconv.ParseUint(r.codeArgs, 10, 63)
		if err != nil || n > Last && r.code != "HIGHESTMODSEQ" {
			return 0
		}
		return n
	}
	switch r.code {
	case "CLOSED": // until here the server spoke of the mailbox that was selected before
		*s = Selected{}
	case "UIDVALIDITY":
		s.UIDValidity = uint32(number()) //nolint:gosec // G115: bounded above
	case "UIDNEXT":
		s.UIDNext = uint32(number()) //nolint:gosec // G115: bounded above
	case "HIGHESTMODSEQ":
		s.HighestModSeq = number()
	case "READ-ONLY":
		s.ReadOnly = true
	}
}

// data takes what belongs to the selected mailbox.
func (s *Selected) data(r response, d *decoder) (bool, error) {
	switch r.name {
	case "EXISTS":
		s.Exists = r.number
		return true, nil
	case "VANISHED":
		v, err := d.vanished()
		s.Vanished = append(s.Vanished, v.UIDs...)
		return true, err
	case "FETCH":
		m, err := d.message(r.number)
		if err == nil && len(s.Changed) == maxChanged {
			err = fmt.Errorf("%w: more than %d changes", errTooLong, maxChanged)
		}
		s.Changed = append(s.Changed, m)
		return true, err
	}
	return false, nil
}

// Unselect gives the mailbox up, and expunges nothing.
func (c *Client) Unselect(ctx context.Context) error {
	return c.do(ctx, "unselect", func() error {
		if !c.Has("UNSELECT") && !c.Has("IMAP4REV2") {
			return fmt.Errorf("UNSELECT is %w", ErrUnsupported)
		}
		_, err := c.run(ctx, command{name: "UNSELECT"})
		return err
	})
}

// Noop asks for nothing: an occasion for the server to tell its updates.
func (c *Client) Noop(ctx context.Context) error {
	return c.do(ctx, "noop", func() error {
		_, err := c.run(ctx, command{name: "NOOP"})
		return err
	})
}
