package dispatch

import (
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

var ann = tenant.UserID{Context: 1, ID: 1}

// look is a look at Ann's INBOX with unseen messages of these uids, in this order.
func look(validity, next uint32, unseen int, uids ...uint32) event.Look {
	l := event.Look{Folder: event.Inbox, UIDValidity: validity, UIDNext: next, Unseen: unseen}
	for _, uid := range uids {
		l.New = append(l.New, mail(1, validity, uid))
	}
	return l
}

func (r *rig) catchUp(l event.Look, want Result) {
	r.tb.Helper()
	if got, err := r.CatchUp(r.tb.Context(), ann, l); err != nil || got != want {
		r.tb.Errorf("look at %d/%d: %s, %v; want %s", l.UIDValidity, l.UIDNext, got, err, want)
	}
}

func (r *rig) known(want event.Position) {
	r.tb.Helper()
	got, ok, err := r.Known(r.tb.Context(), ann, event.Inbox)
	if err != nil || !ok || got.UIDValidity != want.UIDValidity || got.UIDNext != want.UIDNext || got.ModSeq != want.ModSeq || got.Unseen != want.Unseen {
		r.tb.Errorf("known %+v, %t, %v; want %+v", got, ok, err, want)
	}
}

// inputs are what the slots of a device hold, by collapse key.
func (r *rig) inputs(name string) map[string]push.Input {
	r.tb.Helper()
	rows, err := r.db.Query(r.tb.Context(), `SELECT l.collapse_key, l.input FROM slots l JOIN subscriptions s ON s.id = l.subscription_id WHERE s.target = ?`, name)
	must(r.tb, err)
	defer rows.Close()
	all := map[string]push.Input{}
	for rows.Next() {
		var key, raw string
		var in push.Input
		must(r.tb, rows.Scan(&key, &raw))
		must(r.tb, json.Unmarshal([]byte(raw), &in))
		all[key] = in
	}
	must(r.tb, rows.Err())
	return all
}

// TestCatchUp: a first look tells nothing, what came while nobody looked is told once, as the newest state.
func TestCatchUp(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		r.subscribe(1, "app", "phone", "mail:new")
		if _, ok, err := r.Known(t.Context(), ann, event.Inbox); ok || err != nil {
			t.Errorf("known before anything: %t, %v", ok, err)
		}
		r.catchUp(look(7, 101, 3), Unchanged)
		if n := r.count("slots"); n != 0 {
			t.Errorf("the first look told something: %d slots", n)
		}
		r.known(event.Position{UIDValidity: 7, UIDNext: 101, Unseen: 3})

		r.expect(t, mail(1, 7, 101), Queued) // as the mail server reports it
		r.catchUp(look(7, 102, 3, 101), Unchanged)

		missed := look(7, 302, 203)
		missed.ModSeq = 9000
		for uid := uint32(301); uid > 201; uid-- {
			missed.New = append(missed.New, mail(1, 7, uid))
		}
		r.catchUp(missed, Queued)
		in, version := r.slot()
		if in.UID != 301 || in.Unseen != 203 {
			t.Errorf("the slot holds %d with a count of %d, want the newest of the missed", in.UID, in.Unseen)
		}
		r.catchUp(missed, Unchanged)
		r.expect(t, mail(1, 7, 301), Duplicate)
		r.expect(t, mail(1, 7, 290), Duplicate)
		r.expect(t, mail(1, 7, 150), Duplicate) // it was there, and read, or too many came after it
		if _, again := r.slot(); again != version {
			t.Errorf("version %d after the same look again, %d before", again, version)
		}
		r.known(event.Position{UIDValidity: 7, UIDNext: 302, Unseen: 203, ModSeq: 9000})

		// What was read elsewhere meanwhile is no news, neither now nor when it is reported late.
		r.catchUp(look(7, 304, 203), Unchanged)
		r.expect(t, mail(1, 7, 303), Duplicate)

		// The folder is made anew: what is in it is no news, what comes then is.
		r.catchUp(look(8, 5, 203), Unchanged)
		r.catchUp(look(8, 6, 204, 5), Queued)
		if in, _ := r.slot(); in.UIDValidity != 8 || in.UID != 5 {
			t.Errorf("the slot holds %d/%d", in.UIDValidity, in.UID)
		}
		// Against the RFC with a lower UIDVALIDITY: the server's word of now counts.
		r.catchUp(look(3, 50, 204), Unchanged)
		r.catchUp(look(3, 51, 205, 50), Queued)
		r.known(event.Position{UIDValidity: 3, UIDNext: 51, Unseen: 205})
	})
}

