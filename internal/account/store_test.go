package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// newMemory opens a cluster memory on a bus of its own.
func newMemory(t *testing.T, most int) *bus.Memory {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	b, err := bus.Open(t.Context(), bus.Options{Log: log, Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	m, err := bus.OpenMemory(t.Context(), bus.MemoryOptions{
		Bus: b, Name: "credentials", Node: "one", Most: most, Log: log, Metrics: prometheus.NewRegistry(), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// accepting is a mail host that takes any password.
func accepting(t *testing.T) tenant.MailHost {
	t.Helper()
	return scripted(t, map[string]string{
		"greeting": "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\r\n", "AUTHENTICATE": "%s OK [CAPABILITY IMAP4rev1] in\r\n", "LOGOUT": "%s OK bye\r\n",
	})
}

// inStore runs a test with a service of each store.
func inStore(t *testing.T, test func(t *testing.T, s *Service, alice tenant.User), stores ...string) {
	for _, store := range stores {
		t.Run(store, func(t *testing.T) {
			testpeer.EachDatabase(t, func(t *testing.T, url string) {
				s := newService(t, url, func(c *Config) {
					c.Store = store
					c.Memory = newMemory(t, 10)
				})
				addHost(t, s, accepting(t))
				test(t, s, addUser(t, s, "alice", "dove"))
			})
		})
	}
}

func (s *Service) mustKeep(t *testing.T, u tenant.User, want Password) {
	t.Helper()
	got, err := s.secret(t.Context(), passwords, u.ID)
	if err != nil || got != want {
		t.Errorf("kept: %t, %v", got == want, err)
	}
	if can, err := s.CanDial(t.Context(), u); !can || err != nil {
		t.Errorf("cannot dial: %v", err)
	}
}

func (s *Service) mustHaveNone(t *testing.T, u tenant.User) {
	t.Helper()
	if c, err := s.Dial(t.Context(), u); !errors.Is(err, ErrNoCredential) || c != nil {
		t.Errorf("dial: %v", err)
	}
	if can, err := s.CanDial(t.Context(), u); can || err != nil {
		t.Errorf("can dial: %v, %v", can, err)
	}
}

func TestStores(t *testing.T) {
	t.Parallel()
	inStore(t, func(t *testing.T, s *Service, alice tenant.User) {
		s.mustHaveNone(t, alice)
		first, _, err := s.SignIn(t.Context(), request("alice", "old"))
		if err != nil {
			t.Fatal(err)
		}
		s.mustKeep(t, alice, "old")
		second, token, err := s.SignIn(t.Context(), request("alice", "new")) // changed at the mail server
		if err != nil {
			t.Fatal(err)
		}
		s.mustKeep(t, alice, "new")
		c, err := s.Dial(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if n, want := count(t, s, "SELECT COUNT(*) FROM credentials"), 0; s.Store == StoreDatabase != (n == 1) || s.Store != StoreDatabase && n != want {
			t.Errorf("%d rows", n)
		}
		if _, ok := s.Memory.Get("credential/1@1"); ok != (s.Store == StoreMemory) {
			t.Errorf("in the memory: %v", ok)
		}

		// What is kept for one is of no use for another, and what is not sealed is no password.
		bob := addUser(t, s, "bob", "dove")
		sealed, err := s.kept(t.Context(), s.DB.QueryRow, passwords, alice.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, stolen := range []string{sealed, "new"} {
			err := s.DB.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error { return s.keep(ctx, tx, passwords, bob.ID, stolen) })
			if err != nil {
				t.Fatal(err)
			}
			if c, err := s.Dial(t.Context(), bob); !errors.Is(err, seal.ErrOpen) || c != nil {
				t.Errorf("bob: %v", err)
			}
		}

		if _, err := s.Authenticate(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		for i, sess := range []Session{first, second} {
			if _, _, err := s.Revoke(t.Context(), alice.ID, sess.ID); err != nil {
				t.Fatal(err)
			}
			if err := s.ForgetCredential(t.Context(), alice.ID); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				s.mustKeep(t, alice, "new") // another session needs it
			}
		}
		s.mustHaveNone(t, alice)

		if _, _, err := s.SignIn(t.Context(), request("alice", "new")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Tenants.RemoveUser(t.Context(), alice.ID), s.UserRemoved(t.Context(), alice.ID)); err != nil {
			t.Fatal(err)
		}
		s.mustHaveNone(t, alice)
	}, StoreMemory, StoreDatabase, StoreNone)
}

// A full memory stops no sign-in.
func TestFullMemory(t *testing.T) {
	t.Parallel()
	inStore(t, func(t *testing.T, s *Service, alice tenant.User) {
		for i := range 10 {
			if err := s.Memory.Put(fmt.Sprint(i), "x"); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := s.SignIn(t.Context(), request("alice", secret)); err != nil {
			t.Fatal(err)
		}
		s.mustHaveNone(t, alice)
	}, StoreMemory)
}

// Beside a sign-in, forgetting loses nothing: there is no session without its password.
func TestForgetInMemoryWhileSigningIn(t *testing.T) {
	t.Parallel()
	inStore(t, func(t *testing.T, s *Service, alice tenant.User) {
		for range 10 {
			var both sync.WaitGroup
			var sess Session
			both.Go(func() {
				var err error
				if sess, _, err = s.SignIn(t.Context(), request("alice", secret)); err != nil {
					t.Error(err)
				}
			})
			both.Go(func() {
				if err := s.ForgetCredential(t.Context(), alice.ID); err != nil {
					t.Error(err)
				}
			})
			both.Wait()
			s.mustKeep(t, alice, secret)
			if _, _, err := s.Revoke(t.Context(), alice.ID, sess.ID); err != nil {
				t.Fatal(err)
			}
		}
	}, StoreMemory)
}

// What the database holds of a time with another store leaves it.
func TestClearDatabase(t *testing.T) {
	t.Parallel()
	for _, store := range []string{StoreMemory, StoreNone, StoreDatabase} {
		testpeer.EachDatabase(t, func(t *testing.T, url string) {
			var log strings.Builder
			s := newService(t, url, func(c *Config) {
				c.Memory = newMemory(t, 2000)
				c.Log = slog.New(slog.NewTextHandler(&log, nil))
			})
			addHost(t, s, nowhere("dove"))
			const n = 1003 // more than two batches
			for i := range n {
				u := addUser(t, s, fmt.Sprint("user", i), "dove")
				write(t, s, `INSERT INTO credentials (context_id, user_id, sealed, updated_ms) VALUES (?, ?, ?, ?)`,
					1, u.ID.ID, s.Keys.Seal(passwords.owner(u.ID), []byte(secret)), 1_700_000_000_000)
			}
			if err := s.Memory.Put("credential/7@1", "newer"); err != nil {
				t.Fatal(err)
			}
			s.Store = store
			if err := s.ClearDatabase(t.Context()); err != nil {
				t.Fatal(err)
			}
			rows := count(t, s, "SELECT COUNT(*) FROM credentials")
			kept, told := s.Memory.Len(), strings.Contains(log.String(), fmt.Sprint("removed=", n))
			switch {
			case store == StoreDatabase && (rows != n || kept != 1 || told),
				store == StoreNone && (rows != 0 || kept != 1 || !told),
				store == StoreMemory && (rows != 0 || kept != n || !told):
				t.Errorf("%s: %d rows, %d in memory, the log says %s", store, rows, kept, log.String())
			}
			if v, _ := s.Memory.Get("credential/7@1"); v != "newer" {
				t.Error("an old row went over a newer entry")
			}
			if store == StoreMemory {
				s.mustKeep(t, tenant.User{ID: tenant.UserID{Context: 1, ID: n}, MailHost: "dove"}, secret)
			}
		})
	}
}

// Other nodes' sign-ins are told.
func TestWhenKept(t *testing.T) {
	t.Parallel()
	s := &Service{Config: Config{Store: StoreMemory, Memory: newMemory(t, 10)}}
	s.WhenKept(func(id tenant.UserID) { t.Errorf("told of %s, which we kept ourselves", id) })
	if err := s.Memory.Put("credential/3@1", "x"); err != nil {
		t.Fatal(err)
	}
	(&Service{}).WhenKept(nil) // nobody else would tell
}

// TestPassing: with StoreNone a password is there for 15 minutes after the last use of its session.
func TestPassing(t *testing.T) {
	t.Parallel()
	url := testpeer.SQLiteURL(t)
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, url, func(c *Config) { c.Store = StoreNone })
		addHost(t, s, nowhere("dove"))
		alice := addUser(t, s, "alice", "dove")
		_, token, err := s.open(t.Context(), alice, request("alice", secret))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			<-time.After(passingLife - time.Second) // virtual time
			if _, err := s.Authenticate(t.Context(), token); err != nil {
				t.Fatal(err)
			}
		}
		s.mustKeep(t, alice, secret)
		<-time.After(passingLife + time.Second)
		synctest.Wait()
		s.mustHaveNone(t, alice)
		if len(s.passing.all) != 0 {
			t.Error("it is still there")
		}
		if _, err := s.Authenticate(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		s.mustHaveNone(t, alice)
	})
}
