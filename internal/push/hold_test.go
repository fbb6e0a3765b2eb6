package push

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// patient is a service that waits as one does by default.
func patient(c *Config) {
	c.Coalesce, c.CoalesceMax, c.BadgeDelay = 3*time.Second, 10*time.Second, 20*time.Second
}

// TestCoalesce: the first news at once, then each burst as one, however long it lasts.
func TestCoalesce(t *testing.T) {
	for _, c := range []struct {
		name string
		mail []time.Duration // when each comes
		want []string        // what is sent when
	}{
		{"one", []time.Duration{0}, []string{"1 at 0s"}},
		{"far apart", []time.Duration{0, 4 * time.Second, time.Minute}, []string{"1 at 0s", "2 at 4s", "3 at 1m0s"}},
		{"a second one soon after", []time.Duration{0, time.Second}, []string{"1 at 0s", "2 at 4s"}},
		{"a burst", []time.Duration{0, 1e9, 2e9, 3e9}, []string{"1 at 0s", "4 at 6s"}},
		{"a storm", eachSecond(40), []string{"1 at 0s", "11 at 11s", "21 at 21s", "31 at 31s", "40 at 41s"}},
		{"quiet again", []time.Duration{0, 1e9, 10e9, 11e9}, []string{"1 at 0s", "2 at 4s", "3 at 10s", "4 at 14s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, sqliteURL(t), 1)
				r.subscribe(1, "apns", "o", "phone")
				provider, sent := clocked()
				s := r.service(patient, provider)
				r.start(s)
				begin := time.Now()
				for _, at := range c.mail {
					advance(at - time.Since(begin))
					s.Wake(r.mail(s, 1, Input{}, false))
				}
				advance(time.Hour)
				want(t, "sent", sent(), c.want)
				want(t, "dirty", s.sched.dirty(), 0.0)
			})
		})
	}
}

// eachSecond is one mail in each of n seconds.
func eachSecond(n int) (all []time.Duration) {
	for i := range n {
		all = append(all, time.Duration(i)*time.Second)
	}
	return all
}

// clocked is a provider that notes what it is sent when, since now.
func clocked() (*script, func() []string) {
	begin := time.Now()
	p := newScript("apns", nil)
	var at []time.Time
	p.answer = func(_ context.Context, _ Notification, _ int) outcome.Outcome {
		p.mu.Lock()
		defer p.mu.Unlock()
		at = append(at, time.Now())
		return accepted
	}
	return p, func() (all []string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i, n := range p.sends {
			all = append(all, fmt.Sprintf("%d at %v", n.Version, at[i].Sub(begin).Round(time.Second)))
		}
		return all
	}
}

// TestCoalesceOutlivesRestart: that something was sent a moment ago is in the row.
func TestCoalesceOutlivesRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		r.subscribe(1, "apns", "o", "phone")
		provider, sent := clocked()
		s := r.service(patient, provider)
		stop := r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(time.Second)
		stop()
		s = r.service(patient, provider)
		r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(time.Hour)
		want(t, "sent", sent(), []string{"1 at 0s", "2 at 4s"})
	})
}

// TestCoalesceInFlight: what comes while the first is under way waits too.
func TestCoalesceInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		r.subscribe(1, "apns", "o", "phone")
		provider, answers := held("apns")
		s := r.service(patient, provider)
		r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(time.Second)
		s.Wake(r.mail(s, 1, Input{}, false))
		answers <- accepted
		advance(2900 * time.Millisecond)
		want(t, "sent", provider.sent("phone"), []int64{1})
		advance(200 * time.Millisecond)
		want(t, "sent", provider.sent("phone"), []int64{1, 2})
		answers <- accepted
	})
}

// TestCoalesceAfterFailure: what comes while a state that had to wait is under way is news of then, not of the
// time when that one came.
func TestCoalesceAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		r.subscribe(1, "apns", "o", "phone")
		provider, answers := held("apns")
		s := r.service(patient, provider)
		r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		answers <- later(10 * time.Minute)
		advance(10*time.Minute + time.Second)
		s.Wake(r.mail(s, 1, Input{}, false))
		answers <- accepted
		synctest.Wait()
		want(t, "sent", provider.sent("phone"), []int64{1, 1})
		advance(2900 * time.Millisecond)
		want(t, "sent", provider.sent("phone"), []int64{1, 1})
		advance(200 * time.Millisecond)
		want(t, "sent", provider.sent("phone"), []int64{1, 1, 2})
		answers <- accepted
	})
}

