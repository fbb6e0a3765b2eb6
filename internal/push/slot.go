package push

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// Input is what a payload is rendered from: the facts of the newest state, not the payload.
type Input struct {
	Topic       string `json:"topic"`
	Folder      string `json:"folder"`
	UIDValidity uint32 `json:"uidvalidity"`
	UID         uint32 `json:"uid"`
	Sender      string `json:"sender"`
	Subject     string `json:"subject"`
	// Unseen is the count after the event, negative when unknown.
	Unseen int `json:"unseen"`
	// VIP is mail that always alerts.
	VIP bool `json:"vip,omitempty"`
	// Cleared are the messages whose notification is to go, with topicClear.
	Cleared []message `json:"cleared,omitempty"`
	// AcceptedMS is when the event was accepted, in milliseconds since 1970.
	AcceptedMS int64 `json:"accepted_ms"`
}

// LogValue keeps mail content out of logs.
func (in Input) LogValue() slog.Value {
	return slog.StringValue(fmt.Sprintf("%s %d/%d", in.Topic, in.UIDValidity, in.UID))
}

// slotID names a slot.
type slotID struct{ subscription, key string }

// The slots of a device for one account: at most three, for a provider stores few states of a device (FCM
// four), and one is enough for each thing that is shown in a place of its own.
const (
	// collapseKeyMail shows the newest mail. That it is to be cleared comes here too.
	collapseKeyMail = "mail"
	// collapseKeyVIP shows the newest mail of a VIP, so that no other mail takes its place, and quiet hours
	// hold back the one and not the other.
	collapseKeyVIP = "vip"
	// collapseKeyBadge shows the count.
	collapseKeyBadge = "badge"
	// collapseKeySignIn asks the user to sign in again. There is no news beside it.
	collapseKeySignIn = "sign_in"
)

// badgeTTL is how long a count is worth delivering.
const badgeTTL = time.Hour

// collapse names a slot to a provider: 32 hexadecimal digits, which is what a Web Push topic can be at
// most (RFC 8030 section 5.4), and some services take no more than letters and digits.
func (id slotID) collapse() string {
	sum := sha256.Sum256([]byte(id.subscription + "\x00" + id.key))
	return hex.EncodeToString(sum[:16])
}

// slot is a row of slots, as much of it as sending needs.
type slot struct {
	id            slotID
	version, sent int64
	input         Input
	attempt       int
	tries         int64
	expires       time.Time
	suspicion     suspicion
	full          time.Time // see allowed
	owner         string    // the node that sends it while it is dirty
	// firstDirty is when the first of what is unsent was put in, told when something was last delivered.
	firstDirty, told time.Time
	notBefore        time.Time // after a failure
	shown            *message  // by the device, as far as we know
}

