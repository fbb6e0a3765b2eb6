package push

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

const (
	// sqlShown finds what a slot holds that shows notifications.
	sqlShown = `SELECT version - sent_version, input, shown FROM slots WHERE subscription_id = ? AND collapse_key = ?`
	// sqlMarkShown notes that what a slot shows is gone, while something newer is about to take its place.
	sqlMarkShown = `UPDATE slots SET shown = ? WHERE subscription_id = ? AND collapse_key = ?`
	// sqlNewestSent is the newest state that a notification of the device was made of.
	sqlNewestSent = `SELECT COALESCE(MAX(sent_version), 0) FROM slots WHERE subscription_id = ? AND collapse_key <> ?`
	// sqlSkipSlot ends a state that need not be sent.
	sqlSkipSlot = `UPDATE slots SET sent_version = CASE WHEN sent_version < ? THEN ? ELSE sent_version END, attempt = 0
		WHERE subscription_id = ? AND collapse_key = ? RETURNING version - sent_version`
)

// maxCleared bounds the messages that one slot is to clear. It is asked for one: that which it shows, or is
// about to.
const maxCleared = 8

// Gone are messages that need no notification any more: they were read or removed elsewhere.
type Gone struct {
	Folder      string
	UIDValidity uint32
	UIDs        []uint32
}

func (g Gone) has(m message) bool {
	return slices.ContainsFunc(g.UIDs, func(uid uint32) bool { return m.is(message{Folder: g.Folder, UIDValidity: g.UIDValidity, UID: uid}) })
}

// Clear takes back, inside a write, what the devices of subs show of messages, or would: an alert for one of
// them that is not sent, and a notification that is. It goes the way of the alerts, in their slots, so that
// it cannot overtake one. The rest is as with Enqueue.
func (s *Service) Clear(ctx context.Context, tx *db.Tx, subs []subscription.Subscription, version int64, gone Gone, in Input) ([]Due, error) {
	var due []Due
	for _, sub := range subs {
		for _, key := range []string{collapseKeyMail, collapseKeyVIP} {
			cleared, err := s.toClear(ctx, tx, slotID{sub.ID, key}, gone)
			if err != nil {
				return nil, fmt.Errorf("look what a device shows: %w", err)
			}
			if len(cleared) == 0 {
				continue
			}
			in.Topic, in.Cleared = topicClear, cleared
			more, err := s.enqueue(ctx, tx, []subscription.Subscription{sub}, key, version, in, false, s.NewMailTTL)
			if err != nil {
				return nil, err
			}
			due = append(due, more...)
		}
	}
	return due, nil
}

// toClear lists what a slot is to clear; nothing when the messages are none of its business.
func (s *Service) toClear(ctx context.Context, tx *db.Tx, id slotID, gone Gone) (cleared []message, err error) {
	var behind int64
	var rawInput, rawShown string
	err = tx.QueryRow(ctx, sqlShown, id.subscription, id.key).Scan(&behind, &rawInput, &rawShown)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var in Input
	if err := json.Unmarshal([]byte(rawInput), &in); err != nil {
		return nil, err
	}
	shown, err := decodeShown(rawShown)
	if err != nil {
		return nil, err
	}
	dirty := behind > 0
	switch {
	case dirty && in.Topic == topicClear:
		cleared = in.Cleared
	case dirty && !gone.has(in.message()): // it takes the place of what is shown
		if shown == nil || shown.Gone || !gone.has(*shown) {
			return nil, nil
		}
		shown.Gone = true
		marked, err := json.Marshal(shown)
		if err == nil {
			_, err = tx.Exec(ctx, sqlMarkShown, string(marked), id.subscription, id.key)
		}
		return nil, err
	case dirty: // it may be in flight: then it is what is shown when this is sent
		cleared = []message{in.message()}
	}
	was := len(cleared)
	if shown != nil && gone.has(*shown) && !slices.ContainsFunc(cleared, shown.is) {
		cleared = append(cleared, *shown)
	}
	if dirty && in.Topic == topicClear && len(cleared) == was {
		return nil, nil
	}
	return cleared[max(0, len(cleared)-maxCleared):], nil
}

func decodeShown(raw string) (shown *message, err error) {
	if raw == "" {
		return nil, nil
	}
	return shown, json.Unmarshal([]byte(raw), &shown)
}

// EnqueueBadge is Enqueue for a state of which the count alone is told.
func (s *Service) EnqueueBadge(ctx context.Context, tx *db.Tx, subs []subscription.Subscription, version int64, in Input) ([]Due, error) {
	in = Input{Topic: topicBadge, Unseen: in.Unseen, AcceptedMS: in.AcceptedMS}
	return s.enqueue(ctx, tx, subs, collapseKeyBadge, version, in, false, badgeTTL)
}

// shows is what the device shows after a flight, if that has changed it.
func (f flight) shows() (shown string, changed bool, err error) {
	switch {
	case f.outcome.Kind != outcome.Delivered || f.slot.input.Topic == topicBadge:
		return "", false, nil
	case f.slot.input.Topic == topicClear:
		return "", true, nil
	}
	raw, err := json.Marshal(f.slot.input.message())
	return string(raw), true, err
}

// doneWith ends a state that need not be sent. It reports whether a newer one came meanwhile.
func (s *Service) doneWith(ctx context.Context, v slot) (dirty bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	var behind int64
	err = s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		err := tx.QueryRow(ctx, sqlSkipSlot, v.version, v.version, v.id.subscription, v.id.key).Scan(&behind)
		if errors.Is(err, sql.ErrNoRows) { // unsubscribed meanwhile
			return nil
		}
		return err
	})
	return behind > 0, err
}
