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
				{Sender: "loud@example.org", Notify: "alert"},
				{Sender: "@example.org", Notify: "badge"},
				{Sender: "bot@example.net", Notify: "none"},
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
		{plain, "INBOX", "x@example.org", Decision{"alert", false, ByTopic}},
		{plain, "Work", "", Decision{"alert", false, ByTopic}},
		{plain, "Other", "", Decision{"none", false, ByOtherFolder}},
		{sub, "INBOX", "x@example.net", Decision{"alert", false, ByTopic}},
		{sub, "INBOX", "", Decision{"alert", false, ByTopic}},
		{sub, "INBOX", "x@example.org", Decision{"badge", false, BySenderRule}},
		{sub, "INBOX", "bot@example.net", Decision{"none", false, BySenderRule}},
		{sub, "Work", "x@example.net", Decision{"badge", false, ByFolderRule}},
		{sub, "Work", "loud@example.org", Decision{"alert", false, BySenderRule}},
		{sub, "Lists/go", "x@example.net", Decision{"alert", false, ByFolderRule}},
		{sub, "Lists", "x@example.net", Decision{"none", false, ByOtherFolder}},
		// A VIP is heard before any rule for senders, and in each folder that is told of at all.
		{sub, "INBOX", "Boss@Example.com", Decision{"alert", true, ByVIP}},
		{sub, "Work", "boss@example.com", Decision{"alert", true, ByVIP}},
		{sub, "Junk", "boss@example.com", Decision{"none", false, ByFolderRule}},
		{sub, "Other", "boss@example.com", Decision{"none", false, ByOtherFolder}},
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
