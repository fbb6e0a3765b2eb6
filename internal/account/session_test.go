package account

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// write runs one statement.
func write(t *testing.T, s *Service, query string, args ...any) {
	t.Helper()
	err := s.DB.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// count returns a number from the database.
func count(t *testing.T, s *Service, query string, args ...any) int {
	t.Helper()
	var n int
	if err := s.DB.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// withSessions runs f on each engine with a service that has a clock set by hand, and two users.
func withSessions(t *testing.T, f func(t *testing.T, s *Service, w *watch, alice, bob tenant.User)) {
	t.Helper()
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		w := &watch{}
		s := newService(t, url, func(c *Config) { c.Now = w.now })
		setProperty(t, s.Tenants, cascade.MaxSessions.Name(), "3")
		addHost(t, s, nowhere("dove"))
		f(t, s, w, addUser(t, s, "alice", "dove"), addUser(t, s, "bob", "dove"))
	})
}

func mustSignIn(t *testing.T, s *Service, u tenant.User, device string) (Session, string) {
	t.Helper()
	req := request(u.Login, secret)
	req.Device = device
	sess, token, err := s.open(t.Context(), u, req)
	if err != nil {
		t.Fatal(err)
	}
	return sess, token
}

func sessionIDs(t *testing.T, s *Service, u tenant.User) []string {
	t.Helper()
	all, err := s.Sessions(t.Context(), u.ID)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, sess := range all {
		ids = append(ids, sess.ID)
	}
	return ids
}

func TestSession(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, w *watch, alice, bob tenant.User) {
		ctx := t.Context()
		sess, token := mustSignIn(t, s, alice, device)
		if !strings.HasPrefix(token, "ph_") || len(token) != 46 || len(sess.ID) != 16 || strings.Contains(token, sess.ID) {
			t.Errorf("token %q, id %q", token, sess.ID)
		}
		w.pass(touchEvery)
		got, err := s.Authenticate(ctx, token)
		if err != nil || got != sess {
			t.Errorf("authenticated as %+v, %v; want %+v", got, err, sess)
		}
		if want := w.now().Add(-touchEvery); !got.Created.Equal(want) || !got.LastUsed.Equal(want) || !got.Expires.Equal(want.Add(24*time.Hour)) {
			t.Errorf("times %+v", got)
		}
		if got.User != alice.ID || got.Client != "app" || got.Address != "192.0.2.7" {
			t.Errorf("session %+v", got)
		}
		for _, wrong := range []string{"", "ph_", token[:45], token + "A", strings.ToUpper(token), sess.ID, "\x00", "\xff"} {
			if _, err := s.Authenticate(ctx, wrong); !errors.Is(err, ErrNoSession) {
				t.Errorf("%q: %v", wrong, err)
			}
		}

		// Its use is noted, but not each time.
		lastUsed := func() time.Time {
			all, err := s.Sessions(ctx, alice.ID)
			if err != nil || len(all) != 1 {
				t.Fatal(all, err)
			}
			return all[0].LastUsed
		}
		if !lastUsed().Equal(sess.LastUsed) {
			t.Error("noted after five minutes")
		}
		w.pass(time.Second)
		if _, err := s.Authenticate(ctx, token); err != nil || !lastUsed().Equal(w.now()) {
			t.Errorf("last used %v, %v", lastUsed(), err)
		}

		// It ends at its time, for everybody who asks.
		w.passed.Store(int64(24*time.Hour - time.Millisecond))
		if _, err := s.Authenticate(ctx, token); err != nil {
			t.Errorf("a millisecond early: %v", err)
		}
		w.pass(time.Millisecond)
		if _, err := s.Authenticate(ctx, token); !errors.Is(err, ErrNoSession) {
			t.Errorf("expired: %v", err)
		}
		if ids := sessionIDs(t, s, alice); len(ids) != 0 {
			t.Errorf("expired, and listed: %v", ids)
		}
		mustSignIn(t, s, bob, device) // anybody's sign-in sweeps up
		if n := count(t, s, "SELECT COUNT(*) FROM sessions"); n != 1 {
			t.Errorf("%d sessions are stored", n)
		}
	})
}

// A store that cannot note the use is no reason to turn the user away.
func TestAuthenticateWithoutNote(t *testing.T) {
	t.Parallel()
	var w watch
	s := newService(t, testpeer.SQLiteURL(t), func(c *Config) { c.Now = w.now })
	addHost(t, s, nowhere("dove"))
	sess, token := mustSignIn(t, s, addUser(t, s, "alice", "dove"), "")
	write(t, s, `CREATE TRIGGER broken BEFORE UPDATE ON sessions BEGIN SELECT RAISE(ABORT, 'disk on fire'); END`)
	w.pass(time.Hour)
	if got, err := s.Authenticate(t.Context(), token); err != nil || got != sess {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestDevices(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, _ *watch, alice, bob tenant.User) {
		a1, _ := mustSignIn(t, s, alice, device)
		b, _ := mustSignIn(t, s, bob, device)
		a2, _ := mustSignIn(t, s, alice, "another")
		none1, _ := mustSignIn(t, s, bob, "")
		none2, _ := mustSignIn(t, s, bob, "")
		if a1.Device != b.Device {
			t.Error("one device, two names")
		}
		names := []string{a1.Device, a2.Device, none1.Device, none2.Device, hashOf("device", ""), hashOf("device", none1.ID)}
		slices.Sort(names)
		if len(slices.Compact(names)) != 6 {
			t.Error("two devices, one name")
		}
		if strings.Contains(fmt.Sprint(names), device) {
			t.Error("a device secret is kept in clear")
		}
	})
}

