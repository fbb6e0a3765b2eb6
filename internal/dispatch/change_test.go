package dispatch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// change is something that happened to messages of user 1's INBOX.
func change(kind event.Kind, unseen int, uids ...uint32) event.Event {
	return event.Event{
		Kind: kind, User: 1, Context: 1, Folder: event.Inbox, UIDValidity: 5, UID: slices.Max(uids), UIDs: uids,
		Unseen: unseen, Accepted: time.Now(),
	}
}

func counted(ev event.Event, unseen int) event.Event {
	ev.Unseen = unseen
	return ev
}

// with gives a user a device that has a policy.
func (r *rig) with(user int64, transport, name string, p *subscription.Policy, topics ...string) string {
	r.tb.Helper()
	sub, err := r.subs.Subscribe(r.tb.Context(), account.Session{User: tenant.UserID{Context: 1, ID: user}, Device: "d"}, subscription.Request{
		Client: "app", Topics: topics, Policy: p,
		Token: subscription.Token{Transport: transport, Identity: name, Body: []byte(name), Target: "o"},
	})
	must(r.tb, err)
	return sub.ID
}

// slots lists the slots of a subscription: key, version, topic and count.
func (r *rig) slots(id string) string {
	r.tb.Helper()
	rows, err := r.db.Query(r.tb.Context(), "SELECT collapse_key, version, input FROM slots WHERE subscription_id = ? ORDER BY collapse_key", id)
	must(r.tb, err)
	defer rows.Close()
	var all []string
	for rows.Next() {
		var key, input string
		var version int64
		must(r.tb, rows.Scan(&key, &version, &input))
		_, topic, _ := strings.Cut(input, `"topic":"`)
		topic, _, _ = strings.Cut(topic, `"`)
		all = append(all, fmt.Sprintf("%s/%d %s", key, version, topic))
	}
	must(r.tb, rows.Err())
	return strings.Join(all, ", ")
}

func expectText(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// TestReadElsewhere: an unsent alert is taken back, the count is told, and what changes nothing writes nothing.
func TestReadElsewhere(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		r.expect(t, change(event.Read, 0, 1), NoSubscription)
		id := r.with(1, "apns", "phone", nil, "mail:new")
		r.expect(t, counted(mail(1, 5, 1), 3), Queued)
		expectText(t, "new mail", r.slots(id), "mail/1 mail:new")
		r.expect(t, change(event.Read, event.Unknown, 7), Unchanged)
		r.expect(t, change(event.Read, 3, 7), Unchanged)
		expectText(t, "another one read", r.slots(id), "mail/1 mail:new")
		r.expect(t, change(event.Counted, 2, 9), Queued)
		expectText(t, "another count", r.slots(id), "badge/3 mail:badge, mail/1 mail:new")
		r.expect(t, change(event.Read, 1, 1), Queued)
		expectText(t, "it was read", r.slots(id), "badge/4 mail:badge, mail/4 mail:clear")
		r.expect(t, change(event.Removed, 1, 1), Unchanged)
		r.expect(t, mail(1, 5, 7), Duplicate) // its arrival is told late, and it was read before

		stale := change(event.Read, 0, 1)
		r.expect(t, mail(1, 6, 1), Queued) // the folder is made anew
		r.expect(t, stale, Unchanged)
		expectText(t, "a folder that is no more", r.slots(id), "badge/4 mail:badge, mail/5 mail:new")

		other := change(event.Removed, event.Unknown, 1)
		other.Folder = "Lists"
		r.expect(t, other, OtherFolder)
	})
}

