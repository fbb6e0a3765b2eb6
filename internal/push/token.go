package push

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// A token is active, suspect or gone. "Gone" is the provider's word; a suspect token is gone after
// maxStrikes events at least strikeSpacing apart: a wrong environment is set right within hours, and a
// delivery in between clears it.
const (
	maxStrikes    = 3
	strikeSpacing = time.Hour
	// tombstoneLife is how long is remembered why a subscription was removed.
	tombstoneLife = 30 * 24 * time.Hour
	// staleAfter and unseenLimit are Google's: an FCM token whose app has not been in touch for a month is stale,
	// after 270 days it has expired.
	staleAfter, unseenLimit = 30 * 24 * time.Hour, 270 * 24 * time.Hour
	// housekeepingEvery is how often what is too old is looked for.
	housekeepingEvery = time.Hour
)

const (
	sqlPutTombstone = `INSERT INTO tombstones (subscription_id, version, attempt, outcome, status, reason, accepted_ms, sent_ms, gone_ms)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (subscription_id) DO UPDATE SET version = excluded.version,
		attempt = excluded.attempt, outcome = excluded.outcome, status = excluded.status, reason = excluded.reason,
		accepted_ms = excluded.accepted_ms, sent_ms = excluded.sent_ms, gone_ms = excluded.gone_ms`
	sqlTombstone = `SELECT version, attempt, outcome, status, reason, accepted_ms, sent_ms, gone_ms FROM tombstones
		WHERE subscription_id = ?`
	sqlPutFreeze        = `INSERT INTO freezes (transport, credential, since_ms) VALUES (?, ?, ?)`
	sqlFreezes          = `SELECT transport, credential FROM freezes`
	sqlClearFreezes     = `DELETE FROM freezes`
	sqlForgetTombstones = `DELETE FROM tombstones WHERE gone_ms <= ?`
	sqlCountByClient    = `SELECT client, COUNT(*) FROM subscriptions WHERE transport = ? GROUP BY client`
	sqlUnseen           = `SELECT id FROM subscriptions WHERE transport = 'fcm' AND renewed_ms <= ? ORDER BY id LIMIT 500`
	sqlCountStale       = `SELECT COUNT(*) FROM subscriptions WHERE transport = 'fcm' AND renewed_ms <= ?`
)

// suspicion is what is held against a token.
type suspicion struct {
	strikes int64
	last    time.Time
}

// after is the suspicion after an outcome.
func (s suspicion) after(o outcome.Outcome, now time.Time) suspicion {
	switch {
	case o.Kind == outcome.Delivered:
		return suspicion{}
	case o.Kind == outcome.Suspect && s.counts(now):
		return suspicion{min(s.strikes+1, maxStrikes), now}
	}
	return s
}

// counts says whether another answer that makes the token suspect is held against it.
func (s suspicion) counts(now time.Time) bool {
	return s.strikes == 0 || now.Sub(s.last) >= strikeSpacing
}

// gone reports whether the outcome ends the token, and since when it is of no use: a device that renewed it
// at that time or later has a good one.
func (f flight) gone(now suspicion) (since time.Time, gone bool) {
	switch {
	case f.outcome.Kind == outcome.Gone && f.outcome.GoneSince.IsZero():
		return f.sent, true
	case f.outcome.Kind == outcome.Gone:
		return f.outcome.GoneSince.Add(-time.Millisecond), true // strictly newer than the token
	case f.outcome.Kind == outcome.Suspect && now.strikes == maxStrikes && now != f.slot.suspicion:
		return f.slot.suspicion.last, true
	}
	return time.Time{}, false
}

// pruneWindow is how far back removals are counted. More than maxPruned in it, or than a maxPrunedShare-th
// of an app's tokens, are no devices that left but a fault of ours or the provider's: nothing is
// removed then. leastPruned keeps that from an app of a few devices.
const (
	pruneWindow               = 10 * time.Minute
	maxPruned, maxPrunedShare = 200, 20
	leastPruned               = 10
)

// pruneGuard counts what would be removed, by credential. What it counted ends with the process, a freeze does not.
type pruneGuard struct {
	// turn is held by whoever looks at or changes apps. No mutex: it is held while a freeze is written, and who
	// waits for that gives up with his context.
	turn chan struct{}
	apps map[laneLabels]*pruned
}

func newPruneGuard() pruneGuard {
	return pruneGuard{turn: make(chan struct{}, 1), apps: map[laneLabels]*pruned{}}
}