// TestClearOnce: what is to be cleared already is no news.
func TestClearOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribe(1, "apns", "o", "phone")
		s := r.service(patient, newScript("apns", nil))
		r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		synctest.Wait()
		r.gone(s, 1)
		r.gone(s, 1)
		v, err := s.loadSlot(t.Context(), slotID{sub.ID, collapseKeyMail})
		must(t, err)
		want(t, "version", v.version, int64(2))
	})
}

// TestHold holds the rule to what it is for: nothing that was quiet waits, nothing waits longer than
// CoalesceMax, and what waits does so for no longer than Coalesce after the last news.
func TestHold(t *testing.T) {
	s := &Service{Config: Config{Coalesce: 3 * time.Second, CoalesceMax: 10 * time.Second, BadgeDelay: 20 * time.Second}}
	base := time.UnixMilli(1795315879000)
	rapid.Check(t, func(t *rapid.T) {
		at := func(name string) time.Time {
			return base.Add(time.Duration(rapid.Int64Range(0, 40_000).Draw(t, name)) * time.Millisecond)
		}
		v := slot{id: slotID{"x", collapseKeyMail}, expires: base.Add(time.Hour), told: at("told"), firstDirty: at("first")}
		last := at("last")
		if last.Before(v.firstDirty) {
			last, v.firstDirty = v.firstDirty, last
		}
		now := at("now")
		if now.Before(last) {
			now = last
		}
		v.input = Input{Topic: "mail:new", AcceptedMS: last.UnixMilli()}
		until, why := s.hold(v, subscription.Subscription{}, now)
		quiet := v.firstDirty.Sub(v.told) >= s.Coalesce
		switch {
		case why == "" && !quiet && now.Sub(last) < s.Coalesce && now.Sub(v.firstDirty) < s.CoalesceMax:
			t.Fatalf("sent %v after the last of a burst", now.Sub(last))
		case why != "" && quiet:
			t.Fatal("the first news waits")
		case why != "" && (until.Sub(v.firstDirty) > s.CoalesceMax || until.Sub(last) > s.Coalesce || !until.After(now)):
			t.Fatalf("waits until %v after the first, %v after the last", until.Sub(v.firstDirty), until.Sub(last))
		}
	})
}

// TestQuietHoursHold: an alert waits for the end of the silence, the newest of them, and a VIP's does not.
func TestQuietHoursHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it is midnight UTC, 2000-01-01
		r := newRig(t, sqliteURL(t), 1)
		policy := &subscription.Policy{Quiet: &subscription.QuietHours{
			TimeZone: "UTC", Windows: []subscription.Window{{From: "22:00", To: "07:00"}},
		}}
		sub := r.subscribeWith(policy, nil, "apns", "phone")
		provider, sent := clocked()
		s := r.service(patient, provider)
		stop := r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(time.Hour)
		s.Wake(r.mail(s, 1, Input{}, false))
		stop() // and a restart in the middle of the night
		s = r.service(patient, provider)
		r.start(s)
		vip := Input{Topic: "mail:new", Folder: "INBOX", UIDValidity: 1, UID: 9, VIP: true, AcceptedMS: db.Millis(time.Now())}
		s.Wake(r.mail(s, 1, vip, false))
		advance(5*time.Hour + 59*time.Minute)
		want(t, "sent by 6:59", sent(), []string{"3 at 1h0m0s"})
		want(t, "pending", r.pending(s, sub), true)
		want(t, "late", s.sched.usage(time.Now()).oldest, time.Duration(0))
		advance(time.Minute)
		want(t, "sent", sent(), []string{"3 at 1h0m0s", "2 at 7h0m0s"})
		if provider.sends[0].Collapse == provider.sends[1].Collapse {
			t.Error("the VIP's notification is replaced by another")
		}
	})
}

