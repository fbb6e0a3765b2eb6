package push

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// naive is the scheduler as one would explain it, without heap or queues.
type naive struct {
	at     map[slotID]time.Time // of every slot that is not in flight
	flying map[slotID]bool      // to whether a newer state came meanwhile
	rests  map[string]time.Time // lanes held back
}

func anyCredential(string) Credential { return Credential{} }

// TestScheduler plays at random with a scheduler and its naive twin. What a lane learns of its provider
// is tested elsewhere; here both take it from the lane.
func TestScheduler(t *testing.T) {
	const perLane = 3
	lanes := []string{"x/a", "x/b", "x/c", "y/d"} // three lanes of x have more permits than x
	begin := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	// A slot has one lane for as long as the scheduler knows it.
	number := func(id slotID) int { return len(id.subscription) - 1 }
	laneOf := func(id slotID) string { return lanes[number(id)%len(lanes)] }
	ids := rapid.Map(rapid.IntRange(0, 19), func(i int) slotID {
		return slotID{fmt.Sprintf("%0*d", i+1, i), collapseKeyMail}
	})
	rapid.Check(t, func(t *rapid.T) {
		s := newScheduler(perLane, anyCredential)
		m := naive{map[slotID]time.Time{}, map[slotID]bool{}, map[string]time.Time{}}
		flights := map[slotID]*entry{}
		now := begin
		moment := rapid.Map(rapid.IntRange(-5, 90), func(seconds int) time.Duration { return time.Duration(seconds) * time.Second })
		// inFlight counts those of a lane, or of a transport with its slash.
		inFlight := func(prefix string) (n int) {
			for id := range m.flying {
				if strings.HasPrefix(laneOf(id), prefix) {
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
				lane := laneOf(e.id)
				started[lane] = true
				at, known := m.at[e.id]
				switch {
				case !known:
					t.Fatalf("%v was sent twice, or never asked for", e.id)
				case at.After(now):
					t.Fatalf("%v was sent %v too early", e.id, at.Sub(now))
				case m.rests[lane].After(now):
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
				n, waits, rests := inFlight(lane), able(lane), m.rests[lane].After(now)
				transport := inFlight(transportOf(lane) + "/")
				if waits > 0 && rests && n == 0 { // else it wants what is in flight back first
					earliest(m.rests[lane])
				}
				if n+waits == 0 || rests {
					continue
				}
				permits := s.lanes[lane].permits(now, perLane)
				if n > perLane || started[lane] && n > permits || transport > 2*perLane {
					t.Fatalf("lane %s: %d in flight, %d permits, %d of its transport", lane, n, permits, transport)
				}
				if waits > 0 && n < permits && transport < 2*perLane {
					t.Fatalf("lane %s: %d wait and %d permits are free", lane, waits, permits-n)
				}
			}
			// The alarm of a lane that was freed since may ring for nothing.
			if !wantNext.IsZero() && (next.IsZero() || next.After(wantNext)) || !next.IsZero() && !next.After(now) {
				t.Fatalf("ask again at %v, want %v", next, wantNext)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				var due []Due
				for _, id := range rapid.SliceOfN(ids, 1, 5).Draw(t, "slots") {
					d := Due{id: id, lane: laneOf(id), context: int64(number(id) % 3), client: fmt.Sprint(number(id) % 2)}
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
			"verdict": func(t *rapid.T) {
				e := pick(t)
				v := rapid.SampledFrom([]verdict{neutral, healthy, congested, failed, refused}).Draw(t, "verdict")
				rest := max(time.Second, moment.Draw(t, "rest"))
				opened := s.landed(e, v, rest, now) == opened
				lane := laneOf(e.id)
				if opened && v == refused && !s.lanes[lane].rests.Equal(now.Add(rest)) {
					t.Fatalf("lane %s rests until %v", lane, s.lanes[lane].rests)
				}
				m.rests[lane] = s.lanes[lane].rests
			},
			"time": func(t *rapid.T) { now = now.Add(max(0, moment.Draw(t, "passes"))) },
			"take": take,
			"": func(t *rapid.T) {
				u := s.usage(now)
				if want := len(m.at) + len(m.flying); u.dirty != want {
					t.Fatalf("%v slots, want %d", u.dirty, want)
				}
				if u.inFlight != len(m.flying) {
					t.Fatalf("%v in flight, want %d", u.inFlight, len(m.flying))
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
		for name, g := range s.groups {
			if g.lanes != 0 || g.inFlight != 0 {
				t.Fatalf("%s: %d lanes, %d in flight at rest", name, g.lanes, g.inFlight)
			}
		}
	})
}

// oneByOne takes all that is ready in the only lane, which has one permit.
func oneByOne(s *scheduler, now time.Time) (order []string) {
	for {
		start, _ := s.take(now)
		if len(start) == 0 {
			return order
		}
		for _, e := range start {
			order = append(order, e.id.subscription)
			s.done(e, false, now)
		}
	}
}

// TestTurns: contexts take turns, in each its clients, and of each client first come is first served.
func TestTurns(t *testing.T) {
	s := newScheduler(1, anyCredential)
	add := func(context int64, client string, names ...string) {
		for _, name := range names {
			s.add([]Due{{id: slotID{name, "k"}, lane: "l", context: context, client: client}})
		}
	}
	add(1, "a", "1a1", "1a2", "1a3", "1a4")
	add(1, "b", "1b1", "1b2")
	add(2, "a", "2a1")
	add(3, "z", "3z1", "3z2")
	want(t, "order", strings.Join(oneByOne(s, time.Now()), " "), "1a1 2a1 3z1 1b1 3z2 1a2 1b2 1a3 1a4")
}

// TestNobodyWaitsForCrowds: whatever the crowds, a context gets every n-th turn of n that want one.
func TestNobodyWaitsForCrowds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newScheduler(1, anyCredential)
		left := map[string]int{}
		for i := range rapid.IntRange(1, 60).Draw(t, "slots") {
			context := rapid.IntRange(1, 4).Draw(t, "context")
			client := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "client")
			left[fmt.Sprint(context)]++
			left[fmt.Sprint(context, client)]++
			s.add([]Due{{id: slotID{fmt.Sprint(context, client, " ", i), "k"}, lane: "l", context: int64(context), client: client}})
		}
		turns := map[string]int{}
		for _, name := range oneByOne(s, time.Now()) {
			var context, client string
			_, err := fmt.Sscanf(name, "%1s%1s", &context, &client)
			if err != nil {
				t.Fatal(err)
			}
			for _, who := range []string{context, context + client} {
				turns[who]++
				left[who]--
			}
			for a := range left {
				for b, more := range left {
					if len(a) == len(b) && (len(a) == 1 || a[0] == b[0]) && more > 0 && turns[a] > turns[b]+1 {
						t.Fatalf("%s had %d turns, %s only %d and waits", a, turns[a], b, turns[b])
					}
				}
			}
		}
	})
}

// TestTransportsShareNothing: lanes of one transport that hang take no permit of another's.
func TestTransportsShareNothing(t *testing.T) {
	s := newScheduler(5, func(string) Credential { return Credential{First: 5} })
	for i := range 100 {
		s.add([]Due{{id: slotID{fmt.Sprint("w", i), "k"}, lane: fmt.Sprint("webpush/", i%50)}})
	}
	start, _ := s.take(time.Now())
	want(t, "in flight when all hang", len(start), 10)
	s.add([]Due{{id: slotID{"a", "k"}, lane: "apns/0"}})
	start, _ = s.take(time.Now())
	want(t, "taken", len(start), 1)
	want(t, "taken", start[0].id.subscription, "a")
}

// TestLanesAreBounded: push services are foreign input. Those beyond the bound share a lane.
func TestLanesAreBounded(t *testing.T) {
	s := newScheduler(1000, anyCredential)
	now := time.Now()
	for i := range maxLanes + 100 {
		s.add([]Due{{id: slotID{fmt.Sprint(i), "k"}, lane: fmt.Sprint("webpush/", i)}})
	}
	s.add([]Due{{id: slotID{"a", "k"}, lane: "apns/0"}})
	want(t, "lanes", len(s.lanes), maxLanes+2)
	want(t, "those that came too late", s.lanes["webpush/overflow"].tenants[0].apps[""].entries, 100)
	for {
		start, _ := s.take(now)
		if len(start) == 0 {
			break
		}
		for _, e := range start {
			s.done(e, false, now)
		}
	}
	s.add([]Due{{id: slotID{"new", "k"}, lane: "webpush/new"}})
	want(t, "lanes when idle ones made room", len(s.lanes), 1)
	want(t, "entries", len(s.entries), 1)
}

// BenchmarkScheduler holds a pick to a cost that does not depend on how many slots and lanes wait.
func BenchmarkScheduler(b *testing.B) {
	for _, lanes := range []int{1, 1000} {
		for _, slots := range []int{1000, 100_000} {
			b.Run(fmt.Sprintf("lanes=%d/slots=%d", lanes, slots), func(b *testing.B) {
				s := newScheduler(1, anyCredential)
				now := time.Now()
				for i := range slots {
					s.add([]Due{{id: slotID{fmt.Sprint(i), "k"}, lane: fmt.Sprint("webpush/", i%lanes), context: int64(i % 7)}})
				}
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					start, _ := s.take(now)
					for _, e := range start {
						s.done(e, true, now)
					}
				}
			})
		}
	}
}
