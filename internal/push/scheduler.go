package push

import (
	"sync"
	"time"
)

// Due is a dirty slot that wants to be sent: at its time, or at once when that is zero.
type Due struct {
	id   slotID
	lane string
	// context and client are whose turn it is: lanes are shared out by context, then by client, then by device.
	context int64
	client  string
	// device is subscription.Subscription.Device: of an app, the devices take turns. A subscription's never changes.
	device uint64
	// accepted is when its event was accepted, since when the slot became dirty.
	accepted, since, at time.Time
}

const (
	// laneIdle is how long a lane without slots keeps what it learned of its provider.
	laneIdle = 10 * time.Minute
	// maxLanes bounds the lanes of one transport: push services are foreign input. Those that come when
	// there are more with slots share one lane.
	maxLanes = 4096
	// overflow names the lane that they share.
	overflow = "/overflow"
)

// scheduler holds the dirty slots of this process in memory: when each is due, and how many of each
// lane are in flight. It never does I/O; the table of slots is the truth, this is its timetable.
//
// Waiting slots are in a timer wheel. A slot whose time has come stands in the queue of its app (the client
// that subscribed), or behind another one of its device that stands there, the app in the ring of its
// context, the context in the ring of its lane, and the lane, while it may send, in the ring of its
// transport: a pick takes the first of each and sends what is left to the back, so its cost does not depend
// on how much waits, and who has much waits behind himself only. A slot that was sent goes to the back of
// its app.
type scheduler struct {
	// perLane and perTransport bound what is in flight. The transport's bound is the higher, so that one lane
	// cannot use it up, and it is each transport's own, so that no transport can use up another's.
	perLane, perTransport int
	// describe tells what is known of a new lane.
	describe func(lane string) Credential
	// changed wakes Run after a slot became due earlier than Run knows.
	changed chan struct{}

	mu      sync.Mutex // guards all below; held for table, wheel and ring operations only
	entries table
	waiting wheel
	lined   int64 // counts what came into line
	lanes   map[string]*lane
	groups  map[string]*group // by transport
	swept   time.Time
}

// app is the slots of one client in one context and lane.
type app struct {
	client string
	tenant *tenantTurn
	ready  entryList
	// entries counts all slots, ready or not: without any, the app is forgotten.
	entries int
}

// tenantTurn is the slots of one context in one lane.
type tenantTurn struct {
	lane    *lane
	context int64
	apps    map[string]*app
	ready   queue[*app]
}

// group is the lanes of one transport.
type group struct {
	runnable queue[*lane]
	lanes    int
	inFlight int
}

func newScheduler(perLane int, describe func(lane string) Credential) *scheduler {
	return &scheduler{
		perLane: perLane, perTransport: 2 * perLane, describe: describe, changed: make(chan struct{}, 1),
		entries: newTable(), lanes: map[string]*lane{}, groups: map[string]*group{},
	}
}

// add takes slots in. One that is known keeps its place: an earlier time set by a back-off stands,
// because the table keeps it too.
func (s *scheduler) add(due []Due) {
	s.mu.Lock()
	for _, d := range due {
		e := &entry{}
		if !s.entries.name(e, d.id, d.device) {
			continue // no subscription has such an id
		}
		if known := s.entries.find(e); known != nil {
			known.again = known.again || known.state == flying
			continue
		}
		e.app, e.since = s.appOf(d), seconds(d.since)
		e.app.entries++
		s.entries.add(e)
		if d.at.IsZero() {
			s.line(e)
		} else {
			s.wait(e, d.at)
		}
	}
	s.mu.Unlock()
	s.wake()
}

func (s *scheduler) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// appOf finds or makes the queue of a slot. Held: mu.
func (s *scheduler) appOf(d Due) *app {
	l := s.laneOf(d.lane)
	t := l.tenants[d.context]
	if t == nil {
		t = &tenantTurn{lane: l, context: d.context, apps: map[string]*app{}}
		l.tenants[d.context] = t
	}
	a := t.apps[d.client]
	if a == nil {
		a = &app{client: d.client, tenant: t}
		t.apps[d.client] = a
	}
	return a
}

// laneOf finds or makes a lane. Held: mu.
func (s *scheduler) laneOf(name string) *lane {
	if l := s.lanes[name]; l != nil {
		return l
	}
	transport := transportOf(name)
	g := s.groups[transport]
	if g == nil {
		g = &group{}
		s.groups[transport] = g
	}
	if g.lanes >= maxLanes {
		s.dropIdle(time.Time{})
	}
	if shared := transport + overflow; g.lanes >= maxLanes && name != shared {
		return s.laneOf(shared)
	}
	l := newLane(name, g, s.describe(name))
	g.lanes++
	s.lanes[name] = l
	return l
}

// dropIdle forgets the lanes without slots that have been so since before a time; zero is any time.
// Held: mu.
func (s *scheduler) dropIdle(before time.Time) {
	for name, l := range s.lanes {
		if len(l.tenants) == 0 && (before.IsZero() || l.idleSince.Before(before) && l.rests.Before(before)) {
			l.group.lanes--
			delete(s.lanes, name)
			if l.alarm.state == waiting {
				s.waiting.remove(&l.alarm)
			}
		}
	}
}

