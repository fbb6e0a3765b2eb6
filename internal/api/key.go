package api

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Key is one key of the administration.
type Key struct {
	ID   string `json:"id" example:"0123456789abcdef"`
	Role Role   `json:"role" enum:"operator,reseller,brand" need:"true"`
	// Reseller is whose a reseller's key is, Provider whose a brand's.
	Reseller string `json:"reseller,omitempty" example:"north"`
	Provider string `json:"provider,omitempty" example:"blue"`
	Note     string `json:"note,omitempty" example:"the portal of North" doc:"what the key is for"`
	Created  string `json:"created,omitempty" format:"date-time"`
	// Expires is 90 days from now when a request does not say it.
	Expires  string `json:"expires,omitempty" format:"date-time" doc:"at most two years away; in 90 days when a request does not say it"`
	Expired  bool   `json:"expired,omitempty"`
	LastUsed string `json:"last_used,omitempty" format:"date-time" doc:"to the hour; missing when it was never used"`
	// Key is the key itself, in the answer that makes it and nowhere else.
	Key string `json:"key,omitempty" doc:"the key itself, in the answer that makes it and nowhere else"`
}

func (a *API) keyView(k account.AdminKey) Key {
	v := Key{
		ID: k.ID, Role: k.Role, Note: k.Note, Created: stamp(k.Created), Expires: stamp(k.Expires),
		Expired: !k.Expires.After(a.Now()), LastUsed: stamp(k.LastUsed),
	}
	if k.Role == RoleReseller {
		v.Reseller = k.Subject
	} else {
		v.Provider = k.Subject // "" for the operator
	}
	return v
}

func (a *API) listKeys(r *http.Request) (int, any, error) {
	all, err := a.Accounts.AdminKeys(r.Context())
	return listOf(all, err, a.keyView)
}

func (a *API) addKey(r *http.Request) (int, any, error) {
	var v Key
	if err := decode(r, &v); err != nil {
		return 0, nil, err
	}
	k := account.AdminKey{Role: v.Role, Note: v.Note}
	if v.Expires != "" {
		t, err := time.Parse(time.RFC3339, v.Expires)
		if err != nil {
			return 0, nil, problem.InField("expires", "must be a time such as 2027-01-31T00:00:00Z")
		}
		k.Expires = t
	}
	if err := a.keySubject(r, v, &k); err != nil {
		return 0, nil, err
	}
	k, secret, err := a.Accounts.AddAdminKey(r.Context(), k)
	if wrong, ok := errors.AsType[*tenant.InvalidError](err); ok && wrong.Field == "subject" {
		return 0, nil, problem.InField(map[Role]string{RoleReseller: "reseller", RoleBrand: "provider"}[v.Role], wrong.Problem)
	} else if err != nil {
		return 0, nil, err
	}
	about(r, "keys/"+k.ID, 0)
	added := a.keyView(k)
	added.Key = string(secret)
	return http.StatusCreated, added, nil
}

// keySubject finds whose a key is to be.
func (a *API) keySubject(r *http.Request, v Key, k *account.AdminKey) error {
	switch {
	case v.Reseller != "" && v.Role != RoleReseller:
		return problem.InField("reseller", "is for a key with the role reseller")
	case v.Provider != "" && v.Role != RoleBrand:
		return problem.InField("provider", "is for a key with the role brand")
	}
	k.Subject = v.Reseller + v.Provider
	if v.Provider != "" {
		_, err := a.Tenants.Provider(r.Context(), v.Provider)
		if errors.Is(err, tenant.ErrNotFound) {
			return problem.InField("provider", err.Error())
		}
		return err
	}
	if v.Reseller != "" {
		all, err := a.Tenants.Resellers(r.Context())
		if err != nil {
			return err
		}
		names := make([]string, len(all))
		for i, one := range all {
			names[i] = one.Name
		}
		if !slices.Contains(names, v.Reseller) {
			return tenant.NoReseller("reseller", v.Reseller, names)
		}
	}
	return nil
}

func (a *API) removeKey(r *http.Request) (int, any, error) {
	return http.StatusNoContent, nil, a.Accounts.RemoveAdminKey(r.Context(), r.PathValue("key"))
}
