package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/listen"
	"github.com/posthorn-mail/posthorn/internal/listen/dovecot"
	"github.com/posthorn-mail/posthorn/internal/listen/idle"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// buildListen makes what keeps listeners.
func (s *Server) buildListen(tenants *tenant.Store, accounts *account.Service, subs *subscription.Store,
	dispatcher *dispatch.Dispatcher, reg prometheus.Registerer,
) (err error) {
	c, now := s.cfg.Listen, time.Now
	s.idle = &idle.Source{
		Accounts: accounts, Dispatcher: dispatcher, Log: s.log, Metrics: reg, Now: now, PollEvery: time.Duration(c.Poll),
	}
	s.listen, err = listen.New(listen.Config{
		Subscriptions: subs, Tenants: tenants, Accounts: accounts, Dispatcher: dispatcher, Cluster: s.cluster, Bus: s.bus,
		Dovecot: &dovecot.Source{Accounts: accounts, Tenants: tenants, InstallationID: s.cfg.InstallationID, Now: now}, Idle: s.idle, Log: s.log, Metrics: reg, Now: now,
		AtOnce: c.AtOnce, LoginsPerSecond: c.LoginsPerSecond, HostLoginsPerSecond: c.HostLoginsPerSecond,
		Audit: time.Duration(c.Audit), Rejections: c.Rejections, RejectionWait: time.Duration(c.RejectionWait),
	})
	if err == nil {
		accounts.WhenKept(s.listen.Kept)
	}
	return err
}
