package account

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// attack is somebody who guesses alice's password from a number of networks, as fast as he is let.
type attack struct {
	t        *testing.T
	s        *Service
	networks int
	guesses  int
}

// round tries once from each network. What is let through fails.
func (a *attack) round() {
	a.t.Helper()
	for i := range a.networks {
		_, err := a.s.admit(a.t.Context(), "alice", fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), fmt.Sprint("made up ", i))
		if err == nil {
			a.guesses++
		} else if !errors.As(err, new(*TooManyError)) {
			a.t.Fatal(err)
		}
	}
}

// lockedOut says whether an attempt of alice would not be let through. It counts as none.
func lockedOut(t *testing.T, s *Service, network, device string) bool {
	t.Helper()
	tried, err := s.admit(t.Context(), "alice", network, device)
	tried.giveBack()
	if err != nil && !errors.As(err, new(*TooManyError)) {
		t.Fatal(err)
	}
	return err != nil
}

func know(t *testing.T, s *Service, network, device string) {
	t.Helper()
	must(t, s.DB.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		return s.remember(ctx, tx, "alice", network, device)
	}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestLockout lets an attacker guess for hours. However many addresses he has, the owner signs in on her phone
// wherever she is, and with whatever she has at home; and there are only so many guesses.
func TestLockout(t *testing.T) {
	t.Parallel()
	url := testpeer.SQLiteURL(t)
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, url, nil)
		know(t, s, "192.0.2.7", "phone")
		for _, networks := range []int{1, s.AttemptsPerLogin - 1, s.AttemptsPerLogin, 40} {
			a := &attack{t: t, s: s, networks: networks}
			strangers := 0
			const minutes = 6 * 60
			for range minutes {
				a.round()
				if lockedOut(t, s, "198.51.100.1", "phone") {
					t.Fatalf("%d networks: she is locked out of her phone on the road", networks)
				}
				if lockedOut(t, s, "192.0.2.7", "a new one") || lockedOut(t, s, "192.0.2.7", "") {
					t.Fatalf("%d networks: she is locked out at home", networks)
				}
				if lockedOut(t, s, "198.51.100.1", "a new one") {
					strangers++
				}
				<-time.After(time.Minute) // virtual time
			}
			// All places that he comes from are strange, so together they have what strangers have.
			most := 2*s.AttemptsPerLogin + int(float64(minutes)*float64(time.Minute)/float64(s.Window)*2*float64(s.AttemptsPerLogin)) + 1
			t.Logf("%d networks: %d guesses, at most %d; a new device in a new network waited in %d of %d minutes", networks, a.guesses, most, strangers, minutes)
			if a.guesses > most {
				t.Errorf("%d networks: %d guesses", networks, a.guesses)
			}
			if networks < s.AttemptsPerLogin && strangers > 0 {
				t.Errorf("%d networks hold up a new device", networks)
			}
			<-time.After(s.Window)
		}

		// At her own place she has what everybody has, and a guess there costs nobody else.
		for range s.AttemptsPerLogin {
			if _, err := s.admit(t.Context(), "alice", "198.51.100.1", "phone"); err != nil {
				t.Fatal(err)
			}
		}
		if !lockedOut(t, s, "198.51.100.1", "phone") || lockedOut(t, s, "192.0.2.7", "") {
			t.Error("the phone's failures are not its own")
		}
	})
}

// Whoever is known is so with one login, by the whole secret, and for a while.
func TestKnownPlaces(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		var w watch
		s := newService(t, url, func(c *Config) { c.Now = w.now })
		knows := func(login, place string, within time.Duration) bool {
			t.Helper()
			ok, err := s.knows(t.Context(), login, place, within)
			must(t, err)
			return ok
		}
		know(t, s, "192.0.2.7", "phone")
		for _, c := range []struct {
			login, place string
			within       time.Duration
			want         bool
		}{
			{"alice", devicePlace("phone"), knownDevice, true},
			{"alice", "network 192.0.2.7", knownNetwork, true},
			{"bob", devicePlace("phone"), knownDevice, false},
			{"alice", devicePlace("phon"), knownDevice, false},
			{"alice", devicePlace(""), knownDevice, false},
			{"alice", "network phone", knownDevice, false},
			{"alice", "network 192.0.2.8", knownNetwork, false},
		} {
			if got := knows(c.login, c.place, c.within); got != c.want {
				t.Errorf("%s at %q: %v", c.login, c.place, got)
			}
		}
		w.pass(knownNetwork)
		if knows("alice", "network 192.0.2.7", knownNetwork) || !knows("alice", devicePlace("phone"), knownDevice) {
			t.Error("a network is known for too long, or a device for too short a time")
		}

		// Known under the key of before, too; and the rows tell nothing without a key.
		text, err := seal.NewKeyFile()
		must(t, err)
		fresh, err := seal.ParseKeyFile(text)
		must(t, err)
		old := s.Keys
		s.Keys = seal.Join(fresh, old)
		if !knows("alice", devicePlace("phone"), knownDevice) {
			t.Error("a new key makes her phone a strange one")
		}
		s.Keys = fresh
		if knows("alice", devicePlace("phone"), knownDevice) {
			t.Error("the hashes do not depend on the key")
		}
		s.Keys = old

		// Only so many, and the oldest go; what is too old goes with anybody's sign-in.
		for i := range 2 * maxPlaces {
			w.pass(time.Second)
			know(t, s, fmt.Sprint("network ", i), "phone")
		}
		if n := count(t, s, "SELECT COUNT(*) FROM known_places"); n != maxPlaces || !knows("alice", devicePlace("phone"), knownDevice) {
			t.Errorf("%d places are kept", n)
		}
		w.pass(knownDevice)
		know(t, s, "192.0.2.7", "")
		if n := count(t, s, "SELECT COUNT(*) FROM known_places"); n != 1 {
			t.Errorf("%d places are kept", n)
		}
	})
}

// A sign-in makes its place known, and a refused one does not.
func TestSignInIsRemembered(t *testing.T) {
	t.Parallel()
	s := newService(t, testpeer.SQLiteURL(t), nil)
	addHost(t, s, scripted(t, map[string]string{
		"greeting":     "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\r\n",
		"AUTHENTICATE": "%s OK [CAPABILITY IMAP4rev1] in\r\n", "LOGOUT": "%s OK bye\r\n",
	}))
	addUser(t, s, "Alice", "dove")
	if _, _, err := s.SignIn(t.Context(), request("nobody", secret)); !errors.Is(err, ErrBadLogin) {
		t.Fatal(err)
	}
	if n := count(t, s, "SELECT COUNT(*) FROM known_places"); n != 0 {
		t.Errorf("%d places", n)
	}
	if _, _, err := s.SignIn(t.Context(), request("ALICE", secret)); err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{devicePlace(device), "network 192.0.2.7"} {
		if ok, err := s.knows(t.Context(), "alice", place, time.Minute); err != nil || !ok {
			t.Errorf("%s is not known: %v", place, err)
		}
	}
	// Who is held up again and again is worth a word once a minute.
	var again []bool
	for range 2*s.AttemptsPerLogin + 3 {
		_, err := s.admit(t.Context(), "bob", "10.0.0.1", "")
		if tooMany, ok := errors.AsType[*TooManyError](err); ok {
			again = append(again, tooMany.Again)
		}
	}
	if len(again) < 2 || again[0] || slices.Contains(again[1:], false) {
		t.Errorf("%v", again)
	}
}
