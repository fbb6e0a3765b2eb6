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

// round has a lane with enough to do send all it may, and lets all of it land with one verdict a
// moment later. It returns how many those were.
func round(t *testing.T, s *scheduler, now time.Time, v verdict) int {
	t.Helper()
	start, _ := s.take(now)
	for _, e := range start {
		s.landed(e, v, time.Minute, now.Add(10*time.Millisecond))
	}
	for _, e := range start {
		s.done(e, true, now)
	}
	return len(start)
}

// crowd is a scheduler with one lane in which many slots wait.
func crowd(perLane, first int) *scheduler {
	s := newScheduler(perLane, func(string) Credential { return Credential{First: first} })
	for i := range 5000 {
		s.add([]Due{{id: slotOf(i), lane: "apns/0"}})
	}
	return s
}

// TestLimitGrows doubles from one in each round trip, halves once for each that has a 429, and then adds one.
func TestLimitGrows(t *testing.T) {
	s := crowd(100, 1)
	now := time.Now()
	step := func(v verdict) int { now = now.Add(time.Second); return round(t, s, now, v) }
	for i, n := range []int{1, 2, 4, 8, 16, 32, 64, 100, 100} {
		want(t, fmt.Sprint("round ", i), step(healthy), n)
	}
	want(t, "the round that is told to be less", step(congested), 100)
	for i, n := range []int{50, 51, 52, 53} {
		want(t, fmt.Sprint("round after it ", i), step(healthy), n)
	}
	for range 10 {
		step(congested)
	}
	want(t, "the least", step(neutral), 1)
}

// TestLimitFollowsConnection: the provider's limit of streams is the lane's.
func TestLimitFollowsConnection(t *testing.T) {
	streams := 0
	s := newScheduler(50, func(string) Credential {
		return Credential{First: 50, Most: func() int { return streams }}
	})
	for i := range 500 {
		s.add([]Due{{id: slotOf(i), lane: "apns/0"}})
	}
	now := time.Now()
	for i, c := range []struct{ streams, most int }{{0, 50}, {7, 7}, {1, 1}, {30, 30}, {1000, 50}} {
		streams = c.streams
		now = now.Add(time.Second)
		want(t, fmt.Sprint(i), round(t, s, now, healthy), c.most)
	}
}

// TestIdleLaneDoesNotGrow: a limit that is not used says nothing.
func TestIdleLaneDoesNotGrow(t *testing.T) {
	s := newScheduler(100, anyCredential)
	now := time.Now()
	s.add([]Due{{id: slotOf(1), lane: "apns/0"}})
	for range 50 {
		now = now.Add(time.Second)
		round(t, s, now, healthy)
	}
	want(t, "limit", s.lanes["apns/0"].limit, firstLimit)
}

// TestBreaker: half of twenty requests in ten seconds, and then one, two, four probes and a ramp.
func TestBreaker(t *testing.T) {
	s := crowd(100, 10)
	l := s.lanes["apns/0"]
	now := time.Now()
	step := func(v verdict, after time.Duration) int { now = now.Add(after); return round(t, s, now, v) }
	step(failed, time.Second) // ten of ten are too few to judge by
	want(t, "state", l.breaker, breakerClosed)
	step(healthy, 11*time.Second) // and old ones do not count
	want(t, "state", l.breaker, breakerClosed)
	requests := 0
	for i := 0; l.breaker == breakerClosed && i < 100; i++ {
		v := failed
		if i%2 == 1 {
			v = healthy
		}
		requests += step(v, time.Second/10)
	}
	if requests < 14 || requests > 30 {
		t.Errorf("opened after %d requests", requests)
	}
	want(t, "sent while it rests", step(healthy, breakerRest-2*time.Second), 0)
	want(t, "probes", step(failed, 2100*time.Millisecond), 1)
	want(t, "sent while it rests for longer", step(healthy, 2*breakerRest-time.Second), 0)
	for i, n := range []int{1, 2, 4} {
		want(t, fmt.Sprint("probes, round ", i), step(healthy, 1100*time.Millisecond), n)
	}
	want(t, "state", l.breaker, breakerClosed)
	want(t, "round after it", step(healthy, time.Second), 8)
	for range 9 {
		step(healthy, time.Second)
	}
	if n := step(healthy, time.Second); n < 20 || n > 35 {
		t.Errorf("%d at once after 12 s of a ramp of 60 s", n)
	}
	for range 50 {
		step(healthy, time.Second)
	}
	want(t, "at the ramp's head", step(healthy, time.Second), 100)
	for i := range 200 { // fewer than half fail
		v := healthy
		if i%10 < 4 {
			v = failed
		}
		now = now.Add(time.Second)
		start, _ := s.take(now)
		for _, e := range start {
			s.landed(e, v, 0, now.Add(time.Millisecond))
			s.done(e, true, now)
		}
	}
	want(t, "state while a minority fails", l.breaker, breakerClosed)
}

