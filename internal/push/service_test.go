package push

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// advance lets time pass, in a bubble of synctest, and everything come to rest. SQLite works in there:
// its file I/O is no blocking that the bubble's clock would run on during.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// held is a provider that answers only what it is told to.
func held(name string) (*script, chan outcome.Outcome) {
	answers := make(chan outcome.Outcome)
	return newScript(name, func(ctx context.Context, _ Notification, _ int) outcome.Outcome {
		select {
		case o := <-answers:
			return o
		case <-ctx.Done():
			return outcome.Outcome{Kind: outcome.Later, Reason: "canceled", Err: ctx.Err()}
		}
	}), answers
}

// inTurn answers with each outcome once, and then with success.
func inTurn(name string, answers ...outcome.Outcome) *script {
	return newScript(name, func(_ context.Context, _ Notification, try int) outcome.Outcome {
		if try > len(answers) {
			return accepted
		}
		return answers[try-1]
	})
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func later(after time.Duration) outcome.Outcome {
	return outcome.Outcome{Kind: outcome.Later, Status: 503, Reason: "ServiceUnavailable", RetryAfter: after}
}

func TestNewestStateWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribe(1, "apns", "o", "phone")
		provider, answers := held("apns")
		s := r.service(nil, provider)
		r.start(s)
		for range 4 { // the first is in flight while the others come
			s.Wake(r.mail(s, 1, Input{}, false))
			synctest.Wait()
		}
		want(t, "sent while the first is in flight", provider.sent("phone"), []int64{1})
		want(t, "in flight", s.sched.inFlight(), 1.0)
		answers <- accepted
		answers <- accepted
		advance(time.Hour)
		want(t, "sent", provider.sent("phone"), []int64{1, 4})
		want(t, "pending", r.pending(s, sub), false)
		want(t, "trace", r.outcomes(s, sub), "1:delivered 4:delivered")
		want(t, "input", provider.sends[1].Input.Subject, "mail 4")
		want(t, "dirty", s.sched.dirty(), 0.0)
	})
}

// TestStateThatComesTooLate: a message older than one reported before shows itself only when nothing newer waits.
func TestStateThatComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		r.subscribe(1, "apns", "o", "phone")
		provider := newScript("apns", nil)
		s := r.service(nil, provider)
		in := func(uid uint32) Input { return Input{Topic: "mail:new", Folder: "INBOX", UID: uid} }
		r.mail(s, 1, in(10), false)
		s.Wake(r.mail(s, 1, in(9), true)) // 10 is not sent yet: it stays the newest
		r.start(s)
		synctest.Wait()
		s.Wake(r.mail(s, 1, in(8), true)) // 10 is sent: 8 is told, too
		synctest.Wait()
		var uids []uint32
		for _, n := range provider.sends {
			uids = append(uids, n.Input.UID)
		}
		want(t, "uids", uids, []uint32{10, 8})
		want(t, "versions", provider.sent("phone"), []int64{2, 3})
	})
}

// TestNewsDoesNotHurry: a provider is no healthier for our having more to say.
func TestNewsDoesNotHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribe(1, "apns", "o", "phone")
		provider := inTurn("apns", later(5*time.Minute))
		s := r.service(nil, provider)
		r.start(s)
		for range 4 {
			s.Wake(r.mail(s, 1, Input{}, false))
			advance(time.Minute)
		}
		want(t, "sent before the provider's time", provider.sent("phone"), []int64{1})
		advance(time.Minute)
		want(t, "sent", provider.sent("phone"), []int64{1, 4})
		want(t, "trace", r.outcomes(s, sub), "1:later/ServiceUnavailable 4:delivered")
		advance(time.Hour)
		s.Wake(r.mail(s, 1, Input{}, false)) // the back-off is forgotten with the success
		synctest.Wait()
		want(t, "sent", provider.sent("phone"), []int64{1, 4, 5})
	})
}

func TestBackoffOutlivesRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribe(1, "fcm", "o", "phone")
		provider := inTurn("fcm", later(0), later(10*time.Minute))
		s := r.service(nil, provider)
		stop := r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(time.Minute)
		want(t, "sent", provider.sent("phone"), []int64{1, 1})
		s.Wake(r.mail(s, 1, Input{}, false)) // keeps to the time that the state before it has to wait
		stop()
		pending, attempt, at, err := s.Pending(t.Context(), sub.ID)
		if err != nil || !pending || attempt != 2 || !at.After(time.Now().Add(8*time.Minute)) {
			t.Errorf("pending %v, attempt %d, until %v: %v", pending, attempt, at, err)
		}
		s = r.service(nil, provider)
		r.start(s)
		advance(8 * time.Minute)
		want(t, "sent before its time", provider.sent("phone"), []int64{1, 1})
		advance(3 * time.Minute)
		want(t, "sent", provider.sent("phone"), []int64{1, 1, 2})
		want(t, "trace", r.outcomes(s, sub), "1:later/ServiceUnavailable 1:later/ServiceUnavailable 2:delivered")
		trace := r.trace(s, sub)
		want(t, "attempt", trace[0].Attempt, 3)
		want(t, "next try", trace[0].NextTry, time.Time{})
		if next := trace[1].NextTry; !next.Equal(at) {
			t.Errorf("next try in the trace: %v, in the slot: %v", next, at)
		}
		ids := provider.sends
		want(t, "id of another try of one state", ids[1].ID, ids[0].ID)
		want(t, "id of another state is another", ids[2].ID != ids[0].ID, true)
		want(t, "collapse name", ids[2].Collapse, ids[0].Collapse)
	})
}

// TestSuccessForgetsFailures, also those of a state that came while the successful one was in flight.
func TestSuccessForgetsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribe(1, "apns", "o", "phone")
		provider, answers := held("apns")
		s := r.service(nil, provider)
		r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		for range 5 {
			answers <- later(0)
		}
		for synctest.Wait(); s.sched.inFlight() == 0; {
			advance(time.Second)
		}
		s.Wake(r.mail(s, 1, Input{}, false))
		answers <- accepted
		answers <- later(time.Minute)
		synctest.Wait()
		pending, attempt, _, err := s.Pending(t.Context(), sub.ID)
		if err != nil || !pending || attempt != 1 {
			t.Errorf("pending %v, attempt %d: %v", pending, attempt, err)
		}
	})
}

func TestBackoffBounds(t *testing.T) {
	for _, transport := range []string{"apns", "fcm", "webpush"} {
		for attempt := range 100 {
			for range 50 {
				d := backoff(transport, attempt)
				if d <= 0 || d > maxBackoff+10*time.Second || transport == "fcm" && d < 10*time.Second {
					t.Fatalf("%s, attempt %d: %v", transport, attempt, d)
				}
				if limit := 10*time.Second + 10*time.Second<<attempt; attempt < 5 && d > limit {
					t.Fatalf("%s, attempt %d: %v, at most %v", transport, attempt, d, limit)
				}
			}
		}
	}
}

// TestCrash: what is committed and not known as sent is sent by the next run.
func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 2)
		flown, never := r.subscribe(1, "apns", "o", "flown"), r.subscribe(2, "apns", "o", "never")
		provider, _ := held("apns")
		s := r.service(nil, provider)
		stop := r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false)) // in flight when the server stops
		synctest.Wait()
		r.mail(s, 2, Input{}, false) // committed, and the process died before it woke the worker
		stop()
		want(t, "sent", len(provider.sends), 1)
		want(t, "trace", r.outcomes(s, flown), "") // no answer is no outcome

		again := newScript("apns", nil)
		s = r.service(nil, again)
		r.start(s)
		synctest.Wait()
		want(t, "sent after the start", [][]int64{again.sent("flown"), again.sent("never")}, [][]int64{{1}, {1}})
		for _, sub := range []subscription.Subscription{flown, never} {
			want(t, "trace", r.outcomes(s, sub), "1:delivered")
		}
		i := slices.IndexFunc(again.sends, func(n Notification) bool { return string(n.Subscription.Token.Body) == "flown" })
		want(t, "id of the repetition", again.sends[i].ID, provider.sends[0].ID)
		want(t, "collapse name of the repetition", again.sends[i].Collapse, provider.sends[0].Collapse)
	})
}

func TestDrain(t *testing.T) {
	for _, c := range []struct {
		name    string
		answer  time.Duration
		heedful bool // the transport returns when it is told to
		drain   time.Duration
		trace   string
	}{
		{"an answer on its way is waited for", 4 * time.Second, true, 4 * time.Second, "1:delivered"},
		{"but not for ever", time.Hour, true, drainTimeout, ""},
		{"one that comes after all is written down", 7 * time.Second, false, 7 * time.Second, "1:delivered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, sqliteURL(t), 1)
				sub := r.subscribe(1, "apns", "o", "phone")
				s := r.service(nil, newScript("apns", func(ctx context.Context, _ Notification, _ int) outcome.Outcome {
					done := ctx.Done()
					if !c.heedful {
						done = nil
					}
					select {
					case <-time.After(c.answer):
						return accepted
					case <-done:
						return outcome.Outcome{Kind: outcome.Later, Reason: "canceled"}
					}
				}))
				stop := r.start(s)
				s.Wake(r.mail(s, 1, Input{}, false))
				synctest.Wait()
				begin := time.Now()
				stop()
				want(t, "drain", time.Since(begin), c.drain)
				want(t, "trace", r.outcomes(s, sub), c.trace)
				want(t, "pending", r.pending(s, sub), c.trace == "")
			})
		})
	}
}

