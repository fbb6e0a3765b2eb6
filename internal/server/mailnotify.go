package server

import (
	"context"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/listen/mailnotify"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// buildMailNotify opens the UDP source, if the configuration enables it.
func (s *Server) buildMailNotify(ctx context.Context, tenants *tenant.Store, reg prometheus.Registerer) (err error) {
	c := s.cfg.MailNotify
	if !c.Enabled {
		return nil
	}
	group, ok := c.Group()
	if !ok {
		group = netip.Addr{}
	}
	s.mailNotify, err = mailnotify.New(ctx, mailnotify.Config{
		Listen: c.Listen, Group: group, Interface: c.Interface, Delimiter: c.LoginDelimiter, Domains: c.Domains,
		AllowFrom: c.AllowFrom, Rate: c.Rate, Burst: c.Burst, Delay: time.Duration(c.Delay),
		Tenants: tenants, Hint: s.listen.Look, Log: s.log, Metrics: reg, Now: time.Now,
	})
	if err != nil {
		return config.Problems{s.cfg.Problem("mailnotify.listen", "cannot listen: %v", err)}
	}
	return nil
}
