package api

import (
	"net/http"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

// HostRule is one entry of mailapp-config.yml.
type HostRule struct {
	// Name is what the entry is called.
	Name string `json:"name"`
	// Host is a host, "*." and a domain, or "all".
	Host    string `json:"host"`
	Allowed bool   `json:"mail_app_enabled"`
	File    string `json:"file"`
	Line    int    `json:"line"`
}

// HostVerdict is what the host rules say of one host.
type HostVerdict struct {
	// Host is the host as it was understood.
	Host    string `json:"host"`
	Allowed bool   `json:"allowed"`
	// Rule is the entry that decided, with its host and its place; nil when none did.
	Rule *HostRule `json:"rule,omitempty"`
	Why  string    `json:"why"`
}

func (a *API) hostOperations() []operation {
	return []operation{
		{
			id: "listHosts", method: "GET", path: "/hosts", tag: "hosts", summary: "List the host rules: by which hosts the app may sign in",
			out: List[HostRule]{}, status: http.StatusOK, do: a.listHosts,
		},
		{
			id: "checkHost", method: "GET", path: "/hosts/check", tag: "hosts", summary: "Say whether the app may sign in by a host, and by which rule",
			query: []param{{name: "host", doc: "the host", example: "mail.example.org", need: true}},
			out:   HostVerdict{}, status: http.StatusOK, do: a.checkHost,
		},
	}
}

func (a *API) listHosts(*http.Request) (int, any, error) {
	rules := a.Tenants.Hosts()
	return listOf(rules.List(), nil, func(r hostrule.Rule) HostRule {
		return HostRule{Name: r.Name, Host: r.Host, Allowed: r.Allowed, File: rules.File(), Line: r.Line}
	})
}

func (a *API) checkHost(r *http.Request) (int, any, error) {
	host := r.URL.Query().Get("host")
	if _, err := hostrule.Normalise(host); err != nil {
		return 0, nil, problem.InField("host", "must be a host as in mail.example.org: "+err.Error())
	}
	rules := a.Tenants.Hosts()
	v := rules.Judge(host)
	view := HostVerdict{Host: v.Host, Allowed: v.Allowed, Why: v.Why}
	if v.Rule != "" {
		view.Rule = &HostRule{Name: v.Rule, Host: v.Pattern, Allowed: v.Allowed, File: rules.File(), Line: v.Line}
	}
	return http.StatusOK, view, nil
}

// host is the host that a request was for, normalised: the request's own, or what a trusted proxy says that it was
// asked for. It is "" when that is no host, or when the proxy's headers contradict each other: then one of them is
// the client's.
func (a *API) host(r *http.Request) string {
	host := r.Host
	if a.fromProxy(r) {
		told, ok1 := lastOf(r.Header.Values("X-Forwarded-Host"))
		element, ok2 := lastOf(r.Header.Values("Forwarded"))
		standard := forwardedHost(element)
		switch {
		case !ok1 || !ok2 || told != "" && standard != "" && told != standard:
			return ""
		case told != "":
			host = told
		case standard != "":
			host = standard
		}
	}
	name, err := hostrule.Normalise(host)
	if err != nil {
		return ""
	}
	return name
}

// lastOf is the last element of a header that is a list. Each proxy appends its own, so this is what the one next
// to us says, and those before it are only what it was told. ok is false when a quote that was opened before it
// swallows it.
func lastOf(values []string) (last string, ok bool) {
	all := strings.Join(values, ",")
	quoted, start := false, 0
	for i := 0; i < len(all); i++ {
		switch c := all[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++ // a quoted pair (RFC 9110 section 5.6.4)
		case c == ',' && !quoted:
			start = i + 1
		}
	}
	return strings.TrimSpace(all[start:]), !quoted
}

// forwardedHost is the host parameter of one element of the header Forwarded (RFC 7239 section 4); "" for none.
func forwardedHost(element string) string {
	for pair := range strings.SplitSeq(element, ";") { // a host has no semicolon, quoted or not
		name, value, _ := strings.Cut(pair, "=")
		if strings.EqualFold(strings.TrimSpace(name), "host") {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}
