package push

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

var badToken = outcome.Outcome{Kind: outcome.Suspect, Status: 400, Reason: "BadDeviceToken"}

// TestSuspect: three events an hour apart, without a delivery or a renewal between them.
func TestSuspect(t *testing.T) {
	for _, c := range []struct {
		name   string
		every  time.Duration // between mails
		events int
		// which events, counted from one, are delivered, and after which the device renews its token
		delivered, renewed int
		removed            bool
	}{
		{"three an hour apart", time.Hour, 3, 0, 0, true},
		{"two", time.Hour, 2, 0, 0, false},
		{"a burst", time.Minute, 50, 0, 0, false},
		{"many over two hours", time.Minute, 122, 0, 0, true},
		{"a delivery clears it", time.Hour, 4, 2, 0, false},
		{"and it starts anew", time.Hour, 5, 2, 0, true},
		{"renewed before the third", time.Hour, 3, 0, 2, false},
		{"renewed, and suspect for two more", time.Hour, 5, 0, 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, sqliteURL(t), 1)
				sub := r.subscribe(1, "apns", "o", "phone")
				provider := newScript("apns", func(_ context.Context, _ Notification, try int) outcome.Outcome {
					if try == c.delivered {
						return accepted
					}
					return badToken
				})
				s := r.service(func(s *Config) { s.NewMailTTL = time.Minute }, provider)
				r.start(s)
				for i := range c.events {
					advance(c.every)
					s.Wake(r.mail(s, 1, Input{}, false))
					synctest.Wait()
					if i+1 == c.renewed {
						advance(time.Second)
						r.subscribe(1, "apns", "o", "phone")
					}
				}
				want(t, "removed", !r.subscribed(sub), c.removed)
				if trace := r.trace(s, sub); len(trace) == 0 || trace[0].Reason != "BadDeviceToken" && c.delivered != c.events {
					t.Errorf("trace %v", trace)
				}
			})
		})
	}
}

// TestGoneIsStrictlyNewer: a token registered in the millisecond that Apple names is a new one.
func TestGoneIsStrictlyNewer(t *testing.T) {
	for ahead, removed := range map[time.Duration]bool{-time.Millisecond: false, 0: false, time.Millisecond: true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, sqliteURL(t), 1)
			sub := r.subscribe(1, "apns", "o", "phone")
			since := time.Now().Add(ahead)
			advance(time.Minute)
			s := r.service(nil, inTurn("apns", outcome.Outcome{Kind: outcome.Gone, Status: 410, GoneSince: since}))
			r.start(s)
			s.Wake(r.mail(s, 1, Input{}, false))
			advance(time.Minute)
			want(t, fmt.Sprint("removed, gone since ", ahead), !r.subscribed(sub), removed)
		})
	}
}

// TestMassPruneFreezes: when a whole app's tokens would go, it is us.
func TestMassPruneFreezes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users, fine = 40, 3
		r := newRig(t, sqliteURL(t), users)
		begin := time.Now()
		provider := newScript("apns", func(_ context.Context, n Notification, _ int) outcome.Outcome {
			if n.Subscription.Token.Target == "wrong" && time.Since(begin) < time.Hour || strings.HasPrefix(string(n.Subscription.Token.Body), "left") {
				return outcome.Outcome{Kind: outcome.Gone, Status: 410, Reason: "Unregistered"}
			}
			return accepted
		})
		var log bytes.Buffer
		reg := prometheus.NewRegistry()
		s := r.service(func(c *Config) { c.Log, c.Metrics = slog.New(slog.NewTextHandler(&log, nil)), reg }, provider)
		for id := range int64(users) {
			r.subscribe(id+1, "apns", "wrong", fmt.Sprint("phone", id))
		}
		for id := range int64(fine) {
			r.subscribe(id+1, "apns", "right", fmt.Sprint("left", id))
		}
		left := func() (n int) {
			t.Helper()
			all, err := r.subs.All(t.Context())
			must(t, err)
			return len(all)
		}
		mails := func() {
			for id := range int64(users) {
				s.Wake(r.mail(s, id+1, Input{}, false))
			}
			synctest.Wait()
		}
		r.start(s)
		mails()
		want(t, "left of both apps", left(), users-leastPruned)
		want(t, "frozen", gaugesOf(t, reg, "posthorn_push_prune_frozen"), "wrong=1")
		for range 8 {
			advance(5 * time.Minute)
			mails()
		}
		want(t, "left while it lasts", left(), users-leastPruned)
		want(t, "dirty: nothing is tried again by itself", s.sched.dirty(), 0.0)
		advance(25 * time.Minute)
		mails() // well again
		want(t, "left", left(), users-leastPruned)
		advance(time.Hour)
		want(t, "frozen", gaugesOf(t, reg, "posthorn_push_prune_frozen"), "wrong=0")
		want(t, "said", strings.Count(log.String(), "too many tokens would go"), 1)
		want(t, "said", strings.Count(log.String(), "tokens that are gone are removed again"), 1)
	})
}

