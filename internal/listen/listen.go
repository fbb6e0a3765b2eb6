// Package listen makes the listeners that subscriptions want true at the mail servers.
//
// A listener is desired state: subscription writes what is wanted, in the transaction of the
// subscription itself; this package looks at what is due, registers or unregisters, records what it
// found, looks again after failures with back-off, and at registered ones now and then, because a
// registration dies with a re-created INBOX. It does not receive events.
//
// Concurrency: Run owns every goroutine. One user is worked on by at most one of them at a time.
package listen

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/listen/dovecot"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

const (
	// maxAtOnce bounds the users worked on at the same time, and so the connections to mail servers.
	maxAtOnce = 16
	// workTimeout bounds the work on one user.
	workTimeout = 30 * time.Second
	// auditEvery is when a settled listener is looked at again.
	auditEvery = time.Hour
	// housekeepEvery is when subscriptions whose time is over are removed.
	housekeepEvery = time.Minute
	// firstRetry and maxRetry bound the back-off.
	firstRetry = 5 * time.Second
	maxRetry   = 10 * time.Minute
	// maxUnregisterTries is when a registration that nobody can remove is given up: its notifications
	// are answered "no_subscription" from then on.
	maxUnregisterTries = 50
)

// Config is what a Service is made of. Every field is needed.
type Config struct {
	Subscriptions *subscription.Store
	Tenants       *tenant.Store
	Dovecot       *dovecot.Source
	Log           *slog.Logger
	Metrics       prometheus.Registerer
	Now           func() time.Time
}

// Service reconciles listeners.
type Service struct {
	Config
	changed   chan struct{}
	listeners *prometheus.GaugeVec

	mu      sync.Mutex // guards all below
	work    map[tenant.UserID]*job
	queue   []*job // those of work that have not begun, in the order they shall
	running int
	// restUntil keeps everything back after the store failed: to ask mail servers what cannot be
	// written down would be to ask them again at once.
	restUntil time.Time
}

// job is the work on one user.
type job struct {
	user    tenant.UserID
	done    chan struct{} // closed when finished
	running bool
	// asked: somebody wants to know, whether it is due or not; again: he came while it was running.
	asked, again bool
}

// New returns a Service. Nothing is dialled before Run.
func New(c Config) (*Service, error) {
	s := &Service{Config: c, changed: make(chan struct{}, 1), work: map[tenant.UserID]*job{}}
	s.listeners = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "posthorn_listeners",
		Help: "Users whose new mail is to be reported to us, by the state of that; counted once a minute.",
	}, []string{"state"})
	return s, c.Metrics.Register(s.listeners)
}

// Changed tells that users' wanted listeners may have changed.
func (s *Service) Changed() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Look has a user's listener looked at soon, due or not: after a sign-in, which may have brought the
// password that it waits for.
func (s *Service) Look(u tenant.UserID) {
	s.mu.Lock()
	s.ask(u)
	s.mu.Unlock()
	s.Changed()
}

// Await waits until the user's listener has been looked at since the call, or ctx ends, and returns
// what is known then. A user without a listener has none that is wanted.
func (s *Service) Await(ctx context.Context, u tenant.UserID) (subscription.Listener, bool, error) {
	s.mu.Lock()
	j := s.ask(u)
	s.mu.Unlock()
	s.Changed()
	select {
	case <-j.done:
	case <-ctx.Done():
	}
	// The caller's time may be over; what is known costs none.
	return s.Subscriptions.Listener(context.WithoutCancel(ctx), u)
}

// ask returns a job that looks at the user from now on. The caller holds mu.
func (s *Service) ask(u tenant.UserID) *job {
	j := s.work[u]
	if j == nil {
		j = s.enqueue(u)
	}
	if j.running {
		j.again = true
	} else {
		j.asked = true
	}
	return j
}

// enqueue makes a job of a user who has none. The caller holds mu.
func (s *Service) enqueue(u tenant.UserID) *job {
	j := &job{user: u, done: make(chan struct{})}
	s.work[u] = j
	s.queue = append(s.queue, j)
	return j
}

// Run reconciles until ctx ends, then waits for what is under way. It is called once.
func (s *Service) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	housekeep := time.NewTimer(0)
	defer housekeep.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-housekeep.C:
			housekeep.Reset(housekeepEvery)
			if err := s.Subscriptions.RemoveExpired(ctx); err != nil && ctx.Err() == nil {
				s.Log.ErrorContext(ctx, "cannot remove expired subscriptions", slog.Any("err", err))
			}
			s.count(ctx)
		case <-s.changed:
		case <-timer.C:
		}
		begin, next := s.take(ctx)
		for _, j := range begin {
			workers.Go(func() { s.run(ctx, j) })
		}
		timer.Reset(next)
	}
}

// count sets the gauge. Without a count it keeps the last one: the look at the listeners says what is wrong.
func (s *Service) count(ctx context.Context) {
	count, err := s.Subscriptions.CountListeners(ctx)
	if err != nil {
		return
	}
	for _, state := range []string{subscription.Registered, subscription.Pending, subscription.Foreign, subscription.Unsupported} {
		s.listeners.WithLabelValues(state).Set(float64(count[state]))
	}
}

