package subscription_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

func openBus(t *testing.T) *bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Options{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

// node is another process's store on the same database.
func (f *fixture) node(t *testing.T) *subscription.Store {
	t.Helper()
	keys, err := seal.ParseKeyFile(strings.Repeat("0f", seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return subscription.New(f.db, keys, f.tenants.View, f.now)
}

func wants(t *testing.T, s *subscription.Store, n int64) int {
	t.Helper()
	subs, err := s.For(t.Context(), user(n), "mail:new")
	if err != nil {
		t.Fatal(err)
	}
	return len(subs)
}

func TestOwnChangesAreSeenAtOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		if n := wants(t, f.Store, 1); n != 0 {
			t.Fatalf("%d subscriptions before the first", n)
		}
		f.subscribe(t, session(1, "a"), request("phone"))
		if n := wants(t, f.Store, 1); n != 1 {
			t.Errorf("%d after subscribing, want 1", n)
		}
		f.subscribe(t, session(2, "b"), request("phone")) // the phone moves
		if a, b := wants(t, f.Store, 1), wants(t, f.Store, 2); a != 0 || b != 1 {
			t.Errorf("after the move %d and %d, want 0 and 1", a, b)
		}
	})
}

// TestOtherNodesHear: the clock stands still, so only the bus can tell.
func TestOtherNodesHear(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		b := openBus(t)
		other := f.node(t)
		for _, s := range []*subscription.Store{f.Store, other} {
			if _, err := s.Join(t.Context(), b, slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
		}
		if n := wants(t, other, 1); n != 0 {
			t.Fatalf("%d subscriptions before the first", n)
		}
		f.subscribe(t, session(1, "a"), request("phone"))
		deadline := time.After(30 * time.Second)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for wants(t, other, 1) != 1 {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatal("the other node never heard")
			}
		}
	})
}

// TestLostWordHeals: the other node is not on the bus at all.
func TestLostWordHeals(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		other := f.node(t)
		if n := wants(t, other, 1); n != 0 {
			t.Fatalf("%d subscriptions before the first", n)
		}
		f.subscribe(t, session(1, "a"), request("phone"))
		if n := wants(t, other, 1); n != 0 {
			t.Fatal("the other node needs no bus: this test tests nothing")
		}
		f.pass(5 * time.Second)
		if n := wants(t, other, 1); n != 1 {
			t.Errorf("after 5 s the other node still sees %d subscriptions", n)
		}
	})
}