// TestFreezeOutlivesARestart: a server that is restarted again and again by whoever deployed the wrong thing
// removes no more than one that is not.
func TestFreezeOutlivesARestart(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		const users = 40
		r := newRig(t, url, users)
		provider := newScript("apns", func(context.Context, Notification, int) outcome.Outcome {
			return outcome.Outcome{Kind: outcome.Gone, Status: 410, Reason: "Unregistered"}
		})
		for id := range int64(users) {
			r.subscribe(id+1, "apns", "wrong", fmt.Sprint("phone", id))
		}
		now, left := time.Now().Add(time.Second), users
		for _, c := range []struct {
			later  time.Duration // when it is restarted
			left   int
			frozen string
		}{
			{0, users - leastPruned, "wrong=1"},
			{time.Minute, users - leastPruned, "wrong=1"},
			{24 * time.Hour, users - leastPruned, "wrong=1"},
		} {
			now = now.Add(c.later)
			reg := prometheus.NewRegistry()
			at := now
			s := r.service(func(c *Config) { c.Metrics, c.Now = reg, func() time.Time { return at } }, provider)
			for id := range int64(users) {
				r.mail(s, id+1, Input{}, false)
			}
			provider.mu.Lock()
			sends := len(provider.sends) + left
			provider.mu.Unlock()
			stop := r.start(s) // which finds them
			for deadline := time.Now().Add(20 * time.Second); ; <-time.After(5 * time.Millisecond) {
				provider.mu.Lock()
				all := len(provider.sends) == sends
				provider.mu.Unlock()
				if all && s.sched.dirty() == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("slots stay dirty")
				}
			}
			stop()
			all, err := r.subs.All(t.Context())
			must(t, err)
			left = len(all)
			want(t, fmt.Sprint("left, ", c.later), left, c.left)
			want(t, fmt.Sprint("frozen, ", c.later), gaugesOf(t, reg, "posthorn_push_prune_frozen"), c.frozen)
		}

		now = now.Add(time.Hour) // another start, and quiet for as long as it takes to see that
		reg := prometheus.NewRegistry()
		s := r.service(func(c *Config) { c.Metrics, c.Now = reg, func() time.Time { return now } }, provider)
		must(t, s.stayFrozen(t.Context()))
		now = now.Add(pruneWindow - time.Millisecond)
		must(t, s.tidy(t.Context()))
		want(t, "frozen", gaugesOf(t, reg, "posthorn_push_prune_frozen"), "wrong=1")
		now = now.Add(time.Millisecond)
		must(t, s.tidy(t.Context()))
		want(t, "frozen", gaugesOf(t, reg, "posthorn_push_prune_frozen"), "wrong=0")
		s = r.service(func(c *Config) { c.Metrics = prometheus.NewRegistry() }, provider)
		must(t, s.stayFrozen(t.Context()))
		want(t, "freezes left", len(s.pruning.apps), 0)
	})
}

