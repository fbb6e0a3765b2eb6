package dispatch

import (
	"slices"

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
	// ReasonOtherFolder: no topic and no rule of the device names the folder.
	ReasonOtherFolder = "other_folder"
	// ReasonFolderRule: a rule for the folder.
	ReasonFolderRule = "folder_rule"
	// ReasonVIP: the sender is one of the device's VIPs.
	ReasonVIP = "vip"
	// ReasonSenderRule: a rule for the sender.
	ReasonSenderRule = "sender_rule"
	// ReasonTopic: a topic of the device names the folder, and no rule says otherwise.
	ReasonTopic = "topic"
)

// Decide asks a subscription's topics and policy. When it alerts, and whether it is held back, is the
// slot's to say, at the time of sending.
func Decide(sub subscription.Subscription, ev event.Event) Decision {
	d := folderOf(sub, ev.Folder)
	if d.Notify == subscription.Nothing || sub.Policy.Plain() {
		return d
	}
	if sub.Policy.VIP(ev.Address) {
		return Decision{Notify: subscription.Alert, VIP: true, Reason: ReasonVIP}
	}
	if n, ok := sub.Policy.SenderNotify(ev.Address); ok {
		return Decision{Notify: n, Reason: ReasonSenderRule}
	}
	return d
}

// folderOf is what holds for a folder before the sender is looked at.
func folderOf(sub subscription.Subscription, folder string) Decision {
	if n, ok := sub.Policy.FolderNotify(folder); ok {
		return Decision{Notify: n, Reason: ReasonFolderRule}
	}
	if slices.Contains(sub.Topics, subscription.TopicFor(folder)) {
		return Decision{Notify: subscription.Alert, Reason: ReasonTopic}
	}
	return Decision{Notify: subscription.Nothing, Reason: ReasonOtherFolder}
}