// TestRules: each device by its own, from one event.
func TestRules(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		from := func(uid uint32, folder, address string) event.Event {
			ev := counted(mail(1, 5, uid), int(uid))
			ev.Folder, ev.Address = folder, address
			return ev
		}
		picky := r.with(1, "apns", "picky", &subscription.Policy{
			Folders: []subscription.FolderRule{{Folder: "Lists/*", Notify: "alert"}},
			Senders: []subscription.SenderRule{{Sender: "@bots.example", Notify: "none"}, {Sender: "@shop.example", Notify: "badge"}},
			VIPs:    []string{"boss@example.org"},
		}, "mail:new")
		browser := r.with(1, "webpush", "browser", &subscription.Policy{Senders: []subscription.SenderRule{{Sender: "@shop.example", Notify: "badge"}}}, "mail:new")
		r.expect(t, from(1, "INBOX", "x@bots.example"), Queued) // the browser alerts
		expectText(t, "picky", r.slots(picky), "")
		expectText(t, "browser", r.slots(browser), "mail/1 mail:new")
		r.expect(t, from(2, "INBOX", "x@shop.example"), Queued)
		expectText(t, "picky", r.slots(picky), "badge/2 mail:badge")
		expectText(t, "browser", r.slots(browser), "mail/1 mail:new")
		r.expect(t, from(3, "INBOX", "boss@example.org"), Queued)
		expectText(t, "picky", r.slots(picky), "badge/2 mail:badge, vip/3 mail:new")
		r.expect(t, from(4, "INBOX", "friend@example.org"), Queued)
		expectText(t, "picky", r.slots(picky), "badge/2 mail:badge, mail/4 mail:new, vip/3 mail:new")
		r.expect(t, from(1, "Lists/go", ""), Queued)
		expectText(t, "picky", r.slots(picky), "badge/2 mail:badge, mail/5 mail:new, vip/3 mail:new")
		expectText(t, "browser", r.slots(browser), "mail/4 mail:new")
		r.expect(t, from(1, "Lists", ""), OtherFolder)
	})
}

// TestMuted: rules that leave nobody are an answer of their own, and no write.
func TestMuted(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		r.with(1, "apns", "phone", &subscription.Policy{Folders: []subscription.FolderRule{{Folder: "INBOX", Notify: "none"}}}, "mail:new")
		r.expect(t, mail(1, 5, 1), Muted)
		if n := r.count("states") + r.count("slots"); n != 0 {
			t.Errorf("what nobody wants wrote %d rows", n)
		}
	})
}

// TestQuietCount: while an alert waits for the end of quiet hours, the count need not.
func TestQuietCount(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		always := &subscription.Policy{Quiet: &subscription.QuietHours{TimeZone: "UTC", Windows: []subscription.Window{{From: "00:00", To: "24:00"}}}}
		id := r.with(1, "apns", "phone", always, "mail:new")
		r.expect(t, counted(mail(1, 5, 1), 1), Queued)
		expectText(t, "slots", r.slots(id), "badge/1 mail:badge, mail/1 mail:new")
	})
}

// TestUnseen sums up the accounts of a device.
func TestUnseen(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		ann, bob := r.with(1, "apns", "phone", nil, "mail:new"), r.with(2, "apns", "phone", nil, "mail:new", "mail:new:Lists")
		alone := r.with(2, "apns", "tablet", nil, "mail:new")
		want := func(id string, n int) {
			t.Helper()
			if got, err := r.Unseen(t.Context(), id); err != nil || got != n {
				t.Errorf("%d, %v; want %d", got, err, n)
			}
		}
		want(ann, -1)
		r.expect(t, counted(mail(1, 5, 1), 3), Queued)
		want(ann, 3)
		want(bob, 3)
		want(alone, -1)
		r.expect(t, counted(mail(2, 5, 1), 4), Queued)
		want(ann, 7)
		want(alone, 4)
		late := counted(mail(2, 5, 1), 3) // it was counted before the one with uid 9, and is told after it
		r.expect(t, counted(mail(2, 5, 9), 4), Queued)
		late.UID = 8
		r.expect(t, late, Queued)
		want(alone, 4)
		lists := counted(mail(2, 9, 1), 100)
		lists.Folder = "Lists"
		r.expect(t, lists, Queued)
		want(ann, 7) // the INBOX alone
		r.expect(t, mail(2, 5, 10), Queued)
		want(ann, 7)                                   // not counted: as far as known
		r.expect(t, counted(mail(2, 6, 1), 0), Queued) // a new INBOX
		want(ann, 3)
		r.expect(t, change(event.Read, 0, 1), Queued)
		want(ann, 0)
		want("no such id", -1)
	})
}
