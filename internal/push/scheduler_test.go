package push

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// naive is the scheduler as one would explain it, without wheel or queues.
type naive struct {
	at     map[slotID]time.Time // of every slot that is not in flight
	flying map[slotID]bool      // to whether a newer state came meanwhile
	rests  map[string]time.Time // lanes held back
}

// slotOf is a slot with a name for people, of up to 12 bytes.
func slotOf(name any) slotID {
	return slotID{hex.EncodeToString(fmt.Appendf(nil, "%-12v", name)), collapseKeyMail}
}

// nameOf is the inverse.
func nameOf(e *entry) string { return strings.TrimSpace(string(e.subscription[:])) }

func anyCredential(string) Credential { return Credential{} }

// TestScheduler plays at random with a scheduler and its naive twin. What a lane learns of its provider
// is tested elsewhere; here both take it from the lane.
func TestScheduler(t *testing.T) {
	const perLane = 3
	lanes := []string{"x/a", "x/b", "x/c", "y/d"} // three lanes of x have more permits than x
	begin := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	// A slot has one lane for as long as the scheduler knows it.
	number := func(id slotID) (n int) {
		_, err := fmt.Sscanf(id.subscription, "%x", &n)
		must(t, err)
		return n
	}
	laneOf := func(id slotID) string { return lanes[number(id)%len(lanes)] }
	ids := rapid.Map(rapid.IntRange(0, 29), func(i int) slotID { return slotID{fmt.Sprintf("%024x", i), fmt.Sprint(i % 3)} })
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
			all := slices.SortedFunc(maps.Keys(flights), func(a, b slotID) int { return number(a) - number(b) })
			return flights[rapid.SampledFrom(all).Draw(t, "flight")]
		}
		take := func(t *rapid.T) {
			start, next := s.take(now)
			started := map[string]bool{}
			for _, e := range start {
				id := s.id(e)
				lane := laneOf(id)
				started[lane] = true
				at, known := m.at[id]
				switch {
				case !known:
					t.Fatalf("%v was sent twice, or never asked for", id)
				case at.After(now):
					t.Fatalf("%v was sent %v too early", id, at.Sub(now))
				case m.rests[lane].After(now):
					t.Fatalf("%v was sent while its lane rests", id)
				}
				delete(m.at, id)
				m.flying[id] = false
				flights[id] = e
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
			// The alarm of a lane that was freed since may ring for nothing, and so may the wheel.
			if !wantNext.IsZero() && (next.IsZero() || next.After(wantNext)) || !next.IsZero() && !next.After(now) {
				t.Fatalf("ask again at %v, want %v", next, wantNext)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				var due []Due
				for _, id := range rapid.SliceOfN(ids, 1, 5).Draw(t, "slots") {
					d := Due{id: id, lane: laneOf(id), context: int64(number(id) % 3), client: fmt.Sprint(number(id) % 2), device: uint64(number(id) % 8)} //nolint:gosec // not negative
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
				id := s.id(e)
				if m.flying[id] || dirty {
					m.at[id] = next
				}
				delete(m.flying, id)
				delete(flights, id)
				s.done(e, dirty, next)
			},
			"verdict": func(t *rapid.T) {
				e := pick(t)
				v := rapid.SampledFrom([]verdict{neutral, healthy, congested, failed, refused}).Draw(t, "verdict")
				rest := max(time.Second, moment.Draw(t, "rest"))
				opened := s.landed(e, v, rest, now) == opened
				lane := laneOf(s.id(e))
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
		if take(t); len(s.lanes) != 0 || s.entries.length != 0 || s.waiting.length != 0 {
			t.Fatalf("%d lanes, %d entries, %d waiting at rest", len(s.lanes), s.entries.length, s.waiting.length)
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
			order = append(order, nameOf(e))
			s.done(e, false, now)
		}
	}
}

// TestTurns: contexts take turns, in each its clients, in each its devices, and of each device first come is
// first served.
func TestTurns(t *testing.T) {
	s := newScheduler(1, anyCredential)
	add := func(context int64, client string, names ...string) {
		for i, name := range names {
			device := uint64(i) + 100
			if len(name) > 3 {
				device = uint64(name[3]) // named
			}
			s.add([]Due{{id: slotOf(name), lane: "l", context: context, client: client, device: device}})
		}
	}
	add(1, "a", "1a1", "1a2", "1a3", "1a4")
	add(1, "b", "1b1", "1b2")
	add(2, "a", "2a1")
	add(3, "z", "3z1", "3z2")
	want(t, "order", strings.Join(oneByOne(s, time.Now()), " "), "1a1 2a1 3z1 1b1 3z2 1a2 1b2 1a3 1a4")

	add(1, "a", "1a1p", "1a2p", "1a3p", "1a4p", "1a5q", "1a6r", "1a7q")
	add(1, "b", "1b1p", "1b2q") // the same devices with another app
	want(t, "order of devices", strings.Join(oneByOne(s, time.Now()), " "), "1a1p 1b1p 1a5q 1b2q 1a6r 1a2p 1a7q 1a3p 1a4p")
}

// TestDevicesTakeTurns: a device with several accounts has one turn in a round, after a start too.
func TestDevicesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 5)
		for id, name := range []string{"shared", "shared", "shared", "own", "other"} {
			r.subscribe(int64(id+1), "apns", "x", name)
		}
		var order []int64
		provider := newScript("apns", func(_ context.Context, n Notification, _ int) outcome.Outcome {
			order = append(order, n.Subscription.User.ID)
			return accepted
		})
		provider.first = 1
		s := r.service(func(c *Config) { c.MaxInFlight = 1 }, provider)
		for id := range int64(5) {
			r.mail(s, id+1, Input{}, false)
			advance(time.Millisecond) // the table is read by age
		}
		r.start(s)
		synctest.Wait()
		want(t, "order after a start", fmt.Sprint(order), "[1 4 5 2 3]")
		order = nil
		var due []Due
		for id := range int64(5) {
			due = append(due, r.mail(s, id+1, Input{}, false)...)
		}
		s.Wake(due)
		synctest.Wait()
		want(t, "order", fmt.Sprint(order), "[1 4 5 2 3]")
	})
}

