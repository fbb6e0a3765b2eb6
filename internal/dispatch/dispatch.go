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
}

// New returns a Dispatcher.
func New(d *db.DB, subs *subscription.Store, p *push.Service, now func() time.Time) *Dispatcher {
	return &Dispatcher{db: d, subs: subs, push: p, now: now}
}

const (
	// sqlMailboxes finds what is known of a folder under a UIDVALIDITY and any later one: a handful of rows.
	sqlMailboxes = `SELECT uidvalidity, high_uid, seen FROM mailboxes
		WHERE context_id = ? AND user_id = ? AND folder = ? AND uidvalidity >= ? ORDER BY uidvalidity`
	sqlSetMailbox = `INSERT INTO mailboxes (context_id, user_id, folder, uidvalidity, high_uid, seen, updated_ms) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (context_id, user_id, folder, uidvalidity) DO UPDATE SET high_uid = excluded.high_uid, seen = excluded.seen,
		updated_ms = excluded.updated_ms`
	// A re-created folder has a new UIDVALIDITY. A few old ones are kept for events that come late.
	sqlForgetMailboxes = `DELETE FROM mailboxes WHERE context_id = ? AND user_id = ? AND folder = ? AND uidvalidity NOT IN
		(SELECT uidvalidity FROM mailboxes WHERE context_id = ? AND user_id = ? AND folder = ? ORDER BY updated_ms DESC, uidvalidity DESC LIMIT 4)`
	sqlNextVersion = `INSERT INTO versions (context_id, user_id, version) VALUES (?, ?, 1)
		ON CONFLICT (context_id, user_id) DO UPDATE SET version = versions.version + 1 RETURNING version`
)

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
	var result Result
	var due []push.Due
	err = d.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		result, due = "", nil
		if err := tx.Lock(ctx, "user/"+user.String()); err != nil {
			return err
		}
		fresh, older, err := d.markSeen(ctx, tx, ev)
		if err != nil {
			return fmt.Errorf("mark message seen: %w", err)
		}
		if !fresh {
			result = Duplicate
			return nil
		}
		var version int64
		if err := tx.QueryRow(ctx, sqlNextVersion, user.Context, user.ID).Scan(&version); err != nil {
			return fmt.Errorf("count version: %w", err)
		}
		due, err = d.push.Enqueue(ctx, tx, subs, version, push.Input{
			Topic: subscription.TopicNewMail, Folder: ev.Folder, UIDValidity: ev.UIDValidity, UID: ev.UID,
			Sender: ev.Sender, Subject: ev.Subject, Unseen: ev.Unseen, AcceptedMS: db.Millis(ev.Accepted),
		}, older)
		if err == nil && len(due) == 0 { // they unsubscribed since we asked
			return errUnwanted
		}
		result = Queued
		return err
	})
	// Also after an error: when the database went away under a COMMIT, nobody knows what is in it. A slot
	// that is not dirty costs a look.
	d.push.Wake(due)
	if errors.Is(err, errUnwanted) {
		return unwanted(ev), nil
	} else if err != nil {
		return "", err
	}
	return result, nil
}

// errUnwanted takes a write back that turned out to be for nobody.
var errUnwanted = errors.New("no subscription left")

func unwanted(ev event.Event) Result {
	if ev.Folder == event.Inbox {
		return NoSubscription
	}
	return OtherFolder
}

// markSeen remembers a message of a folder. older says that a newer one was seen before: one with a
// higher uid, or one of the folder that took this one's place (its UIDVALIDITY is higher, RFC 9051
// section 2.3.1.1).
func (d *Dispatcher) markSeen(ctx context.Context, tx *db.Tx, ev event.Event) (fresh, older bool, err error) {
	w, known, replaced, err := readWindow(ctx, tx, ev)
	if err != nil || !w.add(ev.UID) {
		return false, false, err
	}
	_, err = tx.Exec(ctx, sqlSetMailbox, ev.Context, ev.User, ev.Folder, ev.UIDValidity, w.high, int64(w.seen), //nolint:gosec // 64 bits are 64 bits
		db.Millis(d.now()))
	if err == nil && !known {
		_, err = tx.Exec(ctx, sqlForgetMailboxes, ev.Context, ev.User, ev.Folder, ev.Context, ev.User, ev.Folder)
	}
	return true, replaced || ev.UID < w.high, err
}

// readWindow finds the window of an event's folder and whether that folder has been replaced since.
func readWindow(ctx context.Context, tx *db.Tx, ev event.Event) (w window, known, replaced bool, err error) {
	rows, err := tx.Query(ctx, sqlMailboxes, ev.Context, ev.User, ev.Folder, ev.UIDValidity)
	if err != nil {
		return window{}, false, false, err
	}
	defer rows.Close()
	for rows.Next() {
		var validity, high, seen int64
		if err := rows.Scan(&validity, &high, &seen); err != nil {
			return window{}, false, false, err
		}
		if validity == int64(ev.UIDValidity) {
			w, known = window{high: uint32(high), seen: uint64(seen)}, true //nolint:gosec // written from these types by markSeen
		} else {
			replaced = ev.UIDValidity != 0 // who knows no UIDVALIDITY cannot be told to be late
		}
	}
	return w, known, replaced, rows.Err()
}

// windowSize is how far below the highest uid a late one is still told from a repeated one.
const windowSize = 64

// window remembers which of the last uids of a folder were seen: bit i of seen is uid high-i.
type window struct {
	high uint32
	seen uint64
}

// add marks uid and reports whether it was new. What is below the window counts as seen.
func (w *window) add(uid uint32) bool {
	if uid > w.high {
		w.seen = w.seen<<(uid-w.high) | 1 // a shift by 64 or more leaves 0
		w.high = uid
		return true
	}
	back := w.high - uid
	if back >= windowSize || w.seen&(1<<back) != 0 {
		return false
	}
	w.seen |= 1 << back
	return true
}
