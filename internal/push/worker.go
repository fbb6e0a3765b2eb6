package push

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

const (
	// sendTimeout bounds one request to a provider.
	sendTimeout = 30 * time.Second
	// drainTimeout is how long a stopping server waits for answers. What is unanswered then is still
	// dirty and is sent again at the next start.
	drainTimeout = 5 * time.Second
	// maxBackoff caps the wait between tries.
	maxBackoff = 10 * time.Minute
	// blockedFor is how long a lane rests after its credential was refused.
	blockedFor = time.Minute
	// storePause is the wait after a failure of our own store; it doubles up to maxStorePause.
	storePause, maxStorePause = time.Second, time.Minute
	// loaders is how many slots are read at once: as many as SQLite has connections to read.
	loaders = 4
	// settleTimeout bounds one attempt to commit an outcome. It is not the sender's time: what a provider
	// took must be known as sent even when we stop.
	settleTimeout = 5 * time.Second
)

// Wake sends what Enqueue returned, once its write is committed.
func (s *Service) Wake(due []Due) {
	if len(due) > 0 {
		s.metrics.commit.Observe(s.Now().Sub(due[0].accepted).Seconds())
	}
	s.sched.add(due)
}

// Reconsider looks anew at what waits for a device: its policy was changed.
func (s *Service) Reconsider(sub subscription.Subscription) {
	for _, key := range []string{collapseKeyMail, collapseKeyVIP, collapseKeyBadge} {
		s.sched.hurry(s.due(slotID{sub.ID, key}, sub, time.Time{}))
	}
}

// Run sends until ctx ends, beginning with what an earlier run left. It returns when no send is in
// flight any more.
func (s *Service) Run(parent context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	err = s.join(ctx)
	if err == nil {
		err = s.stayFrozen(ctx)
	}
	var left int
	if err == nil {
		left, err = s.wakeDirty(ctx)
	}
	if err != nil && ctx.Err() != nil {
		return nil // told to stop before the first look
	} else if err != nil {
		return err
	}
	if left > 0 {
		s.Log.InfoContext(ctx, "found unsent notifications", slog.Int("slots", left))
	}

	var keeping sync.WaitGroup
	keeping.Go(func() { s.housekeeping(ctx) })
	keeping.Go(func() {
		if err := s.keepLease(ctx); err != nil {
			cancel(err)
		}
	})

	// Sends outlive ctx by drainTimeout: an answer on its way is worth waiting for.
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var loading, flights sync.WaitGroup
	start := make(chan *entry) // to the loaders
	for range loaders {
		loading.Go(func() {
			for e := range start {
				s.load(sending, e, &flights)
			}
		})
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		taken, next := s.sched.take(s.Now())
		for _, e := range taken {
			select {
			case start <- e:
			case <-ctx.Done(): // it stays dirty
			}
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, next.Sub(s.Now())))
		}
		select {
		case <-ctx.Done():
		case <-s.sched.changed:
		case <-timer.C:
		}
	}
	drained := time.AfterFunc(drainTimeout, stop)
	defer drained.Stop()
	close(start)
	loading.Wait()
	flights.Wait()
	keeping.Wait()
	s.leave(ctx)
	if err := context.Cause(ctx); errors.Is(err, errSuperseded) {
		return err
	}
	return nil
}

// flight is one try of one slot.
type flight struct {
	slot           slot
	sub            subscription.Subscription
	badge          int       // see Notification
	held, skipped  string    // why it is not sent now, or not at all
	until          time.Time // that it is held
	outcome        outcome.Outcome
	sent, answered time.Time
}

// load reads a slot that is to be sent, and begins its flight. A few goroutines do it for all: more could not
// read at once anyway, and reading takes deep stacks, which a thousand waiting flights would keep.
func (s *Service) load(ctx context.Context, e *entry, flights *sync.WaitGroup) {
	if now := s.Now(); !s.holds(now) {
		s.sched.done(e, true, now.Add(s.Lease/looksPerLease))
		return
	}
	f, dirty, err := s.read(ctx, s.sched.id(e))
	switch {
	case err != nil && ctx.Err() != nil:
		s.sched.done(e, true, s.Now()) // stopping
	case err != nil:
		s.storeFailed(ctx, err)
		flights.Go(func() { s.stumble(ctx, e) })
	case !dirty:
		e.stumbles = 0
		s.sched.done(e, false, time.Time{})
	case f.held != "":
		e.stumbles = 0
		s.metrics.held.WithLabelValues(f.held).Inc()
		s.sched.hold(e, f.until)
	case f.skipped != "":
		flights.Go(func() { s.skip(ctx, e, f) })
	default:
		e.stumbles = 0
		flights.Go(func() { s.fly(ctx, e, f) })
	}
}

