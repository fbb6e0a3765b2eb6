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
	Now           func() time.Time
}

// Service reconciles listeners.
type Service struct {
	Config
	changed chan struct{}

	mu   sync.Mutex // guards work
	work map[tenant.UserID]*job
}

// job is the work on one user.
type job struct {
	done chan struct{} // closed when finished
	// again: something changed while it was running.
	again bool
}

// New returns a Service. Nothing is dialled before Run.
func New(c Config) *Service {
	return &Service{Config: c, changed: make(chan struct{}, 1), work: map[tenant.UserID]*job{}}
}

// Changed tells that a user's wanted listener may have changed.
func (s *Service) Changed() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Await waits until the user's listener has been looked at since the call, or ctx ends, and returns
// what is known then. A user without a listener has none that is wanted.
func (s *Service) Await(ctx context.Context, u tenant.UserID) (subscription.Listener, bool, error) {
	s.mu.Lock()
	j, running := s.work[u]
	if running {
		j.again = true
	} else {
		j = &job{done: make(chan struct{})}
		s.work[u] = j
	}
	s.mu.Unlock()
	if !running {
		s.Changed()
	}
	select {
	case <-j.done:
	case <-ctx.Done():
	}
	// The caller's time may be over; what is known costs none.
	return s.Subscriptions.Listener(context.WithoutCancel(ctx), u)
}

// Run reconciles until ctx ends, then waits for what is under way.
func (s *Service) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	free := make(chan struct{}, maxAtOnce)
	started := map[tenant.UserID]bool{} // only this goroutine; entries end with their job
	finished := make(chan tenant.UserID, maxAtOnce)
	s.removeExpired(ctx)
	housekeep := time.NewTicker(housekeepEvery)
	defer housekeep.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-housekeep.C:
			s.removeExpired(ctx)
		case u := <-finished:
			delete(started, u)
		case <-s.changed:
		case <-timer.C:
		}
		next := s.start(ctx, started, func(u tenant.UserID, j *job) bool {
			select {
			case free <- struct{}{}:
			default:
				return false
			}
			workers.Go(func() {
				s.run(ctx, u, j)
				<-free
				select {
				case finished <- u:
				case <-ctx.Done():
				}
			})
			return true
		})
		timer.Reset(next)
	}
}

func (s *Service) removeExpired(ctx context.Context) {
	if err := s.Subscriptions.RemoveExpired(ctx); err != nil && ctx.Err() == nil {
		s.Log.ErrorContext(ctx, "cannot remove expired subscriptions", slog.Any("err", err))
	}
}

// start begins the jobs that Await asked for and those that are due, and returns when to look again.
func (s *Service) start(ctx context.Context, started map[tenant.UserID]bool, begin func(tenant.UserID, *job) bool) time.Duration {
	due, err := s.Subscriptions.DueListeners(ctx, 4*maxAtOnce)
	if err != nil {
		if ctx.Err() == nil {
			s.Log.ErrorContext(ctx, "cannot read listeners", slog.Any("err", err))
		}
		return firstRetry
	}
	s.mu.Lock()
	for _, l := range due {
		if s.work[l.User] == nil {
			s.work[l.User] = &job{done: make(chan struct{})}
		}
	}
	asked := make(map[tenant.UserID]*job, len(s.work))
	for u, j := range s.work {
		asked[u] = j
	}
	s.mu.Unlock()
	for u, j := range asked {
		if started[u] {
			continue
		}
		if !begin(u, j) {
			return time.Minute // all busy: the next that finishes wakes us
		}
		started[u] = true
	}
	next, err := s.Subscriptions.NextDue(ctx)
	if err != nil || next.IsZero() {
		return time.Minute
	}
	// A job under way keeps its listener due until it ends; its end wakes us, so do not spin till then.
	return min(time.Minute, max(100*time.Millisecond, next.Sub(s.Now())))
}

// run works on one user until nothing has changed meanwhile.
func (s *Service) run(ctx context.Context, u tenant.UserID, j *job) {
	for {
		s.reconcile(ctx, u)
		s.mu.Lock()
		if !j.again || ctx.Err() != nil {
			delete(s.work, u)
			close(j.done)
			s.mu.Unlock()
			return
		}
		j.again = false
		s.mu.Unlock()
	}
}

func (s *Service) reconcile(ctx context.Context, u tenant.UserID) {
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	log := s.Log.With(slog.String("account", u.String()))
	l, ok, err := s.Subscriptions.Listener(ctx, u)
	if err == nil && !ok {
		return
	}
	var user tenant.User
	if err == nil {
		user, err = s.Tenants.User(ctx, u)
	}
	if err == nil && l.Wanted {
		err = s.register(ctx, log, l, user)
	} else if err == nil {
		err = s.unregister(ctx, log, l, user)
	}
	if err != nil && !errors.Is(err, tenant.ErrNotFound) && ctx.Err() == nil {
		log.ErrorContext(ctx, "cannot reconcile listener", slog.Any("err", err))
	}
}

func (s *Service) register(ctx context.Context, log *slog.Logger, l subscription.Listener, user tenant.User) error {
	st := s.Dovecot.Register(ctx, user)
	if st.State != l.State {
		log.InfoContext(ctx, "listener changed", slog.String("from", l.State), slog.String("to", st.State), slog.Any("err", st.Err))
	}
	l.State, l.Reason = st.State, st.Reason
	if st.State == subscription.Pending {
		l.Attempt++
		l.NotBefore = s.Now().Add(retryIn(l.Attempt))
	} else {
		l.Attempt = 0
		l.NotBefore = s.Now().Add(auditEvery/2 + rand.N(auditEvery)) //nolint:gosec // jitter, not a secret
	}
	// The mail server has been asked; the row must say so even when the time for asking is over.
	return s.Subscriptions.SetListener(context.WithoutCancel(ctx), l)
}

func (s *Service) unregister(ctx context.Context, log *slog.Logger, l subscription.Listener, user tenant.User) error {
	err := s.Dovecot.Unregister(ctx, user)
	switch {
	case err == nil:
		log.InfoContext(ctx, "listener removed")
		return s.Subscriptions.RemoveListener(context.WithoutCancel(ctx), user.ID)
	case l.Attempt >= maxUnregisterTries:
		log.WarnContext(ctx, "registration left at the mail server: it could not be removed", slog.Any("err", err))
		return s.Subscriptions.RemoveListener(context.WithoutCancel(ctx), user.ID)
	}
	l.Attempt++
	l.NotBefore = s.Now().Add(retryIn(l.Attempt))
	return s.Subscriptions.SetListener(context.WithoutCancel(ctx), l)
}

// retryIn is a back-off with jitter: from half to the whole of a bound that doubles.
func retryIn(attempt int) time.Duration {
	bound := min(maxRetry, firstRetry<<min(attempt-1, 10))
	return bound/2 + rand.N(bound/2) //nolint:gosec // jitter, not a secret
}
