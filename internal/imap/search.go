package imap

import (
	"context"
	"slices"
	"strings"
)

// Search says which messages are looked for: those for which all of it holds.
type Search struct {
	UIDs      UIDSet // empty: any
	Unseen    bool
	Undeleted bool
}

func (s Search) String() string {
	var keys []string
	if len(s.UIDs) > 0 {
		keys = append(keys, "UID "+s.UIDs.String())
	}
	if s.Unseen {
		keys = append(keys, "UNSEEN")
	}
	if s.Undeleted {
		keys = append(keys, "UNDELETED")
	}
	if len(keys) == 0 {
		return "ALL"
	}
	return strings.Join(keys, " ")
}

// Returns says what of the found messages is asked for (RFC 4731).
type Returns uint8

// The parts of Found.
const (
	ReturnMin Returns = 1 << iota
	ReturnMax
	ReturnCount
	ReturnAll
)

// Found is what a search found. Only what was asked for is set: nothing else need be right.
type Found struct {
	Min, Max uint32 // uids; 0 when nothing was found
	Count    uint32
	All      UIDSet
}

// UIDSearch looks for messages in the selected mailbox. Where the server has no ESEARCH it sends all uids, and the
// rest is counted here.
func (c *Client) UIDSearch(ctx context.Context, what Search, want Returns) (f Found, err error) {
	err = c.do(ctx, "search", func() error {
		extended := c.Has("ESEARCH") || c.Has("IMAP4REV2")
		args := " " + what.String()
		if extended {
			args = " RETURN (" + want.names() + ")" + args
		}
		var uids []uint32
		_, err := c.run(ctx, command{
			name: "UID SEARCH",
			args: func(e *encoder) { e.text(args) },
			data: func(r response, d *decoder) (bool, error) {
				switch r.name {
				case "ESEARCH":
					var err error
					f, err = d.esearch()
					return true, err
				case "SEARCH":
					more, err := d.search()
					uids = append(uids, more...)
					return true, err
				}
				return false, nil
			},
		})
		if err == nil && len(uids) > 0 {
			slices.Sort(uids)
			uids = slices.Compact(uids)
			f = Found{Min: uids[0], Max: uids[len(uids)-1], Count: uint32(len(uids)), All: UIDs(uids...)} //nolint:gosec // G115: a line holds fewer
		}
		return err
	})
	return f, err
}

func (r Returns) names() string {
	var names []string
	for i, name := range []string{"MIN", "MAX", "COUNT", "ALL"} {
		if r&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// esearch reads what follows "* ESEARCH" (RFC 9051 section 7.3.4).
func (d *decoder) esearch() (f Found, err error) {
	for {
		if more, err := d.accept(' '); err != nil || !more {
			return f, err
		}
		if b, err := d.peek(); err == nil && b == '(' { // (TAG "p5"): there is one command at a time
			if err := d.value(); err != nil {
				return f, err
			}
			continue
		}
		name, err := d.atom()
		if err != nil {
			return f, err
		}
		if strings.EqualFold(name, "UID") {
			continue
		}
		if err := d.expect(' '); err != nil {
			return f, err
		}
		switch strings.ToUpper(name) {
		case "MIN":
			f.Min, err = d.number()
		case "MAX":
			f.Max, err = d.number()
		case "COUNT":
			f.Count, err = d.number()
		case "ALL":
			f.All, err = d.set()
		case "MODSEQ":
			_, err = d.modSeq()
		default:
			err = d.value()
		}
		if err != nil {
			return f, err
		}
	}
}

// search reads what follows "* SEARCH" (RFC 3501 section 7.2.5): numbers, and perhaps "(MODSEQ 5)". The bound of a
// line bounds them.
func (d *decoder) search() (all []uint32, err error) {
	for {
		if more, err := d.accept(' '); err != nil || !more {
			return all, err
		}
		switch b, err := d.peek(); {
		case err != nil:
			return nil, err
		case b == '\r': // a space at the end
			return all, nil
		case b == '(':
			if err := d.value(); err != nil {
				return nil, err
			}
			continue
		}
		n, err := d.number()
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
}
