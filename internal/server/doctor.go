package server

import (
	"context"
	"os"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/onboard"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// doctor is who examines us.
func (s *Server) doctor(tenants *tenant.Store, accounts *account.Service, subs *subscription.Store, d *dispatch.Dispatcher) *onboard.Doctor {
	name, err := os.Hostname()
	if err != nil {
		name = s.state.node
	}
	return &onboard.Doctor{
		Tenants: tenants, Accounts: accounts, Transports: s.transports.all, Node: name,
		NotifyLogin: s.cfg.Internal.Notify.Login, NotifyPassword: account.Password(s.state.notifyPassword),
		Ping: s.db.Ping, Listeners: subs.CountListeners,
		Told: func(ctx context.Context, u tenant.UserID) (uint32, bool, error) {
			p, known, err := d.Told(ctx, u, event.Inbox)
			return p.UIDNext, known, err
		},
		Devices: func(ctx context.Context, u tenant.UserID) (int, error) {
			all, err := subs.ByUser(ctx, u)
			return len(all), err
		},
		Now: time.Now,
	}
}