// stumble ends a flight that did not begin: the store is away, or a row of it is damaged. Holding the permit
// for a moment keeps a lane from spinning, giving it back keeps damaged rows from using up all permits.
func (s *Service) stumble(ctx context.Context, e *entry) {
	pause(ctx, storePause)
	wait := min(storePause<<e.stumbles, maxStorePause)
	e.stumbles = min(e.stumbles+1, 10)
	s.sched.done(e, true, s.Now().Add(wait))
}

// fly makes one try of one slot and commits its outcome. The permit of its lane is held until then.
func (s *Service) fly(ctx context.Context, e *entry, f flight) {
	f.outcome = s.send(ctx, f.slot, f.sub, f.badge, f.sent)
	f.answered = s.Now()
	s.metrics.count(f.sub.Token.Transport, f.outcome)
	if ctx.Err() != nil && f.outcome.Kind == outcome.Later {
		s.sched.done(e, true, f.answered) // stopping: the slot stays dirty, this try does not count
		return
	}
	// What was sent is settled, however long that takes, and not sent again meanwhile: with a full disk
	// each device would hear of the same mail every second.
	end, err := s.settle(ctx, f)
	for err != nil {
		s.storeFailed(ctx, err)
		if !pause(ctx, storePause) {
			s.sched.done(e, true, f.answered) // stopping: what is not settled is sent again at the next start
			return
		}
		end, err = s.settle(ctx, f)
	}
	s.storeWorks(ctx)
	s.report(ctx, f, end)
	s.reportLane(ctx, f, e, s.sched.landed(e, f.verdict(), max(blockedFor, f.outcome.RetryAfter), f.answered))
	s.sched.done(e, end.dirty, end.next)
}

// verdict is what the outcome says of the provider.
func (f flight) verdict() verdict {
	o, transport := f.outcome, f.sub.Token.Transport
	switch {
	case o.Kind == outcome.Blocked && f.sharesFate():
		return refused
	case o.Kind == outcome.Blocked:
		return neutral
	case o.Status >= http.StatusInternalServerError, o.Status == 0 && o.Kind == outcome.Later:
		return failed
	case o.Status == 0: // we did not send it
		return neutral
	case o.Status == http.StatusTooManyRequests:
		// Web Push services count by endpoint, and Apple by device, save for its tokens.
		if transport == "fcm" || transport == "apns" && o.Reason != "TooManyRequests" {
			return congested
		}
		return neutral
	}
	return healthy
}

// sharesFate reports whether the credential that was refused is that of the whole lane. Not so when a
// Web Push service answered: a device chooses its endpoint, and so could have an address that answers
// 401 on the origin that everybody else needs. There, only the slot rests.
func (f flight) sharesFate() bool { return f.sub.Token.Transport != "webpush" || f.outcome.Status == 0 }

// wait is the time to the next try, if there is one.
func (f flight) wait() time.Duration {
	wait := max(backoff(f.sub.Token.Transport, f.slot.attempt), f.outcome.RetryAfter)
	if f.outcome.Kind == outcome.Blocked {
		wait = max(wait, blockedFor)
	}
	return wait
}

// pause waits. It returns false at once when ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// storeFailed and storeWorks log the beginning and the end of a disturbance, not each slot in it.
func (s *Service) storeFailed(ctx context.Context, err error) {
	if !s.disturbed.Swap(true) {
		s.Log.ErrorContext(ctx, "push cannot use the database: notifications are kept", slog.Any("err", err))
	}
}

func (s *Service) storeWorks(ctx context.Context) {
	if s.disturbed.Load() && s.disturbed.Swap(false) {
		s.Log.InfoContext(ctx, "push uses the database again")
	}
}

// read finds the current state of a slot; dirty is false when there is nothing to send, or
// another node sends it.
func (s *Service) read(ctx context.Context, id slotID) (f flight, dirty bool, err error) {
	f.slot, err = s.loadSlot(ctx, id)
	if err == nil && f.slot.version > f.slot.sent && f.slot.owner == s.Node {
		f.sent = s.Now() // before the token is read: one that is renewed from here on is not gone by this try
		f.sub, err = s.Subscriptions.Load(ctx, id.subscription)
		dirty = err == nil
	}
	if dirty {
		if f.until, f.held = s.hold(f.slot, f.sub, f.sent); f.held == "" {
			err = s.weigh(ctx, &f)
		}
	}
	if errors.Is(err, subscription.ErrNotFound) {
		return flight{}, false, nil // unsubscribed meanwhile
	}
	return f, dirty, err
}

