package api

import (
	"net/http"

	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// Capabilities is what a user may.
type Capabilities struct {
	Capabilities map[string]bool `json:"capabilities" doc:"by the names of the properties without capability."`
}

// capabilities is GET /api/v1/capabilities: 200 {"capabilities":{"mobile_mail_app":true,"push":true}}, what the user
// may, by the names of the properties without "capability.". Who may not use the app any more is told so as well.
func (a *API) capabilities(r *http.Request) (int, any, error) {
	sess, err := a.signedIn(r)
	if err != nil {
		return 0, nil, err
	}
	v, err := a.Tenants.View(r.Context(), sess.User)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, Capabilities{map[string]bool{
		"mobile_mail_app": cascade.MobileMailApp.Of(v),
		"push":            cascade.CapabilityPush.Of(v),
	}}, nil
}
