package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/certificate"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// rotation seals everything anew with the key that seals now, a batch at a time. It keeps no state: whoever asks
// for a batch says where the one before ended, and who begins again passes over what is done.
type rotation struct {
	tenants      *tenant.Store
	subs         *subscription.Store
	accounts     *account.Service
	certificates *certificate.Storage
	key          string // the id of that key
	log          *slog.Logger
}

// step seals the next batch of something anew, and returns where to go on, "" at its end.
type step struct {
	name string
	next func(ctx context.Context, after string) (string, seal.Moved, error)
}

// steps are all that is sealed. What tells whether a server has the right key is last: until then, a server without
// the old one does not start.
func (r *rotation) steps() []step {
	return []step{
		{"mailhosts", func(ctx context.Context, _ string) (string, seal.Moved, error) {
			n, err := r.tenants.Reseal(ctx)
			m := seal.Moved{Seen: n, Changed: n}
			if errors.Is(err, seal.ErrOpen) { // it says which
				m.Lost, err = []string{strings.ReplaceAll(err.Error(), "\n", "; ")}, nil
			}
			return "", m, err
		}},
		{"subscriptions", r.subs.Reseal},
		{"passwords", r.accounts.ResealPasswords},
		{"tokens", r.accounts.ResealTokens},
		{"certificates", r.certificates.Reseal},
		{"memory", r.accounts.ResealMemory},
		{"check", func(ctx context.Context, _ string) (string, seal.Moved, error) {
			return "", seal.Moved{}, r.accounts.ResealCheck(ctx)
		}},
	}
}

// Rotate does the batch that begins after a place, "" for the beginning.
func (r *rotation) Rotate(ctx context.Context, after string) (api.Rotated, error) {
	name, at, _ := strings.Cut(after, ":")
	steps := r.steps()
	i := 0
	if after == "" {
		r.log.InfoContext(ctx, "sealing everything anew", slog.String("key", r.key))
	} else {
		for i < len(steps) && steps[i].name != name {
			i++
		}
		if i == len(steps) {
			return api.Rotated{}, &tenant.InvalidError{Field: "after", Problem: "is no place that an answer named"}
		}
	}
	done := api.Rotated{Key: r.key}
	if after == "" {
		inSubs, err := r.subs.Sealed(ctx)
		if err != nil {
			return done, fmt.Errorf("count subscriptions: %w", err)
		}
		kept, err := r.accounts.Sealed(ctx)
		if err != nil {
			return done, fmt.Errorf("count credentials: %w", err)
		}
		done.Total = inSubs + kept
	}
	next, m, err := steps[i].next(ctx, at)
	if err != nil {
		return done, err
	}
	done.Seen, done.Changed, done.Lost = m.Seen, m.Changed, m.Lost
	switch {
	case next != "":
		done.Next = steps[i].name + ":" + next
	case i+1 < len(steps):
		done.Next = steps[i+1].name + ":"
	default:
		r.log.InfoContext(ctx, "everything is sealed with one key", slog.String("key", r.key))
	}
	if len(m.Lost) > 0 {
		r.log.ErrorContext(ctx, "no key opens what was sealed", slog.Any("owners", m.Lost))
	}
	return done, nil
}
