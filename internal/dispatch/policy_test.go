package dispatch

import (
	"testing"

	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// TestDecide walks the gates: the folder, the VIPs, the sender.
func TestDecide(t *testing.T) {
	t.Parallel()
	sub := subscription.Subscription{
		Topics: []string{"mail:new", "mail:new:Work"},
		Policy: &subscription.Policy{
			Folders: []subscription.FolderRule{{Folder: "Work", Notify: "badge"}, {Folder: "Lists/*", Notify: "alert"}, {Folder: "Junk", Notify: "none"}},
			Senders: []subscription.SenderRule{
				{Sender: "loud@example.org", Notify: "alert"}, {Sender: "@example.org", Notify: "badge"}, {Sender: "bot@example.net", Notify: "none"},
				{Sender: "boss@example.com", Notify: "none"},
			},
			VIPs: []string{"boss@example.com"},
		},
	}
	plain := subscription.Subscription{Topics: sub.Topics}
	for _, c := range []struct {
		sub             subscription.Subscription
		folder, address string
		want            Decision
	}{
		{plain, "INBOX", "x@example.org", Decision{"alert", false, ReasonTopic}},
		{plain, "Work", "", Decision{"alert", false, ReasonTopic}},
		{plain, "Other", "", Decision{"none", false, ReasonOtherFolder}},
		{sub, "INBOX", "x@example.net", Decision{"alert", false, ReasonTopic}},
		{sub, "INBOX", "", Decision{"alert", false, ReasonTopic}},
		{sub, "INBOX", "x@example.org", Decision{"badge", false, ReasonSenderRule}},
		{sub, "INBOX", "bot@example.net", Decision{"none", false, ReasonSenderRule}},
		{sub, "Work", "x@example.net", Decision{"badge", false, ReasonFolderRule}},
		{sub, "Work", "loud@example.org", Decision{"alert", false, ReasonSenderRule}},
		{sub, "Lists/go", "x@example.net", Decision{"alert", false, ReasonFolderRule}},
		{sub, "Lists", "x@example.net", Decision{"none", false, ReasonOtherFolder}},
		// A VIP is heard before any rule for senders, and in each folder that is told of at all.
		{sub, "INBOX", "Boss@Example.com", Decision{"alert", true, ReasonVIP}},
		{sub, "Work", "boss@example.com", Decision{"alert", true, ReasonVIP}},
		{sub, "Junk", "boss@example.com", Decision{"none", false, ReasonFolderRule}},
		{sub, "Other", "boss@example.com", Decision{"none", false, ReasonOtherFolder}},
	} {
		if got := Decide(c.sub, event.Event{Folder: c.folder, Address: c.address}); got != c.want {
			t.Errorf("%s from %q: %+v, want %+v", c.folder, c.address, got, c.want)
		}
	}
}

// BenchmarkDecide is what each event of each device without a policy pays.
func BenchmarkDecide(b *testing.B) {
	sub := subscription.Subscription{Topics: []string{"mail:new"}}
	ev := event.Event{Folder: "INBOX", Address: "ann@example.org"}
	b.ReportAllocs()
	for b.Loop() {
		if Decide(sub, ev).Notify != subscription.Alert {
			b.Fatal("not told")
		}
	}
}