func TestRevoke(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, w *watch, alice, bob tenant.User) {
		ctx := t.Context()
		one, token := mustSignIn(t, s, alice, device)
		w.pass(time.Second)
		two, _ := mustSignIn(t, s, alice, device)
		w.pass(time.Second)
		three, _ := mustSignIn(t, s, alice, "another")
		bobs, bobsToken := mustSignIn(t, s, bob, device)
		if got := sessionIDs(t, s, alice); !slices.Equal(got, []string{one.ID, two.ID, three.ID}) {
			t.Errorf("sessions %v", got)
		}
		for _, id := range []string{"", "current", bobs.ID, strings.Repeat("0", 16), one.ID + "0", one.ID[:14], "\x00", "\xff", "zz34567890123456"} {
			if _, _, err := s.Revoke(ctx, alice.ID, id); !errors.Is(err, ErrNoSession) {
				t.Errorf("%q: %v", id, err)
			}
		}
		for _, c := range []struct {
			sess Session
			last bool
		}{{one, false}, {three, true}, {two, true}} {
			ended, last, err := s.Revoke(ctx, alice.ID, c.sess.ID)
			if err != nil || last != c.last || ended != c.sess {
				t.Errorf("revoked %+v, last %v, %v; want %+v, %v", ended, last, err, c.sess, c.last)
			}
			if _, _, err := s.Revoke(ctx, alice.ID, c.sess.ID); !errors.Is(err, ErrNoSession) {
				t.Errorf("revoked twice: %v", err)
			}
		}
		if _, err := s.Authenticate(ctx, token); !errors.Is(err, ErrNoSession) {
			t.Errorf("revoked: %v", err)
		}
		if _, err := s.Authenticate(ctx, bobsToken); err != nil {
			t.Errorf("bob's: %v", err)
		}

		// An expired session speaks for no device any more.
		mustSignIn(t, s, bob, device)
		w.pass(23 * time.Hour)
		write(t, s, "UPDATE sessions SET expires_ms = ? WHERE id <> ?", db.Millis(w.now()), bobs.ID)
		if _, last, err := s.Revoke(ctx, bob.ID, bobs.ID); err != nil || !last {
			t.Errorf("last %v, %v", last, err)
		}
	})
}

// A user's sessions are bounded: those that were not used for longest give way, never the new one.
func TestMaxSessions(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, w *watch, alice, bob tenant.User) {
		bobs, _ := mustSignIn(t, s, bob, "")
		var ids, tokens []string
		for i := range 3 {
			sess, token := mustSignIn(t, s, alice, fmt.Sprint(i))
			ids, tokens = append(ids, sess.ID), append(tokens, token)
			w.pass(time.Hour)
		}
		if _, err := s.Authenticate(t.Context(), tokens[0]); err != nil { // the oldest is in use
			t.Fatal(err)
		}
		w.pass(time.Hour)
		sess, _ := mustSignIn(t, s, alice, "3")
		if got, want := sessionIDs(t, s, alice), []string{ids[0], ids[2], sess.ID}; !slices.Equal(got, want) {
			t.Errorf("sessions %v, want %v", got, want)
		}
		w.pass(-5 * time.Hour) // the clock was wrong
		_, token := mustSignIn(t, s, alice, "4")
		if _, err := s.Authenticate(t.Context(), token); err != nil {
			t.Errorf("the new session gave way to old ones: %v", err)
		}
		if n := len(sessionIDs(t, s, alice)); n != 3 {
			t.Errorf("%d sessions", n)
		}
		if got := sessionIDs(t, s, bob); !slices.Equal(got, []string{bobs.ID}) {
			t.Errorf("bob's sessions %v", got)
		}
	})
}

// How long and how many is a property of the user.
func TestSessionProperties(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, w *watch, alice, bob tenant.User) {
		for name, value := range map[string]string{cascade.SessionLifetime.Name(): "1h", cascade.MaxSessions.Name(): "1"} {
			sub := tenant.Subject{Scope: cascade.User, Name: alice.ID.String()}
			if err := s.Tenants.SetProperty(t.Context(), sub, name, value, "test"); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			mustSignIn(t, s, bob, "")
			w.pass(time.Second)
			if sess, _ := mustSignIn(t, s, alice, ""); !sess.Expires.Equal(w.now().Add(time.Hour)) {
				t.Errorf("ends at %v", sess.Expires)
			}
		}
		if a, b := len(sessionIDs(t, s, alice)), len(sessionIDs(t, s, bob)); a != 1 || b != 2 {
			t.Errorf("%d and %d sessions", a, b)
		}
	})
}

