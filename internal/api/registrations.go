package api

import (
	"cmp"
	"log/slog"
	"net/http"
	"slices"

	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// PushRegistration is a user and a client of his that has subscribed, on one device or several: what the
// original called a registration.
type PushRegistration struct {
	Context int64  `json:"context"`
	User    int64  `json:"user"`
	Client  string `json:"client"`
}

// Unregistered is what a DELETE of a registration did.
type Unregistered struct {
	// Subscriptions is how many were removed; 0 when there was no such registration.
	Subscriptions int `json:"subscriptions"`
}

func (a *API) listRegistrations(r *http.Request) (int, any, error) {
	subs, err := a.subscriptions(r)
	if err != nil {
		return 0, nil, err
	}
	list := List[PushRegistration]{Items: []PushRegistration{}}
	for _, sub := range subs {
		list.Items = append(list.Items, PushRegistration{sub.User.Context, sub.User.ID, sub.Client})
	}
	slices.SortFunc(list.Items, func(a, b PushRegistration) int {
		return cmp.Or(cmp.Compare(a.Context, b.Context), cmp.Compare(a.User, b.User), cmp.Compare(a.Client, b.Client))
	})
	list.Items = slices.Compact(list.Items)
	return http.StatusOK, list, nil
}

// unregister removes all subscriptions of a user's client. The listener goes with the last of the user.
func (a *API) unregister(r *http.Request) (int, any, error) {
	q := r.URL.Query()
	id, err := tenant.ParseUserID(q.Get("user") + "@" + q.Get("context"))
	if err != nil {
		return 0, nil, err
	}
	client := q.Get("client")
	if client == "" {
		return 0, nil, problem.InField("client", "must be the client whose registration is removed")
	}
	if actorOf(r).Role != RoleOperator { // who is told that nothing was removed where a user is not there
		if _, err := a.user(r, id); err != nil {
			return 0, nil, err
		}
	}
	subs, err := a.Subscriptions.ByUser(r.Context(), id)
	if err != nil {
		return 0, nil, err
	}
	done := Unregistered{}
	for _, sub := range subs {
		if sub.Client != client {
			continue
		}
		if err := a.Subscriptions.Unsubscribe(r.Context(), id, sub.ID); err != nil {
			return 0, nil, err
		}
		done.Subscriptions++
	}
	if done.Subscriptions > 0 {
		a.Log.InfoContext(r.Context(), "registration removed by the operator",
			slog.String("account", id.String()), slog.String("client", client))
	}
	return http.StatusOK, done, nil
}
