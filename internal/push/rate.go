package push

import (
	"net/http"
	"time"
)

// Google's limits. A project may send 600,000 messages a minute. A device takes a burst of 20 collapsible
// ones and then one in 3 minutes; its 240 a minute cannot be reached by the four slots it may have.
const (
	fcmPerMinute   = 600_000
	fcmBurst       = 20
	fcmBurstRefill = 3 * time.Minute
)

// allowed is when a slot may be sent to next. Full is when its allowance is whole again: each send puts it
// off by one refill, so one number in the row is the whole bucket.
func (s slot) allowed(transport string) time.Time {
	if transport != "fcm" {
		return time.Time{}
	}
	return s.full.Add(-(fcmBurst - 1) * fcmBurstRefill)
}

// fullAfter is when the allowance of a flight's slot is whole again, after it: Google counts refused
// messages too, except those that were refused for the quota.
func (f flight) fullAfter() time.Time {
	if f.sub.Token.Transport != "fcm" || f.outcome.Status == 0 || f.outcome.Status == http.StatusTooManyRequests {
		return f.slot.full
	}
	if f.slot.full.After(f.sent) {
		return f.slot.full.Add(fcmBurstRefill)
	}
	return f.sent.Add(fcmBurstRefill)
}

// pace is a lane's bucket: one second's worth may go at once.
type pace struct {
	perMinute int
	full      time.Time
}

// ready is when the next may go; zero is now.
func (p *pace) ready() time.Time {
	if p.perMinute == 0 {
		return time.Time{}
	}
	return p.full.Add(-time.Second)
}

func (p *pace) take(now time.Time) {
	if p.perMinute == 0 {
		return
	}
	if p.full.Before(now) {
		p.full = now
	}
	p.full = p.full.Add(time.Minute / time.Duration(p.perMinute))
}