// TestAtRest looks for secrets in the database's file.
func TestAtRest(t *testing.T) {
	t.Parallel()
	url := testpeer.SQLiteURL(t)
	s := newService(t, url, nil)
	addHost(t, s, nowhere("dove"))
	alice := addUser(t, s, "alice", "dove")
	const plain = "correct horse battery staple"
	var tokens []string
	for range 3 { // also what was overwritten
		_, token, err := s.open(t.Context(), alice, request("alice", plain))
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	file := strings.TrimPrefix(url, "sqlite:")
	var all []byte
	for _, suffix := range []string{"", "-wal"} {
		content, err := os.ReadFile(file + suffix) //nolint:gosec // the test's own
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, content...)
	}
	if !strings.Contains(string(all), "alice") {
		t.Fatal("the test looks in the wrong place")
	}
	for _, clear := range append(tokens, plain, "battery", device) {
		if strings.Contains(string(all), clear) {
			t.Errorf("%q stands in the database", clear)
		}
	}
}

// A stored password is forgotten when neither a session nor a listener needs it.
func TestForgetCredential(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, w *watch, alice, bob tenant.User) {
		forget := func(want int) {
			t.Helper()
			if err := s.ForgetCredential(t.Context(), alice.ID); err != nil {
				t.Fatal(err)
			}
			if n := count(t, s, "SELECT COUNT(*) FROM credentials"); n != want {
				t.Errorf("%d credentials, want %d", n, want)
			}
		}
		mustSignIn(t, s, bob, device)
		w.pass(time.Hour)
		sess, _ := mustSignIn(t, s, alice, device)
		forget(2)
		if _, _, err := s.Revoke(t.Context(), alice.ID, sess.ID); err != nil {
			t.Fatal(err)
		}
		forget(1)
		forget(1)
		if _, err := s.Dial(t.Context(), alice); !errors.Is(err, ErrNoCredential) {
			t.Errorf("dial: %v", err)
		}
		mustSignIn(t, s, alice, device)
		forget(2)
		w.pass(24 * time.Hour) // expired, if not yet swept up
		forget(1)
	})
}

// A sign-in beside it loses nothing.
func TestForgetWhileSigningIn(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, _ *watch, alice, _ tenant.User) {
		for range 10 {
			sess, _ := mustSignIn(t, s, alice, device)
			if _, _, err := s.Revoke(t.Context(), alice.ID, sess.ID); err != nil {
				t.Fatal(err)
			}
			var both sync.WaitGroup
			both.Go(func() { sess, _ = mustSignIn(t, s, alice, device) })
			both.Go(func() {
				if err := s.ForgetCredential(t.Context(), alice.ID); err != nil {
					t.Error(err)
				}
			})
			both.Wait()
			if n := count(t, s, "SELECT COUNT(*) FROM credentials"); n != 1 {
				t.Fatal("a session without a password")
			}
			if _, _, err := s.Revoke(t.Context(), alice.ID, sess.ID); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What hangs on a user goes with him.
func TestUserRemoved(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, _ *watch, alice, bob tenant.User) {
		_, token := mustSignIn(t, s, alice, device)
		mustSignIn(t, s, bob, device)
		if err := s.Tenants.RemoveUser(t.Context(), alice.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Authenticate(t.Context(), token); !errors.Is(err, ErrNoSession) {
			t.Errorf("%v", err)
		}
		if n := count(t, s, "SELECT COUNT(*) FROM credentials"); n != 1 {
			t.Errorf("%d credentials", n)
		}
		// A sign-in that he was in the middle of leaves nothing behind.
		if _, _, err := s.open(t.Context(), alice, request("alice", secret)); err == nil {
			t.Error("signed in a user who is gone")
		}
		if n := count(t, s, "SELECT COUNT(*) FROM sessions"); n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}

func TestCheckClient(t *testing.T) {
	t.Parallel()
	good := rapid.StringMatching(`[A-Za-z0-9._-]{1,64}`)
	rapid.Check(t, func(t *rapid.T) {
		if err := CheckClient(good.Draw(t, "client")); err != nil {
			t.Fatal(err)
		}
	})
	for _, bad := range []string{"", "a b", "a\x00", "ä", "a/b", "a*", strings.Repeat("a", 65), "\xff"} {
		var invalid *tenant.InvalidError
		if err := CheckClient(bad); !errors.As(err, &invalid) || invalid.Field != "client" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestAddressKey(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::": "2001:db8:1:2::/64", "2001:db8:1:3::1": "2001:db8:1:3::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := addressKey(netip.MustParseAddr(in)); got != want {
			t.Errorf("%s is counted as %s, want %s", in, got, want)
		}
	}
}