// TestNobodyWaitsForCrowds: whatever the crowds, a context gets every n-th turn of n that want one, in it a
// client, and of it a device.
func TestNobodyWaitsForCrowds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newScheduler(1, anyCredential)
		left := map[string]int{} // of "1", "1a" and "1ap"
		place := map[string]int{}
		for i := range rapid.IntRange(1, 60).Draw(t, "slots") {
			who := fmt.Sprint(rapid.IntRange(1, 3).Draw(t, "context"), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "client"),
				rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "device"))
			who = strings.ReplaceAll(who, " ", "")
			for n := range who {
				left[who[:n+1]]++
			}
			wait, name := rapid.IntRange(1, 3).Draw(t, "waits"), fmt.Sprint(who, i)
			place[name] = 1000*wait + i
			s.add([]Due{{
				id: slotOf(name), lane: "l", context: int64(who[0]), client: who[1:2], device: uint64(who[2]), at: time.UnixMilli(int64(wait)),
			}})
		}
		turns, last := map[string]int{}, map[string]int{}
		for _, name := range oneByOne(s, time.Now()) {
			who := name[:3]
			if place[name] < last[who] {
				t.Fatalf("%s came late", name)
			}
			last[who] = place[name]
			for n := range 3 {
				turns[name[:n+1]]++
				left[name[:n+1]]--
			}
			for a := range left {
				for b, more := range left {
					if len(a) == len(b) && a[:len(a)-1] == b[:len(b)-1] && more > 0 && turns[a] > turns[b]+1 {
						t.Fatalf("%s had %d turns, %s only %d and waits", a, turns[a], b, turns[b])
					}
				}
			}
		}
		for who, n := range left {
			if n != 0 {
				t.Fatalf("%d of %s were not sent", n, who)
			}
		}
	})
}

// TestTransportsShareNothing: lanes of one transport that hang take no permit of another's.
func TestTransportsShareNothing(t *testing.T) {
	s := newScheduler(5, func(string) Credential { return Credential{First: 5} })
	for i := range 100 {
		s.add([]Due{{id: slotOf(i), lane: fmt.Sprint("webpush/", i%50)}})
	}
	start, _ := s.take(time.Now())
	want(t, "in flight when all hang", len(start), 10)
	s.add([]Due{{id: slotOf("a"), lane: "apns/0"}})
	start, _ = s.take(time.Now())
	want(t, "taken", len(start), 1)
	want(t, "taken", nameOf(start[0]), "a")
}

// TestLanesAreBounded: push services are foreign input. Those beyond the bound share a lane.
func TestLanesAreBounded(t *testing.T) {
	s := newScheduler(1000, anyCredential)
	now := time.Now()
	for i := range maxLanes + 100 {
		s.add([]Due{{id: slotOf(i), device: uint64(i), lane: fmt.Sprint("webpush/", i)}})
	}
	s.add([]Due{{id: slotOf("a"), lane: "apns/0"}})
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
	s.add([]Due{{id: slotOf("new"), lane: "webpush/new"}})
	want(t, "lanes when idle ones made room", len(s.lanes), 1)
	want(t, "entries", s.entries.length, 1)
}

// BenchmarkScheduler holds a pick to a cost that does not depend on how many slots and lanes wait.
func BenchmarkScheduler(b *testing.B) {
	for _, lanes := range []int{1, 1000} {
		for _, slots := range []int{1000, 100_000} {
			b.Run(fmt.Sprintf("lanes=%d/slots=%d", lanes, slots), func(b *testing.B) {
				s := newScheduler(1, anyCredential)
				now := time.Now()
				for i := range slots {
					s.add([]Due{{id: slotOf(i), device: uint64(i), lane: fmt.Sprint("webpush/", i%lanes), context: int64(i % 7)}})
				}
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					start, _ := s.take(now)
					for _, e := range start {
						s.done(e, true, now.Add(-time.Second))
					}
				}
			})
		}
	}
}
