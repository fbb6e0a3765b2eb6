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
}

func newMetrics(reg prometheus.Registerer, sched *scheduler) (*metrics, error) {
	m := &metrics{
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_push_outcomes_total",
			Help: "Answers of push providers, and our own ends of a notification, by what they mean.",
		}, []string{"transport", "outcome", "status", "reason"}),
		answer: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "posthorn_push_accept_to_answer_seconds",
			Help:    "From accepting an event to the provider's acceptance of its notification.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600},
		}, []string{"transport"}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	for _, c := range []prometheus.Collector{
		m.outcomes, m.answer,
		gauge("posthorn_push_slots_dirty", "Slots whose newest state is not delivered.", sched.dirty),
		gauge("posthorn_push_in_flight", "Notifications sent and not yet answered.", sched.inFlight),
	} {
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
