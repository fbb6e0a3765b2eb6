// Package listen makes the listeners that subscriptions and sessions want true at the mail servers.
//
// A listener is desired state. subscription writes what is wanted, in the transaction of the subscription
// itself; cluster says which node owns whose; this package compares that with what it holds, and works on
// the difference: registers users at their Dovecot, holds connections on which others report, looks at what
// came while nobody listened, and at all of it again after failures with back-off, and on a slow timer.
// Logins are paced, for the node and for each mail host, and who was active lately comes first. What it
// finds out is recorded within a second or so: it is an observation, which a crash may lose.
//
// It does not judge events (dispatch), and does not speak to mail servers itself (listen/dovecot, listen/idle).
//
// Concurrency: Run owns every goroutine. One user is worked on by at most one of them at a time.
package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/cluster"
	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/listen/dovecot"
	"github.com/posthorn-mail/posthorn/internal/listen/idle"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

const (
	// workerIdle is how long a worker waits for more.
	workerIdle = 200 * time.Millisecond
	// workTimeout bounds the work on one user.
	workTimeout = 30 * time.Second
	// housekeepEvery is when subscriptions whose time is over are removed, and listeners counted.
	housekeepEvery = time.Minute
	// scanEvery is when all rows are compared with the table: what the bus lost heals by it.
	scanEvery = 5 * time.Minute
	// writeEvery is how often what was found out is recorded; a failure that may pass waits for patience.
	writeEvery = time.Second
	patience   = 10 * time.Second
	// writeAtOnce bounds the listeners recorded in one transaction.
	writeAtOnce = 500
	// firstRetry and maxRetry bound the back-off.
	firstRetry = 5 * time.Second
	maxRetry   = 10 * time.Minute
	// maxUnregisterTries is when a registration that nobody can remove is given up: its notifications
	// are answered "no_subscription" from then on.
	maxUnregisterTries = 50
	// takeOver is how long a node holds on to a connection whose user another node owns now, when that one
	// does not say that it has one of its own; stopTimeout is the same for a node that stops.
	takeOver    = 15 * time.Second
	stopTimeout = 3 * time.Second
)

// Config is what a Service is made of. Every field is needed.
type Config struct {
	Subscriptions *subscription.Store
	Tenants       *tenant.Store
	Accounts      *account.Service
	Dispatcher    *dispatch.Dispatcher
	Cluster       *cluster.Cluster
	Bus           *bus.Bus
	Dovecot       *dovecot.Source
	Idle          *idle.Source
	Log           *slog.Logger
	Metrics       prometheus.Registerer
	Now           func() time.Time

	// AtOnce bounds the users worked on at the same time, LoginsPerSecond and HostLoginsPerSecond how many are
	// begun in a second, by this node and at one mail host.
	AtOnce, LoginsPerSecond, HostLoginsPerSecond int
	// Audit is when a settled listener is looked at again, give or take half of it.
	Audit time.Duration
	// Rejections is after how many rejected logins in a row, at least RejectionWait apart, a user is asked to
	// sign in again.
	Rejections    int
	RejectionWait time.Duration
}

// Service reconciles listeners.
type Service struct {
	Config
	wake      chan struct{} // there is something to begin
	jobs      chan func()   // for a worker that has nothing to do
	rescan    chan struct{} // all rows are to be compared
	rehost    chan struct{} // mail hosts may have changed
	gauge     *prometheus.GaugeVec
	holders   sync.WaitGroup // of connections
	answering chan struct{}  // a place for each answer to another node

	mu sync.Mutex // guards all below
	table
	// look are users whose rows are to be read again, because something about them has changed.
	look    map[tenant.UserID]bool // asked
	scans   uint64
	dirty   map[tenant.UserID]*entry // with something that is not recorded
	stopped bool                     // nothing new is begun
	closed  bool                     // all connections are closed
	// settings are those of the mail hosts that the listeners were made with.
	settings map[string]tenant.MailHost
	missed   bool // reports of mail servers were lost: everybody is to be looked at
	// restUntil keeps everything back after the store failed: to ask mail servers what cannot be
	// written down would be to ask them again at once.
	restUntil time.Time
}

