package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/audit"
	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// rotateSession is POST /api/v1/sessions/current/rotate: 200 {"id","token","user","expires"} with the token that takes
// the place of the one that asks; 429 within a minute of the rotation before, or when it is asked for twice at once.
func (a *API) rotateSession(r *http.Request) (int, any, error) {
	if _, err := a.session(r); err != nil {
		return 0, nil, err
	}
	sess, token, err := a.Accounts.Rotate(r.Context(), bearer(r))
	if tooMany, ok := errors.AsType[*account.TooManyError](err); ok {
		p := problem.New(http.StatusTooManyRequests, "rotated_already", "the token is less than a minute old, or a new one is on its way: use the one that you have")
		p.RetryAfter = tooMany.RetryAfter
		return 0, nil, p
	} else if stolen, ok := errors.AsType[*account.StolenError](err); ok { // since a moment
		err = errors.Join(err, a.stolen(r, stolen))
	}
	if err != nil {
		return 0, nil, err
	}
	a.auditUser(r, sess.User, "session.rotate", onDevice(sess))
	return http.StatusOK, opened(sess, token), nil
}

// stolen does after a session was ended for two who hold tokens of it what its sign-out would have done.
func (a *API) stolen(r *http.Request, e *account.StolenError) error {
	user := e.Ended.User
	a.Audit.Write(r.Context(), audit.Entry{
		Actor: "unknown", Act: "session.theft", Subject: user.String(), Context: user.Context, Address: a.clientAddress(r).String(),
		Outcome: audit.Refused, Detail: "a token from before a rotation was used: " + onDevice(e.Ended),
	})
	return a.signedOut(context.WithoutCancel(r.Context()), user, e.Last, e.Ended.Device)
}

// signedOut does what comes after sessions of a user have ended: what a device had subscribed to ends with the last
// of its sessions, and what listeners sign in with is forgotten with the user's last.
func (a *API) signedOut(ctx context.Context, user tenant.UserID, device bool, hash string) error {
	if device {
		if err := a.Subscriptions.UnsubscribeDevice(ctx, user, hash); err != nil {
			return err
		}
	}
	left, err := a.Accounts.Sessions(ctx, user)
	if err != nil || len(left) > 0 {
		return err
	}
	if err := a.Subscriptions.Inactive(ctx, user); err != nil {
		return err
	}
	_, listening, err := a.Subscriptions.Listener(ctx, user)
	if err != nil || listening { // the listener's end forgets it: it is needed to unregister
		return err
	}
	return a.Accounts.ForgetCredential(ctx, user)
}

// signOutEverywhere is DELETE /api/v1/sessions: 204. All sessions of the user end, the one that asks too, and all
// that his devices had subscribed to.
func (a *API) signOutEverywhere(r *http.Request) (int, any, error) {
	sess, err := a.signedIn(r)
	if err != nil {
		return 0, nil, err
	}
	ended, err := a.Accounts.SignOutEverywhere(r.Context(), sess.User)
	if err != nil {
		return 0, nil, err
	}
	a.auditUser(r, sess.User, "sign_out.everywhere", fmt.Sprintf("sessions ended: %d", len(ended)))
	// From here on he who asked cannot ask again.
	ctx := context.WithoutCancel(r.Context())
	if err := a.Subscriptions.UnsubscribeUser(ctx, sess.User); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, a.signedOut(ctx, sess.User, false, "")
}

type deviceView struct {
	ID       string `json:"id"`
	Name     string `json:"name,omitempty"`
	Client   string `json:"client"`
	Address  string `json:"address,omitempty"`
	LastUsed string `json:"last_used,omitempty"`
	Current  bool   `json:"current"`
	// Sessions is how many are live; a device that has none any more may still be subscribed.
	Sessions      int                  `json:"sessions"`
	Subscriptions []deviceSubscription `json:"subscriptions"`
}

type deviceSubscription struct {
	ID        string   `json:"id"`
	Client    string   `json:"client"`
	Transport string   `json:"transport"`
	Topics    []string `json:"topics"`
	Created   string   `json:"created"`
}

// userDevice is a device of a user, by its hash too.
type userDevice struct {
	hash string
	view deviceView
}

func (a *API) devicesOf(ctx context.Context, sess account.Session) ([]userDevice, error) {
	signedIn, err := a.Accounts.Devices(ctx, sess.User)
	if err != nil {
		return nil, err
	}
	subs, err := a.Subscriptions.ByUser(ctx, sess.User)
	if err != nil {
		return nil, err
	}
	hashes, err := a.Subscriptions.DeviceHashes(ctx, sess.User)
	if err != nil {
		return nil, err
	}
	all := make([]userDevice, 0, len(signedIn))
	for _, d := range signedIn {
		all = append(all, userDevice{d.Hash, deviceView{
			ID: d.ID, Name: d.Name, Client: d.Client, Address: d.Address, LastUsed: stamp(d.LastUsed), Current: d.Hash == sess.Device,
			Sessions: len(d.Sessions), Subscriptions: []deviceSubscription{},
		}})
	}
	for _, sub := range subs {
		hash, ok := hashes[sub.ID]
		if !ok {
			continue // removed meanwhile
		}
		i := slices.IndexFunc(all, func(d userDevice) bool { return d.hash == hash })
		if i < 0 {
			i = len(all)
			all = append(all, userDevice{hash, deviceView{ID: account.DeviceID(hash), Client: sub.Client}})
		}
		all[i].view.Subscriptions = append(all[i].view.Subscriptions, deviceSubscription{
			ID: sub.ID, Client: sub.Client, Transport: sub.Token.Transport, Topics: sub.Topics, Created: stamp(sub.Created),
		})
	}
	return all, nil
}

// listDevices is GET /api/v1/devices: where the user is signed in or subscribed.
func (a *API) listDevices(r *http.Request) (int, any, error) {
	sess, err := a.signedIn(r)
	if err != nil {
		return 0, nil, err
	}
	all, err := a.devicesOf(r.Context(), sess)
	return listOf(all, err, func(d userDevice) deviceView { return d.view })
}

// revokeDevice is DELETE /api/v1/devices/{id}, where "current" is the one that asks: 204. The user's sessions on the
// device end, and what he had subscribed to there.
func (a *API) revokeDevice(r *http.Request) (int, any, error) {
	sess, err := a.signedIn(r)
	if err != nil {
		return 0, nil, err
	}
	all, err := a.devicesOf(r.Context(), sess)
	if err != nil {
		return 0, nil, err
	}
	id := r.PathValue("id")
	if id == "current" {
		id = account.DeviceID(sess.Device)
	}
	i := slices.IndexFunc(all, func(d userDevice) bool { return d.view.ID == id })
	if i < 0 {
		return 0, nil, notYours(account.ErrNoSession, "no such device")
	}
	ended, err := a.Accounts.RevokeDevice(r.Context(), sess.User, all[i].hash)
	if err != nil {
		return 0, nil, err
	}
	a.auditUser(r, sess.User, "device.revoke", fmt.Sprintf("device %s, client %s, sessions ended: %d", id, all[i].view.Client, len(ended)))
	return http.StatusNoContent, nil, a.signedOut(context.WithoutCancel(r.Context()), sess.User, true, all[i].hash)
}

// onDevice says of a session what the audit log tells.
func onDevice(sess account.Session) string {
	text := "client " + sess.Client
	if sess.DeviceName != "" {
		text += ", device " + strings.TrimSpace(sess.DeviceName)
	}
	return text + ", session " + sess.ID
}
