package account

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxLimited bounds the keys a limiter remembers: they come from whoever asks.
const maxLimited = 100_000

// limited is a key as it is remembered: short, however long a login is.
type limited [16]byte

func limitedOf(key string) limited {
	sum := sha256.Sum256([]byte(key))
	return limited(sum[:len(limited{})])
}

// A limiter allows a number of failures per key and window, refilled steadily. Success gives the
// attempt back, which the token buckets of golang.org/x/time/rate cannot do.
type limiter struct {
	burst  float64
	refill time.Duration // time for one attempt
	now    func() time.Time

	mu      sync.Mutex // guards buckets; held for map operations only
	buckets map[limited]bucket
}

type bucket struct {
	used float64
	at   time.Time
}

func newLimiter(attempts int, window time.Duration, now func() time.Time) *limiter {
	return &limiter{
		burst: float64(attempts), refill: window / time.Duration(attempts), now: now,
		buckets: map[limited]bucket{},
	}
}

// take uses one attempt of key, or says how long to wait for the next.
func (l *limiter) take(name string) (wait time.Duration, ok bool) {
	key := limitedOf(name)
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.current(key)
	if b.used+1 > l.burst {
		return time.Duration((b.used + 1 - l.burst) * float64(l.refill)), false
	}
	if len(l.buckets) >= maxLimited {
		l.forgetSome()
	}
	b.used++
	l.buckets[key] = b
	return 0, true
}

// giveBack returns an attempt that was no failure.
func (l *limiter) giveBack(name string) {
	key := limitedOf(name)
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.current(key)
	if b.used <= 1 {
		delete(l.buckets, key)
		return
	}
	b.used--
	l.buckets[key] = b
}

// until says how long it takes until fewer than some attempts of key are used.
func (l *limiter) until(name string, attempts int) time.Duration {
	key := limitedOf(name)
	l.mu.Lock()
	defer l.mu.Unlock()
	over := l.current(key).used - float64(attempts)
	if over < 0 {
		return 0
	}
	return time.Duration(over*float64(l.refill)) + 1
}

func (l *limiter) current(key limited) bucket {
	now := l.now()
	b, ok := l.buckets[key]
	if !ok {
		return bucket{at: now}
	}
	b.used = max(0, b.used-float64(now.Sub(b.at))/float64(l.refill))
	b.at = now
	return b
}

// forgetSome makes room: refilled buckets first, else a random part. Forgetting errs on the side of
// the user, never of a lockout.
func (l *limiter) forgetSome() {
	for key := range l.buckets {
		if l.current(key).used == 0 {
			delete(l.buckets, key)
		}
	}
	for key := range l.buckets {
		if len(l.buckets) <= maxLimited*9/10 {
			return
		}
		delete(l.buckets, key)
	}
}