// New returns a Service. Nothing is dialled before Run.
func New(c Config) (*Service, error) {
	s := &Service{
		Config: c, wake: make(chan struct{}, 1), jobs: make(chan func()), rescan: make(chan struct{}, 1), rehost: make(chan struct{}, 1), answering: make(chan struct{}, 256),
		table: newTable(c.AtOnce, c.LoginsPerSecond, c.HostLoginsPerSecond), look: map[tenant.UserID]bool{},
		dirty: map[tenant.UserID]*entry{}, settings: map[string]tenant.MailHost{},
	}
	s.gauge = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "posthorn_listeners",
		Help: "Users whose new mail is to be reported to us, by the state of that; counted once a minute.",
	}, []string{"state"})
	c.Idle.Folders = s.Folders
	c.Subscriptions.Watch(s.Changed)
	c.Tenants.Watch(func(u tenant.UserID) {
		if u == (tenant.UserID{}) {
			signal(s.rehost)
		}
	})
	return s, c.Metrics.Register(s.gauge)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Changed tells that users' wanted listeners may have changed; none is all of them.
func (s *Service) Changed(users []tenant.UserID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range users {
		asked := s.look[u]
		s.look[u] = asked
		if e := s.entries[u]; e != nil {
			s.foldersChanged(e)
			if e.conn != nil {
				e.conn.Wake()
			}
		}
	}
	if users != nil {
		signal(s.wake)
		return
	}
	for _, e := range s.entries {
		s.foldersChanged(e)
	}
	signal(s.rescan)
}

// foldersChanged forgets whether the subscriptions of a user name folders. The caller holds mu.
func (s *Service) foldersChanged(e *entry) {
	e.plain = false
	e.changes++
}

// Folders are those beside the INBOX that a user wants to hear of. Most want none, which is remembered: it is
// asked with each connection.
func (s *Service) Folders(ctx context.Context, u tenant.UserID) ([]string, error) {
	s.mu.Lock()
	e := s.entries[u]
	if e != nil && e.plain {
		s.mu.Unlock()
		return nil, nil
	}
	changes := uint32(0)
	if e != nil {
		changes = e.changes
	}
	s.mu.Unlock()
	folders, err := s.Subscriptions.Folders(ctx, u)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && e != nil && e.changes == changes {
		e.plain = len(folders) == 0
	}
	return folders, err
}

// Missed tells that a mail server's report was lost here. When the store works again, everybody who is reported
// on is looked at.
func (s *Service) Missed() {
	s.mu.Lock()
	first := !s.missed
	s.missed = true
	s.mu.Unlock()
	if first {
		signal(s.rescan)
	}
}

// Run reconciles until ctx ends. Then it hands its connections over to the other nodes, as far as they take
// them in time, and waits for what is under way. It is called once.
func (s *Service) Run(ctx context.Context) error {
	leave, err := s.join(ctx)
	if err != nil && ctx.Err() != nil {
		return nil // told to stop before it began
	} else if err != nil {
		return err
	}
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	all, working := errgroup.WithContext(working)
	all.Go(func() error { return s.begin(ctx, working) })
	all.Go(func() error { s.scanLoop(ctx); return nil })
	all.Go(func() error { s.housekeep(ctx); return nil })
	all.Go(func() error { s.writeLoop(working); return nil })
	all.Go(func() error { // last: it ends the others
		<-ctx.Done()
		s.handOver() //nolint:contextcheck // at the end of every context
		stop()
		return nil
	})
	err = all.Wait()
	leave() // before the wait: what others ask is answered by goroutines too
	s.holders.Wait()
	s.write(context.WithoutCancel(ctx), func(*entry) bool { return true })
	return err
}

// begin works on what is due.
func (s *Service) begin(ctx, working context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		s.readLooks(ctx)
		for {
			s.mu.Lock()
			now := s.Now()
			var e *entry
			wait := s.restUntil.Sub(now)
			if wait <= 0 {
				e, wait = s.table.begin(now)
			}
			if e == nil {
				s.mu.Unlock()
				timer.Reset(max(wait, time.Millisecond))
				break
			}
			if node, permanent := s.owner(e.Listener, now); node == s.Cluster.Self() {
				e.permanent, e.leaving = permanent, time.Time{}
			} else {
				s.end(e, e.MailHost)
				s.letGo(e, now)
				s.mu.Unlock()
				continue
			}
			j := job{
				Listener: e.Listener, desired: e.desired(now), held: e.conn != nil,
				counts: e.Rejected == 0 || !now.Before(e.NotBefore),
			}
			s.mu.Unlock()
			work := func() { s.run(working, e, j) }
			select {
			case s.jobs <- work:
			default:
				workers.Go(func() { s.worker(ctx, work) })
			}
		}
	}
}