// TestSlowFailures: with a provider that answers nothing, twenty time-outs take minutes.
func TestSlowFailures(t *testing.T) {
	s := crowd(100, 10)
	now, requests := time.Now(), 0
	for i := 0; s.lanes["apns/0"].breaker == breakerClosed && i < 30; i++ {
		now = now.Add(30 * time.Second)
		requests += round(t, s, now, failed)
	}
	want(t, "state", s.lanes["apns/0"].breaker, breakerOpen)
	want(t, "requests", requests, 20)
}

// TestLateAnswersAreNoProbes: what was in flight when the breaker opened neither closes it nor keeps it open.
func TestLateAnswersAreNoProbes(t *testing.T) {
	s := crowd(10, 10)
	now := time.Now().Truncate(time.Millisecond)
	start, _ := s.take(now)
	now = now.Add(time.Second)
	want(t, "first", s.landed(start[0], refused, time.Minute, now), opened)
	now = now.Add(30 * time.Second)
	for _, e := range start[1:5] {
		want(t, "late", s.landed(e, refused, time.Minute, now), unchanged)
	}
	for _, e := range start[5:] {
		want(t, "late", s.landed(e, healthy, 0, now), unchanged)
	}
	for _, e := range start {
		s.done(e, true, now)
	}
	if start, next := s.take(now); len(start) != 0 || next.IsZero() || next.After(now.Add(30*time.Second)) {
		t.Errorf("%d sent, next look at %v", len(start), next)
	}
	start, _ = s.take(now.Add(30 * time.Second))
	want(t, "probes", len(start), 1)
}

// TestNoBreakerForStrangers: the lane of the push services beyond the bound has no one provider.
func TestNoBreakerForStrangers(t *testing.T) {
	s := newScheduler(100, anyCredential)
	for i := range 200 {
		s.add([]Due{{id: slotOf(i), lane: "webpush" + overflow}})
	}
	now := time.Now()
	for range 60 {
		now = now.Add(time.Second / 10)
		round(t, s, now, failed)
	}
	want(t, "state", s.lanes["webpush"+overflow].breaker, breakerClosed)
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		transport string
		outcome   outcome.Outcome
		want      verdict
	}{
		{"apns", outcome.Outcome{Kind: outcome.Delivered, Status: 200}, healthy},
		{"apns", outcome.Outcome{Kind: outcome.Suspect, Status: 400, Reason: "BadDeviceToken"}, healthy},
		{"apns", outcome.Outcome{Kind: outcome.Gone, Status: 410}, healthy},
		{"apns", outcome.Outcome{Kind: outcome.Refused, Status: 413}, healthy},
		{"apns", outcome.Outcome{Kind: outcome.Refused, Reason: "expired"}, neutral},
		{"apns", outcome.Outcome{Kind: outcome.Later, Reason: "timeout"}, failed},
		{"apns", outcome.Outcome{Kind: outcome.Later, Status: 503}, failed},
		{"webpush", outcome.Outcome{Kind: outcome.Later, Status: 500}, failed},
		{"apns", outcome.Outcome{Kind: outcome.Later, Status: 429, Reason: "TooManyRequests"}, neutral},
		{"apns", outcome.Outcome{Kind: outcome.Later, Status: 429, Reason: "TooManyProviderTokenUpdates"}, congested},
		{"webpush", outcome.Outcome{Kind: outcome.Later, Status: 429}, neutral},
		{"fcm", outcome.Outcome{Kind: outcome.Later, Status: 429}, congested},
		{"fcm", outcome.Outcome{Kind: outcome.Blocked, Status: 401}, refused},
		{"webpush", outcome.Outcome{Kind: outcome.Blocked, Status: 401}, neutral},
		{"webpush", outcome.Outcome{Kind: outcome.Blocked, Reason: "sign"}, refused},
	} {
		f := flight{outcome: c.outcome}
		f.sub.Token.Transport = c.transport
		want(t, fmt.Sprint(c.transport, " ", c.outcome.Kind, " ", c.outcome.Status), f.verdict(), c.want)
	}
}

