package push

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// TestBlockedLane: a refused credential keeps its slots, is tried once a minute, and holds up nobody else.
func TestBlockedLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users = 12
		r := newRig(t, sqliteURL(t), users)
		begin := time.Now()
		provider := newScript("apns", func(_ context.Context, n Notification, _ int) outcome.Outcome {
			<-time.After(time.Millisecond)
			if n.Subscription.Token.Target == "bad" && time.Since(begin) < 4*time.Minute+30*time.Second {
				return outcome.Outcome{Kind: outcome.Blocked, Status: 403, Reason: "InvalidProviderToken"}
			}
			return accepted
		})
		s := r.service(func(c *Config) { c.MaxInFlight = 2 }, provider)
		r.start(s)
		for id := range int64(users) {
			origin := "good"
			if id%2 == 0 {
				origin = "bad"
			}
			r.subscribe(id+1, "apns", origin, fmt.Sprint(origin, id+1))
			s.Wake(r.mail(s, id+1, Input{}, false))
		}
		count := func(origin string) (n int) {
			provider.mu.Lock()
			defer provider.mu.Unlock()
			for _, send := range provider.sends {
				if send.Subscription.Token.Target == origin {
					n++
				}
			}
			return n
		}
		advance(10 * time.Millisecond)
		want(t, "good lane", count("good"), users/2)
		want(t, "bad lane: tries before its first answer, with 2 permits", count("bad"), 2)
		advance(59 * time.Second)
		want(t, "bad lane while it rests", count("bad"), 2)
		for minute := range 4 {
			advance(time.Minute)
			want(t, fmt.Sprint("bad lane, minute ", minute+1), count("bad"), 3+minute)
		}
		want(t, "dirty", s.sched.dirty(), float64(users/2))
		advance(2 * time.Minute)
		want(t, "dirty after the credential was mended", s.sched.dirty(), 0.0)
		want(t, "most at once", provider.most["apns/bad"], 2)
		want(t, "lanes", lanesLeft(s), 0)
	})
}

// TestWebPushEndpointBlocksNobody: a device chooses its endpoint. One that answers 401 on the origin of a
// large push service must not keep the others there waiting.
func TestWebPushEndpointBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 2)
		r.subscribe(1, "webpush", "https://push.example", "evil")
		r.subscribe(2, "webpush", "https://push.example", "phone")
		provider := newScript("webpush", func(_ context.Context, n Notification, _ int) outcome.Outcome {
			if string(n.Subscription.Token.Body) == "evil" {
				return outcome.Outcome{Kind: outcome.Blocked, Status: 401, Reason: "unauthorized"}
			}
			return accepted
		})
		s := r.service(nil, provider)
		r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(time.Minute - time.Second)
		want(t, "the endpoint rests", len(provider.sent("evil")), 1)
		for i := range 60 {
			advance(time.Minute)
			s.Wake(r.mail(s, 2, Input{}, false))
			synctest.Wait()
			want(t, "sent at once", len(provider.sent("phone")), i+1)
		}
		if n := len(provider.sent("evil")); n < 6 || n > 61 {
			t.Errorf("the endpoint itself was tried %d times in an hour", n)
		}
		want(t, "dirty", s.sched.dirty(), 1.0)
	})
}

// TestLanesDoNotGrow: push services are foreign input.
func TestLanesDoNotGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 3)
		for id := range int64(3) {
			for i := range 30 {
				r.subscribe(id+1, "webpush", fmt.Sprintf("https://%d-%d.example", id, i), fmt.Sprint("phone", id, i))
			}
		}
		provider, answers := held("webpush")
		s := r.service(func(c *Config) { c.MaxInFlight = 45 }, provider) // twice that for all lanes
		r.start(s)
		for id := range int64(3) {
			s.Wake(r.mail(s, id+1, Input{}, false))
		}
		synctest.Wait()
		want(t, "lanes", len(s.sched.lanes), 90)
		want(t, "in flight", s.sched.inFlight(), 90.0)
		for range 90 {
			answers <- accepted
		}
		synctest.Wait()
		want(t, "lanes", lanesLeft(s), 0)
		want(t, "entries", s.sched.entries.length, 0)
	})
}

// TestPermitUntilCommitted: what a crash can send twice is what was sent and is not yet committed, and that is
// never more than a lane's permits, however fast the provider answers.
func TestPermitUntilCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const permits, users = 7, 30
		r := newRig(t, sqliteURL(t), users)
		provider := newScript("apns", nil)
		provider.first = permits
		s := r.service(func(c *Config) { c.MaxInFlight = permits }, provider)
		stop := r.start(s)
		synctest.Wait() // what it finds at the start would be settled before the hold
		var due []Due
		for id := range int64(users) {
			r.subscribe(id+1, "apns", "a", fmt.Sprint("phone", id+1))
			due = append(due, r.mail(s, id+1, Input{}, false)...)
		}
		hold, committed := make(chan struct{}), make(chan error)
		go func() {
			committed <- r.db.Write(t.Context(), func(context.Context, *db.Tx) error { <-hold; return nil })
		}()
		synctest.Wait()
		s.Wake(due)
		advance(time.Minute) // more than a try to commit may take
		want(t, "sent while nothing is committed", len(provider.sends), permits)
		want(t, "sent twice", provider.double, false)
		close(hold)
		must(t, <-committed)
		advance(time.Minute)
		want(t, "dirty", s.sched.dirty(), 0.0)
		want(t, "sends", len(provider.sends), users)
		stop()
	})
}
