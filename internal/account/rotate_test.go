package account

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

func TestRotate(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, w *watch, alice, bob tenant.User) {
		ctx := t.Context()
		good := func(token string, want Session) {
			t.Helper()
			if got, err := s.Authenticate(ctx, token); err != nil || got.ID != want.ID || got.User != want.User {
				t.Errorf("%+v, %v; want %s", got, err, want.ID)
			}
		}
		bad := func(token string) {
			t.Helper()
			var stolen *StolenError
			if _, err := s.Authenticate(ctx, token); !errors.Is(err, ErrNoSession) || errors.As(err, &stolen) {
				t.Errorf("%v", err)
			}
		}
		stolen := func(token string, want Session, last bool) {
			t.Helper()
			var e *StolenError
			if _, err := s.Authenticate(ctx, token); !errors.As(err, &e) || !errors.Is(err, ErrNoSession) || e.Ended.ID != want.ID || e.Last != last {
				t.Errorf("%v", err)
			}
		}
		rotate := func(token string) string {
			t.Helper()
			_, next, err := s.Rotate(ctx, token)
			if err != nil || len(next) != len(token) || next == token || next[:familyLength] != token[:familyLength] {
				t.Fatalf("%q, %v", next, err)
			}
			return next
		}
		bobs, bobsToken := mustSignIn(t, s, bob, device)

		// The old one is good for a minute, and longer until the new one is used.
		sess, first := mustSignIn(t, s, alice, device)
		second := rotate(first)
		good(first, sess)
		w.pass(time.Hour)
		good(first, sess)
		good(second, sess)
		third := rotate(second)
		good(third, sess)
		w.pass(rotationGrace - time.Millisecond)
		good(second, sess) // was on its way
		good(third, sess)
		var tooMany *TooManyError
		if _, _, err := s.Rotate(ctx, third); !errors.As(err, &tooMany) {
			t.Errorf("twice in a minute: %v", err)
		}
		if _, _, err := s.Rotate(ctx, second); !errors.As(err, &tooMany) { // within the minute it is no theft
			t.Errorf("by an old token: %v", err)
		}
		w.pass(time.Millisecond)

		// Then it ends the session for both.
		stolen(second, sess, true)
		bad(third)
		bad(second)

		// So does one from before that, however often was rotated since.
		sess, first = mustSignIn(t, s, alice, device)
		mustSignIn(t, s, alice, device)
		second = rotate(first)
		good(second, sess)
		w.pass(time.Hour)
		third = rotate(second)
		if _, _, err := s.Rotate(ctx, first); !errors.As(err, new(*StolenError)) {
			t.Errorf("%v", err)
		}
		bad(third)

		// The answer was lost: it is asked for again, and only the last one counts.
		sess, first = mustSignIn(t, s, alice, "another")
		second = rotate(first)
		w.pass(time.Hour)
		third = rotate(first)
		good(third, sess)
		stolen(second, sess, true)
		bad(third)

		// What shares the beginning by chance is nobody's, and what has another length neither.
		sess, first = mustSignIn(t, s, alice, "another")
		forged := first[:familyLength] + bobsToken[familyLength:]
		bad(forged) // never rotated: there is no family yet
		bad(first[:familyLength])
		for _, wrong := range []string{"", "ph_", first + "A", first[:len(first)-1]} {
			if _, _, err := s.Rotate(ctx, wrong); !errors.Is(err, ErrNoSession) {
				t.Errorf("%q: %v", wrong, err)
			}
		}
		good(first, sess)
		good(bobsToken, bobs)

		// An end is an end.
		second = rotate(first)
		w.pass(24 * time.Hour)
		bad(second)
		bad(first)
		if _, _, err := s.Rotate(ctx, second); !errors.Is(err, ErrNoSession) || errors.As(err, new(*StolenError)) {
			t.Errorf("%v", err)
		}
	})
}

// Of rotations at the same time, one is answered with a token, and the others are told to wait: whoever sends a request
// again too early holds no token that would be taken for a stolen one.
func TestRotateAtOnce(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, w *watch, alice, _ tenant.User) {
		sess, token := mustSignIn(t, s, alice, device)
		var mu sync.Mutex
		var got []string
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				_, next, err := s.Rotate(t.Context(), token)
				if errors.As(err, new(*TooManyError)) {
					return
				} else if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				got = append(got, next)
			})
		}
		all.Wait()
		if len(got) != 1 {
			t.Fatalf("%d tokens were given", len(got))
		}
		// Its answer may be lost.
		w.pass(lostAfter - time.Millisecond)
		var tooMany *TooManyError
		if _, _, err := s.Rotate(t.Context(), token); !errors.As(err, &tooMany) || tooMany.RetryAfter > lostAfter {
			t.Errorf("%v", err)
		}
		w.pass(time.Millisecond)
		_, next, err := s.Rotate(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.Authenticate(t.Context(), next); err != nil || again.ID != sess.ID {
			t.Errorf("%+v, %v", again, err)
		}
	})
}

func TestDeviceList(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, w *watch, alice, bob tenant.User) {
		signIn := func(u tenant.User, device, name, client string) (Session, string) {
			t.Helper()
			w.pass(time.Second)
			req := request(u.Login, secret)
			req.Device, req.DeviceName, req.Client = device, name, client
			sess, token, err := s.open(t.Context(), u, req)
			if err != nil {
				t.Fatal(err)
			}
			return sess, token
		}
		one, token := signIn(alice, "phone", "Alice's phone", "app")
		signIn(alice, "tablet", "", "app")
		signIn(bob, "phone", "not hers", "app")
		two, _ := signIn(alice, "phone", "", "other")
		all, err := s.Devices(t.Context(), alice.ID)
		if err != nil || len(all) != 2 || all[0].Hash != one.Device || len(all[0].Sessions) != 2 || all[0].Sessions[0] != one ||
			all[0].Name != "Alice's phone" || all[0].Client != "other" || !all[0].LastUsed.Equal(two.LastUsed) || all[0].ID == all[1].ID || all[1].Name != "" {
			t.Fatalf("%+v, %v", all, err)
		}
		ended, err := s.RevokeDevice(t.Context(), alice.ID, one.Device)
		if err != nil || len(ended) != 2 {
			t.Errorf("%+v, %v", ended, err)
		}
		if _, err := s.Authenticate(t.Context(), token); !errors.Is(err, ErrNoSession) {
			t.Errorf("%v", err)
		}
		signIn(alice, "phone", "Alice's phone", "app")
		if ended, err = s.SignOutEverywhere(t.Context(), alice.ID); err != nil || len(ended) != 2 {
			t.Errorf("%+v, %v", ended, err)
		}
		if all, err = s.Devices(t.Context(), alice.ID); err != nil || len(all) != 0 {
			t.Errorf("%+v, %v", all, err)
		}
		if all, err = s.Devices(t.Context(), bob.ID); err != nil || len(all) != 1 {
			t.Errorf("%+v, %v", all, err)
		}
	})
}
