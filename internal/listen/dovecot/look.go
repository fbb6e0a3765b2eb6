package dovecot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// ErrNoDoveadm says that the mail host has no doveadm API that could be asked.
var ErrNoDoveadm = errors.New("the mail host has no doveadm API")

// maxSpan bounds the UIDs that a look searches for new messages: the newest ones.
const maxSpan = 5000

// Look sees what a user's folder holds, by the doveadm API and so without any password of his. known is what was
// last told of the folder; not ok is nothing. Errors are those of the API; Reason has a sentence for each.
func (s *Source) Look(ctx context.Context, u tenant.User, folder string, known event.Position, ok bool) (event.Look, error) {
	host, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return event.Look{}, err
	}
	if host.DoveadmURL == "" {
		return event.Look{}, ErrNoDoveadm
	}
	l := look{api: s.doveadm(host), login: u.Login, folder: folder, Look: event.Look{Folder: folder}}
	if err := l.status(ctx); err != nil {
		return event.Look{}, fmt.Errorf("look at folder: %w", err)
	}
	if !ok || known.UIDValidity != l.UIDValidity { // whatever is there was there before anybody listened
		return l.Look, nil
	}
	if err := l.gone(ctx, known); err != nil {
		return event.Look{}, fmt.Errorf("look for what is gone: %w", err)
	}
	if err := l.news(ctx, max(known.UIDNext, 1)); err != nil {
		return event.Look{}, fmt.Errorf("look for new mail: %w", err)
	}
	now := s.Now()
	for i := range l.New {
		ev := &l.New[i]
		ev.Kind, ev.User, ev.Context, ev.Folder = event.NewMail, u.ID.ID, u.ID.Context, folder
		ev.UIDValidity, ev.Unseen, ev.Accepted = l.UIDValidity, l.Unseen, now
	}
	return l.Look, nil
}

// look is one look at a folder.
type look struct {
	event.Look
	api           *doveadm
	login, folder string
}

// status reads the folder's numbers.
func (l *look) status(ctx context.Context) error {
	records, err := l.api.ask(ctx, "mailboxStatus", map[string]any{
		"user": l.login, "mailboxMask": []string{l.folder},
		"field": []string{"uidvalidity", "uidnext", "highestmodseq", "unseen"},
	})
	if err != nil {
		return err
	}
	for _, r := range records {
		if string(r["mailbox"]) != l.folder { // the name is a mask to doveadm
			continue
		}
		validity, err1 := number(r, "uidvalidity", 32)
		next, err2 := number(r, "uidnext", 32)
		modseq, err3 := number(r, "highestmodseq", 64)
		unseen, err4 := number(r, "unseen", 31)
		l.UIDValidity, l.UIDNext, l.ModSeq, l.Unseen = uint32(validity), uint32(next), modseq, int(unseen) //nolint:gosec // G115: bounded
		return errors.Join(err1, err2, err3, err4)
	}
	return ErrNoFolder
}

func number(r record, field string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(string(r[field]), 10, bits)
	if err != nil {
		return 0, fmt.Errorf("%w: %s is no number", ErrAnswer, field)
	}
	return n, nil
}

// gone finds which of the messages that were told are unseen no more.
func (l *look) gone(ctx context.Context, known event.Position) error {
	if len(known.Recent) == 0 || known.ModSeq != 0 && known.ModSeq == l.ModSeq {
		return nil
	}
	set := make([]string, len(known.Recent))
	for i, uid := range known.Recent {
		set[i] = strconv.FormatUint(uint64(uid), 10)
	}
	still, err := l.fetch(ctx, strings.Join(set, ","))
	if err != nil {
		return err
	}
	for _, uid := range known.Recent {
		if !slices.ContainsFunc(still, func(ev event.Event) bool { return ev.UID == uid }) {
			l.Gone = append(l.Gone, uid)
		}
	}
	return nil
}

// news finds the unseen messages from a UID on.
func (l *look) news(ctx context.Context, from uint32) error {
	if l.UIDNext <= from {
		return nil
	}
	span := l.UIDNext - from
	if span > event.MaxNew { // most of them may be seen, or gone
		from = l.UIDNext - min(span, maxSpan)
		all, err := l.fetch(ctx, uidRange(from, l.UIDNext-1))
		if err != nil || len(all) == 0 {
			return err
		}
		all = all[:min(len(all), event.MaxNew)]
		if from = all[len(all)-1].UID; l.UIDNext-from > maxSpan {
			return ErrAnswer
		}
	}
	all, err := l.fetch(ctx, uidRange(from, l.UIDNext-1), "hdr.from", "hdr.subject")
	if errors.Is(err, errTooLong) { // somebody sends mails with huge headers: that they came is told
		all, err = l.fetch(ctx, uidRange(from, l.UIDNext-1))
	}
	all = slices.DeleteFunc(all, func(ev event.Event) bool { return ev.UID < from || ev.UID >= l.UIDNext })
	l.New = all[:min(len(all), event.MaxNew)]
	return err
}

func uidRange(from, to uint32) string {
	return strconv.FormatUint(uint64(from), 10) + ":" + strconv.FormatUint(uint64(to), 10)
}

// fetch returns the unseen messages of a set, newest first.
func (l *look) fetch(ctx context.Context, uids string, fields ...string) ([]event.Event, error) {
	records, err := l.api.ask(ctx, "fetch", map[string]any{
		"user": l.login, "field": append([]string{"mailbox", "uid"}, fields...),
		"query": []string{"mailbox", l.folder, "unseen", "uid", uids},
	})
	if err != nil {
		return nil, err
	}
	var all []event.Event
	for _, r := range records {
		if string(r["mailbox"]) != l.folder {
			continue
		}
		uid, err := number(r, "uid", 32)
		if err != nil {
			return nil, err
		}
		ev := event.Event{UID: uint32(uid), Subject: event.Subject(string(r["hdr.subject"]))} //nolint:gosec // G115: bounded
		ev.Sender, ev.Address = event.Author(string(r["hdr.from"]))
		all = append(all, ev)
	}
	slices.SortFunc(all, func(a, b event.Event) int { return cmp.Compare(b.UID, a.UID) })
	return all, nil
}
