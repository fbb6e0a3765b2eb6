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
	at   time.Time
}

// scheduler holds the dirty slots of this process in memory: when each is due, and how many of each
// lane are in flight. It never does I/O; the table of slots is the truth, this is its timetable.
type scheduler struct {
	perLane int
	// changed wakes Run after a slot became due earlier than Run knows.
	changed chan struct{}

	mu      sync.Mutex // guards all below; held for map and heap operations only
	entries map[slotID]*entry
	waiting dueHeap
	lanes   map[string]*lane
	flying  int
}

// entry is a slot that is waiting for its time, ready in its lane, or in flight.
type entry struct {
	Due
	state entryState
	// again: a newer state came while this one was in flight.
	again bool
	// stumbles counts the flights in a row that failed for want of our own store. Only fly uses it.
	stumbles int
}

type entryState int

const (
	waiting entryState = iota
	ready
	flying
)

type lane struct {
	ready    []*entry // first in, first out
	inFlight int
	// blockedUntil holds the lane back after its credential was refused. From then until a notification is
	// delivered it is on probation: one flight at a time finds out whether the credential is good again.
	blockedUntil time.Time
	probation    bool
}

func newScheduler(perLane int) *scheduler {
	return &scheduler{
		perLane: perLane, changed: make(chan struct{}, 1),
		entries: map[slotID]*entry{}, lanes: map[string]*lane{},
	}
}

func (s *scheduler) dirty() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return float64(len(s.entries))
}

func (s *scheduler) inFlight() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return float64(s.flying)
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
		e := &entry{Due: d, state: waiting}
		s.entries[d.id] = e
		heap.Push(&s.waiting, e)
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

// take returns the slots to send now, each counted as in flight, and when to ask again; zero for
// when something changes.
func (s *scheduler) take(now time.Time) (start []*entry, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) > 0 && !s.waiting[0].at.After(now) {
		e := heap.Pop(&s.waiting).(*entry)
		e.state = ready
		l := s.lanes[e.lane]
		if l == nil {
			l = &lane{}
			s.lanes[e.lane] = l
		}
		l.ready = append(l.ready, e)
	}
	if len(s.waiting) > 0 {
		next = s.waiting[0].at
	}
	for name, l := range s.lanes {
		if l.blockedUntil.After(now) {
			if len(l.ready) > 0 && (next.IsZero() || l.blockedUntil.Before(next)) {
				next = l.blockedUntil
			}
			continue
		}
		permits := s.perLane
		if l.probation {
			permits = 1
		}
		for len(l.ready) > 0 && l.inFlight < permits {
			e := l.ready[0]
			l.ready[0], l.ready = nil, l.ready[1:]
			e.state = flying
			l.inFlight++
			s.flying++
			start = append(start, e)
		}
		if len(l.ready) == 0 && l.inFlight == 0 {
			delete(s.lanes, name) // lanes of push services are foreign input: none outlives its slots
		}
	}
	return start, next
}

// block holds the lane of an entry in flight back until a time.
func (s *scheduler) block(e *entry, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[e.lane]
	l.probation = true
	if until.After(l.blockedUntil) {
		l.blockedUntil = until
	}
}

// unblock opens the lane of an entry in flight: its credential was accepted.
func (s *scheduler) unblock(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[e.lane]
	l.probation, l.blockedUntil = false, time.Time{}
}

// done ends a flight. A dirty slot waits for its next try.
func (s *scheduler) done(e *entry, dirty bool, next time.Time) {
	s.mu.Lock()
	s.lanes[e.lane].inFlight--
	s.flying--
	if dirty || e.again {
		e.state, e.again, e.at = waiting, false, next
		heap.Push(&s.waiting, e)
	} else {
		delete(s.entries, e.id)
	}
	s.mu.Unlock()
	s.wake()
}

// dueHeap orders entries by time; it implements heap.Interface.
type dueHeap []*entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(*entry)) }

func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
