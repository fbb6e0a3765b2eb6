package push

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// TestStoreGoesAway: an answer that cannot be written down is kept and written later; it is no reason to
// send again, or a full disk would have each phone ring every second.
func TestStoreGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribe(1, "apns", "o", "phone")
		provider := newScript("apns", func(context.Context, Notification, int) outcome.Outcome {
			must(t, r.db.Close())
			return accepted
		})
		var log bytes.Buffer
		s := r.service(func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }, provider)
		stop := r.start(s)
		synctest.Wait()
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(time.Hour)
		want(t, "sent", provider.sent("phone"), []int64{1})
		want(t, "in flight: the permit is held until the outcome is committed", s.sched.inFlight(), 1.0)
		stop()
		want(t, "lines in the log", strings.Count(log.String(), "\n"), 1)

		r.open()
		provider = newScript("apns", nil)
		s = r.service(nil, provider)
		r.start(s)
		synctest.Wait()
		want(t, "sent again by the next run", provider.sent("phone"), []int64{1})
		want(t, "trace", r.outcomes(s, sub), "1:delivered")
	})
}

// TestStoreFailsForAWhile: writes fail, as with a full disk, and work again.
func TestStoreFailsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 1)
		sub := r.subscribe(1, "apns", "o", "phone")
		exec := func(query string) {
			must(t, r.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error { _, err := tx.Exec(ctx, query); return err }))
		}
		provider := newScript("apns", func(context.Context, Notification, int) outcome.Outcome {
			exec("CREATE TRIGGER full BEFORE UPDATE ON slots BEGIN SELECT RAISE(ABORT, 'disk full'); END")
			return accepted
		})
		var log bytes.Buffer
		s := r.service(func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }, provider)
		r.start(s)
		synctest.Wait()
		s.Wake(r.mail(s, 1, Input{}, false))
		advance(time.Minute)
		want(t, "sent", provider.sent("phone"), []int64{1})
		want(t, "pending", r.pending(s, sub), true)
		exec("DROP TRIGGER full")
		advance(2 * time.Second)
		want(t, "sent", provider.sent("phone"), []int64{1})
		want(t, "trace", r.outcomes(s, sub), "1:delivered")
		want(t, "lines in the log", strings.Count(log.String(), "\n"), 2) // it began, it ended
	})
}

// TestDamagedRow: a token that cannot be opened holds up nobody else, even with one permit.
func TestDamagedRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 2)
		damaged := r.subscribe(1, "apns", "o", "damaged")
		r.subscribe(2, "apns", "o", "phone")
		exec := func(query string, args ...any) {
			must(t, r.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error { _, err := tx.Exec(ctx, query, args...); return err }))
		}
		provider := newScript("apns", nil)
		s := r.service(func(c *Config) { c.MaxInFlight = 1 }, provider)
		r.start(s)
		exec("UPDATE subscriptions SET token = 'v1.' || token WHERE id = ?", damaged.ID)
		s.Wake(r.mail(s, 1, Input{}, false))
		for i := range 20 {
			s.Wake(r.mail(s, 2, Input{}, false))
			advance(2 * time.Second)
			want(t, "the other device", len(provider.sent("phone")), i+1)
		}
		want(t, "damaged", provider.sent("damaged"), []int64(nil))
		exec("UPDATE subscriptions SET token = substr(token, 4) WHERE id = ?", damaged.ID)
		advance(2 * time.Minute)
		want(t, "mended", provider.sent("damaged"), []int64{1})
		want(t, "trace", r.outcomes(s, damaged), "1:delivered")
	})
}

func TestTooLarge(t *testing.T) {
	tooLarge := outcome.Outcome{Kind: outcome.Refused, Status: 413, Reason: "PayloadTooLarge"}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 2)
		fits, never := r.subscribe(1, "apns", "o", "fits"), r.subscribe(2, "apns", "o", "never")
		provider := newScript("apns", func(_ context.Context, n Notification, _ int) outcome.Outcome {
			if n.Short && string(n.Subscription.Token.Body) == "fits" {
				return accepted
			}
			return tooLarge
		})
		s := r.service(nil, provider)
		r.start(s)
		for id := range int64(2) {
			s.Wake(r.mail(s, id+1, Input{}, false))
		}
		advance(time.Hour)
		want(t, "one short form", provider.sent("fits"), []int64{1, 1})
		want(t, "trace", r.outcomes(s, fits), "1:delivered")
		want(t, "and no more than one", provider.sent("never"), []int64{1, 1})
		want(t, "trace", r.outcomes(s, never), "1:refused/PayloadTooLarge")
	})
}

func TestTestPush(t *testing.T) {
	r := newRig(t, sqliteURL(t), 1)
	on, off := r.subscribe(1, "apns", "o", "on"), r.subscribe(1, "fcm", "o", "off")
	provider := inTurn("apns", later(0))
	s := r.service(nil, provider)
	for _, wanted := range []outcome.Kind{outcome.Later, outcome.Delivered} {
		o, err := s.Test(t.Context(), on.ID)
		if err != nil || o.Kind != wanted {
			t.Errorf("outcome %v, %v", o, err)
		}
	}
	want(t, "topic", provider.sends[0].Input.Topic, "test")
	want(t, "pending", r.pending(s, on), false)
	want(t, "trace", r.outcomes(s, on), "")
	if _, err := s.Test(t.Context(), off.ID); !errors.Is(err, ErrNoTransport) {
		t.Errorf("disabled transport: %v", err)
	}
	if _, err := s.Test(t.Context(), strings.Repeat("0", 24)); !errors.Is(err, subscription.ErrNotFound) {
		t.Errorf("unknown subscription: %v", err)
	}
}

