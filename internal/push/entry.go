package push

import (
	"encoding/hex"
	"hash/maphash"
	"math"
	"slices"
	"time"
)

// entry is a slot that is waiting for its time, ready in its app's queue, or in flight; or the alarm of a
// lane that rests. There may be a hundred thousand of them: each is 64 bytes, and nothing else is kept of it.
type entry struct {
	subscription [12]byte
	// device is the same for the slots of one device, and for those of another once in a blue moon.
	device uint32
	// at is the time that a waiting entry waits for and the time that a flight began, in milliseconds since
	// 1970; of a ready one, its number in line.
	at int64
	// since is when the slot became dirty, in seconds since 1970.
	since uint32
	key   uint8 // in the keys of the table
	state entryState
	// again: a newer state came while this one was in flight.
	again bool
	// stumbles counts the flights in a row that failed for want of our own store. Whoever has the entry in flight
	// owns it.
	stumbles uint8
	app      *app
	// next and prev are of the list that a waiting or ready entry is in, chain is of the table.
	next, prev, chain *entry
}

type entryState uint8

const (
	idle    entryState = iota // an alarm that is not set
	waiting                   // in the wheel
	ready                     // in the queue of its app, for its device
	behind                    // ready, but another one of its device stands in the queue
	flying
)

// millis is a time that has not come before it is full: it rounds up.
func millis(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// seconds is a time as entry.since has it.
func seconds(t time.Time) uint32 { return uint32(min(max(t.Unix(), 0), math.MaxUint32)) }

// table finds entries by their slots. The slots of one device are in one chain, so that its other ones are
// found as fast.
type table struct {
	seed   maphash.Seed // the numbers of devices are made of foreign input
	chains []*entry     // a power of two
	length int
	keys   []string // the collapse keys that there are: a handful, for they are ours
}

func newTable() table { return table{seed: maphash.MakeSeed(), chains: make([]*entry, 64)} }

// name fills in what an entry is called by. It reports false for what is no slot: a subscription's id is
// twelve bytes.
func (t *table) name(e *entry, id slotID, device uint64) bool {
	if len(id.subscription) != 2*len(e.subscription) {
		return false
	}
	if _, err := hex.Decode(e.subscription[:], []byte(id.subscription)); err != nil {
		return false
	}
	key := slices.Index(t.keys, id.key)
	if key < 0 {
		if key = len(t.keys); key > math.MaxUint8 {
			return false
		}
		t.keys = append(t.keys, id.key)
	}
	e.key = uint8(key)                                    //nolint:gosec // see above
	e.device = uint32(maphash.Comparable(t.seed, device)) //nolint:gosec // half of it will do
	return true
}

// id is the slot of an entry.
func (t *table) id(e *entry) slotID {
	return slotID{hex.EncodeToString(e.subscription[:]), t.keys[e.key]}
}

func (t *table) chain(e *entry) **entry { return &t.chains[e.device&uint32(len(t.chains)-1)] } //nolint:gosec // a power of two

// find is the entry of the same slot, or nil.
func (t *table) find(e *entry) *entry {
	f := *t.chain(e)
	for f != nil && (f.subscription != e.subscription || f.key != e.key) {
		f = f.chain
	}
	return f
}

// inLine is the entry that stands in the queue of e's app for e's device, or nil.
func (t *table) inLine(e *entry) *entry {
	f := *t.chain(e)
	for f != nil && (f.state != ready || f.device != e.device || f.app != e.app) {
		f = f.chain
	}
	return f
}

// behind is the entry of e's device and app that is the longest in line behind another one, or nil.
func (t *table) behind(e *entry) *entry {
	var first *entry
	for f := *t.chain(e); f != nil; f = f.chain {
		if f.state == behind && f.device == e.device && f.app == e.app && (first == nil || f.at < first.at) {
			first = f
		}
	}
	return first
}

func (t *table) add(e *entry) {
	if t.length >= len(t.chains) {
		t.resize(2 * len(t.chains))
	}
	c := t.chain(e)
	e.chain, *c = *c, e
	t.length++
}

func (t *table) remove(e *entry) {
	c := t.chain(e)
	for *c != e {
		c = &(*c).chain
	}
	*c, e.chain = e.chain, nil
	if t.length--; t.length == 0 {
		t.chains = make([]*entry, 64) // after a crowd
	}
}

func (t *table) resize(n int) {
	old := t.chains
	t.chains = make([]*entry, n)
	for _, e := range old {
		for e != nil {
			c, next := t.chain(e), e.chain
			e.chain, *c = *c, e
			e = next
		}
	}
}

// all hands out every entry.
func (t *table) all(yield func(*entry) bool) {
	for _, e := range t.chains {
		for ; e != nil; e = e.chain {
			if !yield(e) {
				return
			}
		}
	}
}
