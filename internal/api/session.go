package api

import (
	"context"
	"net/http"

	"github.com/posthorn-mail/posthorn/internal/account"
)

type signInRequest struct {
	Login      string           `json:"login"`
	Password   account.Password `json:"password"`
	Client     string           `json:"client"`
	Device     string           `json:"device"`
	DeviceName string           `json:"device_name"`
	MailHost   string           `json:"mailhost"`
	// Code and CodeVerifier take the place of all that is above.
	Code         string `json:"code"`
	CodeVerifier string `json:"code_verifier"`
}

// signIn is POST /api/v1/sessions: 201 {"id","token","user","expires"}; 401 for a login or password
// that the mail server refuses, 422 naming a field, 429 with Retry-After, 503 without a mail server.
func (a *API) signIn(r *http.Request) (int, any, error) {
	var req signInRequest
	if err := decode(r, &req); err != nil {
		return 0, nil, err
	}
	sess, token, err := a.prove(r, req)
	if err != nil {
		return 0, nil, err
	}
	if err := a.Subscriptions.Active(r.Context(), sess.User, sess.Client); err != nil {
		return 0, nil, err
	}
	a.Listen.Look(sess.User) // it may have waited for this password
	return http.StatusCreated, opened(sess, token), nil
}

// prove opens a session for login and password, or for the code of a sign-in elsewhere.
func (a *API) prove(r *http.Request, req signInRequest) (account.Session, string, error) {
	if req.Code != "" {
		return a.redeem(r, req)
	}
	sess, token, err := a.Accounts.SignIn(r.Context(), account.SignIn{
		Login: req.Login, Password: req.Password, Client: req.Client, Device: req.Device, DeviceName: req.DeviceName,
		MailHost: req.MailHost, Host: a.host(r), Address: a.clientAddress(r),
	})
	a.auditSignIn(r, sess, req, "password", err)
	return sess, token, err
}

// sessionToken is a session and the token that it is used with.
type sessionToken struct {
	ID      string `json:"id"`
	Token   string `json:"token"`
	User    string `json:"user"`
	Expires string `json:"expires"`
}

func opened(sess account.Session, token string) sessionToken {
	return sessionToken{ID: sess.ID, Token: token, User: sess.User.String(), Expires: stamp(sess.Expires)}
}

type sessionView struct {
	ID     string `json:"id"`
	Client string `json:"client"`
	// Device is the id of its device, in the list of devices.
	Device     string `json:"device"`
	DeviceName string `json:"device_name,omitempty"`
	Address    string `json:"address"`
	Created    string `json:"created"`
	LastUsed   string `json:"last_used"`
	Expires    string `json:"expires"`
	Current    bool   `json:"current"`
}

// listSessions is GET /api/v1/sessions: the live sessions of the user.
func (a *API) listSessions(r *http.Request) (int, any, error) {
	sess, err := a.signedIn(r)
	if err != nil {
		return 0, nil, err
	}
	all, err := a.Accounts.Sessions(r.Context(), sess.User)
	return listOf(all, err, func(s account.Session) sessionView {
		return sessionView{
			ID: s.ID, Client: s.Client, Device: account.DeviceID(s.Device), DeviceName: s.DeviceName, Address: s.Address, Created: stamp(s.Created), LastUsed: stamp(s.LastUsed),
			Expires: stamp(s.Expires), Current: s.ID == sess.ID,
		}
	})
}

// revokeSession is DELETE /api/v1/sessions/{id}, where "current" is the one that asks: 204. When it was
// the device's last session of this user, the device's subscriptions end with it: a phone that is
// signed out must show no more mail.
func (a *API) revokeSession(r *http.Request) (int, any, error) {
	sess, err := a.signedIn(r)
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
	act := "session.revoke"
	if ended.ID == sess.ID {
		act = "sign_out"
	}
	a.auditUser(r, sess.User, act, onDevice(ended))
	return http.StatusNoContent, nil, a.signedOut(context.WithoutCancel(r.Context()), sess.User, last, ended.Device)
}