// TestSettle holds what each outcome writes, on each engine.
func TestSettle(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		r := newRig(t, url, 1)
		s := r.service(nil)
		for _, c := range []struct {
			outcome         outcome.Outcome
			newer           bool // a newer state comes while this one is in flight
			dirty, removed  bool
			least, attempts int // seconds to the next try at least; failures in a row
		}{
			{outcome.Outcome{Kind: outcome.Delivered}, false, false, false, 0, 0},
			{outcome.Outcome{Kind: outcome.Delivered}, true, true, false, 0, 0},
			{outcome.Outcome{Kind: outcome.Suspect}, false, false, false, 0, 0},
			{outcome.Outcome{Kind: outcome.Refused}, true, true, false, 0, 0},
			{outcome.Outcome{Kind: outcome.Later}, false, true, false, 0, 1},
			{outcome.Outcome{Kind: outcome.Later, RetryAfter: 90 * time.Second}, true, true, false, 90, 1},
			{outcome.Outcome{Kind: outcome.Blocked}, false, true, false, 60, 1},
			{outcome.Outcome{Kind: outcome.Gone, GoneSince: time.Now().Add(-time.Hour)}, false, true, false, 0, 1},
			{outcome.Outcome{Kind: outcome.Gone}, true, false, true, 0, 0},
		} {
			sub := r.subscribe(1, "apns", "o", fmt.Sprint("phone", c))
			r.mail(s, 1, Input{}, false)
			id := slotID{sub.ID, collapseKeyMail}
			f, dirty, err := s.read(t.Context(), id)
			if err != nil || !dirty {
				t.Fatalf("load: %v, %v", dirty, err)
			}
			if c.newer {
				r.mail(s, 1, Input{}, false)
			}
			f.outcome, f.answered = c.outcome, f.sent
			end, err := s.settle(t.Context(), f)
			must(t, err)
			name := fmt.Sprintf("%v, newer %v", c.outcome.Kind, c.newer)
			want(t, name+": removed", end.removed, c.removed)
			want(t, name+": dirty", end.dirty, c.dirty)
			if least := time.Duration(c.least) * time.Second; c.dirty && end.next.Sub(f.answered) < least {
				t.Errorf("%s: next try after %v, want %v", name, end.next.Sub(f.answered), least)
			}
			want(t, name+": subscribed", r.subscribed(sub), !c.removed)
			pending, attempt, _, err := s.Pending(t.Context(), sub.ID)
			must(t, err)
			want(t, name+": pending", pending, c.dirty)
			want(t, name+": attempts", attempt, c.attempts)
			want(t, name+": trace", len(r.trace(s, sub)), 1) // of what was removed, the end
			_, again, err := s.read(t.Context(), id)
			if err != nil || again != c.dirty {
				t.Errorf("%s: load: %v, %v", name, again, err)
			}
			_ = r.subs.Unsubscribe(t.Context(), user(1), sub.ID) // the removed one is gone
			_, err = s.settle(t.Context(), f)                    // nor is there harm in an answer that comes after that
			must(t, err)
		}
	})
}

// TestStorm has users get mail at once from a provider in a mood, in real time on each engine.
func TestStorm(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		const users, mails, permits = 4, 25, 3
		r := newRig(t, url, users)
		provider := newScript("webpush", func(_ context.Context, n Notification, try int) outcome.Outcome {
			if (n.Version+int64(try))%11 == 0 {
				return later(time.Millisecond)
			}
			<-time.After(time.Duration(n.ID[0]) * 10 * time.Microsecond)
			return accepted
		})
		s := r.service(func(c *Config) { c.MaxInFlight = permits }, provider)
		r.start(s)
		var all sync.WaitGroup
		for id := range int64(users) {
			phone := fmt.Sprint("phone", id+1)
			r.subscribe(id+1, "webpush", fmt.Sprint("o", id%2), phone)
			r.versions[user(id+1)] = 0
		}
		var due sync.Map
		for id := range int64(users) {
			all.Go(func() {
				for version := range int64(mails) {
					subs, err := r.subs.For(t.Context(), user(id+1), "mail:new")
					if err != nil {
						due.Store(id, err)
						return
					}
					var mine []Due
					err = r.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
						var err error
						mine, err = s.Enqueue(ctx, tx, subs, version+1, Input{Topic: "mail:new", UID: uint32(version + 1)}, false) //nolint:gosec // small
						return err
					})
					if err != nil {
						due.Store(id, err)
						return
					}
					s.Wake(mine)
				}
			})
		}
		all.Wait()
		due.Range(func(id, err any) bool { t.Errorf("user %v: %v", id, err); return true })
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for s.sched.dirty() > 0 {
			select {
			case <-tick.C:
			case <-t.Context().Done():
				t.Fatal("never came to rest")
			}
		}
		for id := range users {
			phone := fmt.Sprint("phone", id+1)
			sent := provider.sent(phone)
			want(t, phone+": newest", sent[len(sent)-1], int64(mails))
			for i := 1; i < len(sent); i++ {
				if sent[i] < sent[i-1] {
					t.Errorf("%s: %d after %d", phone, sent[i], sent[i-1])
				}
			}
		}
		if provider.double {
			t.Error("two requests at once for one slot")
		}
		for lane, most := range provider.most {
			if most > permits {
				t.Errorf("%s: %d at once", lane, most)
			}
		}
	})
}
