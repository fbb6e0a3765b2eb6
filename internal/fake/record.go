package fake

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"
)

// ErrClosed is returned by Next when the fake was closed and nothing is left to take.
var ErrClosed = errors.New("fake: closed")

// ErrNotKept is returned by Next when the fake was told to keep no deliveries.
var ErrNotKept = errors.New("fake: deliveries are counted, not kept")

// defaultKeep bounds the log when the configuration does not: about 4 MB of mail notifications.
const defaultKeep = 4096

// recorder is the bounded log of accepted deliveries and the counters of every answer.
type recorder struct {
	keep int // deliveries remembered, the oldest are dropped first; negative: none

	mu     sync.Mutex
	log    []logged
	counts map[Result]int64
	wake   chan struct{} // closed at the next delivery; nil while nobody waits
	ended  bool
}

type logged struct {
	Delivery
	taken bool
}

func (rec *recorder) init(keep int) {
	if keep == 0 {
		keep = defaultKeep
	}
	rec.keep = keep
	rec.counts = map[Result]int64{}
}

func (rec *recorder) keeps() bool { return rec.keep > 0 }

// count adds one answer, and the delivery when it was accepted.
func (rec *recorder) count(res Result, d *Delivery) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.counts[res]++
	if d == nil || !rec.keeps() {
		return
	}
	if topic := d.Headers["topic"]; topic != "" {
		d.Replaces = rec.undelivered(d.Target, topic)
	}
	rec.log = append(rec.log, logged{Delivery: *d})
	if len(rec.log) > rec.keep {
		rec.log = rec.log[1:] // append moves the rest to fresh memory now and then
	}
	if rec.wake != nil {
		close(rec.wake)
		rec.wake = nil
	}
}

// undelivered finds the newest message of a topic that nobody took yet. Held: mu.
func (rec *recorder) undelivered(target, topic string) string {
	for i := len(rec.log) - 1; i >= 0; i-- {
		l := &rec.log[i]
		if !l.taken && l.Target == target && l.Headers["topic"] == topic {
			return l.ID
		}
	}
	return ""
}

func (rec *recorder) end() {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.ended = true
	if rec.wake != nil {
		close(rec.wake)
		rec.wake = nil
	}
}

// Next takes the oldest delivery that nobody took yet, and waits for one if there is none. Deliveries
// that fell out of the bounded log are not seen.
func (rec *recorder) Next(ctx context.Context) (Delivery, error) {
	return rec.take(ctx, func(*Delivery) bool { return true })
}

// NextFor is Next for one target: a device token, a registration token or an endpoint URL.
func (rec *recorder) NextFor(ctx context.Context, target string) (Delivery, error) {
	return rec.take(ctx, func(d *Delivery) bool { return d.Target == target })
}

func (rec *recorder) take(ctx context.Context, match func(*Delivery) bool) (Delivery, error) {
	for {
		d, wake, err := rec.tryTake(match)
		if wake == nil {
			return d, err
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return Delivery{}, ctx.Err()
		}
	}
}

// tryTake returns a delivery, an error, or a channel that is closed when trying again makes sense.
func (rec *recorder) tryTake(match func(*Delivery) bool) (Delivery, <-chan struct{}, error) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if !rec.keeps() {
		return Delivery{}, nil, ErrNotKept
	}
	for i := range rec.log {
		if l := &rec.log[i]; !l.taken && match(&l.Delivery) {
			l.taken = true
			return l.Delivery, nil, nil
		}
	}
	if rec.ended {
		return Delivery{}, nil, ErrClosed
	}
	if rec.wake == nil {
		rec.wake = make(chan struct{})
	}
	return Delivery{}, rec.wake, nil
}

// Deliveries returns the log, oldest first, taken or not.
func (rec *recorder) Deliveries() []Delivery {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	all := make([]Delivery, len(rec.log))
	for i := range rec.log {
		all[i] = rec.log[i].Delivery
	}
	return all
}

// Counts returns how many requests got each answer.
func (rec *recorder) Counts() map[Result]int64 {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return maps.Clone(rec.counts)
}

// Count returns how many requests got this answer.
func (rec *recorder) Count(status int, reason string) int64 {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return rec.counts[Result{status, reason}]
}

// registry knows which device tokens exist. Until the first Register every well-formed token does.
type registry struct {
	mu     sync.RWMutex
	listed map[string]struct{} // nil: any
	gone   map[string]time.Time
}

// Register makes tokens known, again if they were unregistered. From the first call on, tokens that
// were never registered are refused.
func (g *registry) Register(tokens ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listed == nil {
		g.listed = map[string]struct{}{}
	}
	for _, t := range tokens {
		g.listed[t] = struct{}{}
		delete(g.gone, t)
	}
}

// Unregister makes a token invalid since the given time.
func (g *registry) Unregister(token string, since time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone == nil {
		g.gone = map[string]time.Time{}
	}
	g.gone[token] = since
}

// lookup says whether a token was ever valid, and since when it is not (zero: it is).
func (g *registry) lookup(token string) (known bool, gone time.Time) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if since, ok := g.gone[token]; ok {
		return true, since
	}
	if g.listed == nil {
		return true, time.Time{}
	}
	_, known = g.listed[token]
	return known, time.Time{}
}