// wait has an entry wait for a time. Held: mu.
func (s *scheduler) wait(e *entry, until time.Time) {
	e.state, e.at = waiting, 0
	if !until.IsZero() {
		e.at = millis(until)
	}
	s.waiting.add(e)
}

// line puts an entry whose time has come at the end of its line. Held: mu.
func (s *scheduler) line(e *entry) {
	s.lined++
	e.state, e.at = behind, s.lined
	if s.entries.inLine(e) == nil {
		s.queue(e)
	}
}

// queue puts an entry, for its device, at the end of its app's queue. Held: mu.
func (s *scheduler) queue(e *entry) {
	e.state = ready
	a := e.app
	if a.ready.push(e); a.ready.first != e {
		return
	}
	t := a.tenant
	if t.ready.push(a); len(t.ready) > 1 {
		return
	}
	t.lane.ready.push(t)
	t.lane.run()
}

// take returns the slots to send now, each counted as in flight, and when to ask again; zero for
// when something changes.
func (s *scheduler) take(now time.Time) (start []*entry, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.swept) >= time.Minute {
		s.swept = now
		s.dropIdle(now.Add(-laneIdle))
	}
	s.waiting.advance(now.UnixMilli(), func(e *entry) {
		if l := e.app.tenant.lane; e == &l.alarm {
			e.state = idle
			l.run()
		} else {
			s.line(e)
		}
	})
	for _, g := range s.groups {
		for g.inFlight < s.perTransport && len(g.runnable) > 0 {
			l := g.runnable.pop()
			l.runnable = false
			switch {
			case l.rests.After(now):
				s.setAlarm(l, l.rests)
			case l.pace.ready().After(now):
				s.setAlarm(l, l.pace.ready())
			case l.inFlight < l.permits(now, s.perLane):
				e := s.pick(l)
				e.at = now.UnixMilli()
				l.pace.take(now)
				l.inFlight++
				g.inFlight++
				start = append(start, e)
				l.run()
			}
		}
	}
	if _, _, at, ok := s.waiting.next(); ok {
		next = time.UnixMilli(at)
	}
	return start, next
}

// pick takes the first slot of the first device of the first app of the first context, and sends what is
// left of each to the back. Held: mu.
func (s *scheduler) pick(l *lane) *entry {
	t := l.ready.pop()
	a := t.ready.pop()
	e := a.ready.pop()
	e.state = flying
	if a.ready.first != nil {
		t.ready.push(a)
	}
	if len(t.ready) > 0 {
		l.ready.push(t)
	}
	if more := s.entries.behind(e); more != nil {
		s.queue(more)
	}
	return e
}

// setAlarm has a lane that rests run again at a time. Held: mu.
func (s *scheduler) setAlarm(l *lane, at time.Time) {
	if l.alarm.state == waiting {
		s.waiting.remove(&l.alarm)
	}
	s.wait(&l.alarm, at)
}

// landed tells an entry's lane what its flight says of the provider.
func (s *scheduler) landed(e *entry, v verdict, rest time.Duration, now time.Time) change {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v == healthy {
		e.since = seconds(now) // what is dirty from here on came meanwhile
	}
	l := e.app.tenant.lane
	c := l.learn(v, time.UnixMilli(e.at), rest, now, s.perLane)
	l.run() // it may have more permits now
	return c
}

// done ends a flight. A dirty slot waits for its next try.
func (s *scheduler) done(e *entry, dirty bool, next time.Time) {
	s.mu.Lock()
	l := e.app.tenant.lane
	l.inFlight--
	l.group.inFlight--
	if dirty || e.again {
		e.again = false
		s.wait(e, next)
	} else {
		s.forget(e)
	}
	l.run()
	s.mu.Unlock()
	s.wake()
}

// hold ends a flight that did not begin, for it need not before a time: from then on only it is late.
func (s *scheduler) hold(e *entry, until time.Time) {
	s.mu.Lock()
	e.since = seconds(until)
	s.mu.Unlock()
	s.done(e, true, until) // it waits, and so does what comes meanwhile
}

// hurry has a slot that waits looked at now. What the table says it must wait for, it does.
func (s *scheduler) hurry(d Due) {
	e := &entry{}
	s.mu.Lock()
	if s.entries.name(e, d.id, d.device) {
		if known := s.entries.find(e); known != nil && known.state == waiting {
			s.waiting.remove(known)
			s.line(known)
		}
	}
	s.mu.Unlock()
	s.wake()
}

// id is the slot of an entry.
func (s *scheduler) id(e *entry) slotID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries.id(e)
}

// forget drops an entry, and what was there for it alone. Held: mu.
func (s *scheduler) forget(e *entry) {
	s.entries.remove(e)
	a := e.app
	if a.entries--; a.entries > 0 {
		return
	}
	t := a.tenant
	if delete(t.apps, a.client); len(t.apps) > 0 {
		return
	}
	if delete(t.lane.tenants, t.context); len(t.lane.tenants) == 0 {
		t.lane.idleSince = time.UnixMilli(e.at)
	}
}

// queue is first in, first out.
type queue[T any] []T

func (q *queue[T]) push(v T) { *q = append(*q, v) }

func (q *queue[T]) pop() T {
	var none T
	v := (*q)[0]
	(*q)[0] = none
	if *q = (*q)[1:]; len(*q) == 0 && cap(*q) == 0 {
		*q = nil
	}
	return v
}
