package listen

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// server takes connections and counts them. It holds them open, without a word, until release is called.
type server struct {
	tenant.MailHost
	accepted atomic.Int64
	release  func()
}

func newServer(t *testing.T) *server {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	released := make(chan struct{})
	s := &server{MailHost: tenant.MailHost{IMAPHost: "127.0.0.1", IMAPPort: l.Addr().(*net.TCPAddr).Port}}
	s.release = sync.OnceFunc(func() { close(released) })
	var all sync.WaitGroup
	t.Cleanup(func() { s.release(); _ = l.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			all.Go(func() {
				<-released
				_ = conn.Close()
			})
		}
	})
	return s
}

// until polls for what happens outside of this process's control.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("never: %s", what)
		}
	}
}

// TestHangingServer has more users than may be worked on at once, at a server that does not answer: the
// others wait, those whom somebody waits for come first, and the end of Run is not held up.
func TestHangingServer(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		srv := newServer(t)
		const users = atOneHost + 8
		f := newFixture(t, url, srv.MailHost, users)
		for n := 1; n <= users; n++ {
			f.subscribe(t, user(n), time.Time{})
		}
		f.start(t)
		until(t, "all places are taken", func() bool { return srv.accepted.Load() == atOneHost })
		for range 10 {
			f.Changed([]tenant.UserID{user(1)})
			f.Changed(nil)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		// It waits its time, and tells what is known.
		l, ok, err := f.Await(ctx, user(1)) // who subscribed first: all others were active later
		if took := time.Since(began); err != nil || !ok || l.State != subscription.Pending || l.Attempt != 0 || took > 5*time.Second {
			t.Errorf("%+v, %v, %v after %v", l, ok, err, took)
		}
		if n := srv.accepted.Load(); n != atOneHost {
			t.Errorf("%d connections at once", n)
		}
		f.mu.Lock()
		if ready := f.host("dove").ready; ready.entries[0].User != user(1) || f.running != atOneHost {
			t.Errorf("%d are running, the first of %d is %s", f.running, ready.Len(), ready.entries[0].User)
		}
		f.mu.Unlock()

		began = time.Now()
		f.stop()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("stopped after %v", took)
		}
		// That we stopped is no news of the mail server.
		err = f.Subscriptions.Listeners(t.Context(), func(l subscription.Listener) {
			if l.Attempt != 0 || l.Reason != "" {
				t.Errorf("%+v", l)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// All are looked at in the end, many more than may be worked on at once.
func TestManyUsers(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		const users = 10 * atOnce
		f := newFixture(t, url, refusing(t), users)
		f.exec(t, "DELETE FROM credentials")
		for n := 1; n <= users; n++ {
			f.subscribe(t, user(n), time.Time{})
		}
		f.start(t)
		until(t, "all were looked at", func() bool {
			looked := 0
			for n := 1; n <= users; n++ {
				if f.known(user(n)).State == subscription.WaitingForSignIn {
					looked++
				}
			}
			return looked == users
		})
		f.stop()
		// What was found out is recorded at the end at the latest.
		recorded := 0
		err := f.Subscriptions.Listeners(t.Context(), func(l subscription.Listener) {
			if l.State == subscription.WaitingForSignIn {
				recorded++
			}
		})
		if err != nil || recorded != users {
			t.Errorf("%d of %d are recorded, %v", recorded, users, err)
		}
	})
}

// Many who wait for one user cost one look, or one more when they came while it was under way.
func TestAwaitTogether(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		srv := newServer(t)
		f := newFixture(t, url, srv.MailHost, 1)
		f.subscribe(t, user(1), time.Time{})
		var all sync.WaitGroup
		wait := func() {
			for range 10 {
				all.Go(func() {
					l, ok, err := f.Await(t.Context(), user(1))
					if err != nil || !ok || l.State != subscription.Pending || l.Reason == "" {
						t.Errorf("%+v, %v, %v", l, ok, err)
					}
				})
			}
		}
		wait() // before it runs
		f.start(t)
		until(t, "the first look", func() bool { return srv.accepted.Load() == 1 })
		wait() // while it runs
		until(t, "they have asked", func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			e := f.entries[user(1)]
			return e.again && len(e.waiting)+len(e.later) == 20
		})
		srv.release()
		all.Wait()
		if n := srv.accepted.Load(); n < 2 || n > 3 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestStoreFails can look but not write down what it sees: it must not go on asking at full speed.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	url := testpeer.SQLiteURL(t)
	srv := newServer(t)
	srv.release()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, url, srv.MailHost, 3)
		for n := 1; n <= 3; n++ {
			f.subscribe(t, user(n), time.Time{})
		}
		f.exec(t, "CREATE TRIGGER broken BEFORE UPDATE ON listeners BEGIN SELECT RAISE(ABORT, 'disk on fire'); END")
		f.start(t)
		<-time.After(2 * time.Minute)
		if n := srv.accepted.Load(); n < 3 || n > 3*int64(2*time.Minute/firstRetry)+3 {
			t.Errorf("%d connections in two minutes", n)
		}
		if n := f.queries.Load(); n > 2_000 {
			t.Errorf("%d queries in two minutes", n)
		}
		f.exec(t, "DROP TRIGGER broken")
		<-time.After(time.Minute)
		for n := 1; n <= 3; n++ {
			if l, _, err := f.Subscriptions.Listener(t.Context(), user(n)); err != nil || l.Attempt == 0 || l.Reason == "" {
				t.Errorf("%+v, %v", l, err)
			}
		}
	})
}

