package subscription_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// atOnce runs all functions at the same time, as far as that can be had.
func atOnce(functions ...func()) {
	start := make(chan struct{})
	var wg sync.WaitGroup
	for _, fn := range functions {
		wg.Go(func() {
			<-start
			fn()
		})
	}
	close(start)
	wg.Wait()
}

// TestOneOwner has users without a common secret present the same token at once: one has it afterwards,
// he alone is listened for, and he was told so.
func TestOneOwner(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const users = 4
		for round := range f.rounds {
			ids := make([]string, users)
			var all []func()
			for n := range users {
				all = append(all, func() {
					ids[n] = f.subscribe(t, session(int64(n+1), fmt.Sprint("secret ", n)), request("phone")).ID
				})
			}
			atOnce(all...)
			subs, err := f.All(t.Context())
			if err != nil || len(subs) != 1 || ids[subs[0].User.ID-1] != subs[0].ID {
				t.Fatalf("round %d: %+v of %v, %v", round, subs, ids, err)
			}
			f.wantOwners(t, fmt.Sprintf("%[1]s listens, %[1]s phone", subs[0].User))
		}
	})
}

// With the common secret all of them have it.
func TestManyOwners(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var all []func()
		for n := range int64(4) {
			all = append(all, func() { f.subscribe(t, session(n+1, "shared"), request("phone")) })
		}
		atOnce(all...)
		f.wantOwners(t, "1@1 listens, 1@1 phone, 2@1 listens, 2@1 phone, 3@1 listens, 3@1 phone, 4@1 listens, 4@1 phone")
	})
}

// TestListenerAgrees changes the subscriptions of one user from two sides at once. Whatever comes out,
// his listener is wanted exactly when one is left.
func TestListenerAgrees(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for round := range f.rounds {
			a := f.subscribe(t, session(1, "s"), request("a"))
			b := f.subscribe(t, session(1, "s"), request("b"))
			remove := func(id string) func() {
				return func() {
					if err := f.Unsubscribe(t.Context(), user(1), id); err != nil {
						t.Error(err)
					}
				}
			}
			atOnce(remove(a.ID), remove(b.ID))
			f.wantOwners(t, "")

			a = f.subscribe(t, session(1, "s"), request("a"))
			atOnce(remove(a.ID), func() { b = f.subscribe(t, session(1, "s"), request("b")) })
			f.wantOwners(t, "1@1 b, 1@1 listens")
			remove(b.ID)()
			if t.Failed() {
				t.Fatalf("round %d", round)
			}
		}
	})
}

// TestListenerWaits holds one write open that removes one of a user's two subscriptions, while another
// removes the other: it must not judge by the one that is about to go.
func TestListenerWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testpeer.PostgresURL(t))
	a := f.subscribe(t, session(1, "s"), request("a"))
	b := f.subscribe(t, session(1, "s"), request("b"))
	removed, release := make(chan struct{}), make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		err := f.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, _, err := f.RemoveGone(ctx, tx, a.ID, f.now())
			close(removed)
			<-release
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-removed
	both.Go(func() {
		if err := f.Unsubscribe(t.Context(), user(1), b.ID); err != nil {
			t.Error(err)
		}
	})
	const waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
	for n := 0; n == 0 && !t.Failed(); {
		if err := f.db.QueryRow(t.Context(), waiting).Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	both.Wait()
	f.wantOwners(t, "")
}

// TestTurmoil moves devices between users every which way, and checks the rules at the end.
func TestTurmoil(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var all []func()
		for worker := range 6 {
			rng := rand.New(rand.NewPCG(7, uint64(worker))) //nolint:gosec // a test's
			all = append(all, func() {
				for range f.rounds {
					n := rng.Int64N(4) + 1
					var err error
					switch rng.IntN(4) {
					case 0:
						err = f.UnsubscribeDevice(t.Context(), user(n), session(n, fmt.Sprint(rng.IntN(3))).Device)
					case 1:
						var subs []subscription.Subscription
						if subs, err = f.ByUser(t.Context(), user(n)); err == nil && len(subs) > 0 {
							err = f.Unsubscribe(t.Context(), user(n), subs[0].ID)
						}
					default:
						_, err = f.Subscribe(t.Context(), session(n, fmt.Sprint(rng.IntN(3))), request(fmt.Sprint("phone", rng.IntN(3))))
					}
					if err != nil && !errors.Is(err, subscription.ErrNotFound) {
						t.Error(err)
					}
				}
			})
		}
		atOnce(all...)
		subs, err := f.All(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for n := int64(1); n <= 4; n++ {
			has := false
			for _, s := range subs {
				has = has || s.User == user(n)
			}
			if got := strings.Contains(f.owners(t), user(n).String()+" listens"); got != has {
				t.Errorf("%s: subscribed %v, listens %v", user(n), has, got)
			}
		}
		rows, err := f.db.Query(t.Context(), "SELECT token_hash FROM subscriptions GROUP BY token_hash HAVING COUNT(DISTINCT device_hash) > 1")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		if rows.Next() {
			t.Error("one device is held with two secrets")
		}
		if err := rows.Err(); err != nil {
			t.Error(err)
		}
	})
}
