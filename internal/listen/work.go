package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/listen/dovecot"
	"github.com/posthorn-mail/posthorn/internal/listen/idle"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// job is an entry as it is when the work on it begins.
type job struct {
	subscription.Listener
	desired bool
	held    bool // it has a connection
	// counts: a rejected login would be one more in a row, and not one that somebody asked for before its time.
	counts bool
}

// found is what the work on an entry found out, or did.
type found struct {
	state, reason string
	// err is the fault behind it, for the log and the back-off.
	err    error
	source string
	conn   *idle.Conn
	// gone: there is nothing left of the listener.
	gone bool
}

// run works on one entry until nothing has changed meanwhile.
func (s *Service) run(ctx context.Context, e *entry, j job) {
	defer signal(s.wake)
	working, cancel := context.WithTimeout(ctx, workTimeout)
	f, err := s.work(working, j)
	cancel()
	s.mu.Lock()
	s.finish(ctx, e, j, f, err)
	_, unwritten := s.dirty[j.User]
	waited := e.waiting
	e.waiting, e.later = e.later, nil
	s.mu.Unlock()
	if len(waited) > 0 && unwritten { // who was waited for is recorded at once
		s.write(context.WithoutCancel(ctx), func(one *entry) bool { return one == e })
	}
	for _, done := range waited {
		close(done)
	}
}

// finish takes the outcome of work. The caller holds mu.
func (s *Service) finish(ctx context.Context, e *entry, j job, f found, err error) {
	s.end(e, j.MailHost)
	now := s.Now()
	switch {
	case err != nil: // of the store: tried again as it was
		s.rest(ctx, fmt.Errorf("look at the listener of %s: %w", j.User, err))
		s.schedule(e, now.Add(firstRetry), false)
	case ctx.Err() != nil || s.closed: // we are stopping: that is no news of the mail server
		if f.conn != nil {
			f.conn.Close()
		}
	case e.dropped:
		if f.conn != nil {
			f.conn.Close()
		}
	case f.gone:
		if e.desired(now) { // he changed his mind
			s.schedule(e, now, false)
		} else {
			s.forget(e)
		}
	default:
		s.learn(ctx, e, j, f, now)
	}
}

// learn records what was found out, and when to look again. The caller holds mu.
func (s *Service) learn(ctx context.Context, e *entry, j job, f found, now time.Time) {
	if f.state != e.State || f.reason != e.Reason {
		s.Log.LogAttrs(ctx, levelOf(e.State, f), "listener changed", slog.String("account", j.User.String()), slog.String("from", e.State),
			slog.String("to", f.state), slog.String("reason", f.reason), slog.Any("err", f.err))
		if f.state != e.State {
			e.Since = now
		}
		e.State, e.Reason = f.state, f.reason
		s.unwritten(e, now)
	}
	s.judge(ctx, j.MailHost, f.err, now)
	e.source = f.source
	if f.conn != nil {
		e.conn = f.conn
		s.holders.Add(1)
		go s.hold(e, f.conn)
		s.took(j.User)
	}
	e.fault = ""
	at := now.Add(around(s.Audit))
	switch {
	case f.err == nil:
		if e.Attempt != 0 || e.Rejected != 0 {
			e.Attempt, e.Rejected = 0, 0
			s.unwritten(e, now)
		}
		if f.conn != nil {
			at = time.Time{} // it tells us itself
		}
	case errors.Is(f.err, account.ErrBadLogin):
		at = s.rejected(e, j, now)
	case isSignIn(f.err):
	default:
		e.Attempt++
		at = now.Add(jitter(min(maxRetry, firstRetry<<min(e.Attempt-1, 10))))
		s.unwritten(e, now)
	}
	if f.err != nil {
		e.fault = f.err.Error()
	}
	if !e.permanent && e.desired(now) && (at.IsZero() || at.After(e.SessionUntil)) {
		at = e.SessionUntil
	}
	e.NotBefore = at
	if e.again {
		e.again, at = false, now
	}
	if !at.IsZero() {
		s.schedule(e, at, false)
	}
}

// judge notes whether a mail host could be asked. When it is up again after it was down, those that failed
// meanwhile need not wait for their turns. The caller holds mu.
func (s *Service) judge(ctx context.Context, name string, err error, now time.Time) {
	h := s.host(name)
	switch {
	case errors.Is(err, account.ErrMailServer) || errors.Is(err, dovecot.ErrUnreachable):
		if h.failed(now) {
			s.Log.WarnContext(ctx, "mail host does not answer", slog.String("mail_host", name), slog.Any("err", err))
		}
	case err != nil && !isSignIn(err): // it says nothing of the others
	case h.answered():
		s.Log.InfoContext(ctx, "mail host answers again", slog.String("mail_host", name))
		for _, e := range s.entries {
			if e.MailHost == name && e.Attempt > 0 && e.leaving.IsZero() {
				s.schedule(e, now, false)
			}
		}
	}
}

