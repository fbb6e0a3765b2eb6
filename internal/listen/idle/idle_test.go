package idle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const (
	login  = "alice@example.org"
	secret = "pencil"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// rig is a source with one user, 1@1, whose phone wants to hear of the INBOX and of the Archive.
type rig struct {
	Source
	tb   testing.TB
	db   *db.DB
	user tenant.User
	log  logs
	run  func() // has Run run, once

	mu      sync.Mutex
	folders []string
	held    chan error // of the newest Hold
}

// logs is what was logged.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newRig(tb testing.TB, h tenant.MailHost) *rig {
	tb.Helper()
	ctx := tb.Context()
	file, err := seal.NewKeyFile()
	must(tb, err)
	keys, err := seal.ParseKeyFile(file)
	must(tb, err)
	r := &rig{tb: tb}
	r.db, err = db.Open(ctx, "sqlite:"+filepath.Join(tb.TempDir(), "posthorn.db"), db.Options{})
	must(tb, err)
	tb.Cleanup(func() { must(tb, r.db.Close()) })
	tenants, err := tenant.New(r.db, keys, tenant.NotifyCredential{UserForm: tenant.FormLogin}, time.Now)
	must(tb, err)
	r.Log = slog.New(slog.NewTextHandler(&r.log, nil))
	accounts := account.New(account.Config{
		DB: r.db, Keys: keys, Tenants: tenants, Log: r.Log, Now: time.Now,
		AttemptsPerLogin: 9, AttemptsPerAddress: 9, Window: time.Hour,
	})
	_, err = tenants.AddContext(ctx, tenant.Context{})
	must(tb, err)
	h.Name = "box"
	if h.Security == "" {
		h.Security = tenant.SecurityNone
	}
	must(tb, tenants.AddMailHost(ctx, h, ""))
	r.user, err = tenants.AddUser(ctx, tenant.User{ID: tenant.UserID{Context: 1}, Login: login, MailHost: "box"})
	must(tb, err)
	must(tb, r.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO credentials (context_id, user_id, sealed, updated_ms) VALUES (1, 1, ?, 0)`,
			keys.Seal("credential/"+r.user.ID.String(), []byte(secret)))
		return err
	}))
	subs := subscription.New(r.db, keys, tenants.View, time.Now)
	_, err = subs.Subscribe(ctx, account.Session{User: r.user.ID, Device: "phone"}, subscription.Request{
		Client: "app", Topics: []string{"mail:new", "mail:new:Archive"},
		Token: subscription.Token{Transport: "apns", Identity: "phone", Body: []byte("phone"), Target: "o"},
	})
	must(tb, err)
	service, err := push.New(push.Config{
		DB: r.db, Subscriptions: subs, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Now: time.Now,
		NewMailTTL: time.Hour, MaxInFlight: 1, Node: "node", Lease: time.Minute,
	})
	must(tb, err)
	r.Accounts, r.Dispatcher = accounts, dispatch.New(r.db, subs, service, time.Now)
	r.Now, r.Metrics, r.PollEvery = time.Now, prometheus.NewRegistry(), time.Hour
	r.Folders = func(context.Context, tenant.UserID) ([]string, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.folders, nil
	}
	r.run = sync.OnceFunc(func() {
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		tb.Cleanup(func() { cancel(); must(tb, <-ended) })
	})
	return r
}

// open holds a connection until the test ends, or it breaks.
func (r *rig) open() *Conn {
	r.tb.Helper()
	r.run()
	c, err := r.Open(r.tb.Context(), r.user)
	must(r.tb, err)
	held := make(chan error, 1)
	go func() { held <- c.Hold() }()
	r.held = make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		err := <-held
		r.held <- err
	})
	r.tb.Cleanup(func() { c.Close(); c.Close(); wg.Wait() })
	return c
}

// within waits until the condition holds.
func (r *rig) within(d time.Duration, what string, holds func() bool) {
	r.tb.Helper()
	for end := time.Now().Add(d); !holds(); {
		if time.Now().After(end) {
			r.tb.Fatalf("%s: not within %v; the device was told %+v\n%s", what, d, r.told(), r.log.String())
		}
		<-time.After(5 * time.Millisecond)
	}
}

// told is what the device was told last, by collapse key.
func (r *rig) told() map[string]push.Input {
	r.tb.Helper()
	rows, err := r.db.Query(r.tb.Context(), `SELECT collapse_key, input FROM slots`)
	must(r.tb, err)
	defer rows.Close()
	all := map[string]push.Input{}
	for rows.Next() {
		var key, raw string
		var in push.Input
		must(r.tb, rows.Scan(&key, &raw))
		must(r.tb, json.Unmarshal([]byte(raw), &in))
		all[key] = in
	}
	must(r.tb, rows.Err())
	return all
}

func (r *rig) position(folder string) event.Position {
	r.tb.Helper()
	p, _, err := r.Dispatcher.Known(r.tb.Context(), r.user.ID, folder)
	must(r.tb, err)
	return p
}

// mail waits until the device was told of a message.
func (r *rig) mail(folder string, uid uint32, subject string, unseen int) {
	r.tb.Helper()
	r.within(8*time.Second, subject, func() bool {
		in := r.told()["mail"]
		return in.Folder == folder && in.UID == uid && in.Subject == subject && in.Unseen == unseen
	})
}

// unseen waits until the device's count is right.
func (r *rig) unseen(n int) {
	r.tb.Helper()
	r.within(8*time.Second, fmt.Sprint(n, " unseen"), func() bool { return r.position(event.Inbox).Unseen == n })
}

func deliver(t *testing.T, d *testpeer.Dovecot, subject string) {
	t.Helper()
	d.DeliverLMTP(t, []string{login}, fmt.Appendf(nil, "From: =?utf-8?q?Zo=C3=AB?= <zoe@example.org>\r\nSubject: %s\r\n\r\nHello.\r\n", subject))
}

func dovecot(t *testing.T, extra string) (*testpeer.Dovecot, *rig) {
	t.Helper()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{login: secret}, Extra: extra})
	return d, newRig(t, tenant.MailHost{IMAPHost: d.Host, IMAPPort: d.IMAPPort})
}

// TestDovecot: what happens in a mailbox reaches the device, whether told or missed.
func TestDovecot(t *testing.T) {
	t.Parallel()
	d, r := dovecot(t, "")
	deliver(t, d, "old")
	c := r.open()
	if c.Mode() != ModeIdle || !c.LastEvent().IsZero() {
		t.Errorf("mode %s, last event %v", c.Mode(), c.LastEvent())
	}
	if told := r.told(); len(told) > 0 {
		t.Errorf("what was there before is told: %+v", told)
	}
	deliver(t, d, "=?utf-8?q?Gr=C3=BC=C3=9Fe?=")
	r.mail(event.Inbox, 2, "Grüße", 2)
	if in := r.told()["mail"]; in.Sender != "Zoë" {
		t.Errorf("sender %q", in.Sender)
	}
	if c.LastEvent().IsZero() {
		t.Error("no last event")
	}
	// Read, and marked as unread: no new mail, another count. The notification goes.
	d.Doveadm(t, "flags", "add", "-u", login, `\Seen`, "mailbox", "INBOX", "uid", "2")
	r.unseen(1)
	r.within(time.Second, "clearing", func() bool { return len(r.told()["mail"].Cleared) == 1 })
	d.Doveadm(t, "flags", "remove", "-u", login, `\Seen`, "mailbox", "INBOX", "uid", "2")
	r.unseen(2)
	d.Doveadm(t, "expunge", "-u", login, "mailbox", "INBOX", "uid", "1")
	r.unseen(1)
	deliver(t, d, "third")
	r.mail(event.Inbox, 3, "third", 2)

	// What was delivered while the connection was gone is told with the next.
	d.Stop(t)
	if err := <-r.held; err == nil {
		t.Error("Hold ends without an error")
	}
	d.Start(t)
	for i := range 3 {
		deliver(t, d, fmt.Sprint("missed ", i))
	}
	c = r.open()
	r.mail(event.Inbox, 6, "missed 2", 5)
	c.Close()
	if err := <-r.held; err != nil {
		t.Errorf("closed: %v", err)
	}
	// Nothing has happened since: nothing is told again.
	d.Doveadm(t, "flags", "add", "-u", login, `\Flagged`, "mailbox", "INBOX", "uid", "6")
	before := r.told()
	c = r.open()
	c.Wake()
	deliver(t, d, "seventh")
	r.mail(event.Inbox, 7, "seventh", 6)
	if fmt.Sprint(before) == fmt.Sprint(r.told()) {
		t.Error("nothing changed")
	}
	if strings.Contains(r.log.String(), "level=") {
		t.Errorf("logged: %s", r.log.String())
	}
}

// TestDovecotFolders: NOTIFY tells of other folders; and they are asked for.
func TestDovecotFolders(t *testing.T) {
	t.Parallel()
	for name, extra := range map[string]string{"notify": "", "poll": "imap_capability = IMAP4rev1 IDLE ESEARCH CONDSTORE\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, r := dovecot(t, extra)
			d.Doveadm(t, "mailbox", "create", "-u", login, "Archive")
			save := func(subject string) {
				t.Helper()
				deliver(t, d, subject)
				d.Doveadm(t, "move", "-u", login, "Archive", "mailbox", "INBOX", "subject", subject)
			}
			save("zero")
			r.folders = []string{"Archive", "INBOX", "nosuch"}
			if name == "poll" {
				r.PollEvery = time.Second
			}
			c := r.open()
			if want := map[string]string{"notify": ModeNotify, "poll": ModeIdle}[name]; c.Mode() != want {
				t.Errorf("mode %s, want %s", c.Mode(), want)
			}
			deliver(t, d, "first") // Dovecot has been seen to swallow the first mail after NOTIFY
			r.within(8*time.Second, "the first", func() bool { return r.told()["mail"].Subject == "first" })
			for i := uint32(2); i < 5; i++ {
				subject := fmt.Sprint("subject", i)
				save(subject)
				r.mail("Archive", i, subject, event.Unknown)
			}
			d.Doveadm(t, "flags", "add", "-u", login, `\Seen`, "mailbox", "Archive", "all")
			r.within(8*time.Second, "reading", func() bool { return r.position("Archive").Unseen == 0 })
			start := time.Now()
			deliver(t, d, "inbox")
			r.within(8*time.Second, "the INBOX", func() bool { return r.told()["mail"].Subject == "inbox" })
			t.Logf("%s: told after %v", name, time.Since(start))
		})
	}
}

// TestDovecotHibernates: the server puts the connection aside, and wakes with it.
func TestDovecotHibernates(t *testing.T) {
	t.Parallel()
	d, r := dovecot(t, "imap_hibernate_timeout = 1s\nservice imap {\n  unix_listener imap-master {\n    user = $default_internal_user\n    mode = 0666\n  }\n  service_count = 1\n}\n"+
		"service imap-hibernate {\n  unix_listener imap-hibernate {\n    mode = 0666\n  }\n}\n")
	c := r.open()
	r.within(10*time.Second, "hibernation", func() bool {
		return strings.Contains(d.Doveadm(t, "process", "status", "imap-hibernate"), "imap-hibernate")
	})
	for i := uint32(1); i < 3; i++ {
		deliver(t, d, fmt.Sprint("mail ", i))
		r.mail(event.Inbox, i, fmt.Sprint("mail ", i), int(i))
		<-time.After(1500 * time.Millisecond)
	}
	c.Wake()
	c.Close()
	if err := <-r.held; err != nil {
		t.Errorf("closed: %v", err)
	}
}

// TestDovecotLimit: too many connections is an error that can be told.
func TestDovecotLimit(t *testing.T) {
	t.Parallel()
	_, r := dovecot(t, "protocol imap {\n  mail_max_userip_connections = 1\n}\n")
	r.open()
	if _, err := r.Open(t.Context(), r.user); !errors.Is(err, ErrLimit) {
		t.Errorf("a second connection: %v", err)
	}
}
