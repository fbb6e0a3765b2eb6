package cluster

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	changes *prometheus.CounterVec // by kind
}

func newMetrics(reg prometheus.Registerer, c *Cluster) (*metrics, error) {
	m := &metrics{changes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "posthorn_cluster_changes_total",
		Help: "Other nodes that joined, restarted, died, left, or turned: became willing, unwilling or draining.",
	}, []string{"change"})}
	for _, kind := range []string{joined, restarted, died, left, turned} {
		m.changes.WithLabelValues(kind)
	}
	gauge := func(name, help string, count func(*view) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return float64(count(c.view))
		})
	}
	for _, col := range []prometheus.Collector{
		m.changes,
		gauge("posthorn_cluster_members", "Nodes that are alive, this one included.", func(v *view) int {
			return len(v.snapshot().live)
		}),
		gauge("posthorn_cluster_willing", "Nodes that own listeners: alive, willing and not draining.", func(v *view) int {
			return len(v.snapshot().willing)
		}),
		gauge("posthorn_cluster_strangers", "Processes that are ignored: their key differs, or they have this node's id.", func(v *view) int {
			return len(v.strangers)
		}),
	} {
		if err := reg.Register(col); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}