// levelOf is how loudly a change is told: connections come and go by the thousand.
func levelOf(from string, f found) slog.Level {
	if f.state == subscription.Listening || from == subscription.Listening || errors.Is(f.err, account.ErrMailServer) {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// isSignIn reports whether only the user can mend it, by signing in.
func isSignIn(err error) bool {
	return errors.Is(err, account.ErrBadLogin) || errors.Is(err, account.ErrNoCredential)
}

// rejected counts a rejected login, and says when to try again: mail servers lock accounts and addresses for
// failed logins. The caller holds mu.
func (s *Service) rejected(e *entry, j job, now time.Time) time.Time {
	if !j.counts {
		return e.NotBefore
	}
	e.Rejected++
	s.unwritten(e, now)
	if e.Rejected < s.Rejections {
		return now.Add(s.RejectionWait)
	}
	return now.Add(around(s.Audit))
}

// unwritten notes that there is something to record. The caller holds mu.
func (s *Service) unwritten(e *entry, now time.Time) {
	if e.unwritten.IsZero() {
		e.unwritten = now
		s.dirty[e.User] = e
	}
}

// work does what has to be done for one user. The error is the store's.
func (s *Service) work(ctx context.Context, j job) (found, error) {
	u := tenant.User{ID: j.User, Login: j.Login, MailHost: j.MailHost}
	h, err := s.Tenants.MailHost(ctx, u.MailHost)
	if errors.Is(err, tenant.ErrNotFound) {
		return found{gone: true}, nil // removed this moment, and his users before it
	} else if err != nil {
		return found{}, err
	}
	if !j.desired {
		return s.remove(ctx, j, u, s.sourceOf(h))
	}
	s.mu.Lock()
	if _, ok := s.settings[h.Name]; !ok {
		s.settings[h.Name] = h
	}
	s.mu.Unlock()
	f, err := s.listen(ctx, j, u, h)
	if err == nil && j.counts && j.Rejected+1 == s.Rejections && errors.Is(f.err, account.ErrBadLogin) {
		err = s.Dispatcher.AskSignIn(ctx, u.ID)
	}
	return f, err
}

// sourceOf is the source of a mail host's users; auto is not decided yet.
func (s *Service) sourceOf(h tenant.MailHost) string {
	if h.Source != tenant.SourceAuto {
		return h.Source
	}
	if h.DoveadmURL != "" {
		return tenant.SourceDovecot
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch known := s.host(h.Name); {
	case !known.known:
		return tenant.SourceAuto
	case known.pushes:
		return tenant.SourceDovecot
	}
	return tenant.SourceIdle
}

// listen makes a listener true.
func (s *Service) listen(ctx context.Context, j job, u tenant.User, h tenant.MailHost) (found, error) {
	source := s.sourceOf(h)
	if source == tenant.SourceIdle {
		return s.open(ctx, j, u)
	}
	if source == tenant.SourceDovecot && h.DoveadmURL != "" {
		return s.registerByDoveadm(ctx, u)
	}
	c, err := s.Accounts.Dial(ctx, u)
	if err != nil {
		state, reason := stateOf(err)
		return found{state: state, reason: reason, err: err, source: source}, nil
	}
	defer c.Close()
	if source == tenant.SourceAuto {
		pushes := c.Has("METADATA") || c.Has("METADATA-SERVER")
		s.mu.Lock()
		known := s.host(h.Name)
		known.pushes, known.known = pushes, true
		s.mu.Unlock()
		if !pushes {
			_ = c.Logout(ctx)
			return s.open(ctx, j, u)
		}
		source = tenant.SourceDovecot
	}
	return s.registerOn(ctx, c, u, source)
}

// open holds a connection on which the mail server tells, or is asked.
func (s *Service) open(ctx context.Context, j job, u tenant.User) (found, error) {
	if j.held {
		return found{state: subscription.Listening, source: tenant.SourceIdle}, nil
	}
	conn, err := s.Idle.Open(ctx, u)
	if err == nil {
		return found{state: subscription.Listening, source: tenant.SourceIdle, conn: conn}, nil
	}
	state, reason := stateOf(err)
	if errors.Is(err, idle.ErrLimit) {
		reason = "the mail server allows this user, or us, no further connection; it is tried again"
	}
	return found{state: state, reason: reason, err: err, source: tenant.SourceIdle}, nil
}

// registerOn registers over a connection, unless others report of the user's mail anyhow, and catches up.
func (s *Service) registerOn(ctx context.Context, c *imap.Client, u tenant.User, source string) (found, error) {
	known, ok, err := s.Dispatcher.Known(ctx, u.ID, event.Inbox)
	if err != nil {
		return found{}, err
	}
	look := func() (event.Look, error) { return idle.Look(ctx, c, u.ID, event.Inbox, known, ok) }
	if !ok { // what is there before the registration was never to be reported
		f, err := s.catchUp(ctx, u, look)
		if err != nil || f.err != nil {
			return f, err
		}
		if known, ok, err = s.Dispatcher.Known(ctx, u.ID, event.Inbox); err != nil {
			return found{}, err
		}
	}
	f := found{state: subscription.Registered}
	if source == tenant.SourceDovecot {
		st := s.Dovecot.RegisterOn(ctx, c, u)
		f = found{state: st.State, reason: st.Reason, err: st.Err}
		if st.State == subscription.Unsupported {
			f.err = nil // settled: looked at again by the audit
		}
	}
	if f.state == subscription.Registered {
		missed, err := s.catchUp(ctx, u, look)
		if err != nil {
			return found{}, err
		}
		f.err = missed.err
	}
	f.source = source
	_ = c.Logout(ctx)
	return f, nil
}

// registerByDoveadm registers and catches up without any password of the user.
func (s *Service) registerByDoveadm(ctx context.Context, u tenant.User) (found, error) {
	known, ok, err := s.Dispatcher.Known(ctx, u.ID, event.Inbox)
	if err != nil {
		return found{}, err
	}
	look := func() (event.Look, error) { return s.Dovecot.Look(ctx, u, event.Inbox, known, ok) }
	if !ok {
		f, err := s.catchUp(ctx, u, look)
		if err != nil || f.err != nil {
			f.state, f.reason = subscription.Pending, dovecot.Reason(f.err)
			return f, err
		}
		if known, ok, err = s.Dispatcher.Known(ctx, u.ID, event.Inbox); err != nil {
			return found{}, err
		}
	}
	st := s.Dovecot.Register(ctx, u)
	f := found{state: st.State, reason: st.Reason, err: st.Err, source: tenant.SourceDovecot}
	if st.State != subscription.Registered {
		return f, nil
	}
	missed, err := s.catchUp(ctx, u, look)
	f.err = missed.err
	return f, err
}

// catchUp has what a look finds dispatched. In found is at most the mail server's error, the other is the store's.
func (s *Service) catchUp(ctx context.Context, u tenant.User, look func() (event.Look, error)) (found, error) {
	l, err := look()
	if err != nil {
		return found{
			state: subscription.Pending, reason: "the mail server did not say what is in the INBOX; it is tried again",
			err: fmt.Errorf("look at the INBOX: %w", err), source: tenant.SourceDovecot,
		}, nil
	}
	_, err = s.Dispatcher.CatchUp(ctx, u.ID, l)
	return found{}, err
}

// remove takes back what listens.
func (s *Service) remove(ctx context.Context, j job, u tenant.User, source string) (found, error) {
	log := s.Log.With(slog.String("account", u.ID.String()))
	if source == tenant.SourceDovecot || source == tenant.SourceAuto {
		err := s.Dovecot.Unregister(ctx, u)
		switch {
		case err == nil:
		case ctx.Err() != nil && context.Cause(ctx) != context.DeadlineExceeded: //nolint:errorlint // its own
			return found{}, nil
		case j.Attempt >= maxUnregisterTries:
			log.WarnContext(ctx, "registration left at the mail server: it could not be removed", slog.Any("err", err))
		default:
			return found{state: j.State, reason: j.Reason, err: err, source: source}, nil
		}
	}
	log.InfoContext(ctx, "listener removed")
	ctx = context.WithoutCancel(ctx)
	if err := s.Subscriptions.RemoveListener(ctx, u.ID); err != nil {
		return found{}, err
	}
	return found{gone: true}, s.Accounts.ForgetCredential(ctx, u.ID)
}

// hold keeps a connection until it breaks or is closed.
func (s *Service) hold(e *entry, conn *idle.Conn) {
	defer s.holders.Done()
	err := conn.Hold()
	if err == nil {
		return // we closed it
	}
	conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.conn != conn {
		return
	}
	e.conn = nil
	now := s.Now()
	if !e.leaving.IsZero() { // the other node is about to have its own
		s.drop(e)
		return
	}
	if s.stopped || e.dropped {
		return
	}
	e.State, e.Reason, e.Since = subscription.Pending, "the connection to the mail server ended; it is made anew", now
	e.fault, e.Attempt = err.Error(), 1
	s.unwritten(e, now)
	s.schedule(e, now.Add(jitter(firstRetry/2)), false)
	signal(s.wake)
}
