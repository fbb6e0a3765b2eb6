package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// maxRecent is how many of the told messages a Position names.
const maxRecent = 16

// Known finds what was last told of a user's folder; false is nothing, ever.
func (d *Dispatcher) Known(ctx context.Context, u tenant.UserID, name string) (event.Position, bool, error) {
	st, err := d.stateOf(ctx, u)
	if err != nil {
		return event.Position{}, false, err
	}
	f, ok := st.newest(name)
	if !ok {
		return event.Position{Unseen: event.Unknown}, false, nil
	}
	return f.position(), true, nil
}

// stateOf is the state in memory, which may be behind the table, or that in the table.
func (d *Dispatcher) stateOf(ctx context.Context, u tenant.UserID) (state, error) {
	if st, ok := d.states.get(u); ok {
		return st, nil
	}
	var st state
	err := readFrom(d.db.QueryRow(ctx, sqlState, u.Context, u.ID), u, &st)
	if err == nil && st.version > 0 {
		d.states.put(u, st)
	}
	return st, err
}

// newest is a folder under its highest UIDVALIDITY.
func (s state) newest(name string) (f folder, ok bool) {
	for _, have := range s.folders {
		if have.Name == name && (!ok || have.Validity > f.Validity) {
			f, ok = have, true
		}
	}
	return f, ok
}

func (f folder) position() event.Position {
	p := event.Position{UIDValidity: f.Validity, UIDNext: f.High + 1, ModSeq: f.ModSeq, Unseen: f.Count - 1}
	for i := range uint32(windowSize) {
		if f.Told&(1<<i) != 0 && len(p.Recent) < maxRecent {
			p.Recent = append(p.Recent, f.High-i)
		}
	}
	return p
}

// CatchUp dispatches the difference between what was told of a folder and what a source sees in it now: once,
// as state. Each device is told of the newest of the new messages that it wants to hear of, and of the count.
// Of a folder that nothing is known of, or that was made anew since, the messages in it are no news. When it
// returns an error, nothing has happened.
func (d *Dispatcher) CatchUp(ctx context.Context, u tenant.UserID, l event.Look) (Result, error) {
	known, err := d.stateOf(ctx, u)
	if err != nil {
		return "", err
	}
	c := catchUp{d: d, user: u, look: l, now: d.now()}
	_, news, _ := known.seen(l, db.Millis(c.now))
	if c.tells(known, news) {
		err = c.ask(ctx)
	}
	if err == nil {
		err = c.write(ctx, known)
	}
	if errors.Is(err, errAsk) { // another node knew more than we: not within the write, which has one connection already
		if err = c.ask(ctx); err == nil {
			err = c.write(ctx, known)
		}
	}
	d.push.Wake(c.due)
	switch {
	case errors.Is(err, errUnwanted):
		return Unchanged, nil
	case err != nil:
		d.states.drop(u)
		return "", err
	}
	if c.next.version < known.version {
		d.states.drop(u)
	}
	d.states.put(u, c.next)
	if len(c.due) == 0 {
		return Unchanged, nil
	}
	return Queued, nil
}

// catchUp is one look on its way into the slots.
type catchUp struct {
	d     *Dispatcher
	user  tenant.UserID
	look  event.Look
	now   time.Time
	subs  []subscription.Subscription
	asked bool // subs are known
	next  state
	due   []push.Due
}

// errAsk takes a write back that needs the subscriptions.
var errAsk = errors.New("subscriptions are needed")

// tells reports whether anybody may have to be told. After a first look, mostly, nobody need be asked who wants to
// hear of it.
func (c *catchUp) tells(known state, news []event.Event) bool {
	return len(news) > 0 || len(c.look.Gone) > 0 || known.count() >= 0 && c.look.Unseen >= 0 && c.look.Unseen != known.count()
}

func (c *catchUp) ask(ctx context.Context) (err error) {
	c.asked = true
	if c.subs, err = c.d.subs.For(ctx, c.user, subscription.TopicFor(c.look.Folder)); err != nil {
		return fmt.Errorf("find subscriptions: %w", err)
	}
	return nil
}

// write puts the state after the look in the place of the known one, or where that one is behind, of the one in the
// table, and what it means into the slots.
func (c *catchUp) write(ctx context.Context, known state) error {
	return c.d.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		c.due = nil
		for remembered := true; ; remembered = false {
			var news []event.Event
			var changed bool
			c.next, news, changed = known.seen(c.look, db.Millis(c.now))
			if changed {
				ok, err := replace(ctx, tx, c.user, c.next)
				if err != nil {
					return err
				}
				switch {
				case ok && !c.tells(known, news):
					return nil
				case ok && !c.asked:
					return errAsk
				case ok:
					c.due, err = c.d.enqueueLook(ctx, tx, c.subs, c.look, news, known, c.next, c.now)
					return err
				}
			} else if !remembered || known.version > 0 {
				return errUnwanted
			}
			var err error
			before := known.version
			if known, err = read(ctx, tx, c.user); err != nil {
				return err
			}
			if !remembered && known.version == before { // the user is gone
				return errUnwanted
			}
		}
	})
}

