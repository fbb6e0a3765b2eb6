package server

import (
	"context"
	"net"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/onboard"
	"github.com/posthorn-mail/posthorn/internal/outbound"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// doctor is who examines us.
func (s *Server) doctor(tenants *tenant.Store, accounts *account.Service, subs *subscription.Store, d *dispatch.Dispatcher) *onboard.Doctor {
	name := s.state.node
	for _, m := range s.cluster.Members() {
		if m.Self {
			name = m.Name
		}
	}
	return &onboard.Doctor{
		Tenants: tenants, Accounts: accounts, Transports: s.transports.all, Node: name,
		NotifyLogin: s.cfg.Internal.Notify.Login, NotifyPassword: account.Password(s.state.notifyPassword),
		Ping: s.db.Ping, Listeners: subs.CountListeners,
		MailNotify: s.mailNotify != nil, Bus: s.bus.Ready, Nodes: s.nodes,
		Told: func(ctx context.Context, u tenant.UserID) (uint32, bool, error) {
			p, known, err := d.Told(ctx, u, event.Inbox)
			return p.UIDNext, known, err
		},
		Devices: func(ctx context.Context, u tenant.UserID) (int, error) {
			all, err := subs.ByUser(ctx, u)
			return len(all), err
		},
		Guard: s.transports.guard, PublicURL: s.cfg.Public.URL, Probes: s.transports.probes,
		TestPush: func(ctx context.Context, u tenant.UserID) ([]onboard.PushAnswer, error) {
			return testPush(ctx, subs, s.push, u)
		},
		Now: time.Now,
	}
}

// nodes are the members of the cluster, and those who would be.
func (s *Server) nodes() (all []onboard.Node) {
	for _, m := range append(s.cluster.Members(), s.cluster.Ignored()...) {
		all = append(all, onboard.Node{Name: m.Name, Owns: m.Willing && !m.Draining, Ignored: m.Ignored})
	}
	return all
}

// discoverers find servers for everybody, who has no business with internal addresses, and for the operator, who lists
// those of his own.
func (s *Server) discoverers() (everybody, operator *onboard.Discoverer, err error) {
	guard, err := outbound.New(outbound.Config{})
	if err != nil {
		return nil, nil, err
	}
	everybody = &onboard.Discoverer{Guard: guard, Resolver: net.DefaultResolver, Now: time.Now}
	operator = &onboard.Discoverer{Guard: s.transports.guard, Resolver: net.DefaultResolver, Now: time.Now}
	return everybody, operator, nil
}
