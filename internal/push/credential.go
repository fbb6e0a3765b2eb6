package push

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Watched is a credential for those who look after it. It holds no secret.
type Watched struct {
	Credential
	// TokenSince is when the token was made that we show the provider for it; zero when there is none.
	TokenSince time.Time
	// Streams is what its connections carry; none where that is not known.
	Streams []Streams
}

// Streams is the requests under way in one environment, and how many it takes at once.
type Streams struct {
	Environment     string
	InFlight, Limit int
}

// endWarnings is how long before the end of a credential it is warned of, and that it has come.
var endWarnings = []time.Duration{30 * 24 * time.Hour, 7 * 24 * time.Hour, 24 * time.Hour, 0}

// ending is a credential whose end was warned of.
type ending struct {
	of   laneLabels
	when time.Time
}

// watch warns of credentials that end, once for each of endWarnings.
func (s *Service) watch(ctx context.Context) {
	now := s.Now()
	s.endings.mu.Lock()
	defer s.endings.mu.Unlock()
	said := map[ending]int{}
	for _, t := range s.Transports {
		for _, c := range t.Watch() {
			if c.Expires.IsZero() {
				continue
			}
			e := ending{laneLabels{t.Name(), c.Name}, c.Expires}
			said[e] = s.endings.said[e]
			left, reached := c.Expires.Sub(now), 0
			for reached < len(endWarnings) && left <= endWarnings[reached] {
				reached++
			}
			if reached <= said[e] {
				continue
			}
			said[e] = reached
			attrs := []slog.Attr{
				slog.String("transport", t.Name()), slog.String("credential", c.Name), slog.Time("expires", c.Expires),
			}
			if reached == len(endWarnings) {
				s.Log.LogAttrs(ctx, slog.LevelError, "credential has expired: none of its devices can be told", attrs...)
			} else {
				attrs = append(attrs, slog.Int("days_left", int(left/(24*time.Hour))))
				s.Log.LogAttrs(ctx, slog.LevelWarn, "credential expires soon: renew it", attrs...)
			}
		}
	}
	s.endings.said = said
}

// Renewed takes notice of replaced credentials: a lane that rests because the one before was refused tries
// the new one at once.
func (s *Service) Renewed(ctx context.Context) {
	s.sched.renew()
	s.watch(ctx)
}

// renew takes over what is known of the lanes' credentials, and wakes the lanes of new ones.
func (s *scheduler) renew() {
	s.mu.Lock()
	for _, l := range s.lanes {
		c := s.describe(l.name)
		if c.Name == "" || c.Since.Equal(l.credential.Since) {
			continue
		}
		l.credential = c
		if l.rests = (time.Time{}); l.alarm.state == waiting {
			s.waiting.remove(&l.alarm)
			l.alarm.state = idle
		}
		l.run()
	}
	s.mu.Unlock()
	s.wake()
}

// credentialGauges asks the transports when it is asked; it implements prometheus.Collector.
type credentialGauges struct {
	transports []Transport
	now        func() time.Time
}

var (
	expiryDesc      = desc("posthorn_push_credential_expiry_timestamp_seconds", "When a credential ends, in Unix time; none for those that do not.", "transport", "credential")
	loadedDesc      = desc("posthorn_push_credential_loaded_timestamp_seconds", "Since when a credential is in use by this process, in Unix time.", "transport", "credential")
	tokenAgeDesc    = desc("posthorn_push_token_age_seconds", "Age of the token that is shown to the provider; of several, the oldest. None before the first send.", "transport", "credential")
	streamsDesc     = desc("posthorn_push_streams", "Requests under way on the connections of a credential.", "transport", "credential", "environment")
	streamLimitDesc = desc("posthorn_push_streams_limit", "How many the provider takes at once at present.", "transport", "credential", "environment")
)

func (*credentialGauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{expiryDesc, loadedDesc, tokenAgeDesc, streamsDesc, streamLimitDesc} {
		ch <- d
	}
}

func (g *credentialGauges) Collect(ch chan<- prometheus.Metric) {
	set := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	now := g.now()
	for _, t := range g.transports {
		for _, c := range t.Watch() {
			set(loadedDesc, float64(c.Since.Unix()), t.Name(), c.Name)
			if !c.Expires.IsZero() {
				set(expiryDesc, float64(c.Expires.Unix()), t.Name(), c.Name)
			}
			if !c.TokenSince.IsZero() {
				set(tokenAgeDesc, now.Sub(c.TokenSince).Seconds(), t.Name(), c.Name)
			}
			for _, n := range c.Streams {
				set(streamsDesc, float64(n.InFlight), t.Name(), c.Name, n.Environment)
				set(streamLimitDesc, float64(n.Limit), t.Name(), c.Name, n.Environment)
			}
		}
	}
}
