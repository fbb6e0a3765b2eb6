package idle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Conn is a user's connection.
type Conn struct {
	s      *Source
	client *imap.Client
	user   tenant.UserID
	host   string        // the mail host's name
	bell   chan struct{} // rings Hold of ModePoll; nil otherwise

	heardAt atomic.Int64 // Unix time in ms; 0 is never
	want    atomic.Uint32
	closed  atomic.Bool

	// Of the goroutine that tends, or reads.
	tending bool
	stale   bool     // something changed while it was looked at
	exists  uint32   // messages in the INBOX
	told    uint32   // as many the server told of while the INBOX was looked at
	folders []string // beside the INBOX
	watched []string // of these, those that the server tells of
	polled  time.Time

	mu   sync.Mutex
	mode string // guarded by mu

	// Guarded by Source.alarms.mu.
	due  time.Time
	at   int // in the queue; -1 is not
	gone bool
}

// What is to be done when a connection is awake.
const (
	wantInbox   uint32 = 1 << iota // look at the INBOX
	wantFolders                    // look which folders there are, and at them
	wantNew                        // the server told of new mail: how long ago did it come?
)

// Hold waits for news and dispatches it, until the connection breaks, which is an error, or Close. Call it once, on
// its own goroutine.
func (c *Conn) Hold() error {
	for !c.closed.Load() {
		err := c.wait()
		if err == nil && !c.closed.Load() {
			err = deep(c.awake)
		}
		if err != nil && !c.closed.Load() {
			c.s.alarms.clear(c, true)
			c.client.Close()
			return err
		}
	}
	return nil
}

// deep runs f on a stack of its own.
func deep(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return <-done
}

// wait returns when there is something to do.
func (c *Conn) wait() error {
	if c.bell != nil {
		<-c.bell
		return nil
	}
	return c.client.Idle()
}

// awake does what there is to do.
func (c *Conn) awake() error {
	ctx, cancel := context.WithTimeout(context.Background(), tendTimeout)
	defer cancel()
	return c.tend(ctx, c.want.Swap(0))
}

// Close ends the connection without a word to the server, and Hold with it. It may be called more than once.
func (c *Conn) Close() {
	c.closed.Store(true)
	c.s.alarms.clear(c, true)
	c.client.Close()
	c.rouse()
}

// Wake has the user's folders looked at, as soon as can be.
func (c *Conn) Wake() {
	c.want.Or(wantInbox | wantFolders)
	c.rouse()
}

// LastEvent is when the server last said anything of the user's mail, or zero.
func (c *Conn) LastEvent() time.Time {
	if ms := c.heardAt.Load(); ms != 0 {
		return time.UnixMilli(ms)
	}
	return time.Time{}
}

// Mode is how the server makes its news known: one of the constants.
func (c *Conn) Mode() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mode
}

func (c *Conn) setMode(mode string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mode = mode
}

// ring is the alarm's.
func (c *Conn) ring() {
	// What an alarm is for is known already, if it is one of ours; else it is time to look at everything.
	if c.want.Load() == 0 {
		c.want.Or(wantInbox | wantFolders)
	}
	c.rouse()
}

// rouse ends the wait.
func (c *Conn) rouse() {
	if c.bell == nil {
		c.client.Interrupt(c.s.answer)
		return
	}
	select {
	case c.bell <- struct{}{}:
	default:
	}
}

// heard is told what the server says by itself. It must not wait, nor take much of the stack.
func (c *Conn) heard(u imap.Update) {
	now := c.s.Now()
	switch u := u.(type) {
	case imap.Exists:
		if c.tending { // tend judges it when it knows how many there are
			c.heardAt.Store(now.UnixMilli())
			c.told = max(c.told, uint32(u))
			return
		}
		more := uint32(u) > c.exists
		c.exists = uint32(u)
		if more {
			c.heardAt.Store(now.UnixMilli())
			c.want.Or(wantInbox | wantNew)
			c.rouse()
		}
	case imap.Expunged:
		if !c.tending {
			c.exists -= min(c.exists, 1)
		}
		c.changed(now, wantInbox)
	case imap.Vanished:
		if !c.tending {
			c.exists -= min(c.exists, uint32(u.UIDs.Len())) //nolint:gosec // G115: not negative
		}
		c.changed(now, wantInbox)
	case imap.Message:
		c.changed(now, wantInbox)
	case imap.Status:
		if slices.Contains(c.watched, u.Mailbox) {
			c.changed(now, wantFolders)
		}
	case imap.Notice:
		if u.Code == "NOTIFICATIONOVERFLOW" { // from now on the server tells nothing (RFC 5465 section 5.8)
			c.watched = nil
			c.setMode(ModeIdle)
			c.changed(now, wantInbox|wantFolders)
		}
	}
}

// changed has what is not urgent looked at soon, together with what else comes until then. While we look ourselves
// there is no hurry: most of it is in what we see, and some servers tell flags each time a folder is opened.
func (c *Conn) changed(now time.Time, want uint32) {
	c.heardAt.Store(now.UnixMilli())
	if c.tending {
		c.stale = true
		return
	}
	c.want.Or(want)
	c.s.alarms.set(c, now.Add(settle))
}