// A store that is closed ends nothing but its own answers.
func TestStoreGone(t *testing.T) {
	t.Parallel()
	url := testpeer.SQLiteURL(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, url, refusing(t), 1)
		f.subscribe(t, user(1), time.Time{})
		f.start(t)
		if err := f.db.Close(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := f.Await(ctx, user(1)); err == nil {
			t.Error("known without a store")
		}
	})
}

// TestMissed: after reports were lost, everybody who is reported on is looked at once, when the store works.
func TestMissed(t *testing.T) {
	onDovecot(t, func(t *testing.T, f *fixture, _ *testpeer.Dovecot) {
		for n := 1; n <= 3; n++ {
			f.subscribe(t, user(n), time.Time{})
			if l := f.await(t, user(n)); l.State != subscription.Registered {
				t.Fatalf("%+v", l)
			}
		}
		next := func(n int) time.Time { return f.known(user(n)).NotBefore }
		was := []time.Time{next(1), next(2), next(3)}
		<-time.After(time.Second)
		f.Missed()
		<-time.After(time.Second)
		for i, at := range was {
			if now := next(i + 1); now.Equal(at) {
				t.Errorf("%s was not looked at", user(i+1))
			}
		}
	})
}

// TestMailHostChanges: listeners follow what the operator changes of their mail host, at once.
func TestMailHostChanges(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{login(1): secret}})
	f := newFixture(t, testpeer.SQLiteURL(t), at(d), 1)
	f.subscribe(t, user(1), time.Time{})
	f.start(t)
	for _, step := range []struct{ source, state string }{
		{tenant.SourceDovecot, subscription.Registered}, {tenant.SourceIdle, subscription.Listening}, {tenant.SourceDovecot, subscription.Registered},
	} {
		_, err := f.Tenants.ChangeMailHost(t.Context(), "dove", func(h *tenant.MailHost) (string, error) { h.Source = step.source; return "", nil })
		if err != nil {
			t.Fatal(err)
		}
		until(t, step.source+": "+step.state, func() bool { return f.known(user(1)).State == step.state })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.entries[user(1)]; e.conn != nil || e.source != tenant.SourceDovecot {
		t.Errorf("a connection is left, source %s", e.source)
	}
}

// TestBreakAndComeBack: connections that break and are made anew soon are not worth a write; one that stays away is.
func TestBreakAndComeBack(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{login(1): secret}, NoMetadata: true})
	h := at(d)
	h.Source = tenant.SourceIdle
	f := newFixture(t, testpeer.SQLiteURL(t), h, 1)
	f.subscribe(t, user(1), time.Time{})
	f.start(t)
	recorded := func() subscription.Listener {
		l, _, err := f.Subscriptions.Listener(t.Context(), user(1))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	until(t, "it is recorded that it listens", func() bool { return recorded().State == subscription.Listening })
	f.exec(t, "CREATE TABLE writes (n BIGINT)")
	f.exec(t, "CREATE TRIGGER counted AFTER UPDATE ON listeners BEGIN INSERT INTO writes VALUES (1); END")
	was := f.known(user(1)).Since
	d.Stop(t)
	until(t, "the end is noticed", func() bool { return f.known(user(1)).State == subscription.Pending })
	d.Start(t)
	until(t, "it listens again", func() bool { l := f.known(user(1)); return l.State == subscription.Listening && l.Since.After(was) })
	until(t, "there is nothing to record any more", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.dirty) == 0
	})
	var n int
	if err := f.db.QueryRow(t.Context(), "SELECT COUNT(*) FROM writes").Scan(&n); err != nil || n > 1 { // a second failure is recorded
		t.Errorf("%d writes, %v", n, err)
	}
}

// Told to stop before it began, it ends well: that is how a server ends that is stopped at once.
func TestStoppedBeforeItRuns(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testpeer.SQLiteURL(t), tenant.MailHost{IMAPHost: "localhost", IMAPPort: 143}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Run(ctx); err != nil {
		t.Error(err)
	}
}