const (
	// sqlReplaceSlot puts a newer state in a slot. A state still unsent keeps its first-dirty time and, when
	// it failed before, its back-off: the provider is no healthier for our news. Facts of a message older
	// than one reported before (second parameter 1) do not replace those of an unsent newer one. A dirty slot
	// keeps its owner, who sees the newer state when it sends the slot, or when it settles the older one.
	sqlReplaceSlot = `UPDATE slots SET version = ?,
		input = CASE WHEN version > sent_version AND ? = 1 THEN input ELSE ? END,
		attempt = CASE WHEN version > sent_version THEN attempt ELSE 0 END,
		first_dirty_ms = CASE WHEN version > sent_version THEN first_dirty_ms ELSE ? END,
		not_before_ms = CASE WHEN version > sent_version AND attempt > 0 THEN not_before_ms ELSE ? END,
		expires_ms = ?, owner = CASE WHEN version > sent_version THEN owner ELSE ? END WHERE subscription_id = ? AND collapse_key = ? AND version < ?`
	// sqlAddSlot makes one for the first state. A subscription that is gone, which a cache may still have
	// known, gets none.
	sqlAddSlot = `INSERT INTO slots (subscription_id, collapse_key, version, sent_version, input, attempt, tries,
		first_dirty_ms, not_before_ms, expires_ms, owner) SELECT id, ?, ?, 0, ?, 0, 0, ?, ?, ?, ? FROM subscriptions WHERE id = ?
		ON CONFLICT DO NOTHING`
	sqlSlot = `SELECT version, sent_version, input, attempt, tries, expires_ms, strikes, struck_ms, burst_ms, owner, first_dirty_ms,
		not_before_ms, told_ms, shown FROM slots WHERE subscription_id = ? AND collapse_key = ?`
	sqlDirtySlots = `SELECT s.subscription_id, s.collapse_key, s.first_dirty_ms, s.not_before_ms, b.context_id, b.client, b.transport, b.target, b.token_hash
		FROM slots s JOIN subscriptions b ON b.id = s.subscription_id WHERE s.version > s.sent_version AND s.owner = ? ORDER BY s.first_dirty_ms`
	// sqlSettleSlot ends one try: sent_version moves up to what was sent or dropped. What is dirty still has come
	// since the try began.
	sqlSettleSlot = `UPDATE slots SET sent_version = CASE WHEN sent_version < ? THEN ? ELSE sent_version END,
		attempt = ?, not_before_ms = ?, tries = tries + 1, strikes = ?, struck_ms = ?, burst_ms = ?,
		first_dirty_ms = CASE WHEN ? > 0 THEN ? ELSE first_dirty_ms END, told_ms = ?, shown = CASE WHEN ? = 1 THEN ? ELSE shown END WHERE subscription_id = ? AND collapse_key = ?
		RETURNING tries, version - sent_version`
	sqlPutOutcome = `INSERT INTO outcomes (subscription_id, n, version, attempt, outcome, status, reason, provider_id, accepted_ms,
		sent_ms, answered_ms, next_try_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (subscription_id, n) DO UPDATE SET version = excluded.version, attempt = excluded.attempt,
		outcome = excluded.outcome, status = excluded.status, reason = excluded.reason, provider_id = excluded.provider_id,
		accepted_ms = excluded.accepted_ms, sent_ms = excluded.sent_ms, answered_ms = excluded.answered_ms,
		next_try_ms = excluded.next_try_ms`
	sqlOutcomes = `SELECT version, attempt, outcome, status, reason, provider_id, accepted_ms, sent_ms, answered_ms, next_try_ms
		FROM outcomes WHERE subscription_id = ? ORDER BY answered_ms DESC, version DESC, attempt DESC LIMIT ?`
	sqlPending = `SELECT attempt, not_before_ms FROM slots WHERE subscription_id = ? AND version > sent_version
		ORDER BY attempt DESC, not_before_ms LIMIT 1`
)

// traceLength is how many outcomes are kept of a device.
const traceLength = 20

// Enqueue puts a newer state into the slots of subs, inside a write. older says that a message with a
// higher uid was reported before. When the write is committed, the caller passes the returned slots
// to Wake; if it cannot, they are found at the next start.
func (s *Service) Enqueue(ctx context.Context, tx *db.Tx, subs []subscription.Subscription, version int64, in Input, older bool) ([]Due, error) {
	key := collapseKeyMail
	if in.VIP {
		key = collapseKeyVIP
	}
	return s.enqueue(ctx, tx, subs, key, version, in, older, s.NewMailTTL)
}

// EnqueueSignIn is Enqueue for the word that the user must sign in again.
func (s *Service) EnqueueSignIn(ctx context.Context, tx *db.Tx, subs []subscription.Subscription, version int64) ([]Due, error) {
	in := Input{Topic: topicSignIn, Unseen: -1, AcceptedMS: db.Millis(s.Now())}
	return s.enqueue(ctx, tx, subs, collapseKeySignIn, version, in, false, s.NewMailTTL)
}

func (s *Service) enqueue(ctx context.Context, tx *db.Tx, subs []subscription.Subscription, key string, version int64, in Input, older bool,
	ttl time.Duration,
) ([]Due, error) {
	raw, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encode slot input: %w", err)
	}
	input, now := string(raw), s.Now()
	ms, expires := db.Millis(now), db.Millis(now.Add(ttl))
	late := 0
	if older {
		late = 1
	}
	due := make([]Due, 0, len(subs))
	for _, sub := range subs {
		id := slotID{sub.ID, key}
		n, err := tx.Exec(ctx, sqlReplaceSlot, version, late, input, ms, ms, expires, s.Node, id.subscription, id.key, version)
		if err == nil && n == 0 {
			n, err = tx.Exec(ctx, sqlAddSlot, id.key, version, input, ms, ms, expires, s.Node, id.subscription)
		}
		if err != nil {
			return nil, fmt.Errorf("put slot: %w", err)
		}
		if n > 0 {
			d := s.due(id, sub, now)
			d.accepted = db.Time(in.AcceptedMS)
			due = append(due, d)
		}
	}
	return due, nil
}

