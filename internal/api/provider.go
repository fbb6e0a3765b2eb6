package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/onboard"
	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Provider is a brand. Secrets are taken, and never shown.
type Provider struct {
	Name  string `json:"name" need:"true" example:"blue" doc:"small letters, digits and hyphens; cannot be changed"`
	Title string `json:"title,omitempty" example:"Blue Mail" doc:"its name for people; the name when missing"`
	// Colour is #rrggbb, OnColour that of text on it.
	Colour   string `json:"colour" need:"true" example:"#1c6ea4" doc:"#rrggbb or #rgb; the palettes are computed from it"`
	OnColour string `json:"on_colour,omitempty" example:"#ffffff" doc:"of text on colour, 4.5:1 or more; black or white when missing"`
	BaseURL  string `json:"base_url,omitempty" example:"https://push.blue.example" doc:"the origin that the app calls; public.url when missing"`
	Contact  string `json:"contact,omitempty" doc:"where users turn to"`
	// Hosts are the names under which the app's requests come, Domains those of its users' addresses.
	Hosts     []string `json:"hosts,omitempty"`
	Domains   []string `json:"domains,omitempty"`
	MailHosts []string `json:"mailhosts,omitempty"`
	Reseller  string   `json:"reseller,omitempty" doc:"whose it is; the operator sets it"`
	Listed    bool     `json:"listed" doc:"whether it is in the public directory"`
	SignIn    string   `json:"sign_in,omitempty" enum:"password,oidc"`
	// OIDC is there with sign_in oidc only.
	OIDC *ProviderOIDC `json:"oidc,omitempty"`
	// Logo is a PNG or SVG file to be cleaned; empty takes the logo away.
	Logo          []byte `json:"logo,omitempty" doc:"a PNG or SVG file, in requests only; empty takes the logo away"`
	LogoMediaType string `json:"logo_media_type,omitempty" doc:"in answers only"`
	LogoSHA256    string `json:"logo_sha256,omitempty" doc:"in answers only"`

	APNs         []ProviderAPNs `json:"apns,omitempty"`
	FCM          []ProviderFCM  `json:"fcm,omitempty"`
	VAPIDKey     string         `json:"vapid_key,omitempty" doc:"a P-256 key in PEM, in requests only"`
	VAPIDSubject string         `json:"vapid_subject,omitempty" example:"mailto:push@blue.example"`

	// Secrets names those that are kept; Damaged says why they cannot be opened.
	Secrets []string `json:"secrets,omitempty" doc:"in answers only: which secrets are kept"`
	Damaged string   `json:"damaged,omitempty" doc:"in answers only: why the secrets cannot be opened"`
	Created string   `json:"created,omitempty" format:"date-time"`
	Updated string   `json:"updated,omitempty" format:"date-time"`
}

// ProviderOIDC is where its users sign in.
type ProviderOIDC struct {
	Issuer       string   `json:"issuer" example:"https://login.blue.example"`
	ClientID     string   `json:"client_id" example:"posthorn"`
	ClientSecret string   `json:"client_secret,omitempty" doc:"in requests only"`
	Scopes       []string `json:"scopes,omitempty"`
	LoginClaim   string   `json:"login_claim,omitempty" example:"email"`
}

// ProviderAPNs is a credential for Apple: a key with its ids, or a certificate with its password.
type ProviderAPNs struct {
	Client              string `json:"client,omitempty" example:"blue-app*"`
	Topic               string `json:"topic" example:"example.blue.mail"`
	Environment         string `json:"environment,omitempty" enum:"production,sandbox"`
	Key                 string `json:"key,omitempty" doc:"the text of the .p8 file, in requests only"`
	KeyID               string `json:"key_id,omitempty" example:"ABC123DEFG"`
	TeamID              string `json:"team_id,omitempty" example:"DEF123GHIJ"`
	Certificate         string `json:"certificate,omitempty" doc:"the .p12 file in base64, in requests only"`
	CertificatePassword string `json:"certificate_password,omitempty" doc:"in requests only"`
	Privacy             string `json:"privacy,omitempty"`
	URL                 string `json:"url,omitempty" doc:"the operator sets it, as other_url and ca"`
	OtherURL            string `json:"other_url,omitempty"`
	CA                  string `json:"ca,omitempty"`
}

