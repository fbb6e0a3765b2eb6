package push

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// Why a state that is not sent waits.
const (
	// HeldCoalesce: more may follow what was sent a moment ago.
	HeldCoalesce = "coalesce"
	// HeldBadge: a change of the count alone is in no hurry.
	HeldBadge = "badge_delay"
	// HeldQuiet: the device has quiet hours.
	HeldQuiet = "quiet_hours"
	// HeldBackoff: the provider failed, and is left alone for a while.
	HeldBackoff = "backoff"
	// HeldAllowance: the device has used up what its provider allows.
	HeldAllowance = "allowance"
)

// relook bounds how long quiet hours are believed to last. Another node may be told that they are not what they
// were.
const relook = 15 * time.Minute

// Why a state is done with although nothing was sent.
const (
	// SkippedCount: a notification that went out since brought the count along.
	SkippedCount = "count_already_sent"
	// SkippedUnknown: nobody has counted.
	SkippedUnknown = "count_unknown"
	// SkippedClear: the device does not show what would be cleared.
	SkippedClear = "nothing_to_clear"
	// SkippedUpdates: the device takes nothing that shows nothing.
	SkippedUpdates = "updates_not_wanted"
)

// message names one message; it is kept as JSON.
type message struct {
	Folder      string `json:"f"`
	UIDValidity uint32 `json:"v"`
	UID         uint32 `json:"u"`
	// Gone says, of the one that a device shows, that it is to be cleared when nothing takes its place.
	Gone bool `json:"x,omitempty"`
}

func (in Input) message() message {
	return message{Folder: in.Folder, UIDValidity: in.UIDValidity, UID: in.UID}
}

// is tells whether two names mean one message. Who knows no UIDVALIDITY means any.
func (m message) is(o message) bool {
	return m.UID == o.UID && m.Folder == o.Folder && (m.UIDValidity == o.UIDValidity || m.UIDValidity == 0 || o.UIDValidity == 0)
}

// hold says until when a dirty slot waits although it could be sent, and why; "" is not at all. It is asked
// at each try, of what the row says: so it holds after a restart, and whoever changes his policy need not wait
// for what the old one said.
func (s *Service) hold(v slot, sub subscription.Subscription, now time.Time) (until time.Time, why string) {
	later := func(at time.Time, reason string) {
		if at.After(now) && at.After(until) {
			until, why = at, reason
		}
	}
	switch {
	case v.attempt > 0: // by then it is no news
		later(v.notBefore, HeldBackoff)
	case v.id.key == collapseKeyBadge:
		later(v.firstDirty.Add(s.BadgeDelay), HeldBadge)
	case v.firstDirty.Sub(v.told) < s.Coalesce: // else it was quiet before, and this is the first
		last := time.UnixMilli(v.input.AcceptedMS).Add(s.Coalesce)
		if most := v.firstDirty.Add(s.CoalesceMax); most.Before(last) {
			last = most
		}
		later(last, HeldCoalesce)
	}
	later(v.allowed(sub.Token.Transport), HeldAllowance)
	if breaks := v.input.VIP && sub.Policy.Breaks(); !v.input.silent() && !breaks {
		end := sub.Policy.Until(now)
		if most := now.Add(relook); end.After(most) {
			end = most
		}
		later(end, HeldQuiet)
	}
	// Nothing waits longer than it is worth sending: it is dropped then, and that is told.
	if !v.expires.After(now) {
		return time.Time{}, ""
	}
	if until.After(v.expires) && why != HeldBackoff {
		until = v.expires
	}
	return until, why
}

// needless says why a slot need not be sent at all; "" is that it must. What is to be cleared becomes the
// message that the device shows. newest is the highest version that a notification brought to the device.
func (v *slot) needless(sub subscription.Subscription, newest int64) (why string) {
	switch {
	case v.input.Topic == topicClear && (v.shown == nil || !v.shown.Gone && !slices.ContainsFunc(v.input.Cleared, v.shown.is)):
		return SkippedClear
	case v.input.silent() && !sub.Policy.Takes(sub.Token.Transport):
		return SkippedUpdates
	case v.input.Topic == topicBadge && newest >= v.version:
		return SkippedCount
	case v.input.Topic == topicClear:
		v.input.Folder, v.input.UIDValidity, v.input.UID = v.shown.Folder, v.shown.UIDValidity, v.shown.UID
	}
	return ""
}

// weigh finds out whether a slot needs to be sent, and with which count.
func (s *Service) weigh(ctx context.Context, f *flight) error {
	newest := int64(0)
	if f.slot.id.key == collapseKeyBadge {
		if err := s.DB.QueryRow(ctx, sqlNewestSent, f.slot.id.subscription, f.slot.id.key).Scan(&newest); err != nil {
			return fmt.Errorf("find newest sent state: %w", err)
		}
	}
	if f.skipped = f.slot.needless(f.sub, newest); f.skipped != "" {
		return nil
	}
	var err error
	if f.badge, err = s.badgeOf(ctx, f); err != nil {
		return fmt.Errorf("count unseen messages: %w", err)
	}
	if f.badge < 0 && f.slot.input.Topic == topicBadge {
		f.skipped = SkippedUnknown
	}
	return nil
}

// badgeOf is the count for a flight. That which came with an event of late is good enough: if it has changed
// since, that waits for BadgeDelay in a slot of its own, and is sent after.
func (s *Service) badgeOf(ctx context.Context, f *flight) (int, error) {
	in := f.slot.input
	known := -1
	if in.Folder == "INBOX" || in.Folder == "" {
		known = in.Unseen
	}
	fresh := known >= 0 && f.sent.Sub(db.Time(in.AcceptedMS)) < s.BadgeDelay
	if s.count == nil || fresh && f.sub.Accounts == 1 {
		return known, nil
	}
	n, err := s.count(ctx, f.sub.ID)
	if n < 0 {
		n = known
	}
	return n, err
}

// skip ends a flight that need not begin.
func (s *Service) skip(ctx context.Context, e *entry, f flight) {
	dirty, err := s.doneWith(ctx, f.slot)
	if err != nil {
		s.storeFailed(ctx, err)
		s.stumble(ctx, e)
		return
	}
	e.stumbles = 0
	s.metrics.skipped.WithLabelValues(f.skipped).Inc()
	s.sched.done(e, dirty, s.Now())
}
