package push

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// naive is the scheduler as one would explain it, without heap or queues.
type naive struct {
	at     map[slotID]time.Time // of every slot that is not in flight
	flying map[slotID]bool      // to whether a newer state came meanwhile
	rests  map[string]time.Time // lanes held back
	trial  map[string]bool      // lanes on probation
}

// TestScheduler plays at random with a scheduler and its naive twin.
func TestScheduler(t *testing.T) {
	const perLane = 3
	lanes := []string{"a", "b", "c"}
	begin := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	// A slot has one lane for as long as the scheduler knows it.
	laneOf := func(id slotID) string { return lanes[len(id.subscription)%len(lanes)] }
	ids := rapid.Map(rapid.IntRange(0, 14), func(i int) slotID {
		return slotID{fmt.Sprintf("%0*d", i+1, i), collapseKeyMail}
	})
	rapid.Check(t, func(t *rapid.T) {
		s := newScheduler(perLane)
		m := naive{map[slotID]time.Time{}, map[slotID]bool{}, map[string]time.Time{}, map[string]bool{}}
		flights := map[slotID]*entry{}
		now := begin
		moment := rapid.Map(rapid.IntRange(-5, 90), func(seconds int) time.Duration { return time.Duration(seconds) * time.Second })
		inFlight := func(lane string) (n int) {
			for id := range m.flying {
				if laneOf(id) == lane {
					n++
				}
			}
			return n
		}
		// able are the slots of a lane that want to be sent now.
		able := func(lane string) (n int) {
			for id, at := range m.at {
				if laneOf(id) == lane && !at.After(now) {
					n++
				}
			}
			return n
		}
		pick := func(t *rapid.T) *entry {
			if len(flights) == 0 {
				t.Skip("nothing is in flight")
			}
			all := slices.SortedFunc(maps.Keys(flights), func(a, b slotID) int { return len(a.subscription) - len(b.subscription) })
			return flights[rapid.SampledFrom(all).Draw(t, "flight")]
		}
		take := func(t *rapid.T) {
			start, next := s.take(now)
			started := map[string]bool{}
			for _, e := range start {
				started[e.lane] = true
				at, known := m.at[e.id]
				switch {
				case !known:
					t.Fatalf("%v was sent twice, or never asked for", e.id)
				case at.After(now):
					t.Fatalf("%v was sent %v too early", e.id, at.Sub(now))
				case m.rests[e.lane].After(now):
					t.Fatalf("%v was sent while its lane rests", e.id)
				}
				delete(m.at, e.id)
				m.flying[e.id] = false
				flights[e.id] = e
			}
			var wantNext time.Time
			earliest := func(at time.Time) {
				if wantNext.IsZero() || at.Before(wantNext) {
					wantNext = at
				}
			}
			for _, at := range m.at {
				if at.After(now) {
					earliest(at)
				}
			}
			for _, lane := range lanes {
				permits := perLane
				if m.trial[lane] {
					permits = 1
				}
				n, waits, rests := inFlight(lane), able(lane), m.rests[lane].After(now)
				if n > perLane || started[lane] && n > permits {
					t.Fatalf("lane %s: %d in flight, %d permits", lane, n, permits)
				}
				if waits > 0 && rests {
					earliest(m.rests[lane])
				}
				if waits > 0 && !rests && n < permits {
					t.Fatalf("lane %s: %d wait and %d permits are free", lane, waits, permits-n)
				}
				if n+waits == 0 && !rests { // it is forgotten, and so what it did
					delete(m.trial, lane)
					if s.lanes[lane] != nil {
						t.Fatalf("lane %s is kept for nothing", lane)
					}
				}
			}
			if !next.Equal(wantNext) {
				t.Fatalf("ask again at %v, want %v", next, wantNext)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				var due []Due
				for _, id := range rapid.SliceOfN(ids, 1, 5).Draw(t, "slots") {
					d := Due{id: id, lane: laneOf(id)}
					if rapid.Bool().Draw(t, "later") {
						d.at = now.Add(moment.Draw(t, "in"))
					}
					due = append(due, d)
					if _, ok := m.flying[id]; ok {
						m.flying[id] = true
					} else if _, ok := m.at[id]; !ok {
						m.at[id] = d.at
					}
				}
				s.add(due)
			},
			"land": func(t *rapid.T) {
				e := pick(t)
				dirty, next := rapid.Bool().Draw(t, "dirty"), now.Add(moment.Draw(t, "next"))
				if m.flying[e.id] || dirty {
					m.at[e.id] = next
				}
				delete(m.flying, e.id)
				delete(flights, e.id)
				s.done(e, dirty, next)
			},
			"block": func(t *rapid.T) {
				e, until := pick(t), now.Add(moment.Draw(t, "until"))
				if until.After(m.rests[e.lane]) {
					m.rests[e.lane] = until
				}
				m.trial[e.lane] = true
				s.block(e, until)
			},
			"unblock": func(t *rapid.T) {
				e := pick(t)
				delete(m.rests, e.lane)
				delete(m.trial, e.lane)
				s.unblock(e)
			},
			"time": func(t *rapid.T) { now = now.Add(max(0, moment.Draw(t, "passes"))) },
			"take": take,
			"": func(t *rapid.T) {
				if want := len(m.at) + len(m.flying); int(s.dirty()) != want {
					t.Fatalf("%v slots, want %d", s.dirty(), want)
				}
				if int(s.inFlight()) != len(m.flying) {
					t.Fatalf("%v in flight, want %d", s.inFlight(), len(m.flying))
				}
				if len(s.lanes) > len(lanes) {
					t.Fatalf("%d lanes", len(s.lanes))
				}
			},
		})
		// Whatever happened, everything is sent in the end.
		for len(m.at)+len(m.flying) > 0 {
			now = now.Add(time.Minute)
			take(t)
			for id, e := range flights {
				if m.flying[id] {
					m.at[id] = now
				}
				delete(m.flying, id)
				delete(flights, id)
				s.done(e, false, now)
			}
		}
		now = now.Add(time.Hour) // no lane rests any more
		if take(t); len(s.lanes) != 0 || len(s.entries) != 0 || len(s.waiting) != 0 {
			t.Fatalf("%d lanes, %d entries, %d waiting at rest", len(s.lanes), len(s.entries), len(s.waiting))
		}
	})
}

// TestLaneIsFair: within a lane, first come is first served.
func TestLaneIsFair(t *testing.T) {
	s := newScheduler(1)
	now := time.Now()
	for i := range 5 {
		s.add([]Due{{id: slotID{fmt.Sprint(i), "k"}, lane: "l"}})
		s.take(now.Add(-time.Hour)) // makes it ready; the first flies
	}
	e := s.entries[slotID{"0", "k"}]
	for i := range 5 {
		if e.id.subscription != fmt.Sprint(i) {
			t.Errorf("turn %d: %s", i, e.id.subscription)
		}
		s.done(e, false, time.Time{})
		if start, _ := s.take(now); i < 4 {
			e = start[0]
		}
	}
}
