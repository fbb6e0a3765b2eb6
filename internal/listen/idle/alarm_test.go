package idle

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestAlarms rings in order, at the earliest time asked for, and not for those that are gone.
func TestAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Source
		s.init()
		var mu sync.Mutex
		var rung []string
		start := time.Now()
		conn := func(name string) *Conn {
			c := &Conn{s: &s, at: -1, bell: make(chan struct{}, 1)}
			go func() {
				for range c.bell {
					mu.Lock()
					rung = append(rung, fmt.Sprint(name, time.Since(start).Round(time.Second)))
					mu.Unlock()
				}
			}()
			return c
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.alarms.run(ctx, time.Now) })
		a, b, c, d := conn("a"), conn("b"), conn("c"), conn("d")
		s.alarms.set(a, start.Add(3*time.Hour))
		s.alarms.set(a, start.Add(9*time.Hour)) // later than it is rung anyhow
		s.alarms.set(b, start.Add(2*time.Hour))
		s.alarms.set(c, start.Add(4*time.Hour))
		s.alarms.set(c, start.Add(time.Second)) // earlier
		s.alarms.set(d, start.Add(time.Second))
		s.alarms.clear(d, true)
		s.alarms.set(d, start.Add(time.Second))
		<-time.After(10 * time.Hour)
		synctest.Wait()
		cancel()
		wg.Wait()
		if got := strings.Join(rung, " "); got != "c1s b2h0m0s a3h0m0s" {
			t.Errorf("rung: %s", got)
		}
		for _, c := range []*Conn{a, b, c, d} {
			close(c.bell)
		}
	})
}

// TestLag: several late mails in a row are a warning, and that is said once an hour.
func TestLag(t *testing.T) {
	var log strings.Builder
	s := Source{Log: slog.New(slog.NewTextHandler(&log, nil))}
	s.init()
	now := time.Now()
	told := func(n int, late time.Duration) {
		for range n {
			now = now.Add(time.Minute)
			s.told(t.Context(), "box", now.Add(-late), now)
		}
	}
	warnings := func(want int) {
		t.Helper()
		if n := strings.Count(log.String(), "tells of new mail late"); n != want {
			t.Errorf("%d warnings, want %d", n, want)
		}
	}
	told(lagCount-1, 25*time.Second)
	told(1, 500*time.Millisecond)
	told(lagCount-1, 25*time.Second)
	told(9, 24*time.Hour) // imported
	s.told(t.Context(), "other", now.Add(-time.Minute), now)
	s.told(t.Context(), "box", time.Time{}, now)
	told(1, -time.Minute) // their clock is ahead
	warnings(0)
	told(lagCount, 25*time.Second)
	warnings(1)
	reg := prometheus.NewRegistry()
	reg.MustRegister(s.lags.gauge)
	if late := lagOf(t, reg); late != 25 {
		t.Errorf("the metric says %v", late)
	}
	told(3*lagCount, 25*time.Second)
	warnings(1)
	now = now.Add(time.Hour)
	told(lagCount, 25*time.Second)
	warnings(2)
}

// lagOf is the metric of the mail host "box".
func lagOf(t *testing.T, reg *prometheus.Registry) float64 {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == "box" {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}
