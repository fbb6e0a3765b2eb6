package push

import (
	"container/heap"
	"sync"
	"time"
)

// Due is a dirty slot that wants to be sent: at its time, or at once when that is zero.
type Due struct {
	id   slotID
	lane string
	// context and client are whose turn it is: lanes are shared out by context, then by client.
	context int64
	client  string
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
// Waiting slots are in a heap. A slot whose time has come stands in the queue of its app (the client
// that subscribed), the app in the ring of its context, the context in the ring of its lane, and the
// lane, while it may send, in the ring of its transport: a pick takes the first of each and sends what
// is left to the back, so its cost does not depend on how much waits, and who has much waits behind
// himself only. A slot that was sent goes to the back of its app.
type scheduler struct {
	// perLane and perTransport bound what is in flight. The transport's bound is the higher, so that one lane
	// cannot use it up, and it is each transport's own, so that no transport can use up another's.
	perLane, perTransport int
	// describe tells what is known of a new lane.
	describe func(lane string) Credential
	// changed wakes Run after a slot became due earlier than Run knows.
	changed chan struct{}

	mu      sync.Mutex // guards all below; held for map, heap and ring operations only
	entries map[slotID]*entry
	waiting dueHeap
	lanes   map[string]*lane
	groups  map[string]*group // by transport
	swept   time.Time
}

// entry is a slot that is waiting for its time, ready in its app's queue, or in flight; or, without an
// id, the alarm of a lane that rests. There may be a hundred thousand of them.
type entry struct {
	id  slotID
	app *app
	// at is the time that a waiting entry waits for and the time that a flight began, since when the slot is
	// dirty: both in milliseconds since 1970.
	at, since int64
	state     entryState
	// again: a newer state came while this one was in flight.
	again bool
	// stumbles counts the flights in a row that failed for want of our own store. Whoever has the entry in flight owns it.
	stumbles uint8
}

type entryState uint8

const (
	waiting entryState = iota
	ready
	flying
)

// app is the slots of one client in one context and lane.
type app struct {
	client string
	tenant *tenantTurn
	ready  queue[*entry]
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
		entries: map[slotID]*entry{}, lanes: map[string]*lane{}, groups: map[string]*group{},
	}
}

// add takes slots in. One that is known keeps its place: an earlier time set by a back-off stands,
// because the table keeps it too.
func (s *scheduler) add(due []Due) {
	s.mu.Lock()
	for _, d := range due {
		if e, ok := s.entries[d.id]; ok {
			e.again = e.again || e.state == flying
			continue
		}
		e := &entry{id: d.id, app: s.appOf(d), since: d.since.UnixMilli()}
		e.app.entries++
		s.entries[d.id] = e
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
		}
	}
}

// wait has an entry wait for a time. Held: mu.
func (s *scheduler) wait(e *entry, until time.Time) {
	e.state, e.at = waiting, until.UnixMilli()
	if until.IsZero() {
		e.at = 0
	}
	heap.Push(&s.waiting, e)
}

// line puts an entry whose time has come at the end of its line. Held: mu.
func (s *scheduler) line(e *entry) {
	e.state = ready
	a := e.app
	if a.ready.push(e); len(a.ready) > 1 {
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
	for ms := now.UnixMilli(); len(s.waiting) > 0 && s.waiting[0].at <= ms; {
		if e := heap.Pop(&s.waiting).(*entry); e.id == (slotID{}) {
			l := e.app.tenant.lane
			l.alarm = false
			l.run()
		} else {
			s.line(e)
		}
	}
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
				e := l.pick()
				e.state, e.at = flying, now.UnixMilli()
				l.pace.take(now)
				l.inFlight++
				g.inFlight++
				start = append(start, e)
				l.run()
			}
		}
	}
	if len(s.waiting) > 0 {
		next = time.UnixMilli(s.waiting[0].at)
	}
	return start, next
}

// setAlarm has a lane that rests run again at a time. Held: mu.
func (s *scheduler) setAlarm(l *lane, at time.Time) {
	if !l.alarm {
		l.alarm = true
		s.wait(&entry{app: &app{tenant: &tenantTurn{lane: l}}}, at.Add(time.Millisecond-1)) // not before it
	}
}

// landed tells an entry's lane what its flight says of the provider.
func (s *scheduler) landed(e *entry, v verdict, rest time.Duration, now time.Time) change {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v == healthy {
		e.since = now.UnixMilli() // what is dirty from here on came meanwhile
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

// forget drops an entry, and what was there for it alone. Held: mu.
func (s *scheduler) forget(e *entry) {
	delete(s.entries, e.id)
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

// dueHeap orders entries by time; it implements heap.Interface.
type dueHeap []*entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(*entry)) }

func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