// worker works, and goes on as long as there is something to do every moment: a handshake needs a stack that takes
// longer to grow than some of its arithmetic.
func (s *Service) worker(ctx context.Context, work func()) {
	idle := time.NewTimer(workerIdle)
	defer idle.Stop()
	for {
		work()
		idle.Reset(workerIdle)
		select {
		case work = <-s.jobs:
		case <-idle.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// readLooks reads the rows of users about whom something has changed.
func (s *Service) readLooks(ctx context.Context) {
	s.mu.Lock()
	looks := s.look
	if len(looks) == 0 { // the map stays, for others to write
		s.mu.Unlock()
		return
	}
	s.look = map[tenant.UserID]bool{}
	s.mu.Unlock()
	for u, asked := range looks {
		l, ok, err := s.Subscriptions.Listener(ctx, u)
		s.mu.Lock()
		switch {
		case err != nil:
			s.look[u] = s.look[u] || asked
			s.rest(ctx, err)
		case !ok:
			if e := s.entries[u]; e != nil {
				s.forget(e)
			}
		default:
			if e := s.adopt(l, s.Now()); e != nil && asked {
				s.schedule(e, s.Now(), true)
			}
		}
		s.mu.Unlock()
	}
}

// rest notes that the store failed. The caller holds mu.
func (s *Service) rest(ctx context.Context, err error) {
	if ctx.Err() == nil {
		s.Log.ErrorContext(ctx, "cannot read or write listeners", slog.Any("err", err))
		s.restUntil = s.Now().Add(firstRetry)
	}
}

// adopt takes a row into the table, or out of it when its listener is another node's. It returns the entry that
// is ours. The caller holds mu.
func (s *Service) adopt(l subscription.Listener, now time.Time) *entry {
	node, permanent := s.owner(l, now)
	e := s.entries[l.User]
	if node != s.Cluster.Self() {
		if e != nil {
			s.release(e, now)
		}
		return nil
	}
	if e == nil {
		e = &entry{Listener: l, index: -1, well: wellState(l)}
		e.permanent = permanent
		s.entries[l.User] = e
		s.schedule(e, now, false)
		return e
	}
	moved := e.MailHost != l.MailHost
	changed := e.desired(now) != (l.Wanted || l.InSession(now)) || moved
	if moved {
		s.unschedule(e) // from the queue of the old one
	}
	ends := !e.at.IsZero() && e.at.Equal(e.SessionUntil) // it waits for the end of the session
	e.MailHost, e.Wanted, e.SessionUntil, e.Active = l.MailHost, l.Wanted, l.SessionUntil, l.Active
	e.permanent, e.leaving = permanent, time.Time{}
	switch {
	case changed:
		s.schedule(e, now, true)
	case !e.Wanted && (ends || e.at.After(e.SessionUntil)):
		s.schedule(e, e.SessionUntil, false)
	}
	return e
}

// release lets go of a listener that another node owns now. A registration stays at the mail server, a
// connection until the other one has its own. The caller holds mu.
func (s *Service) release(e *entry, now time.Time) {
	if e.conn == nil {
		s.drop(e)
		return
	}
	if e.leaving.IsZero() {
		e.leaving = now.Add(takeOver)
		s.unschedule(e)
		s.schedule(e, e.leaving, false)
	}
}

// letGo ends a listener that is not ours when its time comes.
func (s *Service) letGo(e *entry, now time.Time) {
	if e.conn != nil && e.leaving.After(now) || e.conn != nil && e.leaving.IsZero() {
		s.release(e, now)
		return
	}
	s.forget(e)
}

// forget drops an entry and its connection. The caller holds mu.
func (s *Service) forget(e *entry) {
	s.drop(e)
	if e.conn != nil {
		e.conn.Close()
		e.conn = nil
	}
}

// scanLoop compares all rows with the table: at start, when nodes come and go, when the bus may have lost a
// word, and now and then.
func (s *Service) scanLoop(ctx context.Context) {
	if err := s.Subscriptions.Recheck(ctx, tenant.UserID{}); err != nil && ctx.Err() == nil {
		s.Log.ErrorContext(ctx, "cannot read or write listeners", slog.Any("err", err))
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	hosts := false // are to be compared too
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.rescan:
		case <-s.Cluster.Watch():
		case <-s.rehost:
			hosts = true
		}
		next := scanEvery
		err := s.scan(ctx)
		if err == nil && hosts {
			err = s.compareHosts(ctx)
			hosts = err != nil
		}
		if err != nil {
			s.mu.Lock()
			s.rest(ctx, err)
			s.mu.Unlock()
			next = firstRetry
		}
		timer.Reset(next)
	}
}

// compareHosts makes the listeners anew at mail hosts whose settings are others than they were.
func (s *Service) compareHosts(ctx context.Context) error {
	s.mu.Lock()
	names := slices.Clone(s.turn)
	s.mu.Unlock()
	for _, name := range names {
		h, err := s.Tenants.MailHost(ctx, name)
		if errors.Is(err, tenant.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("compare mail hosts: %w", err)
		}
		s.mu.Lock()
		if old, ok := s.settings[name]; ok && !reflect.DeepEqual(old, h) {
			s.host(name).known = false
			for _, e := range s.entries {
				if e.MailHost != name || !e.leaving.IsZero() {
					continue
				}
				if e.conn != nil {
					e.conn.Close()
					e.conn = nil
				}
				s.schedule(e, s.Now(), true)
			}
		}
		s.settings[name] = h
		s.mu.Unlock()
	}
	signal(s.wake)
	return nil
}

func (s *Service) scan(ctx context.Context) error {
	s.mu.Lock()
	s.scans++
	this, missed := s.scans, s.missed
	s.missed = false
	s.mu.Unlock()
	began := s.Now()
	err := s.Subscriptions.Listeners(ctx, func(l subscription.Listener) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.adopt(l, s.Now()) != nil {
			s.entries[l.User].scan = this
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.missed = s.missed || missed
		return fmt.Errorf("scan: %w", err)
	}
	for _, e := range s.entries {
		if missed && e.State == subscription.Registered {
			s.schedule(e, s.Now(), false)
		}
		// One whose row came while we read the others is not gone.
		if e.scan != this && e.leaving.IsZero() && e.Active.Before(began) && !e.running {
			s.forget(e)
		}
	}
	signal(s.wake)
	return nil
}

// housekeep removes what is over, and counts.
func (s *Service) housekeep(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(housekeepEvery)
		if err := s.Subscriptions.RemoveExpired(ctx); err != nil && ctx.Err() == nil {
			s.Log.ErrorContext(ctx, "cannot remove expired subscriptions", slog.Any("err", err))
		}
		s.count(ctx)
	}
}

// states are those that a listener can be in.
var states = []string{
	subscription.Registered, subscription.Listening, subscription.Pending, subscription.WaitingForSignIn,
	subscription.Foreign, subscription.Unsupported,
}

// count sets the gauge. Without a count it keeps the last one: the scan says what is wrong.
func (s *Service) count(ctx context.Context) {
	count, err := s.Subscriptions.CountListeners(ctx)
	if err != nil {
		return
	}
	for _, state := range states {
		s.gauge.WithLabelValues(state).Set(float64(count[state]))
	}
}

// writeLoop records what was found out.
func (s *Service) writeLoop(ctx context.Context) {
	ticker := time.NewTicker(writeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.write(ctx, s.worthWriting)
		}
	}
}

// worthWriting leaves out a failure that may pass in a moment. The caller holds mu.
func (s *Service) worthWriting(e *entry) bool {
	return e.State != subscription.Pending || e.Attempt != 1 || s.Now().Sub(e.unwritten) >= patience
}

// write records what was found out of those entries.
func (s *Service) write(ctx context.Context, which func(*entry) bool) {
	for {
		var batch []subscription.Listener
		s.mu.Lock()
		for u, e := range s.dirty {
			if !which(e) {
				continue
			}
			delete(s.dirty, u)
			e.unwritten = time.Time{}
			now := wellState(e.Listener)
			same := now != "" && now == e.well // it broke and came back meanwhile
			if e.well = now; same {
				continue
			}
			if batch = append(batch, e.Listener); len(batch) == writeAtOnce {
				break
			}
		}
		s.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		if err := s.Subscriptions.SetListeners(ctx, batch); err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.rest(ctx, err)
			for _, l := range batch {
				if e := s.entries[l.User]; e != nil {
					e.well = ""
					s.unwritten(e, s.Now())
				}
			}
			return
		}
	}
}
