package account

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// watch is a clock that is set by hand. Its zero value stands at a certain moment.
type watch struct{ passed atomic.Int64 }

func (w *watch) now() time.Time {
	return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).Add(time.Duration(w.passed.Load()))
}

func (w *watch) pass(d time.Duration) { w.passed.Add(int64(d)) }

func TestLimiter(t *testing.T) {
	t.Parallel()
	var w watch
	l := newLimiter(3, 30*time.Second, w.now)
	step := func(key string, wantWait time.Duration) {
		t.Helper()
		wait, ok := l.take(key)
		if wait.Round(time.Millisecond) != wantWait || ok != (wantWait == 0) {
			t.Errorf("after %v, %s: wait %v, %v; want %v", time.Duration(w.passed.Load()), key, wait, ok, wantWait)
		}
	}
	for range 3 {
		step("a", 0)
	}
	step("a", 10*time.Second)
	step("b", 0)
	w.pass(4 * time.Second)
	step("a", 6*time.Second)
	w.pass(6 * time.Second)
	step("a", 0)
	step("a", 10*time.Second)
	l.giveBack("a") // no failure after all
	step("a", 0)
	w.pass(time.Hour)
	for range 3 {
		step("a", 0)
	}
	step("a", 10*time.Second)

	l.giveBack("nobody") // more than was taken is not given back
	l.giveBack("b")
	l.giveBack("b")
	for range 3 {
		step("b", 0)
	}
	step("b", 10*time.Second)
}

// TestLimiterBounds holds the limiter to its promise: in any stretch of time no more attempts of a key
// than the burst and what is refilled in that time.
func TestLimiterBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var w watch
		attempts := rapid.IntRange(1, 20).Draw(t, "attempts")
		window := time.Duration(rapid.IntRange(1, 1000).Draw(t, "window")) * time.Second
		l := newLimiter(attempts, window, w.now)
		var taken []time.Time
		for range rapid.IntRange(1, 100).Draw(t, "tries") {
			w.pass(time.Duration(rapid.Int64Range(0, int64(window)).Draw(t, "pass")) / 4)
			wait, ok := l.take("k")
			if ok {
				taken = append(taken, w.now())
				if rapid.IntRange(0, 9).Draw(t, "success") == 0 {
					l.giveBack("k")
					taken = taken[:len(taken)-1]
				}
			} else if wait <= 0 || wait > window {
				t.Fatalf("wait %v", wait)
			}
		}
		for i := range taken {
			for j := i; j < len(taken); j++ {
				allowed := float64(attempts) + float64(taken[j].Sub(taken[i]))/(float64(window)/float64(attempts))
				if n := j - i + 1; float64(n) > allowed+1e-3 {
					t.Fatalf("%d attempts in %v, %d are allowed in %v", n, taken[j].Sub(taken[i]), attempts, window)
				}
			}
		}
	})
}

func TestLimiterConcurrently(t *testing.T) {
	t.Parallel()
	var w watch
	l := newLimiter(10, time.Hour, w.now)
	var ok atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, free := l.take("k"); free {
				ok.Add(1)
			}
		})
	}
	wg.Wait()
	if ok.Load() != 10 {
		t.Errorf("%d attempts at once", ok.Load())
	}
}

// Keys come from whoever asks: they may cost only so much memory. To forget errs for the user.
func TestLimiterForgets(t *testing.T) {
	t.Parallel()
	var w watch
	l := newLimiter(2, time.Hour, w.now)
	for i := range 1000 {
		l.take(fmt.Sprint("old ", i))
	}
	w.pass(2 * time.Hour)
	for i := range maxLimited + 10 {
		if _, ok := l.take(fmt.Sprint(i)); !ok {
			t.Fatal("a new key is refused")
		}
		if len(l.buckets) > maxLimited {
			t.Fatalf("%d keys are kept", len(l.buckets))
		}
	}
	if _, ok := l.buckets[limitedOf("old 1")]; ok {
		t.Error("a refilled key is kept while others had to go")
	}
	if len(l.buckets) < maxLimited*8/10 {
		t.Errorf("only %d keys are kept", len(l.buckets))
	}
}