func (s *Service) loadSlot(ctx context.Context, id slotID) (slot, error) {
	v := slot{id: id}
	var input, shown string
	var expires, struck, full, firstDirty, notBefore, told int64
	err := s.DB.QueryRow(ctx, sqlSlot, id.subscription, id.key).
		Scan(&v.version, &v.sent, &input, &v.attempt, &v.tries, &expires, &v.suspicion.strikes, &struck, &full, &v.owner, &firstDirty,
			&notBefore, &told, &shown)
	if errors.Is(err, sql.ErrNoRows) {
		return slot{}, subscription.ErrNotFound
	} else if err != nil {
		return slot{}, fmt.Errorf("load slot: %w", err)
	}
	v.expires, v.suspicion.last, v.full = db.Time(expires), db.Time(struck), db.Time(full)
	if err := json.Unmarshal([]byte(input), &v.input); err != nil {
		return slot{}, fmt.Errorf("decode slot input: %w", err)
	}
	v.firstDirty, v.notBefore, v.told = db.Time(firstDirty), db.Time(notBefore), db.Time(told)
	if v.shown, err = decodeShown(shown); err != nil {
		return slot{}, fmt.Errorf("decode what the device shows: %w", err)
	}
	return v, nil
}

// due is a slot that became dirty at a time, to be sent at once.
func (s *Service) due(id slotID, sub subscription.Subscription, since time.Time) Due {
	return Due{id: id, lane: s.laneOf(sub), context: sub.User.Context, client: sub.Client, device: sub.Device, since: since}
}

