// Package dispatch is the policy between an event and the slots: is it new, who wants it, put it there.
//
// Duplicates are recognised by folder, UIDVALIDITY and uid, in the transaction that writes the slots,
// so an event is either queued and known, or neither. It does not send (push), nor does it know
// where events come from.
//
// A Dispatcher is safe for concurrent use.
package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Result is what became of an event.
type Result string

// The results, as the notify endpoint answers them.
const (
	// Queued: the slots of the devices that want it are committed.
	Queued Result = "queued"
	// NoSubscription: no device of the user wants new mail of the INBOX.
	NoSubscription Result = "no_subscription"
	// Duplicate: it was reported before.
	Duplicate Result = "duplicate"
	// OtherFolder: no device wants news of this folder.
	OtherFolder Result = "other_folder"
	// Muted: the rules of every device say that nothing is to be told.
	Muted Result = "muted"
	// Unchanged: no device shows the message, and the count is what it was.
	Unchanged Result = "unchanged"
)

// Dispatcher turns events into slots.
type Dispatcher struct {
	db   *db.DB
	subs *subscription.Store
	push *push.Service
	now  func() time.Time

	states states
}

// New returns a Dispatcher.
func New(d *db.DB, subs *subscription.Store, p *push.Service, now func() time.Time) *Dispatcher {
	return &Dispatcher{db: d, subs: subs, push: p, now: now, states: states{byUser: map[tenant.UserID]state{}}}
}

// Dispatch commits the slots of every device that wants the event, and has them sent. When it returns
// Queued the slots are durable; when it returns an error, nothing has happened.
func (d *Dispatcher) Dispatch(ctx context.Context, ev event.Event) (Result, error) {
	user := tenant.UserID{Context: ev.Context, ID: ev.User}
	topic := subscription.TopicFor(ev.Folder)
	subs, err := d.subs.For(ctx, user, topic)
	if err != nil {
		return "", fmt.Errorf("find subscriptions: %w", err)
	}
	now := d.now()
	p := planFor(subs, ev, now)
	if p.nobody() { // most users have no device: that must not cost a write
		return p.unwanted(ev), nil
	}
	stale := Duplicate
	if ev.Kind != event.NewMail {
		stale = Unchanged
	}
	ms := db.Millis(now)
	known, _ := d.states.get(user)
	var next state
	var fresh bool
	var due []push.Due
	err = d.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		due = nil
		var older bool
		var err error
		var before state
		if before, next, fresh, older, err = advance(ctx, tx, user, known, ev, ms); err != nil || !fresh {
			return err
		}
		due, err = d.enqueue(ctx, tx, p, ev, before, next, older)
		if err == nil && len(due) == 0 && (ev.Kind == event.NewMail || next.same(before)) {
			return errUnwanted // they unsubscribed since we asked, or there is nothing to tell
		}
		return err
	})
	// Also after an error: when the database went away under a COMMIT, nobody knows what is in it. A slot
	// that is not dirty costs a look.
	d.push.Wake(due)
	switch {
	case errors.Is(err, errUnwanted) && ev.Kind != event.NewMail:
		return Unchanged, nil
	case errors.Is(err, errUnwanted):
		return p.unwanted(ev), nil
	case err != nil:
		d.states.drop(user)
		return "", err
	}
	if next.version < known.version { // added again
		d.states.drop(user)
	}
	d.states.put(user, next)
	if !fresh || len(due) == 0 {
		return stale, nil
	}
	return Queued, nil
}

// enqueue puts what an event means into the slots, inside its write.
func (d *Dispatcher) enqueue(ctx context.Context, tx *db.Tx, p plan, ev event.Event, before, next state, older bool) (due []push.Due, err error) {
	in := push.Input{
		Topic: subscription.TopicNewMail, Folder: ev.Folder, UIDValidity: ev.UIDValidity, UID: ev.UID,
		Sender: ev.Sender, Subject: ev.Subject, Unseen: ev.Unseen, AcceptedMS: db.Millis(ev.Accepted),
	}
	if len(p.alert) > 0 {
		if due, err = d.push.Enqueue(ctx, tx, p.alert, next.version, in, older); err != nil {
			return nil, err
		}
	}
	if len(p.vip) > 0 {
		vip := in
		vip.VIP = true
		more, err := d.push.Enqueue(ctx, tx, p.vip, next.version, vip, older)
		if err != nil {
			return nil, err
		}
		due = append(due, more...)
	}
	if len(p.clear) > 0 {
		in.Sender, in.Subject = "", ""
		more, err := d.push.Clear(ctx, tx, p.clear, next.version, push.Gone{Folder: ev.Folder, UIDValidity: ev.UIDValidity, UIDs: ev.UIDs}, in)
		if err != nil {
			return nil, err
		}
		due = append(due, more...)
	}
	if in.Unseen = next.count(); len(p.badge) > 0 && in.Unseen >= 0 && in.Unseen != before.count() {
		more, err := d.push.EnqueueBadge(ctx, tx, p.badge, next.version, in)
		if err != nil {
			return nil, err
		}
		due = append(due, more...)
	}
	return due, nil
}

// advance puts the state after an event in the place of the known one, or where that one is behind, of the
// one in the table. When that one has the event, it is not fresh and nothing is written.
func advance(ctx context.Context, tx *db.Tx, u tenant.UserID, known state, ev event.Event, ms int64,
) (before, next state, fresh, older bool, err error) {
	for remembered := true; ; remembered = false {
		next, fresh, older = known.with(ev, ms)
		if fresh {
			if ok, err := replace(ctx, tx, u, next); ok || err != nil {
				return known, next, true, older, err
			}
		} else if !remembered { // memory alone is not believed: the user may have been removed and added again
			return known, next, false, false, nil
		}
		if known, err = read(ctx, tx, u); err != nil {
			return state{}, state{}, false, false, err
		}
		if fresh && next.version == 1 && known.version == 0 { // neither added nor there: the user is gone
			return state{}, state{}, false, false, errUnwanted
		}
	}
}

// errUnwanted takes a write back that turned out to be for nobody.
var errUnwanted = errors.New("no subscription left")

// sqlCounts finds the mailboxes of all users on a subscription's device.
const sqlCounts = `SELECT s.folders FROM subscriptions a JOIN subscriptions b ON b.transport = a.transport AND b.token_hash = a.token_hash
	JOIN states s ON s.context_id = b.context_id AND s.user_id = b.user_id WHERE a.id = ? AND (b.expires_ms = 0 OR b.expires_ms > ?)`

// Unseen counts the unseen messages in the INBOXes of all users on a subscription's device, as far as they are
// known; negative is that none is.
func (d *Dispatcher) Unseen(ctx context.Context, subscriptionID string) (int, error) {
	rows, err := d.db.Query(ctx, sqlCounts, subscriptionID, db.Millis(d.now()))
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	sum := -1
	for rows.Next() {
		var folders string
		if err := rows.Scan(&folders); err != nil {
			return 0, err
		}
		var st state
		if err := json.Unmarshal([]byte(folders), &st.folders); err != nil {
			return 0, fmt.Errorf("read state: %w", err)
		}
		if n := st.count(); n >= 0 {
			sum = max(sum, 0) + n
		}
	}
	return sum, rows.Err()
}