// take returns the jobs to begin now and how long to wait for more, if nothing changes before.
func (s *Service) take(ctx context.Context) (begin []*job, next time.Duration) {
	// Those that are running are still due: as many more are enough to fill up.
	due, later, err := s.Subscriptions.DueListeners(ctx, 2*maxAtOnce)
	if err != nil {
		if ctx.Err() == nil {
			s.Log.ErrorContext(ctx, "cannot read listeners", slog.Any("err", err))
		}
		return nil, firstRetry
	}
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if rest := s.restUntil.Sub(now); rest > 0 {
		return nil, rest
	}
	for _, l := range due {
		// Only into free places: somebody waits for those that were asked for.
		if s.work[l.User] == nil && s.running+len(s.queue) < maxAtOnce {
			s.enqueue(l.User)
		}
	}
	for len(s.queue) > 0 && s.running < maxAtOnce {
		j := s.queue[0]
		s.queue[0], s.queue = nil, s.queue[1:]
		j.running = true
		s.running++
		begin = append(begin, j)
	}
	next = time.Minute // a job that ends makes room and wakes us
	if !later.IsZero() {
		next = min(next, later.Sub(now))
	}
	return begin, next
}

// run works on one user until nothing has changed meanwhile.
func (s *Service) run(ctx context.Context, j *job) {
	defer s.Changed()
	for asked := j.asked; ; asked = true {
		err := s.reconcile(ctx, j.user, asked)
		if err != nil && ctx.Err() == nil {
			s.Log.ErrorContext(ctx, "cannot reconcile listener", slog.String("account", j.user.String()), slog.Any("err", err))
		}
		s.mu.Lock()
		if j.again && err == nil && ctx.Err() == nil {
			j.again = false
			s.mu.Unlock()
			continue
		}
		if err != nil {
			s.restUntil = s.Now().Add(firstRetry)
		}
		s.running--
		delete(s.work, j.user)
		close(j.done)
		s.mu.Unlock()
		return
	}
}

// reconcile looks at one user's listener and records what it found. Errors are those of the store.
func (s *Service) reconcile(ctx context.Context, u tenant.UserID, asked bool) error {
	l, ok, err := s.Subscriptions.Listener(ctx, u)
	if err != nil || !ok {
		return err
	}
	if !asked && l.NotBefore.After(s.Now()) {
		return nil // another job ended after the list of those that are due was read
	}
	user, err := s.Tenants.User(ctx, u)
	if errors.Is(err, tenant.ErrNotFound) {
		return nil // removed this moment, and his listener with him
	} else if err != nil {
		return err
	}
	log := s.Log.With(slog.String("account", u.String()))
	if l.Wanted {
		return s.register(ctx, log, l, user)
	}
	return s.unregister(ctx, log, l, user)
}

func (s *Service) register(ctx context.Context, log *slog.Logger, l subscription.Listener, user tenant.User) error {
	working, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	st := s.Dovecot.Register(working, user)
	if ctx.Err() != nil {
		return nil // we are stopping: that is no news of the mail server
	}
	if st.State != l.State || st.Reason != l.Reason {
		log.InfoContext(ctx, "listener changed", slog.String("from", l.State), slog.String("to", st.State),
			slog.String("reason", st.Reason), slog.Any("err", st.Err))
	}
	l.State, l.Reason = st.State, st.Reason
	if st.State == subscription.Pending {
		l.Attempt++
		l.NotBefore = s.Now().Add(retryIn(st.Err, l.Attempt))
	} else {
		l.Attempt = 0
		l.NotBefore = s.Now().Add(audit())
	}
	return s.Subscriptions.SetListener(ctx, l)
}

func (s *Service) unregister(ctx context.Context, log *slog.Logger, l subscription.Listener, user tenant.User) error {
	working, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	err := s.Dovecot.Unregister(working, user)
	if ctx.Err() != nil {
		return nil
	}
	switch {
	case err == nil:
		log.InfoContext(ctx, "listener removed")
	case l.Attempt >= maxUnregisterTries:
		log.WarnContext(ctx, "registration left at the mail server: it could not be removed", slog.Any("err", err))
	default:
		l.Attempt++
		l.NotBefore = s.Now().Add(retryIn(err, l.Attempt))
		return s.Subscriptions.SetListener(ctx, l)
	}
	if err := s.Subscriptions.RemoveListener(ctx, user.ID); err != nil {
		return err
	}
	return s.Dovecot.Accounts.ForgetCredential(ctx, user.ID)
}

// audit is when to look at a settled listener again: with jitter, so that those of one start part.
func audit() time.Duration {
	return auditEvery/2 + rand.N(auditEvery) //nolint:gosec // jitter, not a secret
}

// retryIn is when to try again after an error: from half to the whole of a bound that doubles. What
// only a sign-in can mend waits for one (Look) and is not worth a failed login each few minutes:
// mail servers lock accounts and addresses for those.
func retryIn(err error, attempt int) time.Duration {
	if errors.Is(err, account.ErrBadLogin) || errors.Is(err, account.ErrNoCredential) {
		return audit()
	}
	bound := min(maxRetry, firstRetry<<min(attempt-1, 10))
	return bound/2 + rand.N(bound/2) //nolint:gosec // jitter, not a secret
}
