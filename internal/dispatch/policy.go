package dispatch

import (
	"slices"
	"time"

	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// Decision is how loudly one device is told of one new message.
type Decision struct {
	Notify subscription.Notify
	// VIP says that it may break through quiet hours.
	VIP bool
	// Reason is the gate that decided.
	Reason string
}

// The gates, in the order in which they are asked.
const (
	// ByOtherFolder: no topic and no rule of the device names the folder.
	ByOtherFolder = "other_folder"
	// ByFolderRule: a rule for the folder.
	ByFolderRule = "folder_rule"
	// ByVIP: the sender is one of the device's VIPs.
	ByVIP = "vip"
	// BySenderRule: a rule for the sender.
	BySenderRule = "sender_rule"
	// ByTopic: a topic of the device names the folder, and no rule says otherwise.
	ByTopic = "topic"
)

// Decide asks a subscription's topics and policy. When it alerts, and whether it is held back, is the
// slot's to say, at the time of sending.
func Decide(sub subscription.Subscription, ev event.Event) Decision {
	d := folderOf(sub, ev.Folder)
	if d.Notify == subscription.Nothing || sub.Policy.Plain() {
		return d
	}
	if sub.Policy.VIP(ev.Address) {
		return Decision{Notify: subscription.Alert, VIP: true, Reason: ByVIP}
	}
	if n, ok := sub.Policy.SenderNotify(ev.Address); ok {
		return Decision{Notify: n, Reason: BySenderRule}
	}
	return d
}

// folderOf is what holds for a folder before the sender is looked at.
func folderOf(sub subscription.Subscription, folder string) Decision {
	if n, ok := sub.Policy.FolderNotify(folder); ok {
		return Decision{Notify: n, Reason: ByFolderRule}
	}
	if slices.Contains(sub.Topics, subscription.TopicFor(folder)) {
		return Decision{Notify: subscription.Alert, Reason: ByTopic}
	}
	return Decision{Notify: subscription.Nothing, Reason: ByOtherFolder}
}

// plan is what an event means for the devices of a user. A device may be in several lists.
type plan struct {
	alert, vip []subscription.Subscription
	// clear are those that may show messages that are gone, badge those to which a new count is told.
	clear, badge []subscription.Subscription
	// watched says that some device hears of the folder, muted that one would, but for a rule.
	watched, muted bool
}

// planFor asks each device.
func planFor(subs []subscription.Subscription, ev event.Event, now time.Time) (p plan) {
	if ev.Kind == event.NewMail && !slices.ContainsFunc(subs, func(s subscription.Subscription) bool { return s.Policy != nil }) {
		p.alert = subs // their topics were asked already
		return p
	}
	for _, sub := range subs {
		takes := ev.Folder == event.Inbox && sub.Policy.Takes(sub.Token.Transport)
		if ev.Kind != event.NewMail {
			if folderOf(sub, ev.Folder).Notify == subscription.Nothing {
				continue
			}
			p.watched = true
			if ev.Kind != event.Counted {
				p.clear = append(p.clear, sub)
			}
			if takes {
				p.badge = append(p.badge, sub)
			}
			continue
		}
		switch d := Decide(sub, ev); {
		case d.VIP:
			p.vip = append(p.vip, sub)
		case d.Notify == subscription.Alert:
			p.alert = append(p.alert, sub)
			if takes && !sub.Policy.Until(now).IsZero() { // the alert waits, the count need not
				p.badge = append(p.badge, sub)
			}
		case d.Notify == subscription.Badge && takes:
			p.badge = append(p.badge, sub)
		case d.Reason != ByOtherFolder:
			p.muted = true
		}
	}
	return p
}

func (p plan) nobody() bool { return !p.watched && len(p.alert)+len(p.vip)+len(p.badge) == 0 }

// unwanted is the result for an event that nobody is told of.
func (p plan) unwanted(ev event.Event) Result {
	switch {
	case p.muted:
		return Muted
	case ev.Folder == event.Inbox:
		return NoSubscription
	}
	return OtherFolder
}
