package push

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// onEachEngine runs a test on SQLite, and on PostgreSQL where that is installed.
func onEachEngine(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { f(t, sqliteURL(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, testpeer.PostgresURL(t)) })
}

func sqliteURL(tb testing.TB) string { return "sqlite:" + filepath.Join(tb.TempDir(), "posthorn.db") }

// rig is a database with users and devices, and the slots of a service that a test starts and stops.
type rig struct {
	tb   testing.TB
	url  string
	db   *db.DB
	keys *seal.Keyring
	subs *subscription.Store

	tenants  *tenant.Store
	versions map[tenant.UserID]int64
}

func newRig(tb testing.TB, url string, users int) *rig {
	tb.Helper()
	file, err := seal.NewKeyFile()
	must(tb, err)
	r := &rig{tb: tb, url: url, versions: map[tenant.UserID]int64{}}
	r.keys, err = seal.ParseKeyFile(file)
	must(tb, err)
	r.open()
	tenants := r.tenants
	ctx := tb.Context()
	_, err = tenants.AddContext(ctx, tenant.Context{})
	must(tb, err)
	must(tb, tenants.AddMailHost(ctx, tenant.MailHost{Name: "h", IMAPHost: "mail.example.org", IMAPPort: 993, Security: "tls"}, ""))
	for i := range users {
		_, err = tenants.AddUser(ctx, tenant.User{ID: tenant.UserID{Context: 1}, Login: fmt.Sprint("user", i+1), MailHost: "h"})
		must(tb, err)
	}
	return r
}

// open opens the database; a test that closed it opens it again.
func (r *rig) open() {
	r.tb.Helper()
	d, err := db.Open(r.tb.Context(), r.url, db.Options{})
	must(r.tb, err)
	r.tb.Cleanup(func() { _ = d.Close() })
	r.db = d
	r.tenants, err = tenant.New(r.db, r.keys, tenant.NotifyCredential{UserForm: tenant.FormLogin}, time.Now)
	must(r.tb, err)
	r.subs = subscription.New(r.db, r.keys, r.tenants.View, time.Now)
}

func user(id int64) tenant.UserID { return tenant.UserID{Context: 1, ID: id} }

// subscribe gives a user a device: "name" reaches it, by way of origin.
func (r *rig) subscribe(id int64, transport, origin, name string) subscription.Subscription {
	r.tb.Helper()
	sub, err := r.subs.Subscribe(r.tb.Context(), account.Session{User: user(id), Client: "app", Device: "d"}, subscription.Request{
		Client: "app", Topics: []string{subscription.TopicNewMail},
		Token: subscription.Token{Transport: transport, Identity: name, Body: []byte(name), Target: origin},
	})
	must(r.tb, err)
	return sub
}

// mail commits a new state of a user's devices as dispatch does, without waking anybody.
func (r *rig) mail(s *Service, id int64, in Input, older bool) []Due {
	r.tb.Helper()
	u := user(id)
	r.versions[u]++
	if in.Topic == "" {
		in = Input{
			Topic: subscription.TopicNewMail, Folder: "INBOX", UIDValidity: 1, UID: uint32(r.versions[u]), //nolint:gosec // small
			Sender: "Ann", Subject: fmt.Sprint("mail ", r.versions[u]), Unseen: 1, AcceptedMS: db.Millis(time.Now()),
		}
	}
	subs, err := r.subs.For(r.tb.Context(), u, subscription.TopicNewMail)
	must(r.tb, err)
	var due []Due
	must(r.tb, r.db.Write(r.tb.Context(), func(ctx context.Context, tx *db.Tx) error {
		var err error
		due, err = s.Enqueue(ctx, tx, subs, r.versions[u], in, older)
		return err
	}))
	return due
}

func (r *rig) service(change func(*Config), transports ...Transport) *Service {
	r.tb.Helper()
	c := Config{
		DB: r.db, Subscriptions: r.subs, Transports: transports, Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), Now: time.Now, NewMailTTL: 24 * time.Hour, MaxInFlight: 10,
		Node: "node", Lease: time.Hour,
	}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	must(r.tb, err)
	return s
}

