// Package event is the vocabulary of what happens in mailboxes.
//
// Every source (Dovecot's notifications, and later IDLE and others) turns what it hears into an
// [Event]; nothing behind this package knows the source. Events are values: safe to share. What a stranger's
// mail says is decoded and made fit for a screen here (text.go), once for all sources.
package event

import (
	"fmt"
	"log/slog"
	"time"
)

// Inbox is the one folder whose name has no case (RFC 9051 section 5.1).
const Inbox = "INBOX"

// Unknown is the Unseen of an event whose source did not count.
const Unknown = -1

// Kind is what happened.
type Kind string

// The kinds.
const (
	// NewMail is a message that is new in a folder, by delivery or by APPEND.
	NewMail Kind = "new_mail"
	// Read is messages that were read.
	Read Kind = "read"
	// Removed is messages that were deleted or expunged.
	Removed Kind = "removed"
	// Counted is any other change after which the unseen messages were counted.
	Counted Kind = "counted"
)

// Event is something that happened in a mailbox.
type Event struct {
	Kind Kind
	// User and Context are the two halves of the user's id.
	User, Context int64
	// Folder is the full mailbox name in UTF-8.
	Folder string
	// UIDValidity and UID name the message (RFC 9051 section 2.3.1.1). A source that knows no UIDVALIDITY
	// leaves 0.
	UIDValidity, UID uint32
	// UIDs are the messages of a Read or Removed; UID is the highest of them then.
	UIDs []uint32
	// Sender is the author's display name, else his address; Address is the address alone. Both decoded.
	Sender, Address string
	// Subject is decoded and unfolded.
	Subject string
	// Unseen counts the folder's unseen messages after the event, or is Unknown.
	Unseen int
	// Accepted is when we heard of it.
	Accepted time.Time
}

// ID is the same for every report of the same event: it is what duplicates are recognised by.
func (e Event) ID() string {
	id := fmt.Sprintf("%d@%d/%s/%d/%d", e.User, e.Context, e.Folder, e.UIDValidity, e.UID)
	if e.Kind != NewMail {
		id += "/" + string(e.Kind)
	}
	return id
}

// LogValue shows which event it is and nothing of what the mail says.
func (e Event) LogValue() slog.Value {
	return slog.GroupValue(slog.String("kind", string(e.Kind)), slog.String("id", e.ID()))
}
