package subscription_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// old is a subscription of a user as another system had it.
func old(n int64, name string) subscription.Old {
	at := time.Date(2023, 11, 14, 0, 0, 0, 0, time.UTC)
	return subscription.Old{User: user(n), Client: "app", Token: token(name), Created: at, Renewed: at}
}

// TestTakeOver adds what another system had beside what is known here, which is newer.
func TestTakeOver(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		known, err := f.Subscribe(ctx, session(1, "secret"), request("phone"))
		if err != nil {
			t.Fatal(err)
		}
		banned := old(3, "tablet")
		banned.Client = "banned"
		added, err := f.TakeOver(ctx, []subscription.Old{old(2, "phone"), old(2, "watch"), banned})
		if err != nil || added != 2 {
			t.Fatalf("added %d, %v", added, err)
		}
		if added, err = f.TakeOver(ctx, []subscription.Old{old(2, "watch"), banned}); err != nil || added != 0 {
			t.Errorf("added %d once more, %v", added, err)
		}
		if subs, err := f.ByUser(ctx, user(1)); err != nil || len(subs) != 1 || subs[0].ID != known.ID {
			t.Errorf("what was known is %+v, %v", subs, err)
		}
		subs, err := f.ByUser(ctx, user(2))
		if err != nil || len(subs) != 1 || subs[0].Token.Target != "…watch" || len(subs[0].Topics) != 1 || subs[0].Topics[0] != subscription.TopicNewMail {
			t.Fatalf("what was taken over is %+v, %v", subs, err)
		}
		loaded, err := f.Load(ctx, subs[0].ID)
		if err != nil || string(loaded.Token.Body) != "body of watch" {
			t.Errorf("its token is %q, %v", loaded.Token.Body, err)
		}
		if _, err := f.TakeOver(ctx, []subscription.Old{old(2, "desk")}); err != nil {
			t.Fatal(err)
		}
		devices, err := f.DeviceHashes(ctx, user(2))
		if err != nil || len(devices) != 2 || len(slices.Compact(slices.Sorted(maps.Values(devices)))) != 2 {
			t.Errorf("devices are %v, %v", devices, err)
		}
		for n, want := range map[int64]bool{2: true, 3: false} { // user 3's client is not allowed
			if l, ok, err := f.Listener(ctx, user(n)); err != nil || ok && l.Wanted != want || want && !ok {
				t.Errorf("listener of user %d: %+v, %v, %v", n, l, ok, err)
			}
		}

		// An older word of the provider does not end it, a newer one does.
		f.write(t, func(ctx context.Context, tx *db.Tx) error {
			_, removed, err := f.RemoveGone(ctx, tx, subs[0].ID, old(2, "").Renewed.Add(-time.Second))
			if removed {
				t.Error("removed by a word from before")
			}
			return err
		})

		// The device comes back with its secret: it is the same subscription, and his who signed in.
		again, err := f.Subscribe(ctx, session(2, "secret of the watch"), request("watch"))
		if err != nil || again.ID != subs[0].ID {
			t.Errorf("it came back as %s, was %s: %v", again.ID, subs[0].ID, err)
		}
		if _, err := f.TakeOver(ctx, []subscription.Old{old(4, "car")}); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Subscribe(ctx, session(1, "secret"), request("car")); err != nil {
			t.Fatal(err)
		}
		if subs, err := f.ByUser(ctx, user(4)); err != nil || len(subs) != 0 {
			t.Errorf("a device that another signed in on is still told of his mail: %+v, %v", subs, err)
		}
	})
}

// TestTakeOverTooMany leaves out what one user may not have.
func TestTakeOverTooMany(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var all []subscription.Old
		for i := range 103 {
			all = append(all, old(1, fmt.Sprint("phone", i)))
		}
		if added, err := f.TakeOver(t.Context(), all); err != nil || added != 100 {
			t.Errorf("added %d, %v", added, err)
		}
	})
}
