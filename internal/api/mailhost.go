package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

func mailHostView(h tenant.MailHost) MailHost {
	v := MailHost{
		Name: h.Name, IMAP: net.JoinHostPort(h.IMAPHost, strconv.Itoa(h.IMAPPort)), Security: h.Security, Insecure: h.Insecure,
		CA: h.CA, NotifyLogin: h.NotifyLogin, UserForm: h.UserForm, KeyedAlias: h.KeyedAlias, Contexts: h.Contexts,
		Source: h.Source, PasswordSource: h.PasswordSource, MasterLogin: h.MasterLogin, DoveadmURL: h.DoveadmURL,
		OAuthTokenURL: h.OAuthTokenURL, OAuthClientID: h.OAuthClientID, OAuthScope: h.OAuthScope,
	}
	for _, p := range h.AllowFrom {
		v.AllowFrom = append(v.AllowFrom, p.String())
	}
	return v
}

func (a *API) listMailHosts(r *http.Request) (int, any, error) {
	all, err := a.Tenants.MailHosts(r.Context())
	return listOf(all, err, mailHostView)
}

func (a *API) addMailHost(r *http.Request) (int, any, error) {
	var v MailHost
	if err := decode(r, &v); err != nil {
		return 0, nil, err
	}
	h, err := v.tenant()
	if err != nil {
		return 0, nil, err
	}
	password := v.NotifyPassword
	if v.NotifyLogin != "" && password == "" {
		password = tenant.NewPassword()
	}
	if err := a.Tenants.AddMailHost(r.Context(), h, password); err != nil {
		return 0, nil, err
	}
	if h, err = a.Tenants.MailHost(r.Context(), h.Name); err != nil {
		return 0, nil, err
	}
	added := mailHostView(h)
	if v.NotifyPassword == "" {
		added.NotifyPassword = password // made here, and shown this once
	}
	return http.StatusCreated, added, nil
}

// changeMailHost takes what a change gives of a mail host and keeps the rest.
func (a *API) changeMailHost(r *http.Request) (int, any, error) {
	var change json.RawMessage
	if err := decode(r, &change); err != nil {
		return 0, nil, err
	}
	made := ""
	h, err := a.Tenants.ChangeMailHost(r.Context(), r.PathValue("name"), func(h *tenant.MailHost) (string, error) {
		v := mailHostView(*h)
		v.IMAP, v.Contexts = "", slices.Clone(v.Contexts)
		if err := unmarshal(change, &v); err != nil {
			return "", err
		}
		if v.Name != h.Name {
			return "", problem.InField("name", "cannot be changed: users are listed under it")
		}
		if v.IMAP == "" { // a port that came with the kind of connection goes with it
			v.IMAP = h.IMAPHost
			if h.IMAPPort != defaultPort(h.Security) {
				v.IMAP = net.JoinHostPort(h.IMAPHost, strconv.Itoa(h.IMAPPort))
			}
		}
		next, err := v.tenant()
		if err != nil {
			return "", err
		}
		next.MasterPassword = cmp.Or(next.MasterPassword, h.MasterPassword)
		next.DoveadmKey = cmp.Or(next.DoveadmKey, h.DoveadmKey)
		next.OAuthClientSecret = cmp.Or(next.OAuthClientSecret, h.OAuthClientSecret)
		made = ""
		if h.NotifyLogin == "" && v.NotifyLogin != "" && v.NotifyPassword == "" {
			made = tenant.NewPassword()
		}
		*h = next
		return cmp.Or(v.NotifyPassword, made), nil
	})
	if err != nil {
		return 0, nil, err
	}
	changed := mailHostView(h)
	changed.NotifyPassword = made // shown this once
	return http.StatusOK, changed, nil
}

// defaultPort is IMAP's port for a kind of connection.
func defaultPort(security string) int {
	if security == tenant.SecurityTLS {
		return 993
	}
	return 143
}

// tenant reads a request; "security" defaults to tls and the port to that security's own.
func (v MailHost) tenant() (tenant.MailHost, error) {
	h := tenant.MailHost{
		Name: v.Name, Security: v.Security, Insecure: v.Insecure, CA: v.CA, NotifyLogin: v.NotifyLogin,
		UserForm: v.UserForm, KeyedAlias: v.KeyedAlias, Contexts: v.Contexts, IMAPHost: v.IMAP,
		Source: v.Source, PasswordSource: v.PasswordSource, MasterLogin: v.MasterLogin, MasterPassword: tenant.Secret(v.MasterPassword),
		DoveadmURL: v.DoveadmURL, DoveadmKey: tenant.Secret(v.DoveadmKey), OAuthTokenURL: v.OAuthTokenURL,
		OAuthClientID: v.OAuthClientID, OAuthClientSecret: tenant.Secret(v.OAuthClientSecret), OAuthScope: v.OAuthScope,
	}
	h.Security = cmp.Or(h.Security, tenant.SecurityTLS)
	h.IMAPPort = defaultPort(h.Security)
	if host, port, err := net.SplitHostPort(v.IMAP); err == nil {
		n, err := strconv.Atoi(port)
		if err != nil {
			return h, problem.InField("imap", "the port must be a number")
		}
		h.IMAPHost, h.IMAPPort = host, n
	}
	h.IMAPHost = strings.Trim(h.IMAPHost, "[]")
	for i, s := range v.AllowFrom {
		field := fmt.Sprintf("allow_from[%d]", i)
		p, err := netip.ParsePrefix(s)
		if addr, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return h, problem.InField(field, "must be a network such as 192.0.2.0/24, or an address")
		}
		if p != p.Masked() {
			return h, problem.InField(field, "has bits beyond its length: write "+p.Masked().String())
		}
		h.AllowFrom = append(h.AllowFrom, p)
	}
	return h, nil
}

func (a *API) removeMailHost(r *http.Request) (int, any, error) {
	return http.StatusNoContent, nil, a.Tenants.RemoveMailHost(r.Context(), r.PathValue("name"))
}
