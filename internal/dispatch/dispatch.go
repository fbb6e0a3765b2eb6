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
	if len(subs) == 0 { // most users have no device: that must not cost a write
		return unwanted(ev), nil
	}
	ms := db.Millis(d.now())
	known, _ := d.states.get(user)
	if _, fresh, _ := known.with(ev, ms); !fresh { // what is behind knows too little, never too much
		return Duplicate, nil
	}
	var next state
	var fresh bool
	var due []push.Due
	err = d.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		due = nil
		var older bool
		var err error
		if next, fresh, older, err = advance(ctx, tx, user, known, ev, ms); err != nil || !fresh {
			return err
		}
		due, err = d.push.Enqueue(ctx, tx, subs, next.version, push.Input{
			Topic: subscription.TopicNewMail, Folder: ev.Folder, UIDValidity: ev.UIDValidity, UID: ev.UID,
			Sender: ev.Sender, Subject: ev.Subject, Unseen: ev.Unseen, AcceptedMS: db.Millis(ev.Accepted),
		}, older)
		if err == nil && len(due) == 0 { // they unsubscribed since we asked
			return errUnwanted
		}
		return err
	})
	// Also after an error: when the database went away under a COMMIT, nobody knows what is in it. A slot
	// that is not dirty costs a look.
	d.push.Wake(due)
	switch {
	case errors.Is(err, errUnwanted):
		return unwanted(ev), nil
	case err != nil:
		d.states.drop(user)
		return "", err
	}
	d.states.put(user, next)
	if !fresh {
		return Duplicate, nil
	}
	return Queued, nil
}

// advance puts the state after an event in the place of the known one, or where that one is behind, of the
// one in the table. When that one has the event, it is not fresh and nothing is written.
func advance(ctx context.Context, tx *db.Tx, u tenant.UserID, known state, ev event.Event, ms int64) (next state, fresh, older bool, err error) {
	for {
		next, fresh, older = known.with(ev, ms)
		if !fresh {
			return next, false, false, nil
		}
		if ok, err := replace(ctx, tx, u, next); ok || err != nil {
			return next, true, older, err
		}
		if known, err = read(ctx, tx, u); err != nil {
			return state{}, false, false, err
		}
		if next.version == 1 && known.version == 0 { // neither added nor there: the user is gone
			return state{}, false, false, errUnwanted
		}
	}
}

// errUnwanted takes a write back that turned out to be for nobody.
var errUnwanted = errors.New("no subscription left")

func unwanted(ev event.Event) Result {
	if ev.Folder == event.Inbox {
		return NoSubscription
	}
	return OtherFolder
}