// TestReportUnderWay: a mail that came while a user was looked at for the first time is in the look, and its report
// comes after it. It is told once.
func TestReportUnderWay(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		r.subscribe(1, "app", "phone", "mail:new")
		r.catchUp(look(7, 101, 3), Unchanged)
		r.expect(t, mail(1, 7, 100), Queued)
		r.expect(t, mail(1, 7, 100), Duplicate)
		r.catchUp(look(7, 101, 3), Unchanged)
		if in, _ := r.slot(); in.UID != 100 {
			t.Errorf("the slot holds %d", in.UID)
		}
	})
}

// TestCatchUpForEach: each device is told of the newest message that it wants to hear of.
func TestCatchUpForEach(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		for _, name := range []string{"plain", "vip", "muted", "badge"} {
			_, err := r.subs.Subscribe(t.Context(), account.Session{User: ann, Device: name}, subscription.Request{
				Client: "app", Topics: []string{"mail:new"},
				Token: subscription.Token{Transport: "apns", Identity: name, Body: []byte(name), Target: name},
			})
			must(t, err)
		}
		subs, err := r.subs.ByUser(t.Context(), ann)
		must(t, err)
		for _, sub := range subs {
			var p subscription.Policy
			switch sub.Token.Target {
			case "vip":
				p = subscription.Policy{VIPs: []string{"boss@example.org"}, Senders: []subscription.SenderRule{{Sender: "bot@example.org", Notify: "none"}}}
			case "muted":
				p = subscription.Policy{Folders: []subscription.FolderRule{{Folder: "INBOX", Notify: "none"}}}
			case "badge":
				p = subscription.Policy{Folders: []subscription.FolderRule{{Folder: "INBOX", Notify: "badge"}}}
			default:
				continue
			}
			_, err := r.subs.SetPolicy(t.Context(), ann, sub.ID, p)
			must(t, err)
		}
		r.catchUp(look(1, 10, 0), Unchanged)
		l := look(1, 15, 5, 14, 13, 12, 11, 10)
		for i, from := range []string{"bot@example.org", "x@example.org", "boss@example.org", "boss@example.org", "y@example.org"} {
			l.New[i].Address = from
		}
		r.catchUp(l, Queued)
		var got []uint32
		for _, in := range r.inputs("vip") {
			got = append(got, in.UID)
			if in.Unseen != 5 {
				t.Errorf("the device with VIPs is told %+v", in)
			}
		}
		if slices.Sort(got); !slices.Equal(got, []uint32{12, 13}) {
			t.Errorf("the device with VIPs is told of %v, want the newest VIP's and the newest other's", got)
		}
		if in := r.inputs("plain"); len(in) != 1 {
			t.Errorf("the plain device: %v", in)
		}
		for _, in := range r.inputs("plain") {
			if in.UID != 14 || in.Unseen != 5 {
				t.Errorf("the plain device is told of %d, %d unseen", in.UID, in.Unseen)
			}
		}
		if in := r.inputs("muted"); len(in) != 0 {
			t.Errorf("the muted device: %v", in)
		}
		for _, in := range r.inputs("badge") {
			if in.UID != 0 && in.Subject != "" || in.Unseen != 5 {
				t.Errorf("the device that counts is told %+v", in)
			}
		}
		if in := r.inputs("badge"); len(in) != 1 {
			t.Errorf("the device that counts has %d slots", len(in))
		}
	})
}

