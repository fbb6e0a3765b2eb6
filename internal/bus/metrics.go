package bus

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connections     prometheus.Counter
	dropped, unsent *prometheus.CounterVec // by area
}

func newMetrics(reg prometheus.Registerer, b *Bus) (*metrics, error) {
	m := &metrics{
		connections: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthorn_bus_connections_total",
			Help: "Connections made to the bus. At each after the first, messages may have been missed.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_bus_dropped_total",
			Help: "Messages that arrived and were dropped, because their handler was too slow.",
		}, []string{"area"}),
		unsent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_bus_unsent_total",
			Help: "Messages that could not be published, because the bus was not connected or the message too large.",
		}, []string{"area"}),
	}
	connected := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "posthorn_bus_connected",
		Help: "1 while there is a connection to the bus, else 0.",
	}, func() float64 {
		if b.Ready() != nil {
			return 0
		}
		return 1
	})
	routes := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "posthorn_bus_routes",
		Help: "Routes to the servers of other nodes, one for each. 0 where there is no mesh.",
	}, func() float64 {
		if b.server == nil {
			return 0
		}
		return float64(b.server.NumRoutes())
	})
	for _, c := range []prometheus.Collector{connected, routes, m.connections, m.dropped, m.unsent} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
