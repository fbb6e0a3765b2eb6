package dispatch

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// rig is a dispatcher on a real database, with two users. Nothing is sent: push does not run.
type rig struct {
	tb      testing.TB
	db      *db.DB
	subs    *subscription.Store
	tenants *tenant.Store
	*Dispatcher
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func onEachEngine(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) { f(t, newRig(t, sqliteURL(t))) })
	t.Run("postgres", func(t *testing.T) { f(t, newRig(t, testpeer.PostgresURL(t))) })
}

func sqliteURL(tb testing.TB) string { return "sqlite:" + filepath.Join(tb.TempDir(), "posthorn.db") }

func newRig(tb testing.TB, url string) *rig {
	tb.Helper()
	ctx := tb.Context()
	file, err := seal.NewKeyFile()
	must(tb, err)
	keys, err := seal.ParseKeyFile(file)
	must(tb, err)
	d, err := db.Open(ctx, url, db.Options{})
	must(tb, err)
	tb.Cleanup(func() { must(tb, d.Close()) })
	tenants, err := tenant.New(d, keys, tenant.NotifyCredential{UserForm: tenant.FormLogin}, time.Now)
	must(tb, err)
	_, err = tenants.AddContext(ctx, tenant.Context{})
	must(tb, err)
	must(tb, tenants.AddMailHost(ctx, tenant.MailHost{Name: "h", IMAPHost: "mail.example.org", IMAPPort: 993, Security: "tls"}, ""))
	for _, login := range []string{"ann", "bob"} {
		_, err = tenants.AddUser(ctx, tenant.User{ID: tenant.UserID{Context: 1}, Login: login, MailHost: "h"})
		must(tb, err)
	}
	must(tb, tenants.SetProperty(ctx, tenant.Subject{Scope: cascade.Server}, "push.allowed_clients", "app", "test")) // "banned" is not
	r := &rig{tb: tb, db: d, subs: subscription.New(d, keys, tenants.View, time.Now), tenants: tenants}
	service, err := push.New(push.Config{
		DB: d, Subscriptions: r.subs, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Now: time.Now,
		NewMailTTL: time.Hour, MaxInFlight: 1, Node: "node", Lease: time.Minute,
	})
	must(tb, err)
	r.Dispatcher = New(d, r.subs, service, time.Now)
	return r
}

// subscribe gives a user a device of that name.
func (r *rig) subscribe(user int64, client, name string, topics ...string) {
	r.tb.Helper()
	_, err := r.subs.Subscribe(r.tb.Context(), account.Session{User: tenant.UserID{Context: 1, ID: user}, Device: name}, subscription.Request{
		Client: client, Topics: topics,
		Token: subscription.Token{Transport: "apns", Identity: name, Body: []byte(name), Target: "o"},
	})
	must(r.tb, err)
}

func mail(user int64, uidValidity, uid uint32) event.Event {
	return event.Event{
		Kind: event.NewMail, User: user, Context: 1, Folder: event.Inbox, UIDValidity: uidValidity, UID: uid,
		Subject: fmt.Sprint("mail ", uid), Unseen: event.Unknown, Accepted: time.Now(),
	}
}

func (r *rig) expect(tb interface {
	Errorf(string, ...any)
	Helper()
}, ev event.Event, want Result,
) {
	tb.Helper()
	got, err := r.Dispatch(r.tb.Context(), ev)
	if err != nil || got != want {
		tb.Errorf("%s: %s, %v; want %s", ev.ID(), got, err, want)
	}
}

func (r *rig) count(table string) (n int) {
	r.tb.Helper()
	must(r.tb, r.db.QueryRow(r.tb.Context(), "SELECT COUNT(*) FROM "+table).Scan(&n))
	return n
}

// slot is the one slot there is.
func (r *rig) slot() (in push.Input, version int64) {
	r.tb.Helper()
	var raw string
	must(r.tb, r.db.QueryRow(r.tb.Context(), "SELECT input, version FROM slots").Scan(&raw, &version))
	must(r.tb, json.Unmarshal([]byte(raw), &in))
	return in, version
}

// uids are in a range that the window covers in part, with many repetitions.
func uids(base uint32) *rapid.Generator[uint32] {
	return rapid.Map(rapid.IntRange(1, 150), func(i int) uint32 { return base + uint32(i) }) //nolint:gosec // small
}

// naive is the window as the issue words it.
type naive struct {
	high uint32
	seen map[uint32]bool
}

func (m *naive) add(uid uint32) bool {
	fresh := uid > m.high || int64(uid)+windowSize > int64(m.high) && !m.seen[uid]
	m.high = max(m.high, uid)
	m.seen[uid] = true
	return fresh
}

