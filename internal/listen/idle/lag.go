package idle

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lags watches how late mail servers tell of new mail. A Dovecot whose inotify instances are used up tells after 23 to
// 30 s what took half a second, and says so nowhere.
type lags struct {
	gauge *prometheus.GaugeVec

	mu    sync.Mutex
	hosts map[string]*lag // by mail host; guarded by mu
}

// lag is that of one mail host.
type lag struct {
	late   int // new mails in a row
	warned time.Time
}

const (
	// lagFrom is what counts as late; lagMost is where it must be something else: imported mail, a wrong clock.
	lagFrom, lagMost = 10 * time.Second, 5 * time.Minute
	// lagCount late ones in a row make a warning, and lagQuiet is until the next.
	lagCount, lagQuiet = 5, time.Hour
)

func (l *lags) init() {
	l.hosts = map[string]*lag{}
	l.gauge = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "posthorn_idle_lag_seconds",
		Help: "How long after its arrival a mail server told of the last new mail over IDLE, by mail host.",
	}, []string{"mail_host"})
}

// told takes note of a new mail that the server told of by itself.
func (s *Source) told(ctx context.Context, host string, arrived, now time.Time) {
	late := now.Sub(arrived)
	if arrived.IsZero() || late > lagMost {
		return
	}
	late = max(late, 0)
	s.lags.gauge.WithLabelValues(host).Set(late.Seconds())
	s.lags.mu.Lock()
	h := s.lags.hosts[host]
	if h == nil {
		h = &lag{}
		s.lags.hosts[host] = h
	}
	warn := false
	if late < lagFrom {
		h.late = 0
	} else if h.late++; h.late >= lagCount && now.Sub(h.warned) >= lagQuiet {
		warn, h.late, h.warned = true, 0, now
	}
	s.lags.mu.Unlock()
	if warn {
		s.Log.WarnContext(ctx, "mail server tells of new mail late over IDLE: raise its fs.inotify.max_user_instances, or set its clock",
			slog.String("mail_host", host), slog.Duration("late", late.Round(time.Second)))
	}
}
