package push

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strconv"

	"github.com/rivo/uniseg"
)

// Privacy is how much of a mail a notification tells the provider and the lock screen.
type Privacy string

// The levels of privacy. None tells that there is new mail, and where, but not from whom or what. Sealed
// tells all of it to the app, encrypted with keys of its own, and nothing to anybody else.
const (
	PrivacyFull   Privacy = "full"
	PrivacySender Privacy = "sender"
	PrivacyNone   Privacy = "none"
	PrivacySealed Privacy = "sealed"
)

// The topics that are ours, beside those of subscriptions. They name what a message is for.
const (
	// topicClear: the notification that the slot shows is of a message that was read or removed elsewhere.
	topicClear = "mail:clear"
	// topicBadge: nothing but the count has changed.
	topicBadge = "mail:badge"
	topicTest  = "test"
	// topicSignIn: the mail server rejects what we sign in with, so that new mail is not told of any more.
	topicSignIn = "account:sign_in"
)

// title is what is shown of a notification whose texts are sealed, or gave way.
func (in Input) title() string {
	if in.Topic == topicSignIn {
		return textSignIn
	}
	return textNewMail
}

// silent reports whether a notification shows nothing.
func (n Notification) silent() bool { return n.Input.silent() }

func (in Input) silent() bool { return in.Topic == topicClear || in.Topic == topicBadge }

// What stands for what is not told or not there.
const (
	textNewMail   = "New mail"
	textNoSubject = "(no subject)"
	textNoSender  = "(no sender)"
)

// What is shown when the user must sign in again.
const (
	textSignIn     = "Sign in again"
	textSignInWhat = "The mail server rejects the password. Until you sign in again, you are told of no new mail."
)

// view is what may be told of a mail; "" is not told.
type view struct{ sender, subject string }

// privacy is how much a notification tells: what holds for its user, or the app's own level, when that is set and
// nobody closer to the user than the installation has said anything. Nothing known is nothing told.
func (n Notification) privacy(app Privacy) Privacy {
	if app != "" && !n.Subscription.PrivacyFixed {
		return app
	}
	return cmp.Or(Privacy(n.Subscription.Privacy), PrivacyNone)
}

func (p Privacy) view(n Notification) view {
	var v view
	switch {
	case n.silent():
		return v
	case n.Input.Topic == topicSignIn: // nothing of a mail
		return view{textSignIn, textSignInWhat}
	}
	if p != PrivacyNone {
		v.sender = n.Input.Sender
		if v.sender == "" {
			v.sender = textNoSender
		}
	}
	if p != PrivacyNone && p != PrivacySender && !n.Short {
		v.subject = n.Input.Subject
		if v.subject == "" {
			v.subject = textNoSubject
		}
	}
	return v
}

// screen is what a notification shows: a title always, and a body as far as there is more to tell.
func (v view) screen() (title, body string) {
	switch {
	case v.sender == "":
		return textNewMail, v.subject
	case v.subject == "":
		return v.sender, textNewMail
	}
	return v.sender, v.subject
}

// fit renders with ever shorter texts until size is at most limit: the subject gives way first, then
// the sender. Cuts fall between grapheme clusters, so that no character or emoji is broken. A text
// loses no more than half at a time: each byte of it may take six in JSON, and too much cannot be put back.
func fit[T any](v view, limit int, render func(view) (out T, size int)) T {
	for {
		out, size := render(v)
		over := size - limit
		switch {
		case over <= 0:
			return out
		case v.subject != "":
			v.subject = cut(v.subject, max(len(v.subject)-over, len(v.subject)/2))
		case v.sender != "":
			v.sender = cut(v.sender, max(len(v.sender)-over, len(v.sender)/2))
		default:
			return out // the facts alone are too long: the wire refuses them
		}
	}
}

// cut shortens s to at most size bytes including the ellipsis that then ends it. It always gets
// shorter, down to "".
func cut(s string, size int) string {
	const ellipsis = "…"
	end, state := 0, -1
	for rest := s; ; {
		var cluster string
		cluster, rest, _, state = uniseg.FirstGraphemeClusterInString(rest, state)
		if cluster == "" || end+len(cluster)+len(ellipsis) > size || end+len(cluster)+len(ellipsis) >= len(s) {
			break
		}
		end += len(cluster)
	}
	if end == 0 {
		return ""
	}
	return s[:end] + ellipsis
}

// encode is JSON without the escapes that only HTML needs: a limit counts every byte.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // strings, numbers and structs of them always encode
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// facts are what an app needs to act on a notification, in every transport under the same names.
type facts struct {
	User        string `json:"user"`
	Topic       string `json:"topic"`
	Folder      string `json:"folder,omitempty"`
	UIDValidity uint32 `json:"uidvalidity,omitempty"`
	UID         uint32 `json:"uid,omitempty"`
	// Unseen is missing when unknown.
	Unseen  *int  `json:"unseen,omitempty"`
	Version int64 `json:"version"`
	// Tag names the notification that is to be cleared.
	Tag string `json:"tag,omitempty"`
}

func factsOf(n Notification) facts {
	f := facts{
		User: n.Subscription.User.String(), Topic: n.Input.Topic, Folder: n.Input.Folder,
		UIDValidity: n.Input.UIDValidity, UID: n.Input.UID, Version: n.Version,
	}
	if n.Input.Unseen >= 0 {
		f.Unseen = &n.Input.Unseen
	}
	if n.Input.Topic == topicClear {
		f.Tag = n.Collapse
	}
	return f
}

// badge is the count for the app's icon; nil when unknown.
func (n Notification) badge() *int {
	if n.Badge < 0 {
		return nil
	}
	return &n.Badge
}

// strings is the form for FCM, whose data holds only strings.
func (f facts) strings() map[string]string {
	m := map[string]string{"user": f.User, "topic": f.Topic, "version": strconv.FormatInt(f.Version, 10)}
	if f.Folder != "" {
		m["folder"] = f.Folder
	}
	if f.UIDValidity != 0 {
		m["uidvalidity"] = strconv.FormatUint(uint64(f.UIDValidity), 10)
	}
	if f.UID != 0 {
		m["uid"] = strconv.FormatUint(uint64(f.UID), 10)
	}
	if f.Unseen != nil {
		m["unseen"] = strconv.Itoa(*f.Unseen)
	}
	if f.Tag != "" {
		m["tag"] = f.Tag
	}
	return m
}