// TestTraceGoesOn: a device that comes back is the one it was.
func TestTraceGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribe(1, "apns", "o", "phone")
		gone := outcome.Outcome{Kind: outcome.Gone, Status: 410, Reason: "Unregistered"}
		s := r.service(nil, inTurn("apns", accepted, gone, accepted, gone, accepted))
		r.start(s)
		mail := func(trace string) {
			t.Helper()
			s.Wake(r.mail(s, 1, Input{}, false))
			advance(time.Minute)
			want(t, "trace", r.outcomes(s, sub), trace)
		}
		back := func() {
			t.Helper()
			advance(time.Minute)
			again := r.subscribe(1, "apns", "o", "phone")
			want(t, "id", again.ID, sub.ID)
			gates, err := s.Explain(t.Context(), again)
			must(t, err)
			for _, g := range gates {
				if g.State == GateClosed {
					t.Errorf("closed for a device that is back: %+v", g)
				}
			}
		}
		mail("1:delivered")
		mail("2:gone/Unregistered")
		back()
		want(t, "trace", r.outcomes(s, sub), "2:gone/Unregistered")
		mail("2:gone/Unregistered 3:delivered")
		mail("4:gone/Unregistered")
		back()
		mail("4:gone/Unregistered 5:delivered")
		for range traceLength - 1 {
			s.Wake(r.mail(s, 1, Input{}, false))
			advance(time.Minute)
		}
		want(t, "lines", len(r.trace(s, sub)), traceLength)
		want(t, "another device of his", r.subscribe(1, "apns", "o", "tablet").ID == sub.ID, false)
	})
}

// TestFewDeadTokensDoNotFreezeForEver: each counts once, however much mail it gets.
func TestFewDeadTokensDoNotFreezeForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users = leastPruned + 5
		r := newRig(t, sqliteURL(t), users)
		s := r.service(nil, newScript("apns", func(context.Context, Notification, int) outcome.Outcome {
			return outcome.Outcome{Kind: outcome.Gone, Status: 410, Reason: "Unregistered"}
		}))
		for id := range int64(users) {
			r.subscribe(id+1, "apns", "o", fmt.Sprint("phone", id))
		}
		r.start(s)
		for range 15 {
			for id := range int64(users) {
				s.Wake(r.mail(s, id+1, Input{}, false))
			}
			advance(time.Minute)
		}
		all, err := r.subs.All(t.Context())
		must(t, err)
		want(t, "left", len(all), 0)
	})
}

// TestUnseenTokens: Google's 30 and 270 days, and our 30 of a tombstone.
func TestUnseenTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		r := newRig(t, sqliteURL(t), 1)
		unseen, renewed, apple := r.subscribe(1, "fcm", "o", "unseen"), r.subscribe(1, "fcm", "o", "renewed"), r.subscribe(1, "apns", "o", "phone")
		reg := prometheus.NewRegistry()
		s := r.service(func(c *Config) { c.Metrics = reg }, newScript("fcm", nil))
		age := func(d time.Duration) { // without a run for each hour of it
			advance(d)
			must(t, s.tidy(t.Context()))
		}
		age(29 * day)
		want(t, "stale", gaugesOf(t, reg, "posthorn_push_stale_tokens"), "=0")
		age(2 * day)
		want(t, "stale", gaugesOf(t, reg, "posthorn_push_stale_tokens"), "=2")
		age(238 * day)
		r.subscribe(1, "fcm", "o", "renewed")
		age(day)
		want(t, "removed", []bool{!r.subscribed(unseen), !r.subscribed(renewed), !r.subscribed(apple)}, []bool{true, false, false})
		want(t, "trace", r.outcomes(s, unseen), "0:gone/unseen")
		want(t, "stale", gaugesOf(t, reg, "posthorn_push_stale_tokens"), "=0")
		age(29 * day)
		want(t, "trace", r.outcomes(s, unseen), "0:gone/unseen")
		age(2 * day)
		want(t, "trace", r.outcomes(s, unseen), "")
		again := r.subscribe(1, "fcm", "o", "unseen")
		want(t, "the device may come back", r.subscribed(again), true)
	})
}
