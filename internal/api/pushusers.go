package api

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/posthorn-mail/posthorn/internal/listen"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// listPushUsers is what is wanted, as the database has it, with what the nodes say of what they have.
func (a *API) listPushUsers(r *http.Request) (int, any, error) {
	ctx, now := r.Context(), a.Now()
	only := tenant.UserID{}
	if s := r.URL.Query().Get("user"); s != "" {
		var err error
		if only, err = tenant.ParseUserID(s); err != nil {
			return 0, nil, err
		}
	}
	wanted := map[tenant.UserID]subscription.Listener{}
	err := a.Subscriptions.Listeners(ctx, func(l subscription.Listener) {
		if l.Wanted || l.InSession(now) {
			wanted[l.User] = l
		}
	})
	if err != nil {
		return 0, nil, err
	}
	subs, err := a.subscriptions(r)
	if err != nil {
		return 0, nil, err
	}
	devices := map[tenant.UserID]int{}
	for _, sub := range subs {
		devices[sub.User]++
	}
	last := map[tenant.UserID]time.Time{}
	if err := a.LastEvents(ctx, func(u tenant.UserID, at time.Time) { last[u] = at }); err != nil {
		return 0, nil, err
	}
	held := map[tenant.UserID]listen.Held{}
	all, err := a.Listen.List(ctx)
	if err != nil { // what that node has is shown as it is recorded
		a.Log.WarnContext(ctx, "a node does not say which listeners it has", slog.Any("err", err))
	}
	for _, h := range all {
		held[h.User] = h
	}
	nodes := a.nodeNames()
	users, err := a.users(r, 0, "")
	if err != nil {
		return 0, nil, err
	}
	list := List[PushUser]{Items: []PushUser{}}
	for _, u := range users {
		if only != (tenant.UserID{}) && only != u.ID {
			continue
		}
		v := PushUser{User: u.ID.String(), Login: u.Login, Devices: devices[u.ID], LastEvent: stamp(last[u.ID])}
		l, listens := wanted[u.ID]
		h, has := held[u.ID]
		switch {
		case listens && has:
			v.Node, v.Permanent, v.Source, v.State, v.Reason, v.Since = nodes[h.Node], h.Permanent, h.Source, h.State, h.Reason, stamp(h.Since)
			v.LastError = h.LastError
			if h.LastEvent.After(last[u.ID]) {
				v.LastEvent = stamp(h.LastEvent)
			}
		case listens:
			v.Permanent, v.State, v.Reason, v.Since = l.Wanted, l.State, l.Reason, stamp(l.Since)
		case devices[u.ID] > 0:
			v.State, v.Reason = subscription.ClientNotAllowed, reasonNotAllowed
		default:
			continue
		}
		list.Items = append(list.Items, v)
	}
	return http.StatusOK, list, nil
}

// nodeNames tells how each live node is called in listings: by its name, unless another has the same.
func (a *API) nodeNames() map[string]string {
	all := map[string]string{}
	count := map[string]int{}
	for _, m := range a.Cluster.Members() {
		count[m.Name]++
	}
	for _, m := range a.Cluster.Members() {
		if all[m.ID] = m.Name; m.Name == "" || count[m.Name] > 1 {
			all[m.ID] = m.ID
		}
	}
	return all
}
