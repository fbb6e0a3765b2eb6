package bus

import (
	"context"
	"sync"
	"time"
)

// Cache holds values derived from rows that any node may change. A node drops what it changes itself, and
// what others say over the bus that they have changed; a [Ledger] finds out what it was not told.
//
// A Cache is safe for concurrent use. Values are shared: nobody may change one.
type Cache[K comparable, V any] struct {
	most int

	mu sync.Mutex // guards all below; held for map operations only
	// changes counts what was dropped, so that a look-up that raced with a change is not kept.
	changes uint64
	entries map[K]V
}

// NewCache returns a cache of at most so many entries.
func NewCache[K comparable, V any](most int) *Cache[K, V] {
	return &Cache[K, V]{most: most, entries: map[K]V{}}
}

// Get finds a value. When there is none, the caller looks it up and passes changes to Put with it.
func (c *Cache[K, V]) Get(k K) (v V, ok bool, changes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok = c.entries[k]
	return v, ok, c.changes
}

// Put keeps a value that was looked up, unless something changed since the Get before. When the cache is full,
// it takes the place of any other.
func (c *Cache[K, V]) Put(k K, v V, changes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != changes {
		return
	}
	if _, ok := c.entries[k]; !ok && len(c.entries) >= c.most {
		for other := range c.entries {
			delete(c.entries, other)
			break
		}
	}
	c.entries[k] = v
}

// Drop forgets a value that has changed.
func (c *Cache[K, V]) Drop(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	delete(c.entries, k)
}

// DropAll forgets everything.
func (c *Cache[K, V]) DropAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	clear(c.entries)
}

const (
	// checkEvery is how often a ledger asks for the last number.
	checkEvery = 2 * time.Second
	// mustCheck is when nobody goes on with what was not checked for so long: what was lost on the bus heals
	// within it and the time of one look-up.
	mustCheck = 4 * time.Second
)

// Ledger makes up for words that the bus lost. Each change of some rows takes the next number, in the
// transaction that makes it, and the word of it carries the number. A node that finds in the database a number
// that it has not heard of has missed something, and forgets all it derived from those rows.
//
// A Ledger is safe for concurrent use.
type Ledger struct {
	last   func(ctx context.Context) (int64, error)
	forget func()

	checking sync.Mutex // held by who asks for the last number

	mu      sync.Mutex // guards all below
	checked time.Time
	known   int64              // all up to it are heard of, or made up for
	heard   map[int64]struct{} // of those above it
}

// maxHeard bounds the numbers between two checks. Those beyond it are made up for.
const maxHeard = 10_000

// NewLedger returns a ledger. last finds the last number given, forget drops all that was derived from the rows.
func NewLedger(last func(ctx context.Context) (int64, error), forget func()) *Ledger {
	return &Ledger{last: last, forget: forget, heard: map[int64]struct{}{}}
}

// Heard tells of a change that is applied here: our own, once it is committed, or another node's.
func (l *Ledger) Heard(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n > l.known && len(l.heard) < maxHeard {
		l.heard[n] = struct{}{}
	}
}

// Check is called before what was derived is used. It asks for the last number when it is time to.
func (l *Ledger) Check(ctx context.Context, now time.Time) error {
	since := l.since(now)
	if since < checkEvery {
		return nil
	}
	if since >= mustCheck {
		l.checking.Lock()
	} else if !l.checking.TryLock() {
		return nil // somebody is asking
	}
	defer l.checking.Unlock()
	if l.since(now) < checkEvery {
		return nil
	}
	n, err := l.last(ctx)
	if err != nil {
		return err
	}
	if l.missed(n, now) {
		l.forget()
	}
	return nil
}

func (l *Ledger) since(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Sub(l.checked)
}

// missed reports whether one up to n was not heard of.
func (l *Ledger) missed(n int64, now time.Time) (missed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.heard)
	for h := range l.heard {
		if h <= n {
			delete(l.heard, h)
		}
	}
	missed = int64(before-len(l.heard)) != n-l.known
	l.checked, l.known = now, n
	return missed
}
