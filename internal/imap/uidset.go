package imap

import (
	"math"
	"slices"
	"strconv"
)

// Last stands for the highest number there is, which the wire writes as "*".
const Last = math.MaxUint32

// A UIDRange is all uids from From to To.
type UIDRange struct{ From, To uint32 }

// A UIDSet is a set of messages, by uid or by sequence number. What a server sends is never expanded: one range
// may stand for all that there could be.
type UIDSet []UIDRange

// UIDs returns the set of these.
func UIDs(uids ...uint32) UIDSet {
	sorted := slices.Compact(slices.Sorted(slices.Values(uids)))
	var s UIDSet
	for _, u := range sorted {
		s.add(u)
	}
	return s
}

// add adds a number, which belongs to the last range when it follows that.
func (s *UIDSet) add(u uint32) {
	if n := len(*s); n > 0 && (*s)[n-1].To < Last && (*s)[n-1].To+1 == u {
		(*s)[n-1].To = u
		return
	}
	*s = append(*s, UIDRange{u, u})
}

// Contains reports whether u is in the set.
func (s UIDSet) Contains(u uint32) bool {
	return slices.ContainsFunc(s, func(r UIDRange) bool { return r.From <= u && u <= r.To })
}

// Len counts the members. A set of more than fits has that many.
func (s UIDSet) Len() int {
	n := uint64(0)
	for _, r := range s {
		n += uint64(r.To-r.From) + 1
	}
	return int(min(n, math.MaxInt32))
}

// Newest returns the highest members, at most n, highest first.
func (s UIDSet) Newest(n int) []uint32 {
	sorted := slices.SortedFunc(slices.Values(s), func(a, b UIDRange) int {
		switch {
		case a.To > b.To:
			return -1
		case a.To < b.To:
			return 1
		}
		return 0
	})
	var all []uint32
	for _, r := range sorted {
		for u := r.To; u >= r.From && u > 0; u-- {
			if len(all) == 0 || u < all[len(all)-1] { // ranges may overlap
				if all = append(all, u); len(all) == n {
					return all
				}
			}
		}
	}
	return all
}

// String writes the set as commands do.
func (s UIDSet) String() string {
	var b []byte
	number := func(n uint32) {
		if n == Last {
			b = append(b, '*')
			return
		}
		b = strconv.AppendUint(b, uint64(n), 10)
	}
	for i, r := range s {
		if i > 0 {
			b = append(b, ',')
		}
		number(r.From)
		if r.To != r.From {
			b = append(b, ':')
			number(r.To)
		}
	}
	return string(b)
}

// set reads a sequence-set without "*" (RFC 9051 section 9, "uid-set"). The bound of a line bounds it.
func (d *decoder) set() (UIDSet, error) {
	var s UIDSet
	for {
		from, err := d.number()
		if err != nil {
			return nil, err
		}
		to := from
		if more, err := d.accept(':'); err != nil {
			return nil, err
		} else if more {
			if to, err = d.number(); err != nil {
				return nil, err
			}
		}
		s = append(s, UIDRange{min(from, to), max(from, to)})
		if more, err := d.accept(','); err != nil || !more {
			return s, err
		}
	}
}

// vanished reads what follows "* VANISHED" (RFC 7162 section 3.2.10).
func (d *decoder) vanished() (v Vanished, err error) {
	if err := d.expect(' '); err != nil {
		return v, err
	}
	if b, err := d.peek(); err == nil && b == '(' {
		err := d.list(func() error {
			_, err := d.atom() // EARLIER is the only one
			v.Earlier = true
			return err
		})
		if err == nil {
			err = d.expect(' ')
		}
		if err != nil {
			return v, err
		}
	}
	v.UIDs, err = d.set()
	return v, err
}