// ProviderFCM is a credential for Google.
type ProviderFCM struct {
	Client         string `json:"client,omitempty" example:"blue-app*"`
	ServiceAccount string `json:"service_account,omitempty" doc:"the text of the JSON key file, in requests only"`
	Package        string `json:"package,omitempty" example:"example.blue.mail"`
	Privacy        string `json:"privacy,omitempty"`
	Endpoint       string `json:"endpoint,omitempty" doc:"the operator sets it"`
}

// ProviderCheck says what to examine.
type ProviderCheck struct {
	Provider *Provider `json:"provider,omitempty" doc:"one that is still to be added or changed; else the one that is kept"`
	// Accounts sign in for the examination, and are kept nowhere.
	Accounts []ProviderAccount `json:"accounts,omitempty" doc:"test accounts, five at most; they are kept nowhere"`
	User     string            `json:"user,omitempty" example:"3@1" doc:"a user whose devices are told of a test"`
}

// ProviderAccount is a mailbox for tests.
type ProviderAccount struct {
	Login    string `json:"login" example:"test1@blue.example"`
	Password string `json:"password"`
	MailHost string `json:"mailhost,omitempty" doc:"where it lives, when the provider has several"`
}

// maxProviderBody leaves room for a logo in base64 and for keys.
const maxProviderBody = 1 << 20

func (a *API) providerOperations() []operation {
	return []operation{
		{
			id: "listProviders", method: "GET", path: "/providers", tag: "providers", summary: "List the providers, without their secrets",
			roles: byReseller | byBrand, out: List[Provider]{}, status: http.StatusOK, do: a.listProviders,
		},
		{
			id: "addProvider", method: "POST", path: "/providers", tag: "providers", summary: "Add a provider",
			roles: byReseller, in: Provider{}, out: Provider{}, status: http.StatusCreated, do: a.addProvider,
		},
		{
			id: "showProvider", method: "GET", path: "/providers/{provider}", tag: "providers", summary: "Show a provider, without its secrets",
			roles: byReseller | byBrand, out: Provider{}, status: http.StatusOK, do: a.showProvider,
		},
		{
			id: "changeProvider", method: "PATCH", path: "/providers/{provider}", tag: "providers", summary: "Change what is given of a provider",
			roles: byReseller | byBrand, in: Provider{}, out: Provider{}, status: http.StatusOK, do: a.changeProvider,
		},
		{
			id: "removeProvider", method: "DELETE", path: "/providers/{provider}", tag: "providers", summary: "Remove a provider that no property names",
			roles: byReseller, status: http.StatusNoContent, do: a.removeProvider,
		},
		{
			id: "checkProvider", method: "POST", path: "/providers/{provider}/check", tag: "providers",
			summary: "Examine a provider, kept or still to be added, from its colour to a notification",
			roles:   byReseller | byBrand, in: ProviderCheck{}, out: DoctorReport{}, media: []string{mediaLines}, status: http.StatusOK, slow: true, do: a.checkProvider,
		},
	}
}

func providerView(p tenant.Provider) Provider {
	v := Provider{
		Name: p.Name, Title: p.Title, Colour: p.Colour, OnColour: p.OnColour, BaseURL: p.BaseURL, Contact: p.Contact, Hosts: p.Hosts,
		Domains: p.Domains, MailHosts: p.MailHosts, Reseller: p.Reseller, Listed: p.Listed, SignIn: p.SignIn,
		LogoMediaType: p.Logo.MediaType, LogoSHA256: p.Logo.SHA256, VAPIDSubject: p.VAPIDSubject, Created: stamp(p.Created), Updated: stamp(p.Updated),
	}
	kept := func(name string, s tenant.Secret) {
		if s != "" && !slices.Contains(v.Secrets, name) {
			v.Secrets = append(v.Secrets, name)
		}
	}
	if p.SignIn == tenant.SignInOIDC {
		v.OIDC = &ProviderOIDC{Issuer: p.OIDC.Issuer, ClientID: p.OIDC.ClientID, Scopes: p.OIDC.Scopes, LoginClaim: p.OIDC.LoginClaim}
		kept("oidc.client_secret", p.OIDC.ClientSecret)
	}
	for _, c := range p.APNs {
		v.APNs = append(v.APNs, ProviderAPNs{
			Client: c.Client, Topic: c.Topic, Environment: c.Environment, KeyID: c.KeyID, TeamID: c.TeamID, Privacy: c.Privacy,
			URL: c.URL, OtherURL: c.OtherURL, CA: c.CA,
		})
		kept("apns.key", c.Key)
		kept("apns.certificate", c.Certificate)
	}
	for _, c := range p.FCM {
		v.FCM = append(v.FCM, ProviderFCM{Client: c.Client, Package: c.Package, Privacy: c.Privacy, Endpoint: c.Endpoint})
		kept("fcm.service_account", c.ServiceAccount)
	}
	kept("vapid_key", p.VAPIDKey)
	if p.Damaged != nil {
		v.Damaged = p.Damaged.Error()
	}
	return v
}

