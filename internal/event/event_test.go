package event_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/event"
)

var sample = event.Event{
	Kind: event.NewMail, User: 3, Context: 1, Folder: event.Inbox, UIDValidity: 1795315879, UID: 7,
	Sender: "Secret Lover", Address: "lover@example.org", Subject: "Tonight", Unseen: 2,
}

func TestID(t *testing.T) {
	if got, want := sample.ID(), "3@1/INBOX/1795315879/7"; got != want {
		t.Errorf("id %s, want %s", got, want)
	}
	if other := (event.Event{Kind: event.Read, User: 3, Context: 1, Folder: event.Inbox, UIDValidity: 1795315879, UID: 7}); other.ID() == sample.ID() {
		t.Error("that a message was read has the id of its arrival")
	}
	again := sample
	again.Subject, again.Unseen, again.Accepted = "Re: Tonight", event.Unknown, time.Now()
	if again.ID() != sample.ID() {
		t.Error("a second report of the same message has another id")
	}
	for _, change := range []func(*event.Event){
		func(e *event.Event) { e.User = 4 },
		func(e *event.Event) { e.Context = 2 },
		func(e *event.Event) { e.Folder = "INBOX/1795315879" },
		func(e *event.Event) { e.UIDValidity++ },
		func(e *event.Event) { e.UID++ },
	} {
		other := sample
		change(&other)
		if other.ID() == sample.ID() {
			t.Errorf("%+v has the same id", other)
		}
	}
}

// TestLogsNoMail: what a mail says has no place in a log.
func TestLogsNoMail(t *testing.T) {
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).InfoContext(t.Context(), "notification", slog.Any("event", sample))
	if !strings.Contains(out.String(), "event.kind=new_mail") || !strings.Contains(out.String(), sample.ID()) {
		t.Errorf("the event cannot be told: %s", out.String())
	}
	for _, secret := range []string{sample.Sender, sample.Address, sample.Subject} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q is logged: %s", secret, out.String())
		}
	}
}
