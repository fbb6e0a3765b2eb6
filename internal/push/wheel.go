package push

import "math/bits"

const (
	wheelBits, wheelSlots = 6, 64
	// wheelLevels is enough for every millisecond of our time: 64 slots of 1 ms, 64 of 64 ms, of 4 s, of 4 minutes,
	// and so on.
	wheelLevels = 8
	wheelEnd    = 1<<(wheelBits*wheelLevels) - 1
)

// wheel is a hierarchical timer wheel: entries by the millisecond they wait for. To put one in or take it
// out costs the same however many wait, and nothing is allocated for it.
//
// A slot stands for a span of absolute time. An entry is at the lowest level on which it and now are in
// different slots, so all slots in use lie ahead, those of a lower level before those of a higher. When now
// reaches a slot of a higher level, its entries move down; each moves at most wheelLevels times.
type wheel struct {
	now    int64 // milliseconds since 1970
	used   [wheelLevels]uint64
	slots  [wheelLevels][wheelSlots]entryList
	length int
}

// place is where an entry belongs. What is due belongs to the slot of now.
func (w *wheel) place(e *entry) (level, slot int) {
	at := min(max(e.at, w.now), wheelEnd)
	if ahead := bits.Len64(uint64(at ^ w.now)); ahead > 0 { //nolint:gosec // neither is negative
		level = (ahead - 1) / wheelBits
	}
	return level, int(at>>(level*wheelBits)) % wheelSlots
}

// add puts an entry in, behind those that wait for the same time.
func (w *wheel) add(e *entry) {
	level, slot := w.place(e)
	w.slots[level][slot].push(e)
	w.used[level] |= 1 << slot
	w.length++
}

// remove takes an entry out that is in.
func (w *wheel) remove(e *entry) {
	level, slot := w.place(e) // now only ever came nearer, within the same slots
	l := &w.slots[level][slot]
	if l.remove(e); l.first == nil {
		w.used[level] &^= 1 << slot
	}
	w.length--
}

// next is the slot to look at first, and when.
func (w *wheel) next() (level, slot int, at int64, ok bool) {
	for level, used := range w.used {
		if used != 0 {
			slot := bits.TrailingZeros64(used)
			span := level * wheelBits
			return level, slot, w.now>>(span+wheelBits)<<(span+wheelBits) | int64(slot)<<span, true
		}
	}
	return 0, 0, 0, false
}

// advance moves now to a time and hands out the entries that are due then, by their times. due may add
// entries that wait for later.
func (w *wheel) advance(now int64, due func(*entry)) {
	if now < w.now {
		w.rewind(now) // the machine's clock was put back
	}
	for {
		level, slot, at, ok := w.next()
		if !ok || at > now {
			break
		}
		w.now = max(w.now, at)
		w.used[level] &^= 1 << slot
		l := w.slots[level][slot]
		w.slots[level][slot] = entryList{}
		for e := l.pop(); e != nil; e = l.pop() {
			w.length--
			if level == 0 {
				due(e)
			} else {
				w.add(e)
			}
		}
	}
	w.now = max(w.now, min(now, wheelEnd))
}

// rewind moves now back, so that what waits does not wait for the way it had come.
func (w *wheel) rewind(now int64) {
	var all entryList
	for level := range w.slots {
		for slot := range w.slots[level] {
			for l := &w.slots[level][slot]; l.first != nil; {
				all.push(l.pop())
			}
		}
	}
	*w = wheel{now: now}
	for e := all.pop(); e != nil; e = all.pop() {
		w.add(e)
	}
}

// entryList is first in, first out, linked through its entries.
type entryList struct{ first, last *entry }

func (l *entryList) push(e *entry) {
	if e.prev = l.last; l.last == nil {
		l.first = e
	} else {
		l.last.next = e
	}
	l.last = e
}

// pop takes out the first, or returns nil.
func (l *entryList) pop() *entry {
	e := l.first
	if e != nil {
		l.remove(e)
	}
	return e
}

func (l *entryList) remove(e *entry) {
	if e.prev == nil {
		l.first = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.last = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.next, e.prev = nil, nil
}