func (g *pruneGuard) lock(ctx context.Context) error {
	select {
	case g.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the count of removed tokens: %w", context.Cause(ctx))
	}
}

func (g *pruneGuard) unlock() { <-g.turn }

// pruned is the removals of one credential.
type pruned struct {
	// recent is the subscriptions in the window, those that were kept included; so many that without those
	// that were removed there are still more than the limit.
	recent  map[string]time.Time
	limit   int
	counted time.Time // when limit was
	frozen  bool
	// until is how long a freeze of an earlier run lasts at least, for what that counted is not known any more.
	until time.Time
}

// forgetOld drops what the window has left behind.
func (p *pruned) forgetOld(now time.Time) {
	maps.DeleteFunc(p.recent, func(_ string, at time.Time) bool { return now.Sub(at) >= pruneWindow })
}

// mayPrune counts a token that would go, and reports whether it may.
func (s *Service) mayPrune(ctx context.Context, sub subscription.Subscription) (bool, error) {
	labels, now := s.labels(sub), s.Now()
	if err := s.pruning.lock(ctx); err != nil {
		return false, err
	}
	defer s.pruning.unlock()
	p := s.pruning.apps[labels]
	if p == nil {
		p = &pruned{recent: map[string]time.Time{}}
		s.pruning.apps[labels] = p
	}
	if p.limit == 0 || now.Sub(p.counted) >= pruneWindow {
		active, err := s.countTokens(ctx, labels)
		if err != nil {
			return false, err
		}
		p.limit, p.counted = min(maxPruned, max(leastPruned, active/maxPrunedShare)), now
	}
	p.forgetOld(now)
	if _, again := p.recent[sub.ID]; again || len(p.recent) <= 2*p.limit {
		p.recent[sub.ID] = now
	}
	err := s.freeze(ctx, labels, p)
	return err == nil && !p.frozen, err
}

// keptAfterAll takes back a count of mayPrune: the token stays, for the device renewed it. When ctx ends first,
// one token too many is counted until the window has passed.
func (s *Service) keptAfterAll(ctx context.Context, sub subscription.Subscription) {
	if s.pruning.lock(ctx) != nil {
		return
	}
	defer s.pruning.unlock()
	if p := s.pruning.apps[s.labels(sub)]; p != nil {
		delete(p.recent, sub.ID)
	}
}

// freeze begins or ends the freeze of a credential. Held: pruning.turn.
func (s *Service) freeze(ctx context.Context, labels laneLabels, p *pruned) error {
	frozen := len(p.recent) > p.limit || p.until.After(s.Now())
	if p.frozen == frozen {
		return nil
	}
	p.frozen = frozen
	if err := s.saveFreezes(ctx); err != nil {
		p.frozen = !frozen
		return err
	}
	s.sayFrozen(ctx, labels, p)
	return nil
}

// saveFreezes has the table say what is frozen. Held: pruning.turn.
func (s *Service) saveFreezes(ctx context.Context) error {
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, sqlClearFreezes); err != nil {
			return err
		}
		for labels, p := range s.pruning.apps {
			if !p.frozen {
				continue
			}
			if _, err := tx.Exec(ctx, sqlPutFreeze, labels.transport, labels.credential, db.Millis(s.Now())); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("save freezes: %w", err)
	}
	return nil
}

// sayFrozen tells the log and the metrics. Held: pruning.turn.
func (s *Service) sayFrozen(ctx context.Context, labels laneLabels, p *pruned) {
	attrs := []slog.Attr{slog.String("transport", labels.transport), slog.String("credential", labels.credential)}
	gauge := s.metrics.frozen.WithLabelValues(labels.transport, labels.credential)
	if p.frozen {
		gauge.Set(1)
		s.Log.LogAttrs(ctx, slog.LevelError, "too many tokens would go at once: none is removed", attrs...)
	} else {
		gauge.Set(0)
		s.Log.LogAttrs(ctx, slog.LevelInfo, "tokens that are gone are removed again", attrs...)
	}
}