// tenant is what a request says, on top of what there was before. A secret that is not given stays, in a list that of
// the entry for the same app.
func (v Provider) tenant(before tenant.Provider) tenant.Provider {
	p := tenant.Provider{
		Name: v.Name, Title: v.Title, Colour: v.Colour, OnColour: v.OnColour, BaseURL: v.BaseURL, Contact: v.Contact, Hosts: v.Hosts,
		Domains: v.Domains, MailHosts: v.MailHosts, Reseller: v.Reseller, Listed: v.Listed, SignIn: v.SignIn, Logo: before.Logo,
		VAPIDKey: cmp.Or(tenant.Secret(v.VAPIDKey), before.VAPIDKey), VAPIDSubject: v.VAPIDSubject,
	}
	if v.Logo != nil {
		p.Logo = tenant.Logo{Body: v.Logo}
	}
	if v.OIDC != nil && v.SignIn != tenant.SignInPassword {
		p.OIDC = tenant.OIDC{
			Issuer: v.OIDC.Issuer, ClientID: v.OIDC.ClientID, Scopes: v.OIDC.Scopes, LoginClaim: v.OIDC.LoginClaim,
			ClientSecret: tenant.Secret(v.OIDC.ClientSecret),
		}
		if p.OIDC.ClientSecret == "" && p.OIDC.Issuer == before.OIDC.Issuer && p.OIDC.ClientID == before.OIDC.ClientID { // for nobody else
			p.OIDC.ClientSecret = before.OIDC.ClientSecret
		}
	}
	for _, c := range v.APNs {
		one := tenant.APNsCredential{
			Client: cmp.Or(c.Client, "*"), Topic: c.Topic, Environment: cmp.Or(c.Environment, "production"), Key: tenant.Secret(c.Key), KeyID: c.KeyID, TeamID: c.TeamID,
			Certificate: tenant.Secret(c.Certificate), CertificatePassword: tenant.Secret(c.CertificatePassword), Privacy: c.Privacy,
			URL: c.URL, OtherURL: c.OtherURL, CA: c.CA,
		}
		i := slices.IndexFunc(before.APNs, func(b tenant.APNsCredential) bool {
			return b.Client == one.Client && b.Topic == one.Topic && b.Environment == one.Environment && b.KeyID == one.KeyID && b.TeamID == one.TeamID &&
				b.URL == one.URL && b.OtherURL == one.OtherURL && b.CA == one.CA
		})
		if i >= 0 && one.Key == "" && one.Certificate == "" {
			one.Key, one.Certificate, one.CertificatePassword = before.APNs[i].Key, before.APNs[i].Certificate, before.APNs[i].CertificatePassword
		}
		p.APNs = append(p.APNs, one)
	}
	for _, c := range v.FCM {
		one := tenant.FCMCredential{Client: cmp.Or(c.Client, "*"), ServiceAccount: tenant.Secret(c.ServiceAccount), Package: c.Package, Privacy: c.Privacy, Endpoint: c.Endpoint}
		i := slices.IndexFunc(before.FCM, func(b tenant.FCMCredential) bool {
			return b.Client == one.Client && b.Package == one.Package && b.Endpoint == one.Endpoint
		})
		if i >= 0 && one.ServiceAccount == "" {
			one.ServiceAccount = before.FCM[i].ServiceAccount
		}
		p.FCM = append(p.FCM, one)
	}
	return p
}