// send has the transport send the state, or says why it is not sent at all.
func (s *Service) send(ctx context.Context, v slot, sub subscription.Subscription, badge int, now time.Time) outcome.Outcome {
	t := s.transport(sub.Token.Transport)
	switch {
	case !v.expires.After(now):
		return outcome.Outcome{Kind: outcome.Refused, Reason: "expired"}
	case !sub.Expires.IsZero() && !sub.Expires.After(now):
		return outcome.Outcome{Kind: outcome.Refused, Reason: "subscription_expired"}
	case t == nil:
		return outcome.Outcome{Kind: outcome.Blocked, Reason: "transport_disabled"}
	}
	if _, ok := t.Lane(sub); !ok {
		return outcome.Outcome{Kind: outcome.Blocked, Reason: "transport_disabled"}
	}
	n := Notification{
		Subscription: sub, Version: v.version, Input: v.input, Badge: badge, Collapse: v.id.collapse(),
		ID: notificationID(v.id, v.version), Expires: v.expires, AskElsewhere: v.suspicion.counts(now),
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	o := t.Send(ctx, n)
	if o.Status == http.StatusRequestEntityTooLarge {
		n.Short = true
		o = t.Send(ctx, n)
	}
	return o
}

// notificationID is a UUID (RFC 9562 version 8) made of a slot and its version, so that each try of the
// same state bears the same one.
func notificationID(id slotID, version int64) [16]byte {
	h := sha256.New()
	h.Write([]byte(id.subscription + "\x00" + id.key + "\x00"))
	_ = binary.Write(h, binary.BigEndian, version)
	u := [16]byte(h.Sum(nil)[:16])
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}

// backoff is full jitter: uniform up to a bound that doubles with each failure. FCM asks for 10 s at
// least between tries, the others for nothing.
func backoff(transport string, attempt int) time.Duration {
	base, least := time.Second, 50*time.Millisecond
	if transport == "fcm" {
		base, least = 10*time.Second, 10*time.Second
	}
	bound := min(maxBackoff, base<<min(attempt, 16))
	return least + rand.N(bound) //nolint:gosec // jitter, not a secret
}

// report logs the outcome of a try, once it is committed.
func (s *Service) report(ctx context.Context, f flight, end settlement) {
	o := f.outcome
	attrs := []slog.Attr{
		slog.String("device", f.sub.ID), slog.Any("token", f.sub.Token), slog.String("account", f.sub.User.String()),
		slog.Int64("version", f.slot.version), slog.Int("attempt", f.slot.attempt+1), slog.String("outcome", o.Kind.String()),
		slog.Int("status", o.Status), slog.String("reason", o.Reason), slog.Any("err", o.Err),
	}
	switch {
	case end.removed:
		s.Log.LogAttrs(ctx, slog.LevelInfo, "subscription removed: the provider says its token is gone", attrs...)
	case o.Kind == outcome.Gone:
		s.Log.LogAttrs(ctx, slog.LevelInfo, "provider says token is gone, but the device renewed it since", attrs...)
	case o.Kind == outcome.Blocked && !f.sharesFate() && f.slot.attempt == 0: // said once for each notification, not at each try
		s.Log.LogAttrs(ctx, slog.LevelWarn, "push service refuses us for one device: its notification is kept", attrs...)
	case o.Kind == outcome.Refused || o.Kind == outcome.Suspect:
		s.Log.LogAttrs(ctx, slog.LevelWarn, "notification dropped", attrs...)
	default:
		s.Log.LogAttrs(ctx, slog.LevelDebug, "notification answered", attrs...)
	}
	if o.Kind == outcome.Delivered {
		s.metrics.delivered(f.sub.Token.Transport, db.Time(f.slot.input.AcceptedMS), f.answered)
	}
}

// reportLane logs what the outcome of a try did to its lane.
func (s *Service) reportLane(ctx context.Context, f flight, e *entry, c change) {
	if c == unchanged {
		return
	}
	name := e.app.tenant.lane.name // which never changes
	credential := s.credential(name)
	attrs := []slog.Attr{
		slog.String("lane", name), slog.String("credential", credential.Name), slog.Int("status", f.outcome.Status),
		slog.String("reason", f.outcome.Reason), slog.Any("err", f.outcome.Err),
	}
	if !credential.Expires.IsZero() {
		attrs = append(attrs, slog.Time("expires", credential.Expires))
	}
	switch {
	case c == closed:
		s.Log.LogAttrs(ctx, slog.LevelInfo, "provider works again", attrs...)
	case f.outcome.Kind == outcome.Blocked:
		s.Log.LogAttrs(ctx, slog.LevelError, "provider refuses our credential: notifications are kept", attrs...)
	default:
		s.Log.LogAttrs(ctx, slog.LevelWarn, "provider fails: notifications are kept", attrs...)
	}
}
