package imap

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Items says which attributes of messages are asked for, or known.
type Items uint16

// The items of a Message.
const (
	FetchFlags Items = 1 << iota
	FetchDate        // INTERNALDATE
	FetchEnvelope
	FetchPreview // asked for where the server has PREVIEW (RFC 8970)
	FetchModSeq  // asked for where the server has CONDSTORE
	FetchGUID    // Dovecot's own X-GUID
)

// A Message is what a server tells of one (RFC 9051 section 7.5.2).
type Message struct {
	Seq uint32 // in the selected mailbox, at this moment
	UID uint32 // 0: the server does not say
	// Has says which of the others the server told.
	Has          Items
	Flags        []string // as the server writes them: `\Seen`
	InternalDate time.Time
	Envelope     Envelope
	Preview      string // a text of up to 200 characters
	ModSeq       uint64
	GUID         string
}

// Is reports whether the message has the flag, whatever its case.
func (m Message) Is(flag string) bool { return Mailbox{Attributes: m.Flags}.Is(flag) }

// UIDFetch asks for items of messages by uid, and calls each for what comes of them, in the order in which it comes:
// none for those that are gone, and maybe more than one for another. It must return soon and give no command.
func (c *Client) UIDFetch(ctx context.Context, uids UIDSet, items Items, each func(Message)) error {
	return c.fetch(ctx, "UID FETCH", uids, items, each, func(m Message) bool { return uids.Contains(m.UID) })
}

// Fetch is UIDFetch by sequence number.
func (c *Client) Fetch(ctx context.Context, seqs UIDSet, items Items, each func(Message)) error {
	return c.fetch(ctx, "FETCH", seqs, items, each, func(m Message) bool { return seqs.Contains(m.Seq) })
}

func (c *Client) fetch(ctx context.Context, verb string, set UIDSet, items Items, each func(Message), asked func(Message) bool) error {
	return c.do(ctx, "fetch", func() error {
		if len(set) == 0 {
			return errors.New("no messages")
		}
		names := c.fetchItems(items)
		_, err := c.run(ctx, command{
			name: verb,
			args: func(e *encoder) { e.text(" " + set.String() + " " + names) },
			data: func(r response, d *decoder) (bool, error) {
				if r.name != "FETCH" {
					return false, nil
				}
				m, err := d.message(r.number)
				switch {
				case err != nil:
				case asked(m):
					each(m)
				default:
					c.deliver(m)
				}
				return true, err
			},
		})
		return err
	})
}

// fetchItems writes the items that the server understands.
func (c *Client) fetchItems(items Items) string {
	names := []string{"UID"}
	for _, i := range []struct {
		item Items
		name string
		can  bool
	}{
		{FetchFlags, "FLAGS", true},
		{FetchDate, "INTERNALDATE", true},
		{FetchEnvelope, "ENVELOPE", true},
		{FetchPreview, "PREVIEW", c.Has("PREVIEW")},
		{FetchModSeq, "MODSEQ", c.condstore()},
		{FetchGUID, "X-GUID", true},
	} {
		if items&i.item != 0 && i.can {
			names = append(names, i.name)
		}
	}
	return "(" + strings.Join(names, " ") + ")"
}

// message reads what follows "* 5 FETCH".
func (d *decoder) message(seq uint32) (m Message, err error) {
	m.Seq = seq
	if err := d.expect(' '); err != nil {
		return m, err
	}
	return m, d.list(func() error { return d.fetchItem(&m) })
}

func (d *decoder) fetchItem(m *Message) error {
	name, err := d.while(func(b byte) bool { return isAtomChar(b) && b != '[' })
	if err != nil {
		return err
	}
	if b, err := d.peek(); err != nil {
		return err
	} else if b == '[' { // of BODY[HEADER.FIELDS (TO)]<0>, which nobody asked for
		if _, err := d.until(']'); err != nil {
			return err
		}
		if _, err := d.until(' '); err != nil {
			return err
		}
		name = ""
	}
	if err := d.expect(' '); err != nil {
		return err
	}
	switch strings.ToUpper(name) {
	case "UID":
		m.UID, err = d.number()
	case "FLAGS":
		m.Has |= FetchFlags
		err = d.list(func() error {
			f, ok, err := d.word()
			if err == nil && !ok {
				err = errSyntax
			}
			m.Flags = append(m.Flags, f)
			return err
		})
	case "INTERNALDATE":
		m.Has |= FetchDate
		m.InternalDate, err = d.dateTime()
	case "ENVELOPE":
		m.Has |= FetchEnvelope
		m.Envelope, err = d.envelope()
	case "PREVIEW":
		m.Has |= FetchPreview
		m.Preview, err = d.preview()
	case "MODSEQ":
		m.Has |= FetchModSeq
		m.ModSeq, err = d.modSeq()
	case "X-GUID":
		m.Has |= FetchGUID
		m.GUID, err = d.astring()
	default:
		err = d.value()
	}
	return err
}

// dateTime reads an INTERNALDATE: `"17-Jul-1996 02:44:25 -0700"`, the day perhaps with a space before it.
func (d *decoder) dateTime() (time.Time, error) {
	s, err := d.quoted()
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse("_2-Jan-2006 15:04:05 -0700", s)
	if err != nil {
		return time.Time{}, fmt.Errorf("date: %w", errSyntax) // its own error repeats what came
	}
	return t, nil
}

// preview reads a PREVIEW: a text, NIL while there is none, or as in the draft a list of algorithm and text.
func (d *decoder) preview() (s string, err error) {
	if b, err := d.peek(); err != nil || b != '(' {
		s, _, err := d.nstring()
		return s, err
	}
	err = d.list(func() error {
		if b, err := d.peek(); err == nil && b != '"' && b != '{' {
			return d.value()
		}
		s, err = d.string()
		return err
	})
	return s, err
}