// wakeDirty wakes what is ours and was accepted but not sent: at start, all that a crash left. It returns how
// many.
func (s *Service) wakeDirty(ctx context.Context) (n int, err error) {
	rows, err := s.DB.Query(ctx, sqlDirtySlots, s.Node)
	if err != nil {
		return 0, fmt.Errorf("find unsent slots: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id slotID
		var sub subscription.Subscription
		var since, notBefore int64
		var hash string
		err := rows.Scan(&id.subscription, &id.key, &since, &notBefore, &sub.User.Context, &sub.Client, &sub.Token.Transport, &sub.Token.Target, &hash)
		if err != nil {
			return n, fmt.Errorf("find unsent slots: %w", err)
		}
		sub.Device = subscription.DeviceOf(hash)
		d := s.due(id, sub, db.Time(since))
		d.at = db.Time(notBefore)
		s.sched.add([]Due{d})
		n++
	}
	return n, rows.Err()
}

// Outcome is one line of a device's trace.
type Outcome struct {
	Version int64
	Attempt int
	Outcome string
	Status  int
	Reason  string
	// ProviderID is the provider's name for the notification.
	ProviderID string
	// Accepted is when the event was accepted, Sent when the request left, Answered when the answer came.
	Accepted, Sent, Answered time.Time
	// NextTry is when a failed state is tried again; zero when it is not.
	NextTry time.Time
}

// Trace returns the last outcomes of a subscription, newest first, at most 20. Of one that was removed it is
// the one that ended it, and that stays the oldest for some weeks when the device comes back.
func (s *Service) Trace(ctx context.Context, subscriptionID string) ([]Outcome, error) {
	rows, err := s.DB.Query(ctx, sqlOutcomes, subscriptionID, traceLength)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := []Outcome{}
	for rows.Next() {
		var o Outcome
		var accepted, sent, answered, next int64
		err := rows.Scan(&o.Version, &o.Attempt, &o.Outcome, &o.Status, &o.Reason, &o.ProviderID, &accepted, &sent, &answered, &next)
		if err != nil {
			return nil, err
		}
		o.Accepted, o.Sent, o.Answered, o.NextTry = db.Time(accepted), db.Time(sent), db.Time(answered), db.Time(next)
		all = append(all, o)
	}
	if err := rows.Err(); err != nil || len(all) == traceLength {
		return all, err
	}
	var o Outcome
	var accepted, sent, gone int64
	err = s.DB.QueryRow(ctx, sqlTombstone, subscriptionID).Scan(&o.Version, &o.Attempt, &o.Outcome, &o.Status, &o.Reason, &accepted, &sent, &gone)
	if errors.Is(err, sql.ErrNoRows) {
		return all, nil
	}
	o.Accepted, o.Sent, o.Answered = db.Time(accepted), db.Time(sent), db.Time(gone)
	return append(all, o), err
}

// Pending tells whether a state of the subscription waits to be sent, after how many failures, until when.
func (s *Service) Pending(ctx context.Context, subscriptionID string) (pending bool, attempt int, notBefore time.Time, err error) {
	var ms int64
	err = s.DB.QueryRow(ctx, sqlPending, subscriptionID).Scan(&attempt, &ms)
	if errors.Is(err, sql.ErrNoRows) {
		return false, 0, time.Time{}, nil
	}
	return err == nil, attempt, db.Time(ms), err
}

// settlement is what became of a slot after a try.
type settlement struct {
	removed bool      // the subscription is gone, and the slot with it
	dirty   bool      // there is something to send
	next    time.Time // not before then
}

// settle commits what the outcome of one try means for the slot and the subscription, and adds it to
// the trace. Only a token that is gone is removed, and not when the device renewed it since.
func (s *Service) settle(ctx context.Context, f flight) (end settlement, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	held := f.slot.suspicion.after(f.outcome, f.answered)
	since, gone := f.gone(held)
	frozen := false
	if gone {
		may, err := s.mayPrune(ctx, f.sub)
		if err != nil {
			return settlement{}, err
		}
		if frozen = !may; may {
			defer func() {
				if !end.removed {
					s.keptAfterAll(ctx, f.sub)
				}
			}()
		}
	}
	line := Outcome{
		Version: f.slot.version, Attempt: f.slot.attempt + 1, Outcome: f.outcome.Kind.String(), Status: f.outcome.Status,
		Reason: f.outcome.Reason, ProviderID: f.outcome.ProviderID, Accepted: db.Time(f.slot.input.AcceptedMS),
		Sent: f.sent, Answered: f.answered, NextTry: f.answered.Add(f.wait()),
	}
	attempt, next, done := line.Attempt, line.NextTry, int64(0)
	if f.outcome.Kind == outcome.Delivered || f.outcome.Kind == outcome.Suspect || f.outcome.Kind == outcome.Refused || frozen {
		attempt, next, done = 0, f.answered, f.slot.version // done with, delivered or not
		line.NextTry = time.Time{}
	}
	shown, changed, err := f.shows()
	if err != nil {
		return settlement{}, err
	}
	told, news := f.slot.told, 0
	if f.outcome.Kind == outcome.Delivered {
		told = f.sent
	}
	if changed {
		news = 1
	}
	var change subscription.Change
	err = s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		end, change = settlement{next: next}, subscription.Change{}
		if gone && !frozen {
			change, end.removed, err = s.Subscriptions.RemoveGone(ctx, tx, f.sub.ID, since)
			if err != nil {
				return err
			}
			if end.removed {
				return putTombstone(ctx, tx, f.sub.ID, line)
			}
			if f.outcome.Kind == outcome.Suspect {
				held.strikes = 1 // the device has renewed it: what was held against it is of the past
			}
		}
		var tries, behind int64
		err = tx.QueryRow(ctx, sqlSettleSlot, done, done, attempt, db.Millis(next), held.strikes, db.Millis(held.last),
			db.Millis(f.fullAfter()), done, db.Millis(f.sent), db.Millis(told), news, shown, f.slot.id.subscription, f.slot.id.key).Scan(&tries, &behind)
		if errors.Is(err, sql.ErrNoRows) { // unsubscribed meanwhile
			return nil
		} else if err != nil {
			return err
		}
		end.dirty = behind > 0
		if f.outcome.Environment != "" {
			if err := s.Subscriptions.Found(ctx, tx, f.sub.ID, f.outcome.Environment); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, sqlPutOutcome, f.slot.id.subscription, tries%traceLength, line.Version, line.Attempt, line.Outcome, line.Status,
			line.Reason, line.ProviderID, db.Millis(line.Accepted), db.Millis(line.Sent), db.Millis(line.Answered), db.Millis(line.NextTry))
		return err
	})
	if err == nil && end.removed {
		s.Subscriptions.Committed(change)
	}
	return end, err
}