// TestOutage: the provider answers 503 for a minute while ten users get three mails each.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users = 10
		r := newRig(t, sqliteURL(t), users)
		begin := time.Now()
		delivered := map[string][]int64{}
		provider := newScript("apns", nil)
		provider.answer = func(_ context.Context, n Notification, _ int) outcome.Outcome {
			if time.Since(begin) < time.Minute {
				return later(0)
			}
			provider.mu.Lock()
			defer provider.mu.Unlock()
			phone := string(n.Subscription.Token.Body)
			delivered[phone] = append(delivered[phone], n.Version)
			return accepted
		}
		s := r.service(nil, provider)
		stop := r.start(s)
		for id := range int64(users) {
			r.subscribe(id+1, "apns", "o", fmt.Sprint("phone", id+1))
		}
		for range 3 {
			for id := range int64(users) {
				s.Wake(r.mail(s, id+1, Input{}, false))
			}
			advance(15 * time.Second)
		}
		stop() // and a restart in the middle of it
		s = r.service(nil, provider)
		r.start(s)
		advance(15 * time.Minute)
		for id := range users {
			phone := fmt.Sprint("phone", id+1)
			want(t, phone, delivered[phone], []int64{3})
			if n := len(provider.sent(phone)); n > 40 {
				t.Errorf("%s: %d tries in a minute are no back-off", phone, n)
			}
		}
		want(t, "dirty", s.sched.dirty(), 0.0)
	})
}

// TestWhatRemoves: only an explicit "gone", and not when the device renewed its token since.
func TestWhatRemoves(t *testing.T) {
	gone := outcome.Outcome{Kind: outcome.Gone, Status: 410, Reason: "Unregistered"}
	since := func(d time.Duration) func() outcome.Outcome {
		return func() outcome.Outcome { o := gone; o.GoneSince = time.Now().Add(d); return o }
	}
	always := func(o outcome.Outcome) func() outcome.Outcome { return func() outcome.Outcome { return o } }
	for _, c := range []struct {
		name    string
		answer  func() outcome.Outcome
		renew   bool // the device renews its token while the request is in flight
		removed bool
		trace   string
	}{
		{"gone", always(gone), false, true, "1:gone/Unregistered"},
		{"gone since the last second", since(-time.Second), false, true, "1:gone/Unregistered"},
		{"gone before it was registered", since(-time.Hour), false, false, "1:gone/Unregistered 1:delivered"},
		{"gone, renewed meanwhile", always(gone), true, false, "1:gone/Unregistered 1:delivered"},
		{"gone since the last second, renewed meanwhile", since(-time.Second), true, false, "1:gone/Unregistered 1:delivered"},
		{"suspect", always(outcome.Outcome{Kind: outcome.Suspect, Status: 400, Reason: "BadDeviceToken"}), false, false, "1:suspect/BadDeviceToken"},
		{"refused", always(outcome.Outcome{Kind: outcome.Refused, Status: 400, Reason: "BadTopic"}), false, false, "1:refused/BadTopic"},
		{"blocked", always(outcome.Outcome{Kind: outcome.Blocked, Status: 403, Reason: "InvalidProviderToken"}), false, false, "1:blocked/InvalidProviderToken 1:delivered"},
		{"later", always(later(0)), false, false, "1:later/ServiceUnavailable 1:delivered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, sqliteURL(t), 1)
				sub := r.subscribe(1, "apns", "o", "phone")
				advance(time.Minute)
				provider := newScript("apns", nil)
				provider.answer = func(_ context.Context, _ Notification, try int) outcome.Outcome {
					if try > 1 {
						return accepted
					}
					<-time.After(time.Second)
					return c.answer()
				}
				s := r.service(nil, provider)
				r.start(s)
				s.Wake(r.mail(s, 1, Input{}, false))
				advance(time.Second / 2)
				if c.renew {
					r.subscribe(1, "apns", "o", "phone")
				}
				advance(time.Hour)
				want(t, "removed", !r.subscribed(sub), c.removed)
				want(t, "trace", r.outcomes(s, sub), c.trace)
				want(t, "dirty", s.sched.dirty(), 0.0)
				want(t, "lanes", lanesLeft(s), 0)
			})
		})
	}
}

