package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// follower does what follows from changes of tenants, by command or API on any node: push credentials of providers are
// taken over, and listeners wanted or not by what the cascade now says.
type follower struct {
	tenants    *tenant.Store
	subs       *subscription.Store
	transports *transports
	push       *push.Service
	log        *slog.Logger
	now        func() time.Time

	mu      sync.Mutex
	changed map[tenant.UserID]struct{} // see tenant.Store.Watch
	wake    chan struct{}              // capacity 1
}

// maxChanged is how many changes are looked at one by one. More are looked at as one, of everything.
const maxChanged = 1000

// settle is how long more changes are waited for: a script makes many, one after the other.
const settle = 200 * time.Millisecond

// hear notes a change.
func (f *follower) hear(u tenant.UserID) {
	f.mu.Lock()
	if len(f.changed) >= maxChanged {
		u = tenant.UserID{}
		clear(f.changed)
	}
	if f.changed == nil {
		f.changed = map[tenant.UserID]struct{}{}
	}
	f.changed[u] = struct{}{}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default: // it is awake already
	}
}

// use takes over what has changed. A credential that cannot be opened is left out, and said so: the others, of this
// provider and of all, must not go silent with it.
func (f *follower) use(ctx context.Context) error {
	all, err := f.tenants.Providers(ctx)
	if err != nil {
		return fmt.Errorf("read providers: %w", err)
	}
	if changed := f.transports.provide(ctx, all, f.now, f.log); len(changed) > 0 {
		f.log.InfoContext(ctx, "credentials of providers taken over", slog.Any("changed", changed))
		f.push.Renewed(ctx)
	}
	return nil
}

// run follows until ctx ends. What fails is tried again with the next change, and at the next start.
func (f *follower) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
		timer.Reset(settle)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		f.mu.Lock()
		changed := f.changed
		f.changed = nil
		f.mu.Unlock()
		if err := f.follow(ctx, changed); err != nil && ctx.Err() == nil {
			f.log.WarnContext(ctx, "cannot follow a change of tenants", slog.Any("err", err))
		}
	}
}

func (f *follower) follow(ctx context.Context, changed map[tenant.UserID]struct{}) error {
	if _, all := changed[tenant.UserID{}]; all {
		return errors.Join(f.use(ctx), f.subs.Recheck(ctx, tenant.UserID{}))
	}
	for u := range changed {
		if _, whole := changed[tenant.UserID{Context: u.Context}]; whole && u.ID != 0 {
			continue
		}
		if err := f.subs.Recheck(ctx, u); err != nil {
			return err
		}
	}
	return nil
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
		maps.Copy(next.vapid, m.vapid)
		next.apns, next.fcm = append(next.apns, m.apns...), append(next.fcm, m.fcm...)
	}
	before := t.names()
	t.provided = next
	t.use()
	return t.since(before)
}

// checkProvider opens the credentials of a provider that is to be added or changed, and returns the first problem.
func (t *transports) checkProvider(p tenant.Provider) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, problems := t.open(p, time.Now); len(problems) > 0 { // what is made has no connection yet
		return problems[0]
	}
	return nil
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
		k, field, err := newAPNs(p.Name, app, files, t.provided.apns, now)
		if err != nil {
			add(key+strings.TrimSuffix(field, "_file"), err)
		}
		if err == nil || errors.Is(err, apns.ErrExpired) {
			m.apns = append(m.apns, k)
		}
	}
	for i, c := range p.FCM {
		k, err := newFCM(p.Name, config.FCMApp{
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
