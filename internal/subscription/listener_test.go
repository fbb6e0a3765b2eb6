package subscription_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
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
	if err := f.SetListeners(t.Context(), []subscription.Listener{l}); err != nil {
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
		want := subscription.Listener{User: user(1), Login: "user1", MailHost: "dove", Wanted: true, State: "pending", NotBefore: began, Since: began, Active: began}
		if got := f.listener(t, 1); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}
		f.wantWatched(t, 1)

		f.pass(time.Minute)
		want.Attempt, want.Reason, want.NotBefore, want.Rejected = 1, "away", f.now().Add(time.Hour), 2
		want.State, want.Since = "foreign", f.now()
		f.set(t, want)
		if got := f.listener(t, 1); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}

		// What is known stays known, whatever subscriptions come and go.
		f.pass(time.Minute)
		tablet := f.subscribe(t, session(1, "s"), request("tablet"))
		want.Active = f.now()
		if got := f.listener(t, 1); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}
		f.watched = nil
		for _, id := range []string{sub.ID, tablet.ID} {
			if err := f.RemoveListener(ctx, user(1)); err != nil { // does nothing to a wanted one
				t.Fatal(err)
			}
			if err := f.Unsubscribe(ctx, user(1), id); err != nil {
				t.Fatal(err)
			}
		}
		f.wantWatched(t, 1, 1)
		want.Wanted = false
		if got := f.listener(t, 1); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}

		// A session alone wants it for a while.
		if err := f.Active(ctx, user(1), "app"); err != nil {
			t.Fatal(err)
		}
		want.Active, want.SessionUntil = f.now(), f.now().Add(subscription.SessionBound)
		if got := f.listener(t, 1); got != want || !got.InSession(f.now()) {
			t.Fatalf("%+v, want %+v", got, want)
		}
		f.wantWatched(t, 1)
		if err := f.RemoveListener(ctx, user(1)); err != nil {
			t.Fatal(err)
		}
		if got := f.listener(t, 1); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}
		f.pass(subscription.SessionBound)
		if f.listener(t, 1).InSession(f.now()) {
			t.Error("in session after it")
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

		// So does the last subscription's end, and that of the last session.
		for _, end := range []func(id string) error{
			func(id string) error { return f.Unsubscribe(ctx, user(3), id) },
			func(id string) error { return errors.Join(f.Inactive(ctx, user(3)), f.Unsubscribe(ctx, user(3), id)) },
		} {
			sub := f.subscribe(t, session(3, "s"), request("watch"))
			if err := f.Active(ctx, user(3), "app"); err != nil {
				t.Fatal(err)
			}
			if err := end(sub.ID); err != nil || f.listener(t, 3).InSession(f.now()) {
				t.Errorf("in session after the end, %v", err)
			}
		}
		f.watched = nil

		// A session makes one where there is none, if its client may have pushes.
		if err := f.Active(ctx, user(2), "banned"); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := f.Listener(ctx, user(2)); ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
		if err := f.Active(ctx, user(2), "app"); err != nil {
			t.Fatal(err)
		}
		if l := f.listener(t, 2); l.Wanted || !l.InSession(f.now()) || l.State != "pending" {
			t.Fatalf("%+v", l)
		}
	})
}

// wantWatched wants these users to be told of as changed since the last call, in this order.
func (f *fixture) wantWatched(t *testing.T, want ...int64) {
	t.Helper()
	if !slices.Equal(f.watched, want) {
		t.Errorf("watched %v, want %v", f.watched, want)
	}
	f.watched = nil
}

// A client that may not have pushes wants no listener.
func TestClientNotAllowed(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for client, want := range map[string]bool{"app": true, "banned": false} {
			if got, err := f.Allowed(t.Context(), user(1), client); got != want || err != nil {
				t.Errorf("%s is allowed: %v, %v", client, got, err)
			}
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

// TestFolders lists what subscriptions that live name beside the INBOX.
func TestFolders(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		want := func(want ...string) {
			t.Helper()
			got, err := f.Folders(t.Context(), user(1))
			if slices.Sort(got); err != nil || !slices.Equal(got, want) {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		}
		want()
		req := request("phone", "mail:new", "mail:new:Work", "mail:new:Lists/Go")
		req.Expires = f.now().Add(time.Hour)
		f.subscribe(t, session(1, "s"), req)
		req = request("tablet")
		req.Policy = &subscription.Policy{Folders: []subscription.FolderRule{
			{Folder: "Boss", Notify: subscription.Alert}, {Folder: "All/*", Notify: subscription.Alert}, {Folder: "Junk", Notify: subscription.Nothing},
		}}
		f.subscribe(t, session(1, "s"), req)
		banned := request("watch", "mail:new:Secret")
		banned.Client = "banned"
		f.subscribe(t, session(1, "s"), banned)
		want("Boss", "Lists/Go", "Work")
		f.pass(time.Hour)
		want("Boss")
	})
}

// TestRecheck: other clients are allowed than when the subscriptions were made.
func TestRecheck(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.subscribe(t, session(1, "s"), request("phone"))
		f.subscribe(t, session(2, "s"), request("tablet"))
		banned := request("watch")
		banned.Client = "banned"
		f.subscribe(t, session(3, "s"), banned)
		f.wantOwners(t, "1@1 listens, 1@1 phone, 2@1 listens, 2@1 tablet, 3@1 watch")
		f.write(t, func(ctx context.Context, tx *db.Tx) error { // as if the configuration had said so
			_, err := tx.Exec(ctx, "UPDATE subscriptions SET client = CASE WHEN user_id = 2 THEN 'banned' WHEN user_id = 3 THEN 'app' ELSE client END")
			return err
		})
		f.watched = nil
		if err := f.Recheck(t.Context(), tenant.UserID{}); err != nil {
			t.Fatal(err)
		}
		f.wantOwners(t, "1@1 listens, 1@1 phone, 2@1 tablet, 3@1 listens, 3@1 watch")
		f.wantWatched(t, 2, 3)
	})
}
