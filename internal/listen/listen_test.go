package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/cluster"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/listen/dovecot"
	"github.com/posthorn-mail/posthorn/internal/listen/idle"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const (
	secret        = "secret"
	atOnce        = 16
	atOneHost     = atOnce * 3 / 4
	auditEvery    = time.Hour
	rejectionWait = 10 * time.Minute
)

// noDelay has Dovecot answer a wrong password at once, and not slow down what follows from the same address.
const noDelay = `
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
`

// fixture is a service whose users live on one mail host.
type fixture struct {
	*Service
	db      *db.DB
	keys    *seal.Keyring
	queries atomic.Int64
	stop    func()
}

// newFixture opens a database with n users, named user1@1 and so on, whose passwords are stored.
func newFixture(t *testing.T, url string, h tenant.MailHost, n int) *fixture {
	t.Helper()
	f := &fixture{}
	var err error
	if f.db, err = db.Open(t.Context(), url, db.Options{Trace: func(string) { f.queries.Add(1) }}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.db.Close(); err != nil {
			t.Error(err)
		}
	})
	text, err := seal.NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	if f.keys, err = seal.ParseKeyFile(text); err != nil {
		t.Fatal(err)
	}
	tenants, err := tenant.New(f.db, f.keys, tenant.NotifyCredential{UserForm: tenant.FormMetadata}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	accounts := account.New(account.Config{
		DB: f.db, Keys: f.keys, Tenants: tenants, Log: log, Now: time.Now,
		AttemptsPerLogin: 9, AttemptsPerAddress: 9, Window: time.Hour,
	})
	subs := subscription.New(f.db, f.keys, tenants.View, time.Now)
	pushes, err := push.New(push.Config{
		DB: f.db, Subscriptions: subs, Log: log, Metrics: prometheus.NewRegistry(), Now: time.Now,
		NewMailTTL: time.Hour, MaxInFlight: 1, Node: "node", Lease: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	dispatcher := dispatch.New(f.db, subs, pushes, time.Now)
	b, err := bus.Open(t.Context(), bus.Options{Log: log, Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
	// It does not run: alone, nobody comes or goes.
	alone, err := cluster.Join(t.Context(), cluster.Config{Bus: b, ID: "node", Willing: true, Log: log, Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	f.Service, err = New(Config{
		Subscriptions: subs, Tenants: tenants, Accounts: accounts, Dispatcher: dispatcher, Cluster: alone, Bus: b,
		Dovecot: &dovecot.Source{Accounts: accounts, Tenants: tenants},
		Idle:    &idle.Source{Accounts: accounts, Dispatcher: dispatcher, Log: log, Now: time.Now},
		Log:     log, Metrics: prometheus.NewRegistry(), Now: time.Now,
		AtOnce: atOnce, LoginsPerSecond: 10_000, HostLoginsPerSecond: 10_000, Audit: auditEvery, Rejections: 3, RejectionWait: rejectionWait,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tenants.AddContext(t.Context(), tenant.Context{})
	h.Name, h.Security = "dove", tenant.SecurityNone
	if err = errors.Join(err, tenants.AddMailHost(t.Context(), h, "")); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= n; i++ {
		u, err := tenants.AddUser(t.Context(), tenant.User{ID: tenant.UserID{Context: 1}, Login: login(i), MailHost: "dove"})
		if err != nil {
			t.Fatal(err)
		}
		f.password(t, u.ID, secret)
	}
	return f
}

func login(n int) string { return fmt.Sprintf("user%d", n) }

func user(n int) tenant.UserID { return tenant.UserID{Context: 1, ID: int64(n)} }

// password stores a mail password as a sign-in does.
func (f *fixture) password(t *testing.T, u tenant.UserID, password string) {
	t.Helper()
	f.exec(t, `INSERT INTO credentials (context_id, user_id, sealed, updated_ms) VALUES (?, ?, ?, 0)
		ON CONFLICT (context_id, user_id) DO UPDATE SET sealed = excluded.sealed`,
		u.Context, u.ID, f.keys.Seal("credential/"+u.String(), []byte(password)))
}

func (f *fixture) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	err := f.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) knowsPassword(t *testing.T, u tenant.UserID) bool {
	t.Helper()
	var n int
	err := f.db.QueryRow(t.Context(), "SELECT COUNT(*) FROM credentials WHERE context_id = ? AND user_id = ?", u.Context, u.ID).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// start runs the service until stop, or the end of the test.
func (f *fixture) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(f.stop)
}

// subscribe adds a device to a user, as the API does.
func (f *fixture) subscribe(t *testing.T, u tenant.UserID, expires time.Time) string {
	t.Helper()
	sub, err := f.Subscriptions.Subscribe(t.Context(), account.Session{User: u, Device: "d"}, subscription.Request{
		Client: "app", Topics: []string{"mail:new"}, Expires: expires,
		Token: subscription.Token{Transport: "apns", Identity: u.String() + expires.String(), Body: []byte("b")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return sub.ID
}

func (f *fixture) unsubscribe(t *testing.T, u tenant.UserID, id string) {
	t.Helper()
	if err := f.Subscriptions.Unsubscribe(t.Context(), u, id); err != nil {
		t.Fatal(err)
	}
}

// await returns what is known of a listener after it was looked at; its state is "" when there is none.
func (f *fixture) await(t *testing.T, u tenant.UserID) subscription.Listener {
	t.Helper()
	l, _, err := f.Await(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// state is a listener's state, without looking.
func (f *fixture) state(t *testing.T, u tenant.UserID) string {
	t.Helper()
	return f.known(u).State
}

// known is what the service knows of a listener.
func (f *fixture) known(u tenant.UserID) subscription.Listener {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.entries[u]; e != nil {
		return e.Listener
	}
	return subscription.Listener{}
}

// inTime runs f in virtual time on each engine. Time passes while everybody waits for it, so not while
// a mail server is at work.
func inTime(t *testing.T, h func(t *testing.T) tenant.MailHost, users int, test func(t *testing.T, f *fixture)) {
	t.Helper()
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		mailhost := h(t)
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t, url, mailhost, users)
			f.start(t)
			test(t, f)
		})
	})
}

func at(d *testpeer.Dovecot) tenant.MailHost {
	return tenant.MailHost{IMAPHost: d.Host, IMAPPort: d.IMAPPort}
}

// onDovecot runs test on each engine, with a Dovecot of its own.
func onDovecot(t *testing.T, test func(t *testing.T, f *fixture, d *testpeer.Dovecot)) {
	t.Helper()
	var dovecots sync.Map
	inTime(t, func(t *testing.T) tenant.MailHost {
		d := testpeer.StartDovecot(t, testpeer.DovecotConfig{
			Users: map[string]string{login(1): secret, login(2): secret, login(3): secret}, Extra: noDelay,
		})
		dovecots.Store(d.IMAPPort, d)
		return at(d)
	}, 3, func(t *testing.T, f *fixture) {
		h, err := f.Tenants.MailHost(t.Context(), "dove")
		if err != nil {
			t.Fatal(err)
		}
		d, _ := dovecots.Load(h.IMAPPort)
		test(t, f, d.(*testpeer.Dovecot))
	})
}

// refusing is a mail host where nobody listens.
func refusing(*testing.T) tenant.MailHost { return tenant.MailHost{IMAPHost: "127.0.0.1", IMAPPort: 1} }

func wantEntry(t *testing.T, d *testpeer.Dovecot, n int, want string) {
	t.Helper()
	if got, _ := d.Metadata(t, login(n)); got != want {
		t.Errorf("the entry of %s is %q, want %q", login(n), got, want)
	}
}

// TestLife registers with the first subscription and unregisters with the last.
func TestLife(t *testing.T) {
	onDovecot(t, func(t *testing.T, f *fixture, d *testpeer.Dovecot) {
		if l := f.await(t, user(1)); l.State != "" { // nobody wants anything
			t.Errorf("%+v", l)
		}
		first := f.subscribe(t, user(1), time.Time{})
		if l := f.await(t, user(1)); l.State != subscription.Registered || l.Reason != "" || !l.Wanted {
			t.Errorf("%+v", l)
		}
		wantEntry(t, d, 1, "user=1@1")
		wantEntry(t, d, 2, "")
		second := f.subscribe(t, user(1), time.Now().Add(time.Minute))
		f.unsubscribe(t, user(1), first)
		if l := f.await(t, user(1)); l.State != subscription.Registered {
			t.Errorf("%+v", l)
		}
		wantEntry(t, d, 1, "user=1@1")
		if !f.knowsPassword(t, user(1)) {
			t.Error("the password that the listener needs is gone")
		}
		f.unsubscribe(t, user(1), second)
		if l := f.await(t, user(1)); l.State != "" || f.knowsPassword(t, user(1)) {
			t.Errorf("%+v, password kept %v", l, f.knowsPassword(t, user(1)))
		}
		wantEntry(t, d, 1, "")

		// A subscription's time ends without anybody's doing.
		f.subscribe(t, user(2), time.Now().Add(10*time.Minute))
		<-time.After(9 * time.Minute)
		wantEntry(t, d, 2, "user=2@1")
		<-time.After(3 * time.Minute)
		wantEntry(t, d, 2, "")

		// What is somebody else's stays, and is noticed when it goes.
		d.SetMetadata(t, login(3), "user=7@7")
		third := f.subscribe(t, user(3), time.Time{})
		if l := f.await(t, user(3)); l.State != subscription.Foreign || l.Reason == "" {
			t.Errorf("%+v", l)
		}
		d.ClearMetadata(t, login(3))
		<-time.After(2 * auditEvery)
		if s := f.state(t, user(3)); s != subscription.Registered {
			t.Errorf("state %s", s)
		}
		wantEntry(t, d, 3, "user=3@1")
		d.SetMetadata(t, login(3), "user=7@7")
		f.unsubscribe(t, user(3), third)
		if l := f.await(t, user(3)); l.State != "" {
			t.Errorf("%+v", l)
		}
		wantEntry(t, d, 3, "user=7@7")
	})
}

// TestAudit finds a registration gone, which happens when an INBOX is made anew, and repairs it.
func TestAudit(t *testing.T) {
	onDovecot(t, func(t *testing.T, f *fixture, d *testpeer.Dovecot) {
		for n := 1; n <= 3; n++ {
			f.subscribe(t, user(n), time.Time{})
		}
		<-time.After(time.Second)
		for n := 1; n <= 3; n++ {
			wantEntry(t, d, n, fmt.Sprintf("user=%d@1", n))
			d.ClearMetadata(t, login(n))
		}
		<-time.After(2 * auditEvery)
		for n := 1; n <= 3; n++ {
			wantEntry(t, d, n, fmt.Sprintf("user=%d@1", n))
		}
		// A quiet service asks little of its database.
		before := f.queries.Load()
		<-time.After(20 * time.Minute)
		if n := f.queries.Load() - before; n > 400 {
			t.Errorf("%d queries in twenty quiet minutes", n)
		}
	})
}

// TestServerAway subscribes while the mail server is down: it is registered when it is up again, and so
// it is with unregistering.
func TestServerAway(t *testing.T) {
	onDovecot(t, func(t *testing.T, f *fixture, d *testpeer.Dovecot) {
		d.Stop(t)
		id := f.subscribe(t, user(1), time.Time{})
		if l := f.await(t, user(1)); l.State != subscription.Pending || !strings.Contains(l.Reason, "cannot be reached") {
			t.Errorf("%+v", l)
		}
		<-time.After(time.Hour)
		if s := f.state(t, user(1)); s != subscription.Pending {
			t.Errorf("state %s", s)
		}
		d.Start(t)
		<-time.After(maxRetry)
		if s := f.state(t, user(1)); s != subscription.Registered {
			t.Errorf("state %s", s)
		}
		wantEntry(t, d, 1, "user=1@1")

		d.Stop(t)
		f.unsubscribe(t, user(1), id)
		<-time.After(time.Hour)
		if s := f.state(t, user(1)); s == "" {
			t.Error("forgotten, and still registered")
		}
		d.Start(t)
		<-time.After(maxRetry)
		if s := f.state(t, user(1)); s != "" {
			t.Errorf("state %s", s)
		}
		wantEntry(t, d, 1, "")
	})
}

// TestRejectedPassword has a stored password that the server rejects: it is not tried every few minutes,
// for which servers lock accounts, but at once after a sign-in.
func TestRejectedPassword(t *testing.T) {
	onDovecot(t, func(t *testing.T, f *fixture, d *testpeer.Dovecot) {
		f.password(t, user(1), "an old one")
		f.subscribe(t, user(1), time.Time{})
		l := f.await(t, user(1))
		if wait := time.Until(l.NotBefore); l.State != subscription.WaitingForSignIn || !strings.Contains(l.Reason, "rejects the stored password") ||
			l.Rejected != 1 || wait < rejectionWait-time.Minute {
			t.Errorf("%+v, tried again after %v", l, wait)
		}
		// The last that counts has the devices told.
		<-time.After(2*rejectionWait + time.Minute)
		if l := f.known(user(1)); l.Rejected != 3 || time.Until(l.NotBefore) < auditEvery/3 {
			t.Errorf("%+v", l)
		}
		var input string
		if err := f.db.QueryRow(t.Context(), "SELECT input FROM slots WHERE collapse_key = 'sign_in'").Scan(&input); err != nil || !strings.Contains(input, "account:sign_in") {
			t.Errorf("the device is told %q, %v", input, err)
		}
		f.password(t, user(1), secret)
		f.Look(user(1))
		<-time.After(time.Second)
		if s := f.state(t, user(1)); s != subscription.Registered {
			t.Errorf("state %s", s)
		}
		wantEntry(t, d, 1, "user=1@1")
	})
}

// TestBackoff watches the waits between tries.
func TestBackoff(t *testing.T) {
	inTime(t, refusing, 1, func(t *testing.T, f *fixture) {
		f.subscribe(t, user(1), time.Time{})
		began := time.Now()
		for attempt := 1; attempt <= 12; attempt++ {
			<-time.After(time.Millisecond)
			l := f.known(user(1))
			if l.Attempt != attempt || l.State != subscription.Pending || l.Since.After(began) {
				t.Fatalf("%+v, want attempt %d", l, attempt)
			}
			bound := min(maxRetry, firstRetry<<(attempt-1))
			if wait := time.Until(l.NotBefore); wait > bound || wait < bound/2-2*time.Millisecond {
				t.Errorf("attempt %d: %v to the next, not from %v to %v", attempt, wait, bound/2, bound)
			}
			<-time.After(time.Until(l.NotBefore))
		}
	})
}

// A registration that nobody can remove is given up in the end.
func TestUnregisterGivesUp(t *testing.T) {
	inTime(t, refusing, 1, func(t *testing.T, f *fixture) {
		f.unsubscribe(t, user(1), f.subscribe(t, user(1), time.Time{}))
		f.await(t, user(1))
		f.mu.Lock()
		f.entries[user(1)].Attempt = maxUnregisterTries - 2
		f.mu.Unlock()
		for attempt := maxUnregisterTries - 1; attempt <= maxUnregisterTries; attempt++ {
			if l := f.await(t, user(1)); l.Attempt != attempt || l.Wanted {
				t.Fatalf("%+v, want attempt %d", l, attempt)
			}
		}
		if l := f.await(t, user(1)); l.State != "" {
			t.Errorf("still there: %+v", l)
		}
		if f.knowsPassword(t, user(1)) {
			t.Error("the password of a user who is signed out is kept")
		}
	})
}

// TestUserRemoved removes a user whose listener is due.
func TestUserRemoved(t *testing.T) {
	inTime(t, refusing, 1, func(t *testing.T, f *fixture) {
		f.subscribe(t, user(1), time.Time{})
		f.await(t, user(1))
		if err := f.Tenants.RemoveUser(t.Context(), user(1)); err != nil {
			t.Fatal(err)
		}
		if l := f.await(t, user(1)); l.State != "" {
			t.Errorf("%+v", l)
		}
	})
}
