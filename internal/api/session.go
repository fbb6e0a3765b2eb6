package api

import (
	"net/http"

	"github.com/posthorn-mail/posthorn/internal/account"
)

type signInRequest struct {
	Login    string           `json:"login"`
	Password account.Password `json:"password"`
	Client   string           `json:"client"`
	Device   string           `json:"device"`
	MailHost string           `json:"mailhost"`
}

// signIn is POST /api/v1/sessions: 201 {"id","token","user","expires"}; 401 for a login or password
// that the mail server refuses, 422 naming a field, 429 with Retry-After, 503 without a mail server.
func (a *API) signIn(r *http.Request) (int, any, error) {
	var req signInRequest
	if err := decode(r, &req); err != nil {
		return 0, nil, err
	}
	sess, token, err := a.Accounts.SignIn(r.Context(), account.SignIn{
		Login: req.Login, Password: req.Password, Client: req.Client, Device: req.Device,
		MailHost: req.MailHost, Host: a.host(r), Address: a.clientAddress(r),
	})
	a.auditSignIn(r, sess, req, err)
	if err != nil {
		return 0, nil, err
	}
	if err := a.Subscriptions.Active(r.Context(), sess.User, sess.Client); err != nil {
		return 0, nil, err
	}
	a.Listen.Look(sess.User) // it may have waited for this password
	return http.StatusCreated, map[string]string{
		"id": sess.ID, "token": token, "user": sess.User.String(), "expires": stamp(sess.Expires),
	}, nil
}

type sessionView struct {
	ID       string `json:"id"`
	Client   string `json:"client"`
	Address  string `json:"address"`
	Created  string `json:"created"`
	LastUsed string `json:"last_used"`
	Expires  string `json:"expires"`
	Current  bool   `json:"current"`
}

// listSessions is GET /api/v1/sessions: the live sessions of the user.
func (a *API) listSessions(r *http.Request) (int, any, error) {
	sess, err := a.session(r)
	if err != nil {
		return 0, nil, err
	}
	all, err := a.Accounts.Sessions(r.Context(), sess.User)
	return listOf(all, err, func(s account.Session) sessionView {
		return sessionView{
			ID: s.ID, Client: s.Client, Address: s.Address, Created: stamp(s.Created), LastUsed: stamp(s.LastUsed),
			Expires: stamp(s.Expires), Current: s.ID == sess.ID,
		}
	})
}

// revokeSession is DELETE /api/v1/sessions/{id}, where "current" is the one that asks: 204. When it was
// the device's last session of this user, the device's subscriptions end with it: a phone that is
// signed out must show no more mail.
func (a *API) revokeSession(r *http.Request) (int, any, error) {
	sess, err := a.session(r)
	if err != nil {
		return 0, nil, err
	}
	id := r.PathValue("id")
	if id == "current" {
		id = sess.ID
	}
	ended, last, err := a.Accounts.Revoke(r.Context(), sess.User, id)
	if err != nil {
		return 0, nil, notYours(err, "no such session")
	}
	if last {
		if err := a.Subscriptions.UnsubscribeDevice(r.Context(), sess.User, ended.Device); err != nil {
			return 0, nil, err
		}
	}
	left, err := a.Accounts.Sessions(r.Context(), sess.User)
	if err != nil || len(left) > 0 {
		return http.StatusNoContent, nil, err
	}
	if err := a.Subscriptions.Inactive(r.Context(), sess.User); err != nil {
		return 0, nil, err
	}
	if _, listening, err := a.Subscriptions.Listener(r.Context(), sess.User); err != nil {
		return 0, nil, err
	} else if !listening { // else the listener's end forgets it: it is needed to unregister
		if err := a.Accounts.ForgetCredential(r.Context(), sess.User); err != nil {
			return 0, nil, err
		}
	}
	return http.StatusNoContent, nil, nil
}