// readProvider is decode with room for a logo.
func readProvider(r *http.Request, into any) error {
	raw, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxProviderBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem.New(http.StatusRequestEntityTooLarge, "too_large", "a provider has at most 1 MiB, with its logo and its keys")
	} else if err != nil {
		return problem.New(http.StatusBadRequest, "unreadable_body", "the request's body ended early")
	}
	return unmarshal(raw, into)
}

func isOperator(r *http.Request) bool { return actorOf(r).Role == RoleOperator }

func (a *API) listProviders(r *http.Request) (int, any, error) {
	all, err := a.Tenants.Providers(r.Context())
	all = slices.DeleteFunc(all, func(p tenant.Provider) bool { return a.mayProvider(r, p.Name) != nil })
	return listOf(all, err, providerView)
}

func (a *API) showProvider(r *http.Request) (int, any, error) {
	name := r.PathValue("provider")
	if err := a.mayProvider(r, name); err != nil {
		return 0, nil, err
	}
	p, err := a.Tenants.Provider(r.Context(), name)
	return http.StatusOK, providerView(p), err
}

func (a *API) addProvider(r *http.Request) (int, any, error) {
	var v Provider
	if err := readProvider(r, &v); err != nil {
		return 0, nil, err
	}
	if err := cmp.Or(ownProvider(r, &v), a.mayMailHosts(r, v.MailHosts, nil)); err != nil {
		return 0, nil, err
	}
	given := v.tenant(tenant.Provider{})
	if err := a.CheckCredentials(given); err != nil {
		return 0, nil, err
	}
	p, err := a.Tenants.AddProvider(r.Context(), given, isOperator(r))
	if err == nil {
		err = a.Accounts.RemoveAdminKeysOf(r.Context(), RoleBrand, p.Name) // as addReseller does
	}
	about(r, "providers/"+v.Name, 0)
	return http.StatusCreated, providerView(p), a.usedNow(r.Context(), err)
}

// ownProvider makes a new provider the reseller's who adds it.
func ownProvider(r *http.Request, v *Provider) error {
	actor := actorOf(r)
	if actor.Role != RoleReseller {
		return nil
	}
	if err := onlyOperator(r, "reseller", v.Reseller != "" && v.Reseller != actor.Subject); err != nil {
		return err
	}
	v.Reseller = actor.Subject
	return nil
}

// mayMailHosts refuses mail hosts for a provider that none of the actor's users can be at, as if they were not there. It
// keeps those that the provider has, which the operator may have given it.
func (a *API) mayMailHosts(r *http.Request, names, before []string) error {
	if isOperator(r) {
		return nil
	}
	seen, err := a.reach(r)
	if err != nil {
		return err
	}
	for i, name := range names[:min(len(names), 100)] { // more are refused in any case
		if slices.Contains(before, name) {
			continue
		}
		h, err := a.Tenants.MailHost(r.Context(), name)
		if err != nil && !errors.Is(err, tenant.ErrNotFound) {
			return err
		}
		if err != nil || len(h.Contexts) > 0 && !slices.ContainsFunc(h.Contexts, seen.has) {
			return problem.InField(fmt.Sprintf("mailhosts[%d]", i), fmt.Sprintf("there is no mail host %q for users of yours: ask the operator", name))
		}
	}
	return nil
}

// changeProvider takes what a change gives of a provider and keeps the rest.
func (a *API) changeProvider(r *http.Request) (int, any, error) {
	name := r.PathValue("provider")
	if err := a.mayProvider(r, name); err != nil {
		return 0, nil, err
	}
	var change json.RawMessage
	if err := readProvider(r, &change); err != nil {
		return 0, nil, err
	}
	var given struct {
		MailHosts []string `json:"mailhosts"`
	}
	err := unmarshal(change, &given)
	if err == nil && len(given.MailHosts) > 0 {
		var before tenant.Provider
		if before, err = a.Tenants.Provider(r.Context(), name); err == nil {
			err = a.mayMailHosts(r, given.MailHosts, before.MailHosts)
		}
	}
	if err != nil {
		return 0, nil, err
	}
	p, err := a.Tenants.ChangeProvider(r.Context(), name, isOperator(r), func(p *tenant.Provider) error {
		v := providerView(*p)
		v.Hosts, v.Domains, v.MailHosts = slices.Clone(v.Hosts), slices.Clone(v.Domains), slices.Clone(v.MailHosts)
		v.APNs, v.FCM = slices.Clone(v.APNs), slices.Clone(v.FCM)
		if given := (struct{ APNs, FCM json.RawMessage }{}); json.Unmarshal(change, &given) == nil {
			// A list that is given is the whole of it: JSON would fill its entries from those that were there.
			if given.APNs != nil {
				v.APNs = nil
			}
			if given.FCM != nil {
				v.FCM = nil
			}
		}
		if err := unmarshal(change, &v); err != nil {
			return err
		}
		if v.Name != p.Name {
			return problem.InField("name", "cannot be changed: properties and subscriptions name it")
		}
		*p = v.tenant(*p)
		return a.CheckCredentials(*p)
	})
	return http.StatusOK, providerView(p), a.usedNow(r.Context(), err)
}