// start runs a service; stop ends it and waits.
func (r *rig) start(s *Service) (stop func()) {
	r.tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.tb.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.tb.Errorf("Run: %v", err)
		}
	})
	r.tb.Cleanup(stop)
	return stop
}

func (r *rig) trace(s *Service, sub subscription.Subscription) []Outcome {
	r.tb.Helper()
	all, err := s.Trace(r.tb.Context(), sub.ID)
	must(r.tb, err)
	return all
}

// outcomes is the trace in short, oldest first.
func (r *rig) outcomes(s *Service, sub subscription.Subscription) string {
	r.tb.Helper()
	var words []string
	for _, o := range slices.Backward(r.trace(s, sub)) {
		words = append(words, strings.TrimSuffix(fmt.Sprintf("%d:%s/%s", o.Version, o.Outcome, o.Reason), "/"))
	}
	return strings.Join(words, " ")
}

func (r *rig) pending(s *Service, sub subscription.Subscription) bool {
	r.tb.Helper()
	pending, _, _, err := s.Pending(r.tb.Context(), sub.ID)
	must(r.tb, err)
	return pending
}

func (s *scheduler) dirty() float64    { return float64(s.usage(time.Now()).dirty) }
func (s *scheduler) inFlight() float64 { return float64(s.usage(time.Now()).inFlight) }

// lanesLeft lets the time pass that a lane without slots is kept, and counts what is left.
func lanesLeft(s *Service) int {
	advance(laneIdle + 2*time.Minute)
	s.sched.take(time.Now())
	return len(s.sched.lanes)
}

func (r *rig) subscribed(sub subscription.Subscription) bool {
	r.tb.Helper()
	_, err := r.subs.Load(r.tb.Context(), sub.ID)
	return err == nil
}

// script is a Transport whose answers a test decides. It stands for a provider, not for a wire.
type script struct {
	name string
	// answer is asked about each request; nil delivers. It may wait.
	answer  func(ctx context.Context, n Notification, try int) outcome.Outcome
	expires time.Time // of its credential
	first   int

	mu     sync.Mutex
	sends  []Notification // in the order of their begin
	flying map[string]int // by lane
	most   map[string]int // the most at once, by lane
	double bool           // two at once of one slot
}

func newScript(name string, answer func(ctx context.Context, n Notification, try int) outcome.Outcome) *script {
	return &script{name: name, answer: answer, flying: map[string]int{}, most: map[string]int{}}
}

var accepted = outcome.Outcome{Kind: outcome.Delivered, Status: 200}

func (t *script) Name() string { return t.name }

func (t *script) Lane(sub subscription.Subscription) (string, bool) {
	return t.name + "/" + sub.Token.Target, sub.Token.Target != "unconfigured"
}

func (t *script) Credential(lane string) Credential {
	return Credential{Name: strings.TrimPrefix(lane, t.name+"/"), Expires: t.expires, First: t.first}
}

func (t *script) Watch() []Watched {
	return []Watched{{Credential: Credential{Name: "script", Expires: t.expires}}}
}

func (t *script) ParseToken(json.RawMessage) (subscription.Token, error) {
	return subscription.Token{}, &TokenError{"token", "is scripted"}
}

func (t *script) Send(ctx context.Context, n Notification) outcome.Outcome {
	lane, _ := t.Lane(n.Subscription)
	t.mu.Lock()
	try := t.tries(string(n.Subscription.Token.Body)) + 1
	t.sends = append(t.sends, n)
	t.flying[lane]++
	t.most[lane] = max(t.most[lane], t.flying[lane])
	t.flying[n.Collapse]++
	t.double = t.double || t.flying[n.Collapse] > 1
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.flying[lane]--
		t.flying[n.Collapse]--
		t.mu.Unlock()
	}()
	if t.answer == nil {
		return accepted
	}
	return t.answer(ctx, n, try)
}

// tries counts the sends to a device. Held: mu.
func (t *script) tries(device string) int {
	n := 0
	for _, s := range t.sends {
		if string(s.Subscription.Token.Body) == device {
			n++
		}
	}
	return n
}

// sent lists the versions sent to a device, in order.
func (t *script) sent(device string) []int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []int64
	for _, s := range t.sends {
		if string(s.Subscription.Token.Body) == device {
			all = append(all, s.Version)
		}
	}
	return all
}
