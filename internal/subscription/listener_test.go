package subscription_test

import (
	"slices"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/subscription"
)

func (f *fixture) listener(t *testing.T, n int64) subscription.Listener {
	t.Helper()
	l, ok, err := f.Listener(t.Context(), user(n))
	if err != nil || !ok {
		t.Fatalf("listener of %d: %v, %v", n, ok, err)
	}
	return l
}

func (f *fixture) set(t *testing.T, l subscription.Listener) {
	t.Helper()
	if err := f.SetListener(t.Context(), l); err != nil {
		t.Fatal(err)
	}
}

// TestListener follows a listener through its life.
func TestListener(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		if _, ok, err := f.Listener(ctx, user(1)); ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
		sub := f.subscribe(t, session(1, "s"), request("phone"))
		began := f.now()
		want := subscription.Listener{User: user(1), Wanted: true, State: "pending", NotBefore: began, Since: began}
		if got := f.listener(t, 1); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}

		f.pass(time.Minute)
		want.Attempt, want.Reason, want.NotBefore = 1, "away", f.now().Add(time.Hour)
		f.set(t, want)
		if got := f.listener(t, 1); got != want { // still pending since the beginning
			t.Fatalf("%+v, want %+v", got, want)
		}
		want.State, want.Attempt, want.Reason = "foreign", 0, "another's"
		f.set(t, want)
		want.Since = f.now()
		if got := f.listener(t, 1); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}

		// One more subscription has it looked at again, but what is known stays known.
		f.pass(time.Minute)
		tablet := f.subscribe(t, session(1, "s"), request("tablet"))
		want.NotBefore = f.now()
		if got := f.listener(t, 1); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}

		// The last one ends it. What was found out for a listener that is wanted is of no interest then.
		stale := want
		for _, id := range []string{sub.ID, tablet.ID} {
			if err := f.RemoveListener(ctx, user(1)); err != nil { // does nothing to a wanted one
				t.Fatal(err)
			}
			if err := f.Unsubscribe(ctx, user(1), id); err != nil {
				t.Fatal(err)
			}
		}
		want.Wanted = false
		stale.State = "registered"
		f.set(t, stale)
		if got := f.listener(t, 1); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}

		// Wanted again it begins anew.
		f.pass(time.Minute)
		sub = f.subscribe(t, session(1, "s"), request("phone"))
		began = f.now()
		want = subscription.Listener{User: user(1), Wanted: true, State: "pending", NotBefore: began, Since: began}
		if got := f.listener(t, 1); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}
		if err := f.Unsubscribe(ctx, user(1), sub.ID); err != nil {
			t.Fatal(err)
		}
		if err := f.RemoveListener(ctx, user(1)); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := f.Listener(ctx, user(1)); ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
		f.set(t, want) // comes too late, and makes nothing
		if _, ok, err := f.Listener(ctx, user(1)); ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
	})
}

// A client that may not have pushes wants no listener.
func TestClientNotAllowed(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		if f.Allowed("banned") || !f.Allowed("app") {
			t.Error("allowed")
		}
		req := request("phone")
		req.Client = "banned"
		f.subscribe(t, session(1, "s"), req)
		f.wantOwners(t, "1@1 phone")
		f.subscribe(t, session(1, "s"), request("tablet"))
		f.wantOwners(t, "1@1 listens, 1@1 phone, 1@1 tablet")
		req = request("tablet")
		req.Client = "banned"
		f.subscribe(t, session(1, "s"), req)
		f.wantOwners(t, "1@1 phone, 1@1 tablet")
	})
}

func TestDueListeners(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		due := func(limit int, wantNext time.Time, want ...int64) {
			t.Helper()
			listeners, next, err := f.DueListeners(t.Context(), limit)
			got := []int64{}
			for _, l := range listeners {
				got = append(got, l.User.ID)
			}
			if err != nil || !slices.Equal(got, append([]int64{}, want...)) || !next.Equal(wantNext) {
				t.Errorf("due %v, next %v, %v; want %v, %v", got, next, err, want, wantNext)
			}
		}
		due(9, time.Time{})
		start := f.now()
		for n := int64(1); n <= 4; n++ {
			f.subscribe(t, session(n, "s"), request("phone"))
			l := f.listener(t, n)
			l.NotBefore = start.Add(time.Duration(n) * time.Hour)
			f.set(t, l)
		}
		due(9, start.Add(time.Hour))
		f.pass(2 * time.Hour)
		due(9, start.Add(3*time.Hour), 1, 2)
		due(1, start.Add(3*time.Hour), 1)
		f.pass(time.Hour)
		// One to be removed is due at once.
		subs, err := f.ByUser(t.Context(), user(4))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Unsubscribe(t.Context(), user(4), subs[0].ID); err != nil {
			t.Fatal(err)
		}
		listeners, _, err := f.DueListeners(t.Context(), 9)
		if err != nil || len(listeners) != 4 || listeners[3].Wanted == (listeners[3].User.ID == 4) {
			t.Errorf("%+v, %v", listeners, err)
		}
		f.pass(9 * time.Hour)
		due(2, time.Time{}, 1, 2)
	})
}