// seen is the state after a look. news are its new messages that were not told, newest first. Not changed means
// that the look says nothing that is not known.
func (s state) seen(l event.Look, ms int64) (next state, news []event.Event, changed bool) {
	f := folder{Name: l.Folder, Validity: l.UIDValidity}
	// What a source sees now is not late, as an event may be: a folder with a higher UIDVALIDITY is no more.
	s.folders = slices.DeleteFunc(slices.Clone(s.folders), func(have folder) bool {
		return have.Name == l.Folder && have.Validity > l.UIDValidity
	})
	at := slices.IndexFunc(s.folders, func(have folder) bool { return have.Name == l.Folder && have.Validity == l.UIDValidity })
	if at >= 0 {
		f = s.folders[at]
	}
	last := l.UIDNext
	for _, ev := range l.New {
		last = max(last, ev.UID+1)
	}
	before := f
	switch {
	case at < 0:
		// Whatever is there was there before we looked. But of what came a moment ago the report may still be under way,
		// and a report is of news: nothing is marked as told.
		f.window = window{High: max(last, 1) - 1}
	default:
		for _, ev := range l.New {
			if w := f.window; w.add(ev.UID) {
				news = append(news, ev)
			}
		}
		// Those that are not among the new ones were read before we looked: they are no news later either.
		for high := max(last, 1) - 1; f.High < high; {
			if high-f.High >= windowSize {
				f.window, f.Told = window{High: high, Seen: ^uint64(0)}, 0
				break
			}
			f.add(f.High + 1)
		}
		for _, ev := range news {
			f.tell(ev.UID, true)
		}
		for _, uid := range l.Gone {
			f.tell(uid, false)
		}
	}
	if l.Unseen >= 0 {
		f.Count = l.Unseen + 1
	}
	f.ModSeq = max(f.ModSeq, l.ModSeq)
	if at >= 0 && f == before {
		return s, nil, false
	}
	return s.put(f, at, ms), news, true
}

// enqueueLook puts a look into the slots, inside its write.
func (d *Dispatcher) enqueueLook(ctx context.Context, tx *db.Tx, subs []subscription.Subscription, l event.Look, news []event.Event,
	before, next state, now time.Time,
) (due []push.Due, err error) {
	was, _ := before.newest(l.Folder)
	var told, vips, badge []string // subscriptions by id
	for _, ev := range news {      // the newest first: what a slot holds, an older one need not replace
		p := planFor(subs, ev, now)
		p.alert = without(p.alert, told)
		p.vip = without(p.vip, vips)
		for _, sub := range p.badge {
			badge = append(badge, sub.ID)
		}
		p.badge = nil
		if p.nobody() {
			continue
		}
		told, vips = append(told, ids(p.alert)...), append(vips, ids(p.vip)...)
		if ev.Unseen = next.count(); ev.Folder != event.Inbox {
			ev.Unseen = event.Unknown
		}
		more, err := d.enqueue(ctx, tx, p, ev, before, next, ev.UID < was.High)
		if err != nil {
			return nil, err
		}
		due = append(due, more...)
	}
	rest := event.Event{
		Kind: event.Counted, Folder: l.Folder, UIDValidity: l.UIDValidity, Unseen: next.count(), Accepted: now,
	}
	if len(l.Gone) > 0 {
		rest.Kind, rest.UIDs, rest.UID = event.Removed, l.Gone, slices.Max(l.Gone)
	}
	p := planFor(subs, rest, now)
	if before.count() < 0 { // nobody was told one that is wrong now; an app that subscribes has counted itself
		p.badge = nil
	}
	// An alert brings the count along, unless it waits for the end of quiet hours.
	told = slices.DeleteFunc(append(told, vips...), func(id string) bool { return slices.Contains(badge, id) })
	p.badge = without(p.badge, told)
	more, err := d.enqueue(ctx, tx, p, rest, before, next, false)
	return append(due, more...), err
}

func ids(subs []subscription.Subscription) []string {
	all := make([]string, len(subs))
	for i, sub := range subs {
		all[i] = sub.ID
	}
	return all
}

// without leaves out those with an id of the list.
func without(subs []subscription.Subscription, list []string) []subscription.Subscription {
	if len(list) == 0 {
		return subs
	}
	return slices.DeleteFunc(slices.Clone(subs), func(sub subscription.Subscription) bool { return slices.Contains(list, sub.ID) })
}

// AskSignIn has every device of a user that hears of new mail show that he must sign in again.
func (d *Dispatcher) AskSignIn(ctx context.Context, u tenant.UserID) error {
	subs, err := d.subs.For(ctx, u, subscription.TopicNewMail)
	if err != nil {
		return fmt.Errorf("find subscriptions: %w", err)
	}
	if len(subs) == 0 {
		return nil
	}
	var next state
	var due []push.Due
	err = d.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		due = nil
		before, err := read(ctx, tx, u)
		if err != nil {
			return err
		}
		next = state{before.version + 1, before.folders}
		if ok, err := replace(ctx, tx, u, next); err != nil || !ok { // another node has just told him something
			return err
		}
		due, err = d.push.EnqueueSignIn(ctx, tx, subs, next.version)
		return err
	})
	d.push.Wake(due)
	if err != nil {
		return fmt.Errorf("ask %s to sign in: %w", u, err)
	}
	if len(due) > 0 {
		d.states.put(u, next)
	}
	return nil
}

const sqlTouched = `SELECT context_id, user_id, folders FROM states`

// LastEvents calls f with each user of whom an event came, and when the last did.
func (d *Dispatcher) LastEvents(ctx context.Context, f func(u tenant.UserID, last time.Time)) error {
	rows, err := d.db.Query(ctx, sqlTouched)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var u tenant.UserID
		var folders string
		if err := rows.Scan(&u.Context, &u.ID, &folders); err != nil {
			return err
		}
		var st state
		if err := json.Unmarshal([]byte(folders), &st.folders); err != nil {
			return fmt.Errorf("read state of user %s: %w", u, err)
		}
		last := int64(0)
		for _, have := range st.folders {
			last = max(last, have.Touched)
		}
		f(u, db.Time(last))
	}
	return rows.Err()
}
