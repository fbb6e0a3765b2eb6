package subscription

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Policy is what a device wants to be told, how loudly and when. Nil and the zero value are "all of my topics,
// at once". It is kept as JSON with the subscription and never changed in place.
type Policy struct {
	// Quiet, when not nil, is when the device is to stay silent.
	Quiet *QuietHours `json:"quiet_hours,omitempty"`
	// Folders is judged from the first to the last; the first that matches decides, also of folders that no
	// topic names.
	Folders []FolderRule `json:"folders,omitempty"`
	// Senders is judged the same way, and overrules Folders, save for its "none".
	Senders []SenderRule `json:"senders,omitempty"`
	// VIPs are addresses or @domains whose mail always alerts, in any folder that is told of at all.
	VIPs []string `json:"vips,omitempty"`
	// Updates says whether the device takes messages that show nothing: the count alone, or that a
	// notification is to be cleared. Nil is the transport's own: yes, but not for browsers, which show
	// something of their own then.
	Updates *bool `json:"updates,omitempty"`
}

// Notify is how loudly a device is told.
type Notify string

// From loud to silent.
const (
	// Alert shows a notification.
	Alert Notify = "alert"
	// Badge changes the count only.
	Badge Notify = "badge"
	// Nothing sends nothing.
	Nothing Notify = "none"
)

// FolderRule says how loudly new mail of some folders is told.
type FolderRule struct {
	// Folder is a full name in UTF-8, in which * stands for any characters, also for none.
	Folder string `json:"folder"`
	Notify Notify `json:"notify"`
}

// SenderRule says how loudly new mail of some senders is told.
type SenderRule struct {
	// Sender is an address, or @domain for all of a domain.
	Sender string `json:"sender"`
	Notify Notify `json:"notify"`
}

// The bounds of a policy: it is read for each event of its user.
const (
	maxWindows, maxFolderRules, maxSenderRules, maxVIPs = 21, 100, 200, 200
	maxPattern                                          = 320
)

// Check says what is wrong with a policy. Errors are *tenant.InvalidError, their fields below "policy".
func (p Policy) Check() error {
	if p.Quiet != nil {
		if err := p.Quiet.check(); err != nil {
			return err
		}
	}
	for _, list := range []struct {
		name      string
		len, most int
	}{{"folders", len(p.Folders), maxFolderRules}, {"senders", len(p.Senders), maxSenderRules}, {"vips", len(p.VIPs), maxVIPs}} {
		if list.len > list.most {
			return invalid(list.name, fmt.Sprintf("must be at most %d", list.most))
		}
	}
	for i, r := range p.Folders {
		if err := checkText(fmt.Sprintf("folders[%d].folder", i), r.Folder); err != nil {
			return err
		}
		if err := r.Notify.check(fmt.Sprintf("folders[%d].notify", i)); err != nil {
			return err
		}
	}
	for i, r := range p.Senders {
		if err := checkSender(fmt.Sprintf("senders[%d].sender", i), r.Sender); err != nil {
			return err
		}
		if err := r.Notify.check(fmt.Sprintf("senders[%d].notify", i)); err != nil {
			return err
		}
	}
	for i, who := range p.VIPs {
		if err := checkSender(fmt.Sprintf("vips[%d]", i), who); err != nil {
			return err
		}
	}
	return nil
}

func invalid(field, problem string) error {
	return &tenant.InvalidError{Field: "policy." + field, Problem: problem}
}

func (n Notify) check(field string) error {
	if n != Alert && n != Badge && n != Nothing {
		return invalid(field, "must be alert, badge or none")
	}
	return nil
}

func checkText(field, s string) error {
	if s == "" || len(s) > maxPattern || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return invalid(field, fmt.Sprintf("must be 1 to %d bytes of UTF-8 without control characters", maxPattern))
	}
	return nil
}

func checkSender(field, who string) error {
	if err := checkText(field, who); err != nil {
		return err
	}
	if _, domain, ok := strings.Cut(who, "@"); !ok || domain == "" || strings.ContainsAny(who, " <>,") {
		return invalid(field, `must be an address such as "ann@example.org", or "@example.org" for everybody there`)
	}
	return nil
}

// Takes reports whether a device of a transport gets messages that show nothing.
func (p *Policy) Takes(transport string) bool {
	if p == nil || p.Updates == nil {
		return transport != "webpush"
	}
	return *p.Updates
}

// Plain reports whether no sender is told of differently from another.
func (p *Policy) Plain() bool { return p == nil || len(p.Senders) == 0 && len(p.VIPs) == 0 }

// FolderNotify finds the rule for a folder.
func (p *Policy) FolderNotify(folder string) (n Notify, ok bool) {
	if p == nil {
		return "", false
	}
	for _, r := range p.Folders {
		if matchFolder(r.Folder, folder) {
			return r.Notify, true
		}
	}
	return "", false
}

// SenderNotify finds the rule for a sender's address.
func (p *Policy) SenderNotify(address string) (n Notify, ok bool) {
	for _, r := range p.Senders {
		if matchSender(r.Sender, address) {
			return r.Notify, true
		}
	}
	return "", false
}

// VIP reports whether mail of an address always alerts.
func (p *Policy) VIP(address string) bool {
	return slices.ContainsFunc(p.VIPs, func(who string) bool { return matchSender(who, address) })
}

// matchSender compares without regard to case: no mail server tells Ann@ from ann@.
func matchSender(pattern, address string) bool {
	if strings.HasPrefix(pattern, "@") {
		at := strings.LastIndexByte(address, '@')
		return at >= 0 && strings.EqualFold(pattern, address[at:])
	}
	return strings.EqualFold(pattern, address)
}

// matchFolder matches with *. The INBOX alone has no case (RFC 9051 section 5.1).
func matchFolder(pattern, folder string) bool {
	if strings.EqualFold(pattern, "INBOX") {
		return folder == "INBOX"
	}
	head, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == folder
	}
	folder, ok := strings.CutPrefix(folder, head)
	for ok {
		var part string
		part, rest, wild = strings.Cut(rest, "*")
		if !wild { // the last part ends the name
			return strings.HasSuffix(folder, part)
		}
		_, folder, ok = strings.Cut(folder, part)
	}
	return false
}
