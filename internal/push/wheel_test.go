package push

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// TestWheel plays at random with a wheel and a sorted list: what is due comes out at its time, not before and
// not after, by time and then in the order it went in, and what was taken out does not.
func TestWheel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w wheel
		var list []*entry // as the wheel has them, in the order they went in
		now := rapid.Int64Range(0, 2e12).Draw(t, "now")
		w.advance(now, nil)
		// Steps of every size, so that each level is used, and often to the edge of a slot.
		step := rapid.Custom(func(t *rapid.T) int64 {
			n := int64(1) << rapid.IntRange(0, 40).Draw(t, "bits")
			if rapid.Bool().Draw(t, "to the edge") {
				return n - now%n - rapid.Int64Range(0, 1).Draw(t, "before it")
			}
			return rapid.Int64Range(0, n).Draw(t, "step")
		})
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 4).Draw(t, "n") {
					e := &entry{at: max(0, now+step.Draw(t, "in")-rapid.Int64Range(0, 3).Draw(t, "less"))}
					list = append(list, e)
					w.add(e)
				}
			},
			"remove": func(t *rapid.T) {
				if len(list) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(list)-1).Draw(t, "which")
				w.remove(list[i])
				list = slices.Delete(list, i, i+1)
			},
			"advance": func(t *rapid.T) {
				_, _, next, some := w.next()
				was := now
				now += step.Draw(t, "passes")
				var got, want []*entry
				w.advance(now, func(e *entry) { got = append(got, e) })
				for _, e := range list {
					if e.at <= now {
						want = append(want, e)
					}
				}
				// What was due when it came is as old as the time then.
				slices.SortStableFunc(want, func(a, b *entry) int { return cmp.Compare(max(a.at, was), max(b.at, was)) })
				if !slices.Equal(got, want) {
					t.Fatalf("at %d: %d came, want %d", now, len(got), len(want))
				}
				if len(want) > 0 && (!some || next > want[0].at && next > was) {
					t.Fatalf("wanted to be asked at %d, too late for %d", next, want[0].at)
				}
				list = slices.DeleteFunc(list, func(e *entry) bool { return e.at <= now })
			},
			"clock put back": func(t *rapid.T) {
				now = max(0, now-step.Draw(t, "by"))
				var got int
				w.advance(now, func(e *entry) {
					if got++; e.at > now {
						t.Fatalf("at %d: one for %d", now, e.at)
					}
				})
				list = slices.DeleteFunc(list, func(e *entry) bool { return e.at <= now })
			},
			"": func(t *rapid.T) {
				if w.length != len(list) {
					t.Fatalf("%d wait, want %d", w.length, len(list))
				}
				if _, _, next, some := w.next(); some != (len(list) > 0) || some && next < now {
					t.Fatalf("asks for %d at %d", next, now)
				}
			},
		})
	})
}

// TestWheelAllocatesNothing but the entries, and asks not often for one that waits long.
func TestWheelAllocatesNothing(t *testing.T) {
	var w wheel
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC).UnixMilli()
	w.advance(now, nil)
	entries := make([]entry, 1000)
	asks, came := 0, 0
	allocs := testing.AllocsPerRun(10, func() {
		for i := range entries {
			entries[i].at = now + int64(i*i)
			w.add(&entries[i])
		}
		for i := range entries {
			if i%2 == 0 {
				w.remove(&entries[i])
			}
		}
		for w.length > 0 {
			_, _, now, _ = w.next()
			w.advance(now, func(*entry) { came++ })
			asks++
		}
	})
	want(t, "allocations", allocs, 0.0)
	want(t, "came", came, 11*500)
	if asks > 3*came {
		t.Errorf("%d looks for %d entries", asks, came)
	}
}

// TestNeverEarly: a service sends a slot that waits at its millisecond, not before and not later, by timers
// that are set for the wheel's slots.
func TestNeverEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waits := []time.Duration{0, 1, time.Millisecond, 63 * time.Millisecond, 64*time.Millisecond + 300, 5 * time.Second, 263 * time.Second, 5*time.Hour + 7}
		r := newRig(t, sqliteURL(t), len(waits))
		began := time.Now()
		sent := make([]time.Duration, len(waits))
		provider := newScript("apns", func(_ context.Context, n Notification, _ int) outcome.Outcome {
			sent[n.Subscription.User.ID-1] = time.Since(began)
			return accepted
		})
		s := r.service(nil, provider)
		r.start(s)
		for i, wait := range waits {
			r.subscribe(int64(i+1), "apns", "x", string(rune('a'+i)))
			due := r.mail(s, int64(i+1), Input{}, false)
			due[0].at = began.Add(wait)
			s.Wake(due)
		}
		advance(6 * time.Hour)
		for i, wait := range waits {
			if late := sent[i] - wait; late < 0 || late > time.Millisecond {
				t.Errorf("one that waits %v was sent after %v", wait, sent[i])
			}
		}
	})
}