// TestQuietHoursBreakNone: whoever wants no exception gets none.
func TestQuietHoursBreakNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		r.subscribeWith(&subscription.Policy{Quiet: &subscription.QuietHours{
			TimeZone: "UTC", BreakThrough: "none", Windows: []subscription.Window{{From: "22:00", To: "07:00"}},
		}}, nil, "apns", "phone")
		provider, sent := clocked()
		s := r.service(patient, provider)
		r.start(s)
		s.Wake(r.mail(s, 1, Input{Topic: "mail:new", VIP: true, AcceptedMS: db.Millis(time.Now())}, false))
		advance(8 * time.Hour)
		want(t, "sent", sent(), []string{"1 at 7h0m0s"})
	})
}

// subscribeWith gives user 1 a device with a policy and keys.
func (r *rig) subscribeWith(p *subscription.Policy, keys []byte, transport, name string) subscription.Subscription {
	r.tb.Helper()
	sub, err := r.subs.Subscribe(r.tb.Context(), account.Session{User: user(1), Client: "app", Device: "d"}, subscription.Request{
		Client: "app", Topics: []string{subscription.TopicNewMail}, Policy: p, Keys: keys,
		Token: subscription.Token{Transport: transport, Identity: name, Body: []byte(name), Target: "o"},
	})
	must(r.tb, err)
	return sub
}

// write is what dispatch does with an event, and wakes.
func (r *rig) write(s *Service, f func(ctx context.Context, tx *db.Tx, subs []subscription.Subscription, version int64) ([]Due, error)) {
	r.tb.Helper()
	u := user(1)
	r.versions[u]++
	subs, err := r.subs.For(r.tb.Context(), u, subscription.TopicNewMail)
	must(r.tb, err)
	var due []Due
	must(r.tb, r.db.Write(r.tb.Context(), func(ctx context.Context, tx *db.Tx) error {
		due, err = f(ctx, tx, subs, r.versions[u])
		return err
	}))
	s.Wake(due)
}

func (r *rig) badge(s *Service, unseen int) {
	r.tb.Helper()
	r.write(s, func(ctx context.Context, tx *db.Tx, subs []subscription.Subscription, version int64) ([]Due, error) {
		return s.EnqueueBadge(ctx, tx, subs, version, Input{Unseen: unseen, AcceptedMS: db.Millis(time.Now())})
	})
}

func (r *rig) gone(s *Service, uids ...uint32) {
	r.tb.Helper()
	r.write(s, func(ctx context.Context, tx *db.Tx, subs []subscription.Subscription, version int64) ([]Due, error) {
		return s.Clear(ctx, tx, subs, version, Gone{"INBOX", 1, uids}, Input{Unseen: 0, AcceptedMS: db.Millis(time.Now())})
	})
}

// TestReconsider: whoever ends his quiet hours is told at once what waited for their end. A provider that
// failed is left alone all the same.
func TestReconsider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribeWith(&subscription.Policy{Quiet: &subscription.QuietHours{
			TimeZone: "UTC", Windows: []subscription.Window{{From: "22:00", To: "07:00"}},
		}}, nil, "apns", "phone")
		provider := inTurn("apns", later(5*time.Minute))
		s := r.service(patient, provider)
		r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(time.Hour)
		want(t, "sent", provider.sent("phone"), []int64(nil))
		_, err := r.subs.SetPolicy(t.Context(), user(1), sub.ID, subscription.Policy{})
		must(t, err)
		s.Reconsider(sub)
		synctest.Wait()
		want(t, "sent", provider.sent("phone"), []int64{1})
		s.Reconsider(sub)
		advance(4 * time.Minute)
		want(t, "sent", provider.sent("phone"), []int64{1})
		advance(time.Minute + time.Second)
		want(t, "sent", provider.sent("phone"), []int64{1, 1})
	})
}

// TestQuietTooLong: what its quiet hours outlive is dropped when its time is over, and said to be.
func TestQuietTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribeWith(&subscription.Policy{Quiet: &subscription.QuietHours{
			TimeZone: "UTC", Windows: []subscription.Window{{From: "22:00", To: "07:00"}},
		}}, nil, "apns", "phone")
		provider := newScript("apns", nil)
		s := r.service(func(c *Config) { patient(c); c.NewMailTTL = 2 * time.Hour }, provider)
		r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(3 * time.Hour)
		want(t, "trace", r.outcomes(s, sub), "1:refused/expired")
		want(t, "requests", len(provider.sends), 0)
		want(t, "dirty", s.sched.dirty(), 0.0)
	})
}