// TestDisabledTransport: slots wait for the operator to enable it again, and for nobody else.
func TestDisabledTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		off, app, on := r.subscribe(1, "fcm", "o", "off"), r.subscribe(1, "apns", "unconfigured", "app"), r.subscribe(1, "apns", "o", "on")
		provider := newScript("apns", nil)
		s := r.service(nil, provider)
		stop := r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(2 * time.Minute)
		want(t, "enabled", r.outcomes(s, on), "1:delivered")
		want(t, "disabled", r.outcomes(s, off)[:28], "1:blocked/transport_disabled")
		want(t, "no app for this client", r.outcomes(s, app)[:28], "1:blocked/transport_disabled")
		stop()
		s = r.service(nil, provider, newScript("fcm", nil))
		r.start(s)
		advance(time.Hour)
		want(t, "enabled at last", r.pending(s, off), false)
		want(t, "still without an app", r.pending(s, app), true)
		advance(24 * time.Hour)
		want(t, "dropped when it was of no use any more", r.trace(s, app)[0].Reason, "expired")
		want(t, "dirty", s.sched.dirty(), 0.0)
	})
}

func TestExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 2)
		sub := r.subscribe(1, "apns", "o", "phone")
		short, err := r.subs.Subscribe(t.Context(), account.Session{User: user(2), Device: "d"}, subscription.Request{
			Client: "app", Topics: []string{"mail:new"}, Expires: time.Now().Add(time.Minute),
			Token: subscription.Token{Transport: "apns", Identity: "short", Body: []byte("short"), Target: "o"},
		})
		must(t, err)
		provider := newScript("apns", func(_ context.Context, n Notification, try int) outcome.Outcome {
			switch {
			case try > 1:
				return accepted
			case n.Subscription.ID == short.ID:
				return later(10 * time.Minute)
			}
			return later(2 * time.Hour)
		})
		s := r.service(func(c *Config) { c.NewMailTTL = time.Hour }, provider)
		r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		s.Wake(r.mail(s, 2, Input{}, false))
		advance(3 * time.Hour)
		want(t, "trace", r.outcomes(s, sub), "1:later/ServiceUnavailable 1:refused/expired")
		want(t, "trace of the subscription that ended", r.outcomes(s, short), "1:later/ServiceUnavailable 1:refused/subscription_expired")
		want(t, "requests", len(provider.sends), 2)
		want(t, "dirty", s.sched.dirty(), 0.0)
		s.Wake(r.mail(s, 1, Input{}, false))
		synctest.Wait()
		want(t, "a later state", provider.sent("phone"), []int64{1, 2})
		want(t, "expiry", provider.sends[2].Expires.Equal(time.Now().Add(time.Hour).Truncate(time.Millisecond)), true)
	})
}

func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribe(1, "apns", "o", "phone")
		provider := newScript("apns", func(context.Context, Notification, int) outcome.Outcome {
			<-time.After(time.Second)
			return outcome.Outcome{Kind: outcome.Delivered, Status: 200, ProviderID: "id"}
		})
		s := r.service(nil, provider)
		r.start(s)
		want(t, "trace of a device that got nothing", r.trace(s, sub), []Outcome{})
		accepted := time.Now()
		for range 25 {
			accepted = time.Now()
			s.Wake(r.mail(s, 1, Input{}, false))
			advance(time.Minute)
		}
		trace := r.trace(s, sub)
		want(t, "length", len(trace), 20)
		for i, o := range trace {
			want(t, "version", o.Version, int64(25-i))
		}
		last := trace[0]
		for name, got := range map[string]time.Time{"accepted": last.Accepted, "sent": last.Sent, "answered": last.Answered.Add(-time.Second)} {
			if !got.Equal(accepted.Truncate(time.Millisecond)) {
				t.Errorf("%s: %v, want %v", name, got, accepted)
			}
		}
		last.Accepted, last.Sent, last.Answered = time.Time{}, time.Time{}, time.Time{}
		want(t, "outcome", last, Outcome{Version: 25, Attempt: 1, Outcome: "delivered", Status: 200, ProviderID: "id"})
	})
}

// TestUnsubscribed: a device that left hears nothing, and what hung on it goes with it.
func TestUnsubscribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		waits, flies := r.subscribe(1, "apns", "o", "waits"), r.subscribe(1, "apns", "o", "flies")
		provider, answers := held("apns")
		s := r.service(func(c *Config) { c.MaxInFlight = 1 }, provider)
		r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		synctest.Wait()
		if string(provider.sends[0].Subscription.Token.Body) == "waits" {
			waits, flies = flies, waits
		}
		must(t, r.subs.Unsubscribe(t.Context(), user(1), waits.ID))
		must(t, r.subs.Unsubscribe(t.Context(), user(1), flies.ID))
		answers <- later(0)
		advance(time.Hour)
		want(t, "requests", len(provider.sends), 1)
		want(t, "entries", s.sched.entries.length, 0)
	})
}
