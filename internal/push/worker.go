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
)

// Wake sends what Enqueue returned, once its write is committed.
func (s *Service) Wake(due []Due) { s.sched.add(due) }

// Run sends until ctx ends, beginning with what an earlier run left. It returns when no send is in
// flight any more.
func (s *Service) Run(ctx context.Context) error {
	left, err := s.dirtySlots(ctx)
	if err != nil && ctx.Err() != nil {
		return nil //nolint:nilerr // told to stop before the first look
	} else if err != nil {
		return err
	}
	if len(left) > 0 {
		s.Log.InfoContext(ctx, "found unsent notifications", slog.Int("slots", len(left)))
	}
	s.sched.add(left)

	// Sends outlive ctx by drainTimeout: an answer on its way is worth waiting for.
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var flights sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		start, next := s.sched.take(s.Now())
		for _, e := range start {
			flights.Go(func() { s.fly(sending, e) })
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
	flights.Wait()
	return nil
}

// fly makes one try of one slot and commits its outcome. The permit of its lane is held until then.
func (s *Service) fly(ctx context.Context, e *entry) {
	for {
		dirty, next, block, err := s.try(ctx, e.id)
		if err == nil {
			s.sched.done(e, dirty, next, block)
			return
		}
		// The store is away. Without it there is nothing to send and nowhere to write an outcome.
		s.Log.ErrorContext(ctx, "push cannot use the database", slog.Any("err", err))
		select {
		case <-ctx.Done():
			s.sched.done(e, false, time.Time{}, false)
			return
		case <-time.After(time.Second):
		}
	}
}

// try sends the current state of a slot, if there is one, and settles it.
func (s *Service) try(ctx context.Context, id slotID) (dirty bool, next time.Time, block bool, err error) {
	v, err := s.loadSlot(ctx, id)
	if errors.Is(err, subscription.ErrNotFound) || err == nil && v.version <= v.sent {
		return false, time.Time{}, false, nil
	} else if err != nil {
		return false, time.Time{}, false, err
	}
	sub, err := s.Subscriptions.Load(ctx, id.subscription)
	if errors.Is(err, subscription.ErrNotFound) {
		return false, time.Time{}, false, nil
	} else if err != nil {
		return false, time.Time{}, false, err
	}
	sent := s.Now()
	o := s.send(ctx, v, sub, sent)
	answered := s.Now()
	s.metrics.count(sub.Token.Transport, o)
	if ctx.Err() != nil && o.Kind == outcome.Later {
		return true, answered, false, nil // stopping: the slot stays dirty, this try does not count
	}
	end, err := s.judge(ctx, v, sub, o, sent, answered)
	if err != nil {
		return false, time.Time{}, false, err
	}
	s.logOutcome(ctx, sub, v, o, end)
	dirty, err = s.settle(ctx, v, o, end, sent, answered)
	if o.Kind == outcome.Delivered {
		s.metrics.delivered(sub.Token.Transport, db.Time(v.input.AcceptedMS), answered)
	}
	return dirty, end.next, o.Kind == outcome.Blocked, err
}

// send has the transport send the state, or says why it is not sent at all.
func (s *Service) send(ctx context.Context, v slot, sub subscription.Subscription, now time.Time) outcome.Outcome {
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
		Subscription: sub, Version: v.version, Input: v.input, Collapse: v.id.collapse(),
		ID: notificationID(v.id, v.version), Expires: v.expires,
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

// judge decides what an outcome means for the slot and the subscription. Only Gone removes.
func (s *Service) judge(ctx context.Context, v slot, sub subscription.Subscription, o outcome.Outcome, sent, answered time.Time) (settlement, error) {
	switch o.Kind {
	case outcome.Delivered, outcome.Suspect, outcome.Refused:
		return settlement{drop: true, next: answered}, nil
	case outcome.Blocked:
		return settlement{attempt: v.attempt + 1, next: answered.Add(max(o.RetryAfter, blockedFor))}, nil
	case outcome.Gone:
		gone := o.GoneSince
		if gone.IsZero() {
			gone = sent
		}
		removed := false
		err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
			var err error
			removed, err = s.Subscriptions.RemoveGone(ctx, tx, sub.ID, gone)
			return err
		})
		if err != nil {
			return settlement{}, err
		}
		if removed {
			return settlement{drop: true, next: answered}, nil
		}
		// The device renewed its token after the provider gave up the old one: that one may be good.
	case outcome.Later:
	}
	wait := max(backoff(sub.Token.Transport, v.attempt), o.RetryAfter)
	return settlement{attempt: v.attempt + 1, next: answered.Add(wait)}, nil
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

func (s *Service) logOutcome(ctx context.Context, sub subscription.Subscription, v slot, o outcome.Outcome, end settlement) {
	level, text := slog.LevelDebug, "notification answered"
	switch o.Kind {
	case outcome.Gone:
		level, text = slog.LevelInfo, "subscription removed: the provider says its token is gone"
		if !end.drop {
			text = "provider says token is gone, but the device renewed it since"
		}
	case outcome.Blocked:
		level, text = slog.LevelError, "provider refuses our credential: notifications are kept"
	case outcome.Refused, outcome.Suspect:
		level, text = slog.LevelWarn, "notification dropped"
	case outcome.Delivered, outcome.Later:
	}
	s.Log.Log(ctx, level, text, slog.String("device", sub.ID), slog.Any("token", sub.Token), slog.String("account", sub.User.String()),
		slog.Int64("version", v.version), slog.Int("attempt", v.attempt+1), slog.String("outcome", o.Kind.String()),
		slog.Int("status", o.Status), slog.String("reason", o.Reason), slog.Any("err", o.Err))
}
