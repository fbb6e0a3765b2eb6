package notify

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/problem"
)

// notification is a request's body, decoded.
type notification struct {
	kind             event.Kind
	user             string
	folder           string
	uidValidity, uid uint32
	uids             []uint32
	sender, address  string
	subject          string
	unseen           int
}

// maxFolder bounds a mailbox name, in bytes.
const maxFolder = 1024

// Why a well-formed notification is ignored. They are words of the answer and of its metric.
const (
	reasonCalendar     = "calendar"
	reasonNoEvent      = "no_event"
	reasonUnknownEvent = "unknown_event"
	reasonNoChange     = "no_change"
)

// events are those of Dovecot and of the wider Lua driver (RFC 5423 section 4.1), in lower case. Flags that
// are set may tell more: see flagged.
var events = map[string]event.Kind{
	"messagenew":     event.NewMail,
	"messageappend":  event.NewMail,
	"messageexpunge": event.Removed,
	"messageread":    event.Read,
	"messagetrash":   event.Removed,
	"flagsset":       event.Counted,
	"flagsclear":     event.Counted,
}

// parse reads a body. It returns a reason to ignore it, or what is wrong with it.
func parse(body []byte, contentType string) (n notification, ignored string, p *problem.Problem) {
	if isCalendar(body, contentType) {
		return n, reasonCalendar, nil // invitations come to the same URL (push_notification_chronos)
	}
	fields, p := readObject(body)
	if p != nil {
		return n, "", p
	}
	name, _ := text(fields.get("event"))
	kind, known := events[strings.ToLower(name)]
	switch {
	case hasCalendar(fields) && (!known || fields.get("imap-uid") == nil):
		return n, reasonCalendar, nil
	case name == "":
		return n, reasonNoEvent, nil
	case !known:
		return n, reasonUnknownEvent, nil
	}
	n.user, _ = text(fields.get("user")) // without one it names nobody
	var ok bool
	if n.folder, ok = text(fields.get("folder")); !ok || n.folder == "" || len(n.folder) > maxFolder {
		return n, "", bad("folder", "must be the mailbox's name, a string of 1 to 1024 bytes")
	}
	if strings.EqualFold(n.folder, event.Inbox) {
		n.folder = event.Inbox
	}
	if n.uids, ok = uids(fields.get("imap-uid")); !ok {
		return n, "", bad("imap-uid", "must be a whole number from 1 to 4294967295, or an array of them")
	}
	if raw := fields.get("imap-uidvalidity"); raw != nil && !isNull(raw) {
		if n.uidValidity, ok = number(raw); !ok {
			return n, "", bad("imap-uidvalidity", "must be a whole number from 1 to 4294967295")
		}
	}
	if strings.EqualFold(name, "flagsset") {
		kind = flagged(fields.get("flags"))
	}
	// With several messages the newest counts.
	n.kind, n.uid = kind, slices.Max(n.uids)
	// What decorates a notification is read leniently: a mail with an odd header is still new mail.
	n.unseen = unseen(fields)
	if kind != event.NewMail {
		if kind == event.Counted && n.unseen == event.Unknown {
			return n, reasonNoChange, nil
		}
		return n, "", nil
	}
	n.uids = nil
	from, _ := text(fields.get("from"))
	n.sender, n.address = event.Author(from)
	subject, _ := text(fields.get("subject"))
	n.subject = event.Subject(subject)
	return n, "", nil
}

func bad(field, detail string) *problem.Problem {
	p := problem.New(http.StatusBadRequest, "invalid_field", detail)
	p.Field = field
	return p
}

// hasCalendar reports a member that an invitation comes in. It is foreign to notifications of mail, but
// does not make one anything else.
func hasCalendar(fields object) bool {
	return slices.ContainsFunc([]string{"calendar", "itip", "ical"}, func(key string) bool {
		raw := fields.get(key)
		return raw != nil && !isNull(raw)
	})
}

func isCalendar(body []byte, contentType string) bool {
	if contentType != "application/json" { // as nearly all come
		media, _, err := mime.ParseMediaType(contentType)
		if err == nil && media == "text/calendar" {
			return true
		}
	}
	return bytes.HasPrefix(bytes.TrimSpace(body), []byte("BEGIN:VCALENDAR"))
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

func text(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	return unquote(raw)
}

// number reads a nonzero unsigned 32-bit number (RFC 9051 "nz-number").
func number(raw json.RawMessage) (uint32, bool) {
	n, err := strconv.ParseUint(string(raw), 10, 32)
	return uint32(n), err == nil && n > 0
}

// uids reads a uid, or an array of them that is not empty.
func uids(raw json.RawMessage) (all []uint32, ok bool) {
	if len(raw) == 0 || raw[0] != '[' {
		n, ok := number(raw)
		return []uint32{n}, ok
	}
	var many []json.RawMessage
	if json.Unmarshal(raw, &many) != nil {
		return nil, false
	}
	for _, one := range many {
		n, ok := number(one)
		if !ok {
			return nil, false
		}
		all = append(all, n)
	}
	return all, len(all) > 0
}

// The flags that matter, as Dovecot's own interface numbers them.
const flagDeleted, flagSeen = 0x04, 0x08

// flagged is what flags that were set mean for a notification. They come as the list that Lua has of them,
// as one name, or as the number.
func flagged(raw json.RawMessage) event.Kind {
	var names []string
	var name string
	var number int
	switch {
	case raw == nil:
	case json.Unmarshal(raw, &names) == nil:
	case json.Unmarshal(raw, &name) == nil:
		names = strings.Fields(name)
	case json.Unmarshal(raw, &number) == nil:
		if number&flagDeleted != 0 {
			names = append(names, `\Deleted`)
		}
		if number&flagSeen != 0 {
			names = append(names, `\Seen`)
		}
	}
	has := func(flag string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, flag) })
	}
	switch {
	case has(`\Deleted`):
		return event.Removed
	case has(`\Seen`):
		return event.Read
	}
	return event.Counted
}

// unseen reads the count as Dovecot names it, or as the original system did.
func unseen(fields object) int {
	for _, key := range []string{"unseen", "unread"} {
		n, err := strconv.ParseUint(string(fields.get(key)), 10, 31)
		if err == nil {
			return int(n)
		}
	}
	return event.Unknown
}