// tend looks at what is wanted, and sets the next alarm. An error is the connection's end.
func (c *Conn) tend(ctx context.Context, want uint32) error {
	c.tending, c.stale, c.told = true, false, 0
	defer func() { c.tending = false }()
	c.s.alarms.clear(c, false)
	if len(c.folders) > 0 && c.s.Now().Sub(c.polled) >= c.s.PollEvery*9/10 { // the INBOX alone may keep us busy
		want |= wantFolders
	}
	var later error // the store's: it is tried again
	for round := 0; want != 0 && round < maxRounds; round++ {
		if want&(wantInbox|wantNew) != 0 {
			late, err := c.look(ctx, event.Inbox, want&wantNew != 0)
			if err != nil {
				return fmt.Errorf("look at the INBOX: %w", err)
			}
			later = errors.Join(later, late)
		}
		if want&wantFolders != 0 {
			late, left, err := c.lookFolders(ctx)
			if err != nil {
				return err
			}
			if later = errors.Join(later, late); left { // another folder is open
				c.want.Or(wantInbox)
			}
		}
		if c.told > c.exists {
			c.want.Or(wantInbox)
		}
		want = c.want.Swap(0)
	}
	next := c.s.ReissueEvery
	if c.bell != nil || len(c.folders) > 0 {
		next = min(next, c.s.PollEvery)
	}
	next -= rand.N(next/10 + 1) //nolint:gosec // G404: no secret; not all of a restart at once
	if later != nil {
		c.s.Log.ErrorContext(ctx, "folder could not be compared with what was told of it", slog.String("account", c.user.String()), slog.Any("err", later))
		next = min(next, retryStore)
	}
	if c.stale {
		next = min(next, lookAgain)
	}
	if want != 0 {
		c.want.Or(want)
		next = settle
	}
	c.s.alarms.set(c, c.s.Now().Add(next))
	return nil
}

// look has what is new in a folder dispatched. late is the store's error, err the connection's.
func (c *Conn) look(ctx context.Context, folder string, told bool) (late, err error) {
	known, ok, err := c.s.Dispatcher.Known(ctx, c.user, folder)
	if err != nil {
		return fmt.Errorf("find what was told: %w", err), c.reopen(ctx, folder)
	}
	c.told = 0
	s, err := look(ctx, c.client, c.user, folder, known, ok, c.s.Now())
	if err != nil {
		return nil, err
	}
	if folder == event.Inbox {
		c.exists = s.exists
		if told {
			c.s.told(ctx, c.host, s.newest, c.s.Now())
		}
	}
	if ok && same(s.Look, known) {
		return nil, nil
	}
	if _, err := c.s.Dispatcher.CatchUp(ctx, c.user, s.Look); err != nil {
		return fmt.Errorf("dispatch: %w", err), nil
	}
	return nil, nil
}

// reopen opens the folder alone, so that the server tells of it.
func (c *Conn) reopen(ctx context.Context, folder string) error {
	box, err := c.client.Examine(ctx, folder, nil)
	if folder == event.Inbox {
		c.exists = box.Exists
	}
	return err
}

// same reports whether a look found what is known.
func same(l event.Look, known event.Position) bool {
	return l.UIDValidity == known.UIDValidity && l.UIDNext == known.UIDNext && l.ModSeq == known.ModSeq &&
		l.Unseen == known.Unseen && len(l.New) == 0 && len(l.Gone) == 0
}

// lookFolders looks at those of the user's other folders in which something has happened. left means that the INBOX
// is not open any more.
func (c *Conn) lookFolders(ctx context.Context) (late error, left bool, err error) {
	folders, err := c.s.folders(ctx, c.user)
	if err != nil {
		return err, false, nil
	}
	c.folders, c.polled = folders, c.s.Now()
	if err := c.watch(ctx); err != nil {
		return nil, false, err
	}
	const items = imap.StatusUIDNext | imap.StatusUIDValidity | imap.StatusUnseen | imap.StatusHighestModSeq
	for _, f := range folders {
		st, err := c.client.Status(ctx, f, items)
		if refused(err) {
			continue // no such folder, for now
		} else if err != nil {
			return late, left, fmt.Errorf("ask for a folder: %w", err)
		}
		known, ok, err := c.s.Dispatcher.Known(ctx, c.user, f)
		if err != nil {
			late = errors.Join(late, fmt.Errorf("find what was told: %w", err))
			continue
		}
		if ok && st.Has&items == items&^imap.StatusHighestModSeq|st.Has&imap.StatusHighestModSeq &&
			st.UIDValidity == known.UIDValidity && st.UIDNext == known.UIDNext && int(st.Unseen) == known.Unseen &&
			(st.HighestModSeq == known.ModSeq || st.HighestModSeq == 0) {
			continue
		}
		left = true
		failed, err := c.look(ctx, f, false)
		if err != nil && !refused(err) {
			return late, left, fmt.Errorf("look at a folder: %w", err)
		}
		late = errors.Join(late, failed)
	}
	return late, left, nil
}

// refused reports whether the server answered, and the connection can be used on.
func refused(err error) bool {
	r, ok := errors.AsType[*imap.ResponseError](err)
	return ok && r.Status != "BYE" || errors.Is(err, imap.ErrUnsupported)
}

// watch has the server tell of the folders too, if it can. Polling goes on as a net: NOTIFY is young everywhere.
func (c *Conn) watch(ctx context.Context) error {
	if c.bell != nil || slices.Equal(c.folders, c.watched) || !c.client.Has("NOTIFY") {
		return nil
	}
	events := []string{imap.MessageNew, imap.MessageExpunge, imap.FlagChange}
	watches := []imap.Watch{{Group: "selected", Events: events}, {Names: c.folders, Events: events}}
	if len(c.folders) == 0 {
		watches = nil
	}
	err := c.client.Notify(ctx, watches...)
	switch {
	case refused(err):
		c.setMode(ModeIdle)
	case err != nil:
		return fmt.Errorf("ask to be told: %w", err)
	case len(c.folders) == 0:
		c.setMode(ModeIdle)
	default:
		c.setMode(ModeNotify)
	}
	c.watched = c.folders // also when refused: not to ask again and again
	return nil
}
