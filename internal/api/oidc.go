package api

import (
	"errors"
	"html"
	"io"
	"net/http"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/audit"
	"github.com/posthorn-mail/posthorn/internal/problem"
)

type startOIDCRequest struct {
	Provider      string `json:"provider"`
	Client        string `json:"client"`
	Device        string `json:"device"`
	DeviceName    string `json:"device_name"`
	RedirectURI   string `json:"redirect_uri"`
	CodeChallenge string `json:"code_challenge"`
	// Method may be missing: there is only S256.
	Method string `json:"code_challenge_method"`
	State  string `json:"state"`
}

type startedOIDC struct {
	AuthorizationURL string `json:"authorization_url"`
}

// startOIDC is POST /api/v1/sign-in/oidc: 200 with the address that the app opens in a browser.
func (a *API) startOIDC(r *http.Request) (int, any, error) {
	var req startOIDCRequest
	if err := decode(r, &req); err != nil {
		return 0, nil, err
	}
	if req.Method != "" && req.Method != "S256" {
		return 0, nil, problem.InField("code_challenge_method", "must be S256")
	}
	to, err := a.Accounts.StartOIDC(r.Context(), account.OIDCStart{
		Provider: req.Provider, Client: req.Client, Device: req.Device, DeviceName: req.DeviceName, RedirectURI: req.RedirectURI,
		Challenge: req.CodeChallenge, State: req.State, Address: a.clientAddress(r),
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, startedOIDC{AuthorizationURL: to}, nil
}

// callbackOIDC is GET /api/v1/sign-in/callback/{provider}: where an identity provider sends the user's browser, which
// goes on to the app with a code or an error. There is a page only when nobody knows to which app.
func (a *API) callbackOIDC(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer") // the address has codes
	w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		a.page(w, http.StatusMethodNotAllowed, "This address is for identity providers.")
		return
	}
	get := r.URL.Query().Get
	end := a.Accounts.FinishOIDC(r.Context(), account.OIDCCallback{
		Provider: r.PathValue("provider"), State: get("state"), Code: get("code"), Issuer: get("iss"), Error: get("error"), Address: a.clientAddress(r),
	})
	if end.Err != nil {
		a.auditFlow(r, end)
	}
	if end.Redirect == "" {
		if !errors.Is(end.Err, account.ErrBadCode) {
			_ = a.problemOf(r.Context(), end.Err) // logs it
		}
		a.page(w, http.StatusBadRequest, "This sign-in is not under way any more. Go back to the app and begin again.")
		return
	}
	w.Header().Set("Location", end.Redirect)
	w.WriteHeader(http.StatusSeeOther)
}

// page is all that a browser is ever shown here.
func (a *API) page(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Sign-in</title><p>"+html.EscapeString(text)+"</p></html>\n")
}

// auditFlow writes down a sign-in at an identity provider that ended without a code.
func (a *API) auditFlow(r *http.Request, end account.OIDCEnd) {
	e := audit.Entry{Actor: "unknown", Act: "sign_in", Address: a.clientAddress(r).String(), Outcome: audit.Refused}
	var flow *account.FlowError
	if !errors.As(end.Err, &flow) {
		return // nobody knows whose: whoever calls an address is no sign-in
	}
	if flow.Code != "access_denied" {
		e.Outcome = audit.Failed
	}
	if end.User.ID != 0 {
		e.Subject, e.Context = end.User.String(), end.User.Context
	}
	e.Detail = "provider " + end.Provider + ", client " + end.Client + ": " + flow.Detail
	a.Audit.Write(r.Context(), e)
}

// redeem is POST /api/v1/sessions with the code of a sign-in at an identity provider.
func (a *API) redeem(r *http.Request, req signInRequest) (account.Session, string, error) {
	sess, token, method, err := a.Accounts.RedeemOIDC(r.Context(), req.Code, req.CodeVerifier, a.host(r), a.clientAddress(r))
	a.auditSignIn(r, sess, req, method, err)
	return sess, token, err
}
