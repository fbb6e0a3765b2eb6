package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// providers keeps the push credentials of the providers in use, as they are changed by command or API on any node.
type providers struct {
	tenants    *tenant.Store
	transports *transports
	push       *push.Service
	log        *slog.Logger
	now        func() time.Time
}

// use takes over what has changed. A credential that cannot be opened is left out, and said so: the others, of this
// provider and of all, must not go silent with it.
func (p *providers) use(ctx context.Context) error {
	all, err := p.tenants.Providers(ctx)
	if err != nil {
		return fmt.Errorf("read providers: %w", err)
	}
	if changed := p.transports.provide(ctx, all, p.now, p.log); len(changed) > 0 {
		p.log.InfoContext(ctx, "credentials of providers taken over", slog.Any("changed", changed))
		p.push.Renewed(ctx)
	}
	return nil
}

// run does so after each change, until ctx ends.
func (p *providers) run(ctx context.Context, changed <-chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		if err := p.use(ctx); err != nil && ctx.Err() == nil {
			p.log.WarnContext(ctx, "cannot take over the credentials of providers", slog.Any("err", err))
		}
	}
}

// provide puts the credentials of the providers in place of those that were theirs before, and says which are new.
func (t *transports) provide(ctx context.Context, all []tenant.Provider, now func() time.Time, log *slog.Logger) (changed []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	next := made{vapid: map[string]known[push.VAPID]{}}
	for _, p := range all {
		m, problems := t.open(p, now)
		for _, err := range problems {
			log.ErrorContext(ctx, "a provider's credential cannot be used: none of its devices can be told",
				slog.String("provider", p.Name), slog.Any("err", err))
		}
		for owner, k := range m.vapid {
			next.vapid[owner] = k
		}
		next.apns, next.fcm = append(next.apns, m.apns...), append(next.fcm, m.fcm...)
	}
	before := t.names()
	t.provided = next
	t.use()
	return t.since(before)
}

// open opens a provider's credentials, save those that are in use already. Each problem is a *tenant.InvalidError; an
// expired certificate is one, and used all the same, as one of the configuration is.
func (t *transports) open(p tenant.Provider, now func() time.Time) (m made, problems []error) {
	add := func(field string, err error) {
		problems = append(problems, &tenant.InvalidError{Field: field, Problem: err.Error()})
	}
	if p.Damaged != nil {
		add("secrets", p.Damaged)
		return m, problems
	}
	for i, c := range p.APNs {
		key := fmt.Sprintf("apns[%d].", i)
		app, files, err := appOf(c)
		if err != nil {
			add(key+"certificate", err)
			continue
		}
		k, field, err := newAPNs(push.Entry{Provider: p.Name, N: i}, app, files, t.provided.apns, now)
		if err != nil {
			add(key+strings.TrimSuffix(field, "_file"), err)
		}
		if err == nil || errors.Is(err, apns.ErrExpired) {
			m.apns = append(m.apns, k)
		}
	}
	for i, c := range p.FCM {
		k, err := newFCM(push.Entry{Provider: p.Name, N: i}, config.FCMApp{
			Client: c.Client, ServiceAccount: config.NewSecret(string(c.ServiceAccount)), Package: c.Package, Privacy: c.Privacy, Endpoint: c.Endpoint,
		}, t.provided.fcm, now)
		if err != nil {
			add(fmt.Sprintf("fcm[%d].service_account", i), err)
			continue
		}
		m.fcm = append(m.fcm, k)
	}
	if p.VAPIDKey != "" {
		k, field, err := t.newVAPID(p.Name, []byte(p.VAPIDKey), cmp.Or(p.VAPIDSubject, t.subject), t.provided.vapid, now)
		if err != nil {
			add(field, err)
			return m, problems
		}
		m.vapid = map[string]known[push.VAPID]{p.Name: k}
	}
	return m, problems
}

// appOf is a provider's credential as one of the configuration.
func appOf(c tenant.APNsCredential) (app config.APNsApp, files apnsFiles, err error) {
	app = config.APNsApp{
		Client: c.Client, Topic: c.Topic, Environment: c.Environment, Key: config.NewSecret(string(c.Key)), KeyID: c.KeyID, TeamID: c.TeamID,
		CertificatePassword: config.NewSecret(string(c.CertificatePassword)), Privacy: c.Privacy, URL: c.URL, OtherURL: c.OtherURL, Connections: 1,
	}
	if c.CA != "" {
		files.ca = []byte(c.CA)
	}
	if c.Certificate != "" {
		if files.certificate, err = base64.StdEncoding.DecodeString(string(c.Certificate)); err != nil {
			return app, files, errors.New("is not the base64 of a .p12 file")
		}
	}
	return app, files, nil
}
