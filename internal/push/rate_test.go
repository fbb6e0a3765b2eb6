package push

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// TestDeviceBurst: an Android device takes twenty at once and then one in three minutes, always the
// newest; a restart forgets nothing of it, and an iPhone has no such limit.
func TestDeviceBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribe(1, "fcm", "o", "android")
		r.subscribe(1, "apns", "o", "iphone")
		android, iphone := newScript("fcm", nil), newScript("apns", nil)
		s := r.service(nil, android, iphone)
		stop := r.start(s)
		begin := time.Now()
		mails := func(n int) {
			for range n {
				s.Wake(r.mail(s, 1, Input{}, false))
				advance(time.Second)
			}
		}
		mails(30)
		want(t, "sent to android", len(android.sent("android")), 20)
		want(t, "sent to the iphone", len(iphone.sent("iphone")), 30)
		want(t, "pending", r.pending(s, sub), true)
		stop()
		s = r.service(nil, android, iphone)
		r.start(s)
		synctest.Wait()
		want(t, "sent after a restart", len(android.sent("android")), 20)
		advance(time.Until(begin.Add(3*time.Minute - time.Second)))
		want(t, "sent before its time", len(android.sent("android")), 20)
		advance(2 * time.Second)
		sent := android.sent("android")
		want(t, "sent", len(sent), 21)
		want(t, "the newest", sent[len(sent)-1], int64(30))
		want(t, "trace: waiting is no try", r.trace(s, sub)[0].Attempt, 1)
		advance(time.Hour)
		mails(40)
		want(t, "sent after an hour of rest", len(android.sent("android")), 21+20)
		want(t, "pending", r.pending(s, sub), true)
	})
}

// TestQuotaCountsOnce: what was refused for the quota, or never sent, took nothing of the allowance.
func TestQuotaCountsOnce(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		transport string
		status    int
		counts    bool
	}{{"fcm", 200, true}, {"fcm", 500, true}, {"fcm", 429, false}, {"fcm", 0, false}, {"apns", 200, false}, {"webpush", 201, false}} {
		f := flight{sent: now, outcome: outcome.Outcome{Status: c.status}}
		f.sub.Token.Transport = c.transport
		want(t, fmt.Sprint(c.transport, " ", c.status), f.fullAfter().Equal(now.Add(fcmBurstRefill)), c.counts)
	}
}

// TestProjectPace: a second's worth at once, and then as many as the minute allows.
func TestProjectPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(1000, func(string) Credential { return Credential{First: 1000, PerMinute: 600} })
		for i := range 200 {
			s.add([]Due{{id: slotOf(i), lane: "fcm/0/p"}})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		total, looks := 0, 0
		for ctx.Err() == nil {
			start, next := s.take(time.Now())
			total += len(start)
			looks++
			for _, e := range start {
				s.done(e, false, time.Time{})
			}
			if next.IsZero() {
				t.Fatal("nothing to wait for")
			}
			pause(ctx, time.Until(next))
		}
		if total < 58 || total > 62 {
			t.Errorf("%d in 5 s, want 10 at once and 10 a second", total)
		}
		if looks > 120 {
			t.Errorf("%d looks", looks)
		}
	})
}