func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom([]uint32{0, 1 << 20, 1<<32 - 200}).Draw(t, "base")
		var w window
		m := naive{seen: map[uint32]bool{}}
		for _, uid := range rapid.SliceOfN(uids(base), 1, 300).Draw(t, "uids") {
			if rapid.IntRange(0, 40).Draw(t, "leap") == 0 && base < 1<<31 {
				base += 1000
			}
			uid := max(uid, base)
			if got, want := w.add(uid), m.add(uid); got != want {
				t.Fatalf("uid %d below %d: fresh %v, want %v", uid, m.high, got, want)
			}
		}
	})
}

// TestAnyOrder: whatever the order, each uid within the window is queued exactly once.
func TestAnyOrder(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		r.subscribe(1, "app", "phone", "mail:new")
		validity := uint32(0)
		rapid.Check(t, func(t *rapid.T) {
			validity++
			m := naive{seen: map[uint32]bool{}}
			for _, uid := range rapid.SliceOfN(uids(0), 1, 12).Draw(t, "uids") {
				want := Duplicate
				if m.add(uid) {
					want = Queued
				}
				r.expect(t, mail(1, validity, uid), want)
			}
		})
	})
}

// TestConcurrentDuplicates: the same mails reported by many at once, as by two drivers of one Dovecot.
func TestConcurrentDuplicates(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		r.subscribe(1, "app", "phone", "mail:new")
		r.subscribe(1, "app", "tablet", "mail:new")
		r.subscribe(2, "app", "phone2", "mail:new")
		const reporters, mails = 12, 15
		var results [2][mails]atomic.Int64
		var all sync.WaitGroup
		for reporter := range reporters {
			all.Go(func() {
				for i := range mails {
					i := (i*(reporter%4+1) + reporter) % mails // each in another order, some twice
					for user := range int64(2) {
						result, err := r.Dispatch(t.Context(), mail(user+1, 7, uint32(i+1))) //nolint:gosec // small
						switch {
						case err != nil:
							t.Errorf("dispatch: %v", err)
						case result == Queued:
							results[user][i].Add(1)
						case result != Duplicate:
							t.Errorf("result %s", result)
						}
					}
				}
			})
		}
		all.Wait()
		for user := range results {
			for i := range results[user] {
				if n := results[user][i].Load(); n != 1 {
					t.Errorf("user %d, uid %d: queued %d times", user+1, i+1, n)
				}
			}
		}
		for table, want := range map[string]int{"states": 2, "slots": 3} {
			if got := r.count(table); got != want {
				t.Errorf("%s: %d rows, want %d", table, got, want)
			}
		}
		var lowest, highest int64
		must(t, r.db.QueryRow(t.Context(), "SELECT MIN(version), MAX(version) FROM slots").Scan(&lowest, &highest))
		if lowest != mails || highest != mails {
			t.Errorf("versions %d to %d, want %d: one for each mail", lowest, highest, mails)
		}
	})
}

func TestRowsDoNotGrow(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		r.subscribe(1, "app", "phone", "mail:new", "mail:new:Lists")
		for uid := range uint32(50) {
			ev := mail(1, 1, uid+1)
			r.expect(t, ev, Queued)
			r.expect(t, ev, Duplicate)
			ev.Folder = "Lists"
			r.expect(t, ev, Queued)
		}
		for validity := range uint32(20) { // a folder that is made again and again
			r.expect(t, mail(1, validity+2, 1), Queued)
		}
		for table, most := range map[string]int{"states": 1, "slots": 1, "outcomes": 0} {
			if got := r.count(table); got > most {
				t.Errorf("%s: %d rows, want at most %d", table, got, most)
			}
		}
		var folders string
		must(t, r.db.QueryRow(t.Context(), "SELECT folders FROM states").Scan(&folders))
		var known []folder
		must(t, json.Unmarshal([]byte(folders), &known))
		if len(known) != maxValidities+1 {
			t.Errorf("%d folders are known, want %d: %s", len(known), maxValidities+1, folders)
		}
		if _, version := r.slot(); version != 120 {
			t.Errorf("version %d", version)
		}
	})
}

