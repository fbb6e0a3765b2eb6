package push

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// TestExplain closes each gate in turn: the walk names it first, and says until when.
func TestExplain(t *testing.T) {
	refusing := func(o outcome.Outcome) *script {
		return newScript("apns", func(context.Context, Notification, int) outcome.Outcome { return o })
	}
	blocked := outcome.Outcome{Kind: outcome.Blocked, Status: 403, Reason: "BadCertificate"}
	expired := newScript("apns", nil)
	expired.expires = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name              string
		transport, target string // of the device; "" is apns and "o"
		provider          *script
		mails             int
		passes            time.Duration // after each mail
		renews            bool          // the device, at the end
		closed            string        // the first closed gate
		detail            string        // a part of what is said of it, or of all of them
		until             time.Duration // from then on; 0 when not known
		patient           bool          // the service coalesces
		unknown           string        // the gates that nothing is known of
	}{
		{name: "nothing happened yet", provider: newScript("apns", nil), unknown: "slot answer", detail: "no mail was reported"},
		{name: "delivered", provider: newScript("apns", nil), mails: 1, detail: "the newest state is dealt with"},
		{name: "transport off", transport: "fcm", provider: newScript("apns", nil), mails: 1, closed: "transport", detail: "fcm is switched off"},
		{name: "no app", target: "unconfigured", provider: newScript("apns", nil), mails: 1, closed: "transport", detail: `no entry of apns is for the client "app"`},
		{name: "certificate over", provider: expired, mails: 1, closed: "credential", detail: "o has expired", until: 1},
		{name: "credential refused", provider: refusing(blocked), mails: 1, closed: "lane", detail: "blocked, 403 BadCertificate", until: time.Minute},
		{name: "tried with a few", provider: inTurn("apns", blocked), mails: 1, passes: 3 * time.Minute, detail: "opens again"},
		{name: "suspect", provider: refusing(badToken), mails: 2, closed: "token", detail: "1 of 3 strikes: suspect, 400 BadDeviceToken"},
		{
			name: "gone, and renewed", provider: refusing(outcome.Outcome{Kind: outcome.Gone, Status: 410, Reason: "Unregistered", GoneSince: time.Unix(1, 0)}),
			mails: 1, closed: "token", detail: "renewed it later",
		},
		{name: "failing", provider: refusing(later(10 * time.Minute)), mails: 3, passes: time.Minute, closed: "slot", detail: "waits after 1 failed tries: later, 503 ServiceUnavailable", until: 7 * time.Minute},
		{name: "allowance", transport: "fcm", provider: newScript("fcm", nil), mails: 25, passes: time.Second, closed: "slot", detail: "what FCM allows", until: 155 * time.Second},
		{name: "coalescing", patient: true, provider: newScript("apns", nil), mails: 2, passes: time.Second, closed: "slot", detail: "waits a moment for more news", until: 2 * time.Second},
		{name: "too old", provider: refusing(later(10 * time.Minute)), mails: 1, passes: 6 * time.Minute, closed: "slot", detail: "too old to be sent"},
		{name: "refused", provider: refusing(outcome.Outcome{Kind: outcome.Refused, Status: 400, Reason: "BadTopic"}), mails: 1, closed: "answer", detail: "dropped: refused, 400 BadTopic"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, sqliteURL(t), 1)
				transport, target := c.transport, c.target
				if transport == "" {
					transport = "apns"
				}
				if target == "" {
					target = "o"
				}
				sub := r.subscribe(1, transport, target, "phone")
				s := r.service(func(s *Config) {
					if s.NewMailTTL = 5 * time.Minute; c.patient {
						patient(s)
					}
				}, c.provider)
				r.start(s)
				for range c.mails {
					s.Wake(r.mail(s, 1, Input{}, false))
					synctest.Wait()
					if c.passes > 0 {
						advance(c.passes)
					}
				}
				gates, err := s.Explain(t.Context(), sub)
				must(t, err)
				holdTo(t, gates, c.closed, c.detail, c.unknown)
				for _, g := range gates {
					if g.Name == c.closed && (c.until > 0) != !g.Until.IsZero() {
						t.Errorf("%s until %v", g.Name, g.Until)
					}
					if wait := time.Until(g.Until); g.Name == c.closed && c.until > 1 && (wait < c.until-time.Second || wait > c.until+time.Second) {
						t.Errorf("%s for %v, want %v", g.Name, wait, c.until)
					}
				}
			})
		})
	}
}

// holdTo compares a walk with the first closed gate, a detail and the gates that nothing is known of.
func holdTo(t *testing.T, gates []Gate, closed, detail, unknown string) {
	t.Helper()
	var names, blind []string
	first, said := "", false
	for _, g := range gates {
		names = append(names, g.Name)
		if first == "" && g.State == GateClosed {
			first = g.Name
		}
		if g.State == GateUnknown {
			blind = append(blind, g.Name)
		}
		said = said || strings.Contains(g.Detail, detail) && (closed == "" || g.Name == closed)
		if g.Detail == "" || (g.State == GateOpen) != (g.Do == "") {
			t.Errorf("%+v", g)
		}
	}
	all := []string{"transport", "credential", "lane", "token", "slot", "answer"}
	if closed == "transport" {
		all = []string{"transport", "slot"} // nothing between them means anything
	}
	if !slices.Equal(names, all) {
		t.Errorf("gates %q", names)
	}
	want(t, "first closed", first, closed)
	want(t, "unknown", strings.Join(blind, " "), unknown)
	if !said {
		t.Errorf("nobody says %q: %+v", detail, gates)
	}
}

// TestExplainInFlight, and one more gate that no single device closes.
func TestExplainInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), leastPruned+2)
		sub := r.subscribe(1, "apns", "o", "phone")
		provider, answers := held("apns")
		s := r.service(nil, provider)
		stop := r.start(s)
		s.Wake(r.mail(s, 1, Input{}, false))
		synctest.Wait()
		gates, err := s.Explain(t.Context(), sub)
		must(t, err)
		holdTo(t, gates, "", "on its way", "answer")
		answers <- accepted
		synctest.Wait()
		stop()

		gone := outcome.Outcome{Kind: outcome.Gone, Status: 410, Reason: "Unregistered"}
		s = r.service(nil, newScript("apns", func(context.Context, Notification, int) outcome.Outcome { return gone }))
		r.start(s)
		var last []subscription.Subscription
		for id := range int64(leastPruned + 1) {
			last = append(last, r.subscribe(id+2, "apns", "o", "other"+string(rune('a'+id))))
			s.Wake(r.mail(s, id+2, Input{}, false))
			synctest.Wait()
		}
		gates, err = s.Explain(t.Context(), last[leastPruned])
		must(t, err)
		holdTo(t, gates, "token", "too many would go", "")
	})
}
