package push

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// TestBadge: a change of the count waits for more, and for nothing when an alert brings it along.
func TestBadge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		r.subscribe(1, "apns", "o", "phone")
		r.subscribeWith(nil, nil, "webpush", "browser") // takes nothing that shows nothing
		provider, sent := clocked()
		s := r.service(patient, provider, newScript("webpush", nil))
		r.start(s)
		for n := range 5 {
			r.badge(s, 5-n)
			advance(2 * time.Second)
		}
		advance(time.Minute)
		want(t, "sent", sent(), []string{"5 at 20s"})
		n := provider.sends[0]
		want(t, "count", []any{n.Badge, n.Input.Topic, time.Until(n.Expires) < time.Hour}, []any{1, topicBadge, true})

		r.badge(s, 0)
		advance(time.Second)
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(time.Minute)
		want(t, "sent", sent(), []string{"5 at 20s", "7 at 1m11s"})
		want(t, "dirty", s.sched.dirty(), 0.0)

		s.Wake(r.mail(s, 1, Input{}, false))
		r.badge(s, 3) // after the alert: it does not know of it
		advance(time.Minute)
		want(t, "sent", sent()[2:], []string{"8 at 2m11s", "9 at 2m31s"})
		for _, o := range provider.sends {
			if string(o.Subscription.Token.Body) == "browser" && o.Input.silent() {
				t.Error("the browser got what shows nothing")
			}
		}
	})
}

// TestClear: what was read elsewhere is not told any more, or taken back.
func TestClear(t *testing.T) {
	const a, b = 1, 2 // uids as r.mail gives them, which are the versions
	shown := func(uid int) string { return fmt.Sprintf("mail:new %d", uid) }
	gone := func(uid int) string { return fmt.Sprintf("mail:clear %d", uid) }
	for _, c := range []struct {
		name  string
		steps string // a mail: m; what is read: a, b, x (another); time: . for a second, - for a minute
		want  []string
	}{
		{"shown", "m-a-", []string{shown(a), gone(a)}},
		{"shown, read at once", "ma-", []string{shown(a), gone(a)}},
		{"shown, another read", "m-x-", []string{shown(a)}},
		{"read twice", "m-a-a-", []string{shown(a), gone(a)}},
		{"unsent", "mma-", []string{shown(a), shown(b)}}, // the newer takes its place
		{"unsent, read", "m.mb-", []string{shown(a)}},
		{"unsent, both read", "m.mba-", []string{shown(a), gone(a)}},
		{"unsent, both read the other way", "m.mab-", []string{shown(a), gone(a)}},
		{"unsent, replaced, all read", "m.ma.md-", []string{shown(a), gone(a)}},
		{"unsent, the one before read", "m.ma-", []string{shown(a), "mail:new 2"}},
		{"cleared, and then a newer", "m-a-m-", []string{shown(a), gone(a), "mail:new 3"}},
		{"to be cleared, and then a newer", "m.am-", []string{shown(a), "mail:new 3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, sqliteURL(t), 1)
				r.subscribe(1, "apns", "o", "phone")
				provider := newScript("apns", nil)
				s := r.service(patient, provider)
				r.start(s)
				for _, step := range c.steps {
					switch step {
					case 'm':
						s.Wake(r.mail(s, 1, Input{}, false))
					case 'a', 'b', 'd':
						r.gone(s, uint32(step-'a'+1), 1000) //nolint:gosec // 1 to 4
					case 'x':
						r.gone(s, 999)
					case '.':
						advance(time.Second)
					case '-':
						advance(time.Minute)
					}
					synctest.Wait()
				}
				var got []string
				for _, n := range provider.sends {
					got = append(got, fmt.Sprintf("%s %d", n.Input.Topic, n.Input.UID))
					if n.Input.Topic == topicClear && n.Collapse != provider.sends[0].Collapse {
						t.Error("cleared under another name than shown")
					}
				}
				want(t, "sent", got, c.want)
				want(t, "dirty", s.sched.dirty(), 0.0)
			})
		})
	}
}

// TestClearInFlight: an alert that is under way when its message is read is taken back after it.
func TestClearInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribe(1, "apns", "o", "phone")
		provider, answers := held("apns")
		s := r.service(patient, provider)
		r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		synctest.Wait()
		r.gone(s, 1)
		answers <- accepted
		answers <- accepted
		advance(time.Minute)
		want(t, "trace", r.outcomes(s, sub), "1:delivered 2:delivered")
		want(t, "topics", []string{provider.sends[0].Input.Topic, provider.sends[1].Input.Topic}, []string{"mail:new", topicClear})

		s.Wake(r.mail(s, 1, Input{}, false)) // and one that never arrived is not
		synctest.Wait()
		r.gone(s, 3)
		answers <- outcome.Outcome{Kind: outcome.Refused, Status: 400, Reason: "BadTopic"}
		advance(time.Minute)
		want(t, "sent", provider.sent("phone"), []int64{1, 2, 3})
		want(t, "dirty", s.sched.dirty(), 0.0)
	})
}

// TestClearIsBounded: whatever is read, a row does not grow.
func TestClearIsBounded(t *testing.T) {
	r := newRig(t, sqliteURL(t), 1)
	r.subscribe(1, "apns", "o", "phone")
	s := r.service(patient, newScript("apns", nil)) // does not run: nothing is sent
	for i := range uint32(20) {
		r.mail(s, 1, Input{}, false)
		r.gone(s, 2*i+1)
	}
	v, err := s.loadSlot(t.Context(), slotID{r.only(), collapseKeyMail})
	must(t, err)
	if len(v.input.Cleared) > maxCleared || v.input.Topic != topicClear || !slices.Contains(v.input.Cleared, message{Folder: "INBOX", UIDValidity: 1, UID: 39}) {
		t.Errorf("%+v", v.input)
	}
}

// only is the id of the one subscription there is.
func (r *rig) only() (id string) {
	r.tb.Helper()
	must(r.tb, r.db.QueryRow(r.tb.Context(), "SELECT id FROM subscriptions").Scan(&id))
	return id
}

// TestCountIsFresh: one that came with the mail is not asked for again, unless it may have changed meanwhile, or
// there are other accounts.
func TestCountIsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 2)
		r.subscribe(1, "apns", "o", "phone")
		provider := inTurn("apns", accepted, later(time.Minute))
		s := r.service(patient, provider)
		asked := 0
		s.CountWith(func(context.Context, string) (int, error) { asked++; return 70 + asked, nil })
		r.start(s)
		for range 2 {
			s.Wake(r.mail(s, 1, Input{}, false))
			advance(2 * time.Minute)
		}
		r.subscribe(2, "apns", "o", "phone")
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(time.Second)
		var got []int
		for _, n := range provider.sends {
			got = append(got, n.Badge)
		}
		want(t, "counts", got, []int{1, 1, 71, 72}) // the third try was a minute late
	})
}