// TestCatchUpGone takes back what was read elsewhere.
func TestCatchUpGone(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		r.subscribe(1, "app", "phone", "mail:new")
		r.catchUp(look(1, 10, 0), Unchanged)
		r.catchUp(look(1, 11, 1, 10), Queued)
		p, _, err := r.Known(t.Context(), ann, event.Inbox)
		if err != nil || !slices.Equal(p.Recent, []uint32{10}) {
			t.Errorf("recent %v, %v", p.Recent, err)
		}
		gone := look(1, 11, 0)
		gone.Gone = []uint32{10}
		if _, err := r.CatchUp(t.Context(), ann, gone); err != nil {
			t.Fatal(err)
		}
		if p, _, err := r.Known(t.Context(), ann, event.Inbox); err != nil || len(p.Recent) != 0 {
			t.Errorf("still recent: %v, %v", p.Recent, err)
		}
		r.catchUp(gone, Unchanged) // and nothing is written
		_, version := r.slot()
		if st, err := r.stateOf(t.Context(), ann); err != nil || st.version != version {
			t.Errorf("version %d after the same look, %d before, %v", st.version, version, err)
		}
		for key, in := range r.inputs("o") {
			if in.Topic == subscription.TopicNewMail {
				t.Errorf("slot %s still tells of the message: %+v", key, in)
			}
		}
	})
}

// TestCatchUpAnyOrder: however looks and reports interleave, the newest message is told, and none twice.
func TestCatchUpAnyOrder(t *testing.T) {
	r := newRig(t, sqliteURL(t))
	r.subscribe(1, "app", "phone", "mail:new")
	validity := uint32(0)
	rapid.Check(t, func(t *rapid.T) {
		validity++
		ms := db.Millis(r.now())
		base := rapid.Uint32Range(1, 500).Draw(t, "base")
		var st state
		st, _, _ = st.seen(look(validity, base, 0), ms)
		told := map[uint32]int{}
		next := base
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			next += rapid.Uint32Range(0, 90).Draw(t, "arrive")
			if rapid.Bool().Draw(t, "look") {
				p, _ := st.newest(event.Inbox)
				var uids []uint32
				for uid := next - 1; uid >= p.position().UIDNext && len(uids) < event.MaxNew; uid-- {
					uids = append(uids, uid)
				}
				var news []event.Event
				st, news, _ = st.seen(look(validity, next, len(uids), uids...), ms)
				for _, ev := range news {
					told[ev.UID]++
				}
				if f, _ := st.newest(event.Inbox); f.position().UIDNext != next {
					t.Fatalf("after a look up to %d, known is %+v", next, f)
				}
			} else if next > base {
				uid := rapid.Uint32Range(base, next-1).Draw(t, "report")
				if after, fresh, _ := st.with(mail(1, validity, uid), ms); fresh {
					st = after
					told[uid]++
				}
			}
		}
		for uid, n := range told {
			if n > 1 {
				t.Fatalf("uid %d was told %d times", uid, n)
			}
		}
	})
}

// TestCatchUpBehind: a node whose memory is behind the table finds within its write that somebody has to be told.
func TestCatchUpBehind(t *testing.T) {
	onEachEngine(t, func(t *testing.T, r *rig) {
		r.subscribe(1, "app", "phone", "mail:new")
		r.catchUp(look(1, 11, 3), Unchanged)
		other := New(r.db, r.subs, r.push, r.now)
		if got, err := other.CatchUp(t.Context(), ann, look(1, 12, 5, 11)); err != nil || got != Queued {
			t.Fatalf("%s, %v", got, err)
		}
		l := look(1, 12, 3) // two were read since: the count of old again, as far as this node knows
		l.ModSeq = 7
		r.catchUp(l, Queued)
		if n := r.inputs("o")["badge"].Unseen; n != 3 {
			t.Errorf("the device is told of %d unseen", n)
		}
		r.known(event.Position{UIDValidity: 1, UIDNext: 12, Unseen: 3, ModSeq: 7})
	})
}