// TestOutageIsSaidOnce: the log and the metrics name the credential and when it ends; other lanes go on.
func TestOutageIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users = 30
		r := newRig(t, sqliteURL(t), users)
		begin := time.Now()
		provider := newScript("apns", func(_ context.Context, n Notification, _ int) outcome.Outcome {
			switch {
			case n.Subscription.Token.Target == "good" || time.Since(begin) > 5*time.Minute:
				return accepted
			case n.Subscription.Token.Target == "failing":
				return later(0)
			}
			return outcome.Outcome{Kind: outcome.Blocked, Status: 403, Reason: "BadCertificate"}
		})
		provider.expires = time.Date(2000, 1, 2, 3, 4, 5, 0, time.UTC)
		var log bytes.Buffer
		reg := prometheus.NewRegistry()
		s := r.service(func(c *Config) { c.Log, c.Metrics = slog.New(slog.NewTextHandler(&log, nil)), reg }, provider)
		for id := range int64(users) {
			for _, lane := range []string{"good", "failing", "refused"} {
				r.subscribe(id+1, "apns", lane, fmt.Sprint(lane, id))
			}
			s.Wake(r.mail(s, id+1, Input{}, false))
		}
		r.start(s)
		advance(4 * time.Minute)
		want(t, "state", gaugesOf(t, reg, "posthorn_push_breaker_state"), "failing=2 good=0 refused=2")
		want(t, "oldest", gaugesOf(t, reg, "posthorn_push_oldest_dirty_seconds"), "=240")
		want(t, "dirty", gaugesOf(t, reg, "posthorn_push_slots_dirty"), "=60")
		want(t, "in flight", gaugesOf(t, reg, "posthorn_push_in_flight"), "failing=0 good=0 refused=0")
		provider.mu.Lock()
		tries := len(provider.sends) - users
		provider.mu.Unlock()
		if tries > 100 {
			t.Errorf("%d tries in four minutes are no rest", tries)
		}
		advance(20 * time.Minute)
		want(t, "dirty in the end", s.sched.dirty(), 0.0)
		for _, c := range []struct {
			line string
			n    int
		}{
			{`level=ERROR msg="provider refuses our credential: notifications are kept" lane=apns/refused credential=refused status=403 reason=BadCertificate err=<nil> expires=2000-01-02T03:04:05.000Z`, 1},
			{`level=WARN msg="provider fails: notifications are kept" lane=apns/failing credential=failing status=503`, 1},
			{`level=INFO msg="provider works again" lane=apns/refused`, 1},
			{`level=INFO msg="provider works again" lane=apns/failing`, 1},
		} {
			if n := strings.Count(log.String(), c.line); n != c.n {
				t.Errorf("logged %d times: %s\n%s", n, c.line, log.String())
			}
		}
	})
}

// gaugesOf lists a gauge by credential.
func gaugesOf(t *testing.T, reg *prometheus.Registry, name string) string {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	var all []string
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			credential := ""
			for _, l := range m.GetLabel() {
				if l.GetName() == "credential" {
					credential = l.GetValue()
				}
			}
			all = append(all, fmt.Sprintf("%s=%v", credential, m.GetGauge().GetValue()))
		}
	}
	return strings.Join(all, " ")
}
