package push

import (
	"strings"
	"time"
)

// Credential is what is known of the credential behind a lane.
type Credential struct {
	// Name tells people which it is. It is a label of metrics, so it comes from the configuration, never from a
	// device.
	Name string
	// Owner is the provider whose it is; "" is the installation.
	Owner string
	// Expires is when it ends; zero is never, or not known.
	Expires time.Time
	// Since is since when it is in use: it differs after it was replaced.
	Since time.Time
	// First is how many requests may be in flight before the first is answered well; 0 is firstLimit.
	First int
	// Most, when not nil, is how many the connections carry at once by what the provider says now; 0 when
	// it has said nothing yet. It must not wait.
	Most func() int
	// PerMinute is how many the provider takes in a minute; 0 when it does not say.
	PerMinute int
}

const (
	// firstLimit is where a lane's limit begins: few enough to harm nobody, and doubled in a round trip.
	firstLimit = 10
	// A breaker opens on a refused credential, when of at least breakerLeast requests in breakerWindow
	// seconds half or more failed, and when breakerLeast failed in a row, however slowly.
	breakerLeast, breakerWindow = 20, 10
	// breakerRest is how long a lane rests then; it doubles with each probe that fails, up to maxBreakerRest.
	breakerRest, maxBreakerRest = 5 * time.Second, time.Minute
	// probesNeeded is how many good answers close a breaker: 1, 2 and 4 at once.
	probesNeeded = 7
	// rampTime is how long a lane takes from a tenth of its limit to the whole, after its breaker closed.
	rampTime = time.Minute
)

// verdict is what one answer says of the provider, rather than of the device or the notification.
type verdict int

const (
	neutral   verdict = iota // nothing: it never came to a request, or it is this device's alone
	healthy                  // it works
	congested                // it works, and wants less
	failed                   // it does not answer, or 5xx
	refused                  // it does not take our credential
)

// change is what a verdict did to a lane's breaker.
type change int

const (
	unchanged change = iota
	opened
	closed
)

// breaker is the state of a lane: closed lets through, open nothing, half-open a few to see. The numbers
// are those of the metric.
type breaker int

const (
	breakerClosed breaker = iota
	breakerHalfOpen
	breakerOpen
)

// lane is what shares the fate of one provider credential; for Web Push, of one push service. Its fields
// are guarded by the scheduler's mu.
type lane struct {
	name       string
	group      *group
	credential Credential

	tenants   map[int64]*tenantTurn
	ready     queue[*tenantTurn]
	runnable  bool  // it is in its group's ring
	alarm     entry // in the wheel while the lane waits for its time
	inFlight  int
	idleSince time.Time // of a lane without slots

	// limit is how many may be in flight. It begins small and grows with each good answer, once the provider
	// asked for less with one for each round trip (credit counts them); it halves at most once in a round
	// trip: what left before cutAt knew nothing of the cut.
	limit, credit int
	steady        bool
	cutAt         time.Time

	breaker breaker
	// rests is until when nothing is sent, rest how long the breaker's last rest was.
	rests time.Time
	rest  time.Duration
	// openedAt tells the answers to what was in flight when the breaker opened: they are no probes.
	openedAt time.Time
	probed   int       // good answers since it is half open
	closedAt time.Time // when it closed again: the ramp's foot
	window   [breakerWindow]second
	inARow   int // failures since the last answer that was none
	pace     pace
}

// second counts the requests of one second and those that failed.
type second struct {
	unix        int64
	all, failed int
}

func newLane(name string, g *group, c Credential) *lane {
	if c.First == 0 {
		c.First = firstLimit
	}
	l := &lane{name: name, group: g, credential: c, limit: c.First, pace: pace{perMinute: c.PerMinute}, tenants: map[int64]*tenantTurn{}}
	l.alarm.app = &app{tenant: &tenantTurn{lane: l}} // where the wheel's entries have their lane
	return l
}

// transportOf is the transport that a lane's name begins with.
func transportOf(lane string) string {
	transport, _, _ := strings.Cut(lane, "/")
	return transport
}

// run puts a lane that has something to send into its group's ring.
func (l *lane) run() {
	if !l.runnable && len(l.ready) > 0 {
		l.runnable = true
		l.group.runnable.push(l)
	}
}

// permits is how many may be in flight at a time when the lane does not rest; perLane is the most.
func (l *lane) permits(now time.Time, perLane int) int {
	if l.breaker == breakerOpen {
		l.breaker, l.probed, l.limit, l.steady = breakerHalfOpen, 0, 1, false
	}
	most := perLane
	if l.credential.Most != nil {
		if n := l.credential.Most(); n > 0 {
			most = min(most, n)
		}
	}
	if up := now.Sub(l.closedAt); up < rampTime {
		most = max(1, most/10+int(int64(most)*9/10*int64(up)/int64(rampTime)))
	}
	return min(l.limit, most)
}

// learn takes the verdict of a flight that began at a time; rest is how long a lane rests that was
// refused. perLane bounds the limit.
func (l *lane) learn(v verdict, began time.Time, rest time.Duration, now time.Time, perLane int) change {
	if v == neutral || !began.After(l.openedAt) {
		return unchanged
	}
	switch {
	case v == refused:
		return l.open(now, rest)
	case v == failed && l.breaker == breakerHalfOpen:
		return l.open(now, min(2*l.rest, maxBreakerRest))
	case v == healthy && l.breaker == breakerHalfOpen:
		l.grow(perLane)
		if l.probed++; l.probed < probesNeeded {
			return unchanged
		}
		l.breaker, l.closedAt, l.window, l.inARow = breakerClosed, now, [breakerWindow]second{}, 0
		return closed
	case v == healthy:
		l.grow(perLane)
	case !began.Before(l.cutAt):
		l.limit, l.credit, l.steady, l.cutAt = max(1, l.limit/2), 0, true, now
	}
	// The lane that push services share beyond maxLanes has no breaker: it has no one provider.
	if l.count(v == failed, now) && l.breaker == breakerClosed && !strings.HasSuffix(l.name, overflow) {
		return l.open(now, breakerRest)
	}
	return unchanged
}

func (l *lane) open(now time.Time, rest time.Duration) change {
	was := l.breaker
	l.breaker, l.openedAt, l.rest, l.rests = breakerOpen, now.Truncate(time.Millisecond), rest, now.Add(rest)
	if was == breakerClosed {
		return opened
	}
	return unchanged
}

// grow raises the limit, if it is in use.
func (l *lane) grow(perLane int) {
	if l.limit >= perLane || 2*l.inFlight < l.limit {
		return
	}
	if l.credit++; l.steady && l.credit < l.limit {
		return
	}
	l.limit, l.credit = l.limit+1, 0
}

// count adds an answer to the window and reports whether too many of it failed.
func (l *lane) count(bad bool, now time.Time) bool {
	unix := now.Unix()
	w := &l.window[unix%breakerWindow]
	if w.unix != unix {
		*w = second{unix: unix}
	}
	w.all++
	l.inARow++
	if bad {
		w.failed++
	} else {
		l.inARow = 0
	}
	all, failures := 0, 0
	for _, w := range l.window {
		if w.unix > unix-breakerWindow {
			all, failures = all+w.all, failures+w.failed
		}
	}
	return bad && (all >= breakerLeast && 2*failures >= all || l.inARow >= breakerLeast)
}