// TestNewestFactsStay: an unsent slot shows the newest mail, whatever comes late.
func TestNewestFactsStay(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		r.subscribe(1, "app", "phone", "mail:new")
		for i, c := range []struct {
			validity, uid uint32
			result        Result
			shows         [2]uint32 // afterwards
		}{
			{100, 5, Queued, [2]uint32{100, 5}},
			{100, 3, Queued, [2]uint32{100, 5}}, // late
			{100, 4, Queued, [2]uint32{100, 5}},
			{100, 4, Duplicate, [2]uint32{100, 5}},
			{100, 900, Queued, [2]uint32{100, 900}},
			{100, 836, Duplicate, [2]uint32{100, 900}},       // below the window: it cannot be told from a repetition
			{100, 837, Queued, [2]uint32{100, 900}},          // just within
			{101, 1, Queued, [2]uint32{101, 1}},              // the folder was made anew
			{100, 901, Queued, [2]uint32{101, 1}},            // of the folder that is no more
			{101, 2, Queued, [2]uint32{101, 2}},              // and on
			{0, 1, Queued, [2]uint32{0, 1}},                  // from a source without UIDVALIDITY
			{4294967295, 1, Queued, [2]uint32{1<<32 - 1, 1}}, // the largest there is
			{4294967295, 1<<32 - 1, Queued, [2]uint32{1<<32 - 1, 1<<32 - 1}},
		} {
			r.expect(t, mail(1, c.validity, c.uid), c.result)
			if in, _ := r.slot(); in.UIDValidity != c.shows[0] || in.UID != c.shows[1] {
				t.Errorf("step %d: shows %d/%d, want %v", i, in.UIDValidity, in.UID, c.shows)
			}
		}
		if _, version := r.slot(); version != 11 {
			t.Errorf("version %d, want one for each that was queued", version)
		}
	})
}

func TestWhoWantsIt(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		in := func(folder string) event.Event {
			ev := mail(1, 1, 1)
			ev.Folder = folder
			return ev
		}
		r.expect(t, in("INBOX"), NoSubscription)
		r.expect(t, in("Lists"), OtherFolder)
		r.subscribe(1, "banned", "phone", "mail:new")
		r.subscribe(2, "app", "phone of another", "mail:new", "mail:new:Lists")
		r.expect(t, in("INBOX"), NoSubscription)
		if n := r.count("states") + r.count("slots"); n != 0 {
			t.Errorf("what nobody wants wrote %d rows", n)
		}
		r.subscribe(1, "app", "tablet", "mail:new:Lists")
		r.expect(t, in("INBOX"), NoSubscription)
		r.expect(t, in("Lists"), Queued)
		r.expect(t, in("lists"), OtherFolder)
		r.subscribe(1, "app", "watch", "mail:new")
		r.expect(t, in("INBOX"), Queued) // was not wanted before, so it is no duplicate
		if n := r.count("slots"); n != 2 {
			t.Errorf("%d slots", n)
		}
		unknown := mail(99, 1, 1)
		r.expect(t, unknown, NoSubscription)
	})
}

// TestNothingHappensOnError: an event that could not be queued is not remembered as one that was.
func TestNothingHappensOnError(t *testing.T) {
	r := newRig(t, sqliteURL(t))
	r.subscribe(1, "app", "phone", "mail:new")
	exec := func(query string) {
		must(t, r.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error { _, err := tx.Exec(ctx, query); return err }))
	}
	exec("CREATE TRIGGER broken BEFORE INSERT ON slots BEGIN SELECT RAISE(ABORT, 'disk full'); END")
	if result, err := r.Dispatch(t.Context(), mail(1, 1, 1)); err == nil || result != "" {
		t.Errorf("result %q, %v", result, err)
	}
	exec("DROP TRIGGER broken")
	if n := r.count("states"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	r.expect(t, mail(1, 1, 1), Queued)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Dispatch(ended, mail(1, 1, 2)); err == nil {
		t.Error("no error after the context ended")
	}
	r.expect(t, mail(1, 1, 2), Queued)
}

// TestUserAddedAgain: what memory holds of a removed user says nothing of one who is given his id.
func TestUserAddedAgain(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		r.subscribe(1, "app", "phone", "mail:new")
		for uid := range uint32(5) {
			r.expect(t, mail(1, 7, uid+1), Queued)
		}
		exec := func(query string) {
			must(t, r.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error { _, err := tx.Exec(ctx, query); return err }))
		}
		exec("DELETE FROM users WHERE id = 1")
		exec("INSERT INTO users (context_id, id, login, login_key, mailhost, created_ms) VALUES (1, 1, 'eve', 'eve', 'h', 0)")
		r.subscribe(1, "app", "phone of another", "mail:new")
		r.expect(t, mail(1, 7, 5), Queued)
		r.expect(t, mail(1, 7, 5), Duplicate)
		if st, _ := r.states.get(tenant.UserID{Context: 1, ID: 1}); st.version != 1 {
			t.Errorf("version %d is remembered, want 1", st.version)
		}
	})
}
