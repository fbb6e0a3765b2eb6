package mailnotify

import (
	"net/netip"
	"time"
)

// maxSources bounds the senders that have an allowance of their own. All others share one: whoever makes up
// sender addresses takes from those that are unknown, not from those that are known.
const maxSources = 1024

// limiter gives each sender a steady rate and a burst. It is for one goroutine.
type limiter struct {
	rate, burst float64 // datagrams a second; datagrams
	sources     map[netip.Prefix]bucket
	others      bucket
	swept       time.Time
}

// bucket is what a sender has used and not yet got back.
type bucket struct {
	used float64
	at   time.Time
}

func newLimiter(rate, burst int) *limiter {
	return &limiter{rate: float64(rate), burst: float64(burst), sources: map[netip.Prefix]bucket{}}
}

// take uses one of a sender's datagrams, or reports that none is left.
func (l *limiter) take(from netip.Addr, now time.Time) bool {
	key := source(from)
	b, known := l.sources[key]
	if !known && len(l.sources) >= maxSources {
		l.sweep(now)
		if len(l.sources) >= maxSources {
			return l.use(&l.others, now)
		}
	}
	ok := l.use(&b, now)
	l.sources[key] = b
	return ok
}

func (l *limiter) use(b *bucket, now time.Time) bool {
	*b = l.current(*b, now)
	if b.used+1 > l.burst {
		return false
	}
	b.used++
	return true
}

func (l *limiter) current(b bucket, now time.Time) bucket {
	if since := now.Sub(b.at); since > 0 {
		b.used = max(0, b.used-since.Seconds()*l.rate)
		b.at = now
	}
	return b
}

// sweep forgets those who have got everything back, at most once a second: it looks at all of them.
func (l *limiter) sweep(now time.Time) {
	if now.Sub(l.swept) < time.Second {
		return
	}
	l.swept = now
	for key, b := range l.sources {
		if l.current(b, now).used == 0 {
			delete(l.sources, key)
		}
	}
}

// source is who has an allowance: an IPv4 address, or an IPv6 network of one subscriber.
func source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // an address without a family is the zero Prefix
	return p
}
