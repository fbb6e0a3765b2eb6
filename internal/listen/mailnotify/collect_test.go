package mailnotify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// worker is a Source's work alone, in a bubble.
type worker struct {
	*Source
	stop func() // waits for its end; then what is left may be looked at

	mu   sync.Mutex
	told map[string][]time.Duration // when since the start each hint came
}

func newWorker(t *testing.T, delay time.Duration, fails func() bool) *worker {
	t.Helper()
	start := time.Now()
	w := &worker{told: map[string][]time.Duration{}}
	w.Source = &Source{arrived: make(chan string), hints: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "x"}, []string{"result"})}
	w.collect = &collector{delay: delay, now: time.Now, names: map[string]*name{}, hint: func(_ context.Context, name string) error {
		if fails() {
			return errors.New("the store is away")
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.told[name] = append(w.told[name], time.Since(start))
		return nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.work(ctx) }()
	w.stop = func() { cancel(); <-done }
	t.Cleanup(w.stop)
	return w
}

// at returns when hints came for a name.
func (w *worker) at(name string) []time.Duration {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told[name])
}

func never() bool { return false }

func TestCollect(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, tc := range []struct {
		name    string
		delay   time.Duration
		arrives []time.Duration
		want    []time.Duration
	}{
		{"one is followed at once", 1000 * ms, []time.Duration{5 * ms}, []time.Duration{5 * ms}},
		{"a burst is followed at once and at its end", 1000 * ms, []time.Duration{0, 1 * ms, 2 * ms, 900 * ms}, []time.Duration{0, 1000 * ms}},
		{"what comes after it begins anew", 1000 * ms, []time.Duration{0, 1001 * ms, 1002 * ms}, []time.Duration{0, 1001 * ms, 2001 * ms}},
		{"a stream is followed in steps", 1000 * ms, []time.Duration{0, 500 * ms, 1500 * ms, 2500 * ms}, []time.Duration{0, 1000 * ms, 2000 * ms, 3000 * ms}},
		{"a short delay is kept", 10 * ms, []time.Duration{0, 5 * ms}, []time.Duration{0, 10 * ms}},
		{"no delay", 0, []time.Duration{0, 1 * ms, 1 * ms}, []time.Duration{0, 1 * ms, 1 * ms}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorker(t, tc.delay, never)
				start := time.Now()
				for _, d := range tc.arrives {
					<-time.After(time.Until(start.Add(d)))
					w.arrived <- "anna"
				}
				<-time.After(time.Minute)
				if got := w.at("anna"); !slices.Equal(got, tc.want) {
					t.Errorf("hints at %v, want %v", got, tc.want)
				}
				if w.stop(); len(w.collect.names) != 0 || len(w.collect.queue) != 0 {
					t.Errorf("%d names and %d in the queue are left", len(w.collect.names), len(w.collect.queue))
				}
			})
		})
	}
}

// TestCollectStoreFails: nobody is forgotten while the store is away, and it is not asked for each name.
func TestCollectStoreFails(t *testing.T) {
	t.Parallel()
	for _, delay := range []time.Duration{0, 100 * time.Millisecond, 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var asked atomic.Int64
			var up atomic.Bool
			w := newWorker(t, delay, func() bool { asked.Add(1); return !up.Load() })
			for i := range 100 {
				w.arrived <- fmt.Sprint(i)
			}
			synctest.Wait()
			if n := asked.Load(); n != 1 {
				t.Errorf("the store was asked %d times at once", n)
			}
			<-time.After(20 * time.Second)
			up.Store(true)
			<-time.After(20 * time.Second)
			for i := range 100 {
				if got := w.at(fmt.Sprint(i)); len(got) != 1 {
					t.Errorf("delay %s: %d: hints at %v, want one", delay, i, got)
				}
			}
			if w.stop(); len(w.collect.names) != 0 {
				t.Errorf("delay %s: %d are left", delay, len(w.collect.names))
			}
		})
	}
}

// TestCollectBound: with too many names, new ones are dropped and known ones are not.
func TestCollectBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t, time.Second, never)
		for i := range maxNames + 1 {
			w.arrived <- fmt.Sprint(i)
		}
		w.arrived <- "0"
		if w.at(fmt.Sprint(maxNames-1)) == nil || w.at(fmt.Sprint(maxNames)) != nil {
			t.Error("the bound is not where it should be")
		}
		<-time.After(time.Minute)
		if got := w.at("0"); len(got) != 2 {
			t.Errorf("hints for the first at %v, want two", got)
		}
		w.arrived <- fmt.Sprint(maxNames)
		if w.at(fmt.Sprint(maxNames)) == nil {
			t.Error("there is room, and it is not used")
		}
		<-time.After(time.Minute)
		if w.stop(); len(w.collect.names) != 0 {
			t.Errorf("%d names are left", len(w.collect.names))
		}
	})
}
