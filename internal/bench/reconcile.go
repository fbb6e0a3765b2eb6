package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// reconcile stops three servers, delivers mail, and starts them: with passwords in the database, and with a
// master user.
func (r *runner) reconcile(ctx context.Context) error {
	missing, doubled := 0.0, 0.0
	for _, variant := range []struct {
		line   string
		host   seedHost
		stored bool
	}{
		{"reconcile.seconds", seedHost{Source: "dovecot", PasswordSource: "session"}, true},
		{"reconcile.master_seconds", seedHost{Source: "dovecot", PasswordSource: "global", MasterLogin: masterLogin, MasterPassword: masterPassword}, false},
	} {
		seconds, m, d, err := r.reconcileOnce(ctx, variant.host, variant.stored)
		if err != nil {
			return fmt.Errorf("%s: %w", variant.line, err)
		}
		r.put(variant.line, "s", seconds)
		missing, doubled = max(missing, m), max(doubled, d)
	}
	r.put("reconcile.missing", "devices", missing)
	r.put("reconcile.doubled", "pushes", doubled)
	return nil
}

func (r *runner) reconcileOnce(ctx context.Context, host seedHost, stored bool) (seconds, missing, doubled float64, err error) {
	users := pick(r, 200, 40)
	f, err := r.newFleet(ctx, fleetConfig{Nodes: 3, Users: users, Host: host, Stored: stored, Extra: reconcileSettings})
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	if err := f.start(ctx, f.nodes...); err != nil {
		return 0, 0, 0, err
	}
	if _, err := f.settled(ctx, time.Minute, users, listeningStates...); err != nil {
		return 0, 0, 0, err
	}
	// One mail for each while all is well: that the road is whole, and known how far it was told.
	for i := range users {
		if err := f.dovecot.deliver(ctx, []string{login(i)}, mail("before")); err != nil {
			return 0, 0, 0, err
		}
	}
	if s, err := f.pushed(ctx, users, 1, 20*time.Second); err != nil || s.Newest != users {
		return 0, 0, 0, errors.Join(err, fmt.Errorf("with everything up, %d of %d devices were told", s.Newest, users))
	}
	for _, n := range f.nodes {
		if err := n.stop(); err != nil {
			return 0, 0, 0, err
		}
	}
	if err := f.apns.reset(ctx); err != nil {
		return 0, 0, 0, err
	}
	told := users / 2
	for range 2 {
		for i := range told {
			if err := f.dovecot.deliver(ctx, []string{login(2 * i)}, mail("meanwhile")); err != nil {
				return 0, 0, 0, err
			}
		}
	}
	start := time.Now()
	if err := f.start(ctx, f.nodes...); err != nil {
		return 0, 0, 0, err
	}
	s, err := f.pushed(ctx, told, 3, time.Minute)
	if err != nil {
		return 0, 0, 0, err
	}
	seconds = time.Since(start).Seconds() - lateness.Seconds()
	r.say("reconcile: %d devices told in %.1f s by %d sends", s.Newest, seconds, s.Sends)
	return seconds, float64(told - s.Newest), float64(s.Sends - s.Devices), nil
}
