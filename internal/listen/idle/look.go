package idle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Look looks at a user's folder over his connection, and finds what is not in known; not ok means that nothing was
// ever told of it. It selects the folder, to read only.
func Look(ctx context.Context, c *imap.Client, u tenant.UserID, folder string, known event.Position, ok bool) (event.Look, error) {
	s, err := look(ctx, c, u, folder, known, ok, time.Now())
	return s.Look, err
}

// sight is a Look, and what of it only we need.
type sight struct {
	event.Look
	exists uint32    // messages in the folder
	newest time.Time // when the newest of New came; zero without any
}

// look is Look. The folder is opened anew, for this alone fixes a moment on every server: UIDNEXT, what SEARCH sees and
// the modification sequence belong together. STATUS may be ahead of what the open folder shows, and mail be missed.
func look(ctx context.Context, c *imap.Client, u tenant.UserID, folder string, known event.Position, ok bool, now time.Time) (s sight, err error) {
	box, err := c.Examine(ctx, folder, nil)
	switch {
	case err != nil:
		return s, err
	case box.UIDValidity == 0: // uids are good for nothing there (RFC 9051 section 2.3.1.1)
		return s, fmt.Errorf("look at a folder: %w: the server tells no UIDVALIDITY", imap.ErrUnsupported)
	}
	s.exists = box.Exists
	s.Look = event.Look{Folder: folder, UIDValidity: box.UIDValidity, UIDNext: box.UIDNext, ModSeq: box.HighestModSeq, Unseen: event.Unknown}
	if s.UIDNext == 0 {
		last, err := c.UIDSearch(ctx, imap.Search{UIDs: imap.UIDs(imap.Last)}, imap.ReturnMax)
		if err != nil {
			return s, err
		}
		s.UIDNext = last.Max + 1
	}
	if ok && known.UIDValidity == s.UIDValidity {
		if s.ModSeq != 0 && s.ModSeq == known.ModSeq && s.UIDNext == known.UIDNext && known.Unseen != event.Unknown {
			s.Unseen = known.Unseen
			return s, nil // nothing at all has happened
		}
		if err := s.compare(ctx, c, u, known, now); err != nil {
			return s, err
		}
	}
	if s.Unseen, err = unseen(ctx, c, folder); err != nil {
		return s, err
	}
	for i := range s.New {
		s.New[i].Unseen = s.Unseen
	}
	return s, nil
}

// compare finds what is new, and what is gone.
func (s *sight) compare(ctx context.Context, c *imap.Client, u tenant.UserID, known event.Position, now time.Time) error {
	uids := imap.UIDs(known.Recent...)
	if s.UIDNext > known.UIDNext {
		uids = append(uids, imap.UIDRange{From: max(known.UIDNext, 1), To: imap.Last})
	}
	if len(uids) == 0 {
		return nil
	}
	found, err := c.UIDSearch(ctx, imap.Search{UIDs: uids, Unseen: true, Undeleted: true}, imap.ReturnAll)
	if err != nil {
		return err
	}
	for _, uid := range known.Recent {
		if !found.All.Contains(uid) {
			s.Gone = append(s.Gone, uid)
		}
	}
	// "n:*" also finds the last message when that is below n.
	fresh := slices.DeleteFunc(found.All.Newest(event.MaxNew), func(uid uint32) bool { return uid < known.UIDNext })
	if len(fresh) == 0 {
		return nil
	}
	err = c.UIDFetch(ctx, imap.UIDs(fresh...), imap.FetchEnvelope|imap.FetchDate, func(m imap.Message) {
		if m.Has&imap.FetchEnvelope == 0 || len(s.New) == event.MaxNew { // flags that changed just now; or said twice
			return
		}
		s.New = append(s.New, newMail(u, s.Look, m, now))
		if m.InternalDate.After(s.newest) {
			s.newest = m.InternalDate
		}
	})
	slices.SortFunc(s.New, func(a, b event.Event) int { return int(b.UID) - int(a.UID) })
	s.New = slices.CompactFunc(s.New, func(a, b event.Event) bool { return a.UID == b.UID })
	return err
}

// newMail makes an event of a message.
func newMail(u tenant.UserID, l event.Look, m imap.Message, now time.Time) event.Event {
	ev := event.Event{
		Kind: event.NewMail, User: u.ID, Context: u.Context, Folder: l.Folder, UIDValidity: l.UIDValidity, UID: m.UID,
		Subject: event.Subject(m.Envelope.Subject), Accepted: now,
	}
	for _, from := range m.Envelope.From {
		if from.Host != "" || len(m.Envelope.From) == 1 { // the others are the ends of groups
			ev.Sender, ev.Address = event.Sender(from.Name, from.String())
			break
		}
	}
	return ev
}

// unseen counts the unseen messages of the selected folder. Without ESEARCH all their uids would come: STATUS, though
// it may be a moment ahead, tells the number.
func unseen(ctx context.Context, c *imap.Client, folder string) (int, error) {
	if c.Has("ESEARCH") || c.Has("IMAP4REV2") {
		found, err := c.UIDSearch(ctx, imap.Search{Unseen: true}, imap.ReturnCount)
		return int(found.Count), err
	}
	st, err := c.Status(ctx, folder, imap.StatusUnseen)
	if err != nil {
		if _, refused := errors.AsType[*imap.ResponseError](err); refused {
			return event.Unknown, nil // of the selected folder: not every server does
		}
		return event.Unknown, err
	}
	if st.Has&imap.StatusUnseen == 0 {
		return event.Unknown, nil
	}
	return int(st.Unseen), nil
}
