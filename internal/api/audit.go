package api

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/audit"
	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// AuditEntry is one line of the audit log.
type AuditEntry struct {
	ID      string `json:"id"`
	At      string `json:"at"`
	Actor   string `json:"actor"`
	Act     string `json:"act"`
	Subject string `json:"subject,omitempty"`
	Context int64  `json:"context,omitempty"`
	Address string `json:"address,omitempty"`
	// Outcome is "ok", "refused" or "failed".
	Outcome string `json:"outcome"`
	Detail  string `json:"detail,omitempty"`
}

// AuditPage is a part of the audit log, newest first.
type AuditPage struct {
	Items []AuditEntry `json:"items"`
	// Next goes on, as the query's "after"; "" at the end.
	Next string `json:"next,omitempty"`
}

// listAudit is GET /audit. Whoever is not the operator sees the entries of his contexts.
func (a *API) listAudit(r *http.Request) (int, any, error) {
	seen, err := a.reach(r)
	if err != nil {
		return 0, nil, err
	}
	get := r.URL.Query().Get
	q := audit.Query{Act: get("act"), After: get("after")}
	if user := get("user"); user != "" {
		id, err := tenant.ParseUserID(user)
		if err != nil {
			return 0, nil, err
		}
		q.Subject = id.String()
	}
	if text := get("context"); text != "" {
		if q.Context, err = contextNumber("context", text); err != nil {
			return 0, nil, err
		}
	}
	if text := get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > 1000 {
			return 0, nil, problem.InField("limit", "must be 1 to 1000")
		}
	}
	for name, into := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
		if text := get(name); text != "" {
			if *into, err = time.Parse(time.RFC3339, text); err != nil {
				return 0, nil, problem.InField(name, "must be a time such as 2026-11-22T12:00:00Z")
			}
		}
	}
	if !seen.all {
		q.Contexts = slices.AppendSeq([]int64{}, maps.Keys(seen.ids))
	}
	all, next, err := a.Audit.List(r.Context(), q)
	if err != nil {
		return 0, nil, err
	}
	page := AuditPage{Items: make([]AuditEntry, 0, len(all)), Next: next}
	for _, e := range all {
		page.Items = append(page.Items, AuditEntry{
			ID: e.ID, At: stamp(e.At), Actor: e.Actor, Act: e.Act, Subject: e.Subject, Context: e.Context, Address: e.Address,
			Outcome: e.Outcome, Detail: e.Detail,
		})
	}
	return http.StatusOK, page, nil
}

// auditUser writes down what a user did to his own sign-ins.
func (a *API) auditUser(r *http.Request, user tenant.UserID, act, detail string) {
	a.Audit.Write(r.Context(), audit.Entry{
		Actor: "user " + user.String(), Act: act, Subject: user.String(), Context: user.Context,
		Address: a.clientAddress(r).String(), Outcome: audit.OK, Detail: detail,
	})
}

// auditSignIn writes down how a sign-in ended. Who was refused is unknown, whatever he says.
func (a *API) auditSignIn(r *http.Request, sess account.Session, req signInRequest, method string, err error) {
	e := audit.Entry{Actor: "unknown", Act: "sign_in", Address: a.clientAddress(r).String()}
	why := ""
	var refused *account.RefusedError
	var invalid *tenant.InvalidError
	var tooMany *account.TooManyError
	switch {
	case err == nil:
		e.Actor, e.Outcome = "user "+sess.User.String(), audit.OK
		e.Subject, e.Context = sess.User.String(), sess.User.Context
	case errors.As(err, &invalid), errors.As(err, &tooMany) && tooMany.Again:
		return // nothing was tried, or it would be the same line again
	case tooMany != nil:
		e.Outcome, why = audit.Refused, "too many attempts"
	case errors.As(err, &refused):
		e.Outcome, why = audit.Refused, refused.Reason
	case errors.Is(err, account.ErrBadLogin):
		e.Outcome, why = audit.Refused, "login or password is wrong"
	case errors.Is(err, account.ErrBadCode):
		e.Outcome, why = audit.Refused, "the code is not good"
	case errors.Is(err, account.ErrMailServer):
		e.Outcome, why = audit.Failed, "the mail server cannot be asked"
	default:
		e.Outcome, why = audit.Failed, "internal"
	}
	if err != nil && sess.User.ID != 0 {
		e.Subject, e.Context = sess.User.String(), sess.User.Context
	} else if err != nil && req.Login != "" {
		// Who hung up tried him all the same.
		users, err := a.Tenants.UsersByLogin(context.WithoutCancel(r.Context()), req.Login)
		if req.MailHost != "" {
			users = slices.DeleteFunc(users, func(u tenant.User) bool { return u.MailHost != req.MailHost })
		}
		if err == nil && len(users) == 1 {
			e.Subject, e.Context = users[0].ID.String(), users[0].ID.Context
		}
	}
	e.Detail = method
	if err == nil {
		e.Detail += ", " + onDevice(sess)
	} else if req.Client != "" {
		e.Detail += ", client " + req.Client
	}
	if why != "" {
		e.Detail += ": " + why
	}
	a.Audit.Write(r.Context(), e)
}
