package push

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

type metrics struct {
	outcomes *prometheus.CounterVec
	answer   *prometheus.HistogramVec
	commit   prometheus.Histogram
	frozen   *prometheus.GaugeVec
	stale    prometheus.Gauge
	held     *prometheus.CounterVec
	skipped  *prometheus.CounterVec
}

// waits are the buckets of the histograms, in seconds.
var waits = []float64{.001, .0025, .005, .01, .015, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600}

func newMetrics(reg prometheus.Registerer, sched *scheduler, now func() time.Time) (*metrics, error) {
	m := &metrics{
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_push_outcomes_total",
			Help: "Answers of push providers, and our own ends of a notification, by what they mean.",
		}, []string{"transport", "outcome", "status", "reason"}),
		held: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_push_held_total",
			Help: "States that had to wait although they could have been sent, by why.",
		}, []string{"reason"}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_push_skipped_total",
			Help: "States that needed no notification, by why.",
		}, []string{"reason"}),
		answer: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "posthorn_push_accept_to_answer_seconds",
			Help:    "From accepting an event to the provider's acceptance of its notification.",
			Buckets: waits,
		}, []string{"transport"}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "posthorn_push_accept_to_commit_seconds",
			Help:    "From accepting an event to the commit of its slots.",
			Buckets: waits,
		}),
		frozen: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "posthorn_push_prune_frozen",
			Help: "1 while so many tokens would be removed at once that none is.",
		}, []string{"transport", "credential"}),
		stale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "posthorn_push_stale_tokens",
			Help: "FCM tokens whose app has not been in touch for 30 days.",
		}),
	}
	for _, c := range []prometheus.Collector{m.held, m.skipped, m.outcomes, m.answer, m.commit, m.frozen, m.stale, &gauges{sched, now}} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) count(transport string, o outcome.Outcome) {
	status := strconv.Itoa(o.Status)
	if o.Status != 0 && http.StatusText(o.Status) == "" {
		status = "other" // a push service is any host, and the label's values must not be its choice
	}
	m.outcomes.WithLabelValues(transport, o.Kind.String(), status, o.Reason).Inc()
}

func (m *metrics) delivered(transport string, accepted, answered time.Time) {
	m.answer.WithLabelValues(transport).Observe(answered.Sub(accepted).Seconds())
}

// gauges reads the scheduler when it is asked to; it implements prometheus.Collector.
type gauges struct {
	sched *scheduler
	now   func() time.Time
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	dirtyDesc    = desc("posthorn_push_slots_dirty", "Slots whose newest state is not delivered.")
	oldestDesc   = desc("posthorn_push_oldest_dirty_seconds", "How long the longest waiting slot has been dirty.")
	inFlightDesc = desc("posthorn_push_in_flight", "Notifications sent and not yet answered.", "transport", "credential")
	limitDesc    = desc("posthorn_push_in_flight_limit", "How many may be, by what the provider bears.", "transport", "credential")
	breakerDesc  = desc("posthorn_push_breaker_state", "0 closed, 1 half open, 2 open; the worst of the credential's lanes.", "transport", "credential")
)

func (*gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{dirtyDesc, oldestDesc, inFlightDesc, limitDesc, breakerDesc} {
		ch <- d
	}
}

func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	u := g.sched.usage(g.now())
	set := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	set(dirtyDesc, float64(u.dirty))
	set(oldestDesc, u.oldest.Seconds())
	for c, l := range u.lanes {
		set(inFlightDesc, float64(l.inFlight), c.transport, c.credential)
		set(limitDesc, float64(l.limit), c.transport, c.credential)
		set(breakerDesc, float64(l.breaker), c.transport, c.credential)
	}
}

// usage is the scheduler's state in figures.
type usage struct {
	dirty    int
	inFlight int
	oldest   time.Duration
	lanes    map[laneLabels]laneUsage
}

type laneLabels struct{ transport, credential string }

// laneUsage sums up the lanes of one credential.
type laneUsage struct {
	inFlight, limit int
	breaker         breaker
}

func (s *scheduler) usage(now time.Time) usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := usage{dirty: s.entries.length, lanes: map[laneLabels]laneUsage{}}
	oldest := seconds(now)
	for e := range s.entries.all {
		oldest = min(oldest, e.since)
	}
	u.oldest = time.Duration(seconds(now)-oldest) * time.Second
	for _, l := range s.lanes {
		c := laneLabels{transportOf(l.name), l.credential.Name}
		sum := u.lanes[c]
		sum.inFlight += l.inFlight
		sum.limit += min(l.limit, s.perLane)
		sum.breaker = max(sum.breaker, l.breaker)
		u.lanes[c] = sum
		u.inFlight += l.inFlight
	}
	return u
}