// stayFrozen takes over the freezes of an earlier run. They last as long as it takes to see whether they are needed.
func (s *Service) stayFrozen(ctx context.Context) error {
	rows, err := s.DB.Query(ctx, sqlFreezes)
	if err != nil {
		return fmt.Errorf("find freezes: %w", err)
	}
	defer rows.Close()
	if err := s.pruning.lock(ctx); err != nil {
		return err
	}
	defer s.pruning.unlock()
	for rows.Next() {
		var labels laneLabels
		if err := rows.Scan(&labels.transport, &labels.credential); err != nil {
			return fmt.Errorf("find freezes: %w", err)
		}
		p := &pruned{recent: map[string]time.Time{}, frozen: true, until: s.Now().Add(pruneWindow)}
		s.pruning.apps[labels] = p
		s.sayFrozen(ctx, labels, p)
	}
	return rows.Err()
}

// labels names the credential of a subscription.
func (s *Service) labels(sub subscription.Subscription) laneLabels {
	lane := s.laneOf(sub)
	return laneLabels{transportOf(lane), s.credential(lane).Name}
}

// countTokens counts the subscriptions that are sent to with a credential.
func (s *Service) countTokens(ctx context.Context, labels laneLabels) (n int, err error) {
	rows, err := s.DB.Query(ctx, sqlCountByClient, labels.transport)
	if err != nil {
		return 0, fmt.Errorf("count tokens: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		sub := subscription.Subscription{Token: subscription.Token{Transport: labels.transport}}
		var count int
		if err := rows.Scan(&sub.Client, &count); err != nil {
			return 0, fmt.Errorf("count tokens: %w", err)
		}
		if s.labels(sub) == labels {
			n += count
		}
	}
	return n, rows.Err()
}

// housekeeping removes what is too old until ctx ends.
func (s *Service) housekeeping(ctx context.Context) {
	for {
		s.watch(ctx)
		if err := s.tidy(ctx); err != nil && ctx.Err() == nil {
			s.storeFailed(ctx, err)
		}
		if !pause(ctx, housekeepingEvery) {
			return
		}
	}
}

func (s *Service) tidy(ctx context.Context) error {
	now := s.Now()
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlForgetTombstones, db.Millis(now.Add(-tombstoneLife)))
		return err
	})
	if err != nil {
		return fmt.Errorf("forget tombstones: %w", err)
	}
	for more := true; more; {
		if more, err = s.dropUnseen(ctx, now.Add(-unseenLimit)); err != nil {
			return fmt.Errorf("drop unseen tokens: %w", err)
		}
	}
	var stale float64
	if err := s.DB.QueryRow(ctx, sqlCountStale, db.Millis(now.Add(-staleAfter))).Scan(&stale); err != nil {
		return fmt.Errorf("count stale tokens: %w", err)
	}
	s.metrics.stale.Set(stale)
	if err := s.pruning.lock(ctx); err != nil {
		return err
	}
	defer s.pruning.unlock()
	for labels, p := range s.pruning.apps {
		p.forgetOld(now)
		if err := s.freeze(ctx, labels, p); err != nil {
			return err
		}
	}
	return s.saveFreezes(ctx)
}

// dropUnseen removes some FCM subscriptions that were last renewed before a time, and reports whether there
// were any.
func (s *Service) dropUnseen(ctx context.Context, before time.Time) (more bool, err error) {
	ids, err := s.unseen(ctx, before)
	if err != nil || len(ids) == 0 {
		return false, err
	}
	var changes []subscription.Change
	err = s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		changes = nil
		for _, id := range ids {
			change, removed, err := s.Subscriptions.RemoveGone(ctx, tx, id, before)
			if err != nil {
				return err
			}
			if removed {
				changes = append(changes, change)
				o := Outcome{Outcome: outcome.Gone.String(), Reason: "unseen", Answered: s.Now()}
				if err := putTombstone(ctx, tx, id, o); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil || len(changes) == 0 {
		return false, err
	}
	for _, c := range changes {
		s.Subscriptions.Committed(c)
	}
	s.Log.InfoContext(ctx, "subscriptions removed: their apps have not been in touch for 270 days", slog.Int("subscriptions", len(changes)))
	return true, nil
}

func (s *Service) unseen(ctx context.Context, before time.Time) (ids []string, err error) {
	rows, err := s.DB.Query(ctx, sqlUnseen, db.Millis(before))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// putTombstone remembers inside a write what ended a subscription.
func putTombstone(ctx context.Context, tx *db.Tx, id string, o Outcome) error {
	_, err := tx.Exec(ctx, sqlPutTombstone, id, o.Version, o.Attempt, o.Outcome, o.Status, o.Reason, db.Millis(o.Accepted),
		db.Millis(o.Sent), db.Millis(o.Answered))
	return err
}