// usedNow has this node use the credentials of providers as they are after a change, before it is answered; the others
// follow at once.
func (a *API) usedNow(ctx context.Context, err error) error {
	if err == nil {
		err = a.UseProviders(ctx)
	}
	return err
}

func (a *API) removeProvider(r *http.Request) (int, any, error) {
	name := r.PathValue("provider")
	if err := a.mayProvider(r, name); err != nil {
		return 0, nil, err
	}
	if err := a.Tenants.RemoveProvider(r.Context(), name); err != nil {
		return 0, nil, err
	}
	if err := a.Accounts.RemoveAdminKeysOf(r.Context(), RoleBrand, name); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, a.usedNow(r.Context(), nil)
}

func (a *API) checkProvider(r *http.Request) (int, any, error) {
	name := r.PathValue("provider")
	var v ProviderCheck
	if err := readProvider(r, &v); err != nil {
		return 0, nil, err
	}
	p, err := a.Tenants.Provider(r.Context(), name)
	isNew := errors.Is(err, tenant.ErrNotFound) && v.Provider != nil && actorOf(r).Role != RoleBrand
	switch may := a.mayProvider(r, name); {
	case isNew:
	case may != nil:
		return 0, nil, may
	case err != nil:
		return 0, nil, err
	}
	if v.Provider != nil {
		if v.Provider.Name != name {
			return 0, nil, problem.InField("provider.name", "must be the one of the path")
		}
		if isNew {
			err = ownProvider(r, v.Provider)
		} else if !isOperator(r) {
			v.Provider.Reseller = p.Reseller
		}
		if err == nil {
			err = a.mayMailHosts(r, v.Provider.MailHosts, p.MailHosts)
		}
		if err != nil {
			return 0, nil, err
		}
		if p, err = a.Tenants.CheckProvider(r.Context(), v.Provider.tenant(p), isOperator(r)); err != nil {
			return 0, nil, err
		}
	}
	req := onboard.ProviderRequest{Provider: p, Guest: !isOperator(r), From: a.clientAddress(r)}
	for _, one := range v.Accounts {
		req.Accounts = append(req.Accounts, onboard.TestAccount{Login: one.Login, Password: account.Password(one.Password), MailHost: one.MailHost})
	}
	if v.User != "" {
		if req.User, err = tenant.ParseUserID(v.User); err != nil {
			return 0, nil, err
		}
		if _, err := a.user(r, req.User); err != nil {
			return 0, nil, err
		}
	}
	tell := tellLines[DoctorReport](r)
	report, err := a.Doctor.Provider(r.Context(), req, tell)
	if err == nil && tell != nil {
		return http.StatusOK, written{}, nil
	}
	return http.StatusOK, report, err
}

// tellLines lets a slow operation answer with JSON lines, each as soon as there is one, where that is asked for; else
// it is nil. An answer that ends early is one that HTTP says is not whole.
func tellLines[T any](r *http.Request) func(T) {
	w, ok := r.Context().Value(slowWriter{}).(http.ResponseWriter)
	if !ok || r.Header.Get("Accept") != mediaLines {
		return nil
	}
	begun := false
	return func(v T) {
		if !begun {
			w.Header().Set("Content-Type", mediaLines)
			w.Header().Set("Cache-Control", "no-store")
			begun = true
		}
		line, err := json.Marshal(v)
		if err != nil { // a type of ours always marshals
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(append(line, '\n'))
		_ = http.NewResponseController(w).Flush()
		goOn(r)
	}
}
