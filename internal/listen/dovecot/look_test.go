package dovecot_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/listen/dovecot"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

func (f *fixture) look(t *testing.T, folder string, known event.Position, ok bool) event.Look {
	t.Helper()
	l, err := f.Look(t.Context(), f.user, folder, known, ok)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func uids(l event.Look) (all []uint32) {
	for _, ev := range l.New {
		all = append(all, ev.UID)
	}
	return all
}

// flag changes messages as another client of the user does.
func flag(t *testing.T, d *testpeer.Dovecot, change, folder, uids, flags string) {
	t.Helper()
	d.Doveadm(t, "flags", change, "-u", login, flags, "mailbox", folder, "uid", uids)
}

func TestLook(t *testing.T) {
	t.Parallel()
	d := start(t, testpeer.DovecotConfig{DoveadmKey: doveadmKey})
	f := byDoveadm(t, testpeer.SQLiteURL(t), d)
	mail := func(header string) { d.DeliverLMTP(t, []string{login}, []byte(header+"\n\nbody\n")) }
	mail("Subject: before anybody listened")
	first := f.look(t, event.Inbox, event.Position{}, false)
	if first.UIDNext != 2 || first.UIDValidity == 0 || first.ModSeq == 0 || first.Unseen != 1 || first.New != nil || first.Folder != event.Inbox {
		t.Fatalf("the first look: %+v", first)
	}
	known := event.Position{UIDValidity: first.UIDValidity, UIDNext: 2, ModSeq: first.ModSeq, Unseen: 1, Recent: []uint32{1}}
	if l := f.look(t, event.Inbox, known, true); l.New != nil || l.Gone != nil || l.Unseen != 1 {
		t.Errorf("nothing is new: %+v", l)
	}
	if l := f.look(t, event.Inbox, event.Position{UIDValidity: first.UIDValidity + 1, UIDNext: 1}, true); l.New != nil || l.Gone != nil || l.UIDNext != 2 {
		t.Errorf("another UIDVALIDITY: %+v", l)
	}

	mail("From: =?utf-8?q?J=C3=B6rg?= <jorg@example.org>\nSubject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\n folded")
	mail("Subject: read elsewhere")
	mail("X-Nothing: at all")
	flag(t, d, "add", "INBOX", "3", `\Seen`)
	l := f.look(t, event.Inbox, known, true)
	if got := uids(l); !slices.Equal(got, []uint32{4, 2}) || l.Unseen != 3 || l.UIDNext != 5 || l.Gone != nil {
		t.Fatalf("%+v", l)
	}
	want := event.Event{
		Kind: event.NewMail, User: 1, Context: 1, Folder: event.Inbox, UIDValidity: l.UIDValidity, UID: 2, Sender: "Jörg",
		Address: "jorg@example.org", Subject: "grüße folded", Unseen: 3, Accepted: time.UnixMilli(1790000000000),
	}
	if got := l.New[1]; fmt.Sprint(got) != fmt.Sprint(want) || got.Sender != want.Sender || got.Address != want.Address || got.Subject != want.Subject {
		t.Errorf("%#v, want %#v", got, want)
	}
	if got := l.New[0]; got.Sender != "" || got.Subject != "" {
		t.Errorf("of a mail without headers: %#v", got)
	}

	// What was told and is read, or gone, is named once somebody looks again.
	known = event.Position{UIDValidity: l.UIDValidity, UIDNext: 5, ModSeq: l.ModSeq, Unseen: 3, Recent: []uint32{4, 2, 1}}
	flag(t, d, "add", "INBOX", "4", `\Seen`)
	d.Doveadm(t, "expunge", "-u", login, "mailbox", "INBOX", "uid", "1")
	l = f.look(t, event.Inbox, known, true)
	if !slices.Equal(l.Gone, []uint32{4, 1}) || l.New != nil || l.Unseen != 1 || l.ModSeq <= known.ModSeq {
		t.Errorf("%+v", l)
	}
	d.RemoveMailbox(t, login)
	mail("Subject: in a new INBOX")
	if l := f.look(t, event.Inbox, known, true); l.UIDValidity == known.UIDValidity || l.New != nil || l.Gone != nil || l.Unseen != 1 {
		t.Errorf("an INBOX that was made again: %+v", l)
	}
}

// TestLookAtFolders: a folder's name is text, whatever it means to doveadm.
func TestLookAtFolders(t *testing.T) {
	t.Parallel()
	d := start(t, testpeer.DovecotConfig{DoveadmKey: doveadmKey})
	f := byDoveadm(t, testpeer.SQLiteURL(t), d)
	folders := []string{"Grüße", "a*b", "a%b", "aXb", `"\`}
	for i, name := range folders {
		d.Doveadm(t, "mailbox", "create", "-u", login, name)
		for range i + 1 {
			d.Save(t, login, name, []byte("Subject: "+name+"\n\nbody\n"))
		}
	}
	for i, name := range folders {
		first := f.look(t, name, event.Position{}, false)
		l := f.look(t, name, event.Position{UIDValidity: first.UIDValidity, UIDNext: 1}, true)
		if len(l.New) != i+1 || l.Unseen != i+1 || l.Folder != name || l.New[0].Folder != name {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if _, err := f.Look(t.Context(), f.user, "none", event.Position{}, false); !errors.Is(err, dovecot.ErrNoFolder) || dovecot.Reason(err) == "" {
		t.Errorf("no such folder: %v", err)
	}
	nobody := f.user
	nobody.Login = "nobody"
	if _, err := f.Look(t.Context(), nobody, event.Inbox, event.Position{}, false); !errors.Is(err, dovecot.ErrNoUser) {
		t.Errorf("no such user: %v", err)
	}
	f.change(t, func(h *tenant.MailHost) { h.DoveadmURL = "" })
	if _, err := f.Look(t.Context(), f.user, event.Inbox, event.Position{}, false); !errors.Is(err, dovecot.ErrNoDoveadm) {
		t.Errorf("no doveadm: %v", err)
	}
}

// TestLookIsBounded: of very many new mails the newest are seen.
func TestLookIsBounded(t *testing.T) {
	t.Parallel()
	d := start(t, testpeer.DovecotConfig{DoveadmKey: doveadmKey})
	f := byDoveadm(t, testpeer.SQLiteURL(t), d)
	const mails = event.MaxNew + 20
	for range mails {
		d.DeliverLMTP(t, []string{login}, []byte("Subject: many\n\nbody\n"))
	}
	flag(t, d, "add", "INBOX", "119,118", `\Seen`)
	first := f.look(t, event.Inbox, event.Position{}, false)
	l := f.look(t, event.Inbox, event.Position{UIDValidity: first.UIDValidity, UIDNext: 1}, true)
	if got := uids(l); len(got) != event.MaxNew || got[0] != mails || got[1] != mails-3 || got[99] != 19 || l.Unseen != mails-2 {
		t.Errorf("%d, unseen %d", got, l.Unseen)
	}

	// Huge headers are not worth an answer that never ends: the mails are told without them.
	for range 5 {
		d.DeliverLMTP(t, []string{login}, []byte("Subject: "+strings.Repeat("x", 1<<20)+"\n\nbody\n"))
	}
	l = f.look(t, event.Inbox, event.Position{UIDValidity: first.UIDValidity, UIDNext: mails + 1}, true)
	if got := uids(l); !slices.Equal(got, []uint32{mails + 5, mails + 4, mails + 3, mails + 2, mails + 1}) || l.New[0].Subject != "" {
		t.Errorf("%d, %.50q", got, l.New[0].Subject)
	}
}
