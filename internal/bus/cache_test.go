package bus

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestCache: whatever happens in whatever order, a look-up never finds what was dropped before it began, and
// there are never too many entries.
func TestCache(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 3
		c := NewCache[int, int](most)
		key := rapid.IntRange(0, 4)
		type read struct {
			value   int
			changes uint64
		}
		rows, reads := map[int]int{}, map[int]read{} // the truth, and look-ups under way
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				k := key.Draw(t, "key")
				rows[k]++
				c.Drop(k)
			},
			"change all": func(*rapid.T) {
				for k := range rows {
					rows[k]++
				}
				c.DropAll()
			},
			"look up": func(t *rapid.T) {
				k := key.Draw(t, "key")
				v, ok, changes := c.Get(k)
				if ok && v != rows[k] {
					t.Fatalf("%d is %d, found %d", k, rows[k], v)
				}
				if !ok {
					reads[k] = read{rows[k], changes}
				}
			},
			"keep": func(t *rapid.T) {
				k := key.Draw(t, "key")
				if r, ok := reads[k]; ok {
					delete(reads, k)
					c.Put(k, r.value, r.changes)
				}
			},
			"": func(t *rapid.T) {
				if n := len(c.entries); n > most {
					t.Fatalf("%d entries", n)
				}
			},
		})
	})
}

func TestCacheKeepsWhatItHolds(t *testing.T) {
	c := NewCache[int, int](2)
	for k := range 5 {
		_, _, changes := c.Get(k)
		c.Put(k, k, changes)
	}
	if v, ok, _ := c.Get(4); !ok || v != 4 || len(c.entries) != 2 {
		t.Errorf("%v: the last is not there", c.entries)
	}
}

// TestLedger: after a check, something that nobody was told of is never used; and what everybody was told of
// costs nothing.
func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var last int64
		untold := map[int64]bool{} // numbers given, of which no word came yet
		forgot := false
		l := NewLedger(func(context.Context) (int64, error) { return last, nil }, func() { forgot = true })
		now := time.Unix(1e9, 0)
		check := func(t *rapid.T, missed bool) {
			forgot = false
			if err := l.Check(context.Background(), now); err != nil || forgot != missed {
				t.Fatalf("forgot: %v, want %v (%v)", forgot, missed, err)
			}
			if missed {
				clear(untold)
			}
		}
		check(t, false)
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				last++
				if rapid.Bool().Draw(t, "told") {
					l.Heard(last)
				} else {
					untold[last] = true
				}
			},
			"late word": func(*rapid.T) {
				for n := range untold {
					l.Heard(n)
					delete(untold, n)
					break
				}
			},
			"use at once": func(t *rapid.T) { check(t, false) },
			"use later": func(t *rapid.T) {
				now = now.Add(checkEvery + time.Duration(rapid.IntRange(0, 5).Draw(t, "seconds"))*time.Second)
				check(t, len(untold) > 0)
			},
		})
	})
}

// TestLedgerWaits: who comes while another asks goes on with what was checked lately, and waits for the answer
// when that is long ago. Without an answer nothing is used.
func TestLedgerWaits(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan error)
	l := NewLedger(func(context.Context) (int64, error) {
		asked <- struct{}{}
		return 0, <-answer
	}, func() {})
	now := time.Unix(1e9, 0)
	check := func() error { return l.Check(t.Context(), now) }
	var all sync.WaitGroup
	broken := errors.New("the database is away")
	all.Go(func() {
		if err := check(); !errors.Is(err, broken) {
			t.Errorf("first: %v", err)
		}
	})
	<-asked
	second := make(chan error, 1)
	all.Go(func() { second <- check() })
	answer <- broken
	<-asked // the second did not go on without an answer: it asks itself
	answer <- nil
	if err := <-second; err != nil {
		t.Errorf("second: %v", err)
	}
	now = now.Add(checkEvery)
	all.Go(func() {
		if err := check(); err != nil {
			t.Error(err)
		}
	})
	<-asked
	if err := check(); err != nil { // it would wait for ever here
		t.Error(err)
	}
	answer <- nil
	all.Wait()
}
