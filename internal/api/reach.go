package api

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// What an actor may not see is answered as if it were not there: with the error, word by word, that what is missing
// gives. A handler asks one of these before it looks.

// reach is the contexts that an actor may see.
type reach struct {
	all bool
	ids map[int64]bool
}

func (c reach) has(id int64) bool { return c.all || c.ids[id] }

// reach finds the contexts that the request's actor may see, once for a request. Listings show nothing else, and count
// nothing else.
func (a *API) reach(r *http.Request) (reach, error) {
	done, ok := r.Context().Value(actKey{}).(*act)
	if !ok {
		return reach{}, nil
	}
	if done.reach != nil {
		return *done.reach, nil
	}
	seen, err := a.reachOf(r, done.actor)
	if err == nil {
		done.reach = &seen
	}
	return seen, err
}

func (a *API) reachOf(r *http.Request, actor Actor) (reach, error) {
	seen := reach{ids: map[int64]bool{}}
	switch actor.Role {
	case RoleOperator:
		seen.all = true
	case RoleReseller:
		ids, err := a.Tenants.ContextIDsOf(r.Context(), actor.Subject)
		if err != nil {
			return reach{}, fmt.Errorf("find contexts of reseller: %w", err)
		}
		for _, id := range ids {
			seen.ids[id] = true
		}
	case RoleBrand:
		if err := a.contextsOfBrand(r.Context(), actor.Subject, seen.ids); err != nil {
			return reach{}, fmt.Errorf("find contexts of provider: %w", err)
		}
	}
	return seen, nil
}

// contextsOfBrand adds the contexts that have a provider, as the cascade says.
func (a *API) contextsOfBrand(ctx context.Context, provider string, ids map[int64]bool) error {
	all, err := a.Tenants.Contexts(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		v, err := a.Tenants.ContextView(ctx, c.ID)
		if err != nil {
			return err
		}
		if cascade.Provider.Of(v) == provider {
			ids[c.ID] = true
		}
	}
	return nil
}

// mayContext is nil for a context that the actor may see, which may still be missing.
func (a *API) mayContext(r *http.Request, id int64) error {
	seen, err := a.reach(r)
	if err == nil && !seen.has(id) {
		err = fmt.Errorf("context %d %w", id, tenant.ErrNotFound)
	}
	return err
}

// mayUser is mayContext for a user.
func (a *API) mayUser(r *http.Request, id tenant.UserID) error {
	seen, err := a.reach(r)
	if err == nil && !seen.has(id.Context) {
		err = fmt.Errorf("user %s %w", id, tenant.ErrNotFound)
	}
	return err
}

// mayDevice is mayContext for a subscription. What became of one that is gone is the operator's to read: nothing says
// any more whose it was.
func (a *API) mayDevice(r *http.Request, id string) error {
	if actorOf(r).Role == RoleOperator {
		return nil
	}
	sub, err := a.Subscriptions.Load(r.Context(), id)
	if err != nil {
		return err
	}
	seen, err := a.reach(r)
	if err == nil && !seen.has(sub.User.Context) {
		err = subscription.ErrNotFound
	}
	return err
}

// mayProvider is nil for a provider that the actor may see, which may still be missing.
func (a *API) mayProvider(r *http.Request, name string) error {
	actor := actorOf(r)
	mine := actor.Role == RoleOperator || actor.Role == RoleBrand && actor.Subject == name
	if actor.Role == RoleReseller {
		p, err := a.Tenants.Provider(r.Context(), name)
		if err != nil {
			return err
		}
		mine = p.Reseller == actor.Subject
	}
	if !mine {
		return fmt.Errorf("provider %q %w", name, tenant.ErrNotFound)
	}
	return nil
}

// onlyOperator refuses a member of a request that is the operator's to set.
func onlyOperator(r *http.Request, field string, given bool) error {
	if !given || actorOf(r).Role == RoleOperator {
		return nil
	}
	p := problem.New(http.StatusForbidden, "only_operator", "is the operator's to set: leave it out")
	p.Field = field
	return p
}

// user finds a user that the actor may see.
func (a *API) user(r *http.Request, id tenant.UserID) (tenant.User, error) {
	if err := a.mayUser(r, id); err != nil {
		return tenant.User{}, err
	}
	return a.Tenants.User(r.Context(), id)
}

// users lists the users that the actor may see, of one context unless that is 0, and of one mail host unless that is "".
func (a *API) users(r *http.Request, inContext int64, mailhost string) ([]tenant.User, error) {
	seen, err := a.reach(r)
	if err != nil {
		return nil, err
	}
	if seen.all {
		return a.Tenants.Users(r.Context(), inContext, mailhost)
	}
	var all []tenant.User
	for _, id := range slices.Sorted(maps.Keys(seen.ids)) {
		if inContext != 0 && inContext != id {
			continue
		}
		some, err := a.Tenants.Users(r.Context(), id, mailhost)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// subscriptions lists those of the users that the actor may see.
func (a *API) subscriptions(r *http.Request) ([]subscription.Subscription, error) {
	seen, err := a.reach(r)
	if err != nil {
		return nil, err
	}
	all, err := a.Subscriptions.All(r.Context())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(s subscription.Subscription) bool { return !seen.has(s.User.Context) }), nil
}
