package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/posthorn-mail/posthorn/internal/onboard"
	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/brand"
)

// Discover says what to find out about.
type Discover struct {
	Input string `json:"input" need:"true" example:"alice@example.org" doc:"the base address of a server, a host, or a mail address"`
}

// Discovery is what was found out.
type Discovery = onboard.Discovery

// DiscoverAttempts bounds what one address may ask, within DiscoverWindow: each question makes us ask others.
const (
	DiscoverAttempts = 20
	DiscoverWindow   = 5 * time.Minute
)

// maxDiscoveries bounds those under way for everybody.
const maxDiscoveries = 32

func (a *API) discoverOperations() []operation {
	return []operation{{
		id: "discover", method: "POST", path: "/discover", tag: "discovery",
		summary: "Find out what server a typed address means, and what it lacks",
		in:      Discover{}, out: Discovery{}, status: http.StatusOK, slow: true, do: a.discoverForOperator,
	}}
}

func (a *API) discoverForOperator(r *http.Request) (int, any, error) {
	return discover(r, a.OperatorDiscoverer)
}

// discoverForAll is POST /api/v1/discover {"input"}, without sign-in: 200 with what was found and each step; 422 for
// what is neither an address nor a host, 429 and 503 with Retry-After.
func (a *API) discoverForAll(r *http.Request) (int, any, error) {
	if wait, ok := a.DiscoverLimit.Take(a.clientAddress(r)); !ok {
		p := problem.New(http.StatusTooManyRequests, "too_many_attempts", "too many questions from your address: wait before the next")
		p.RetryAfter = wait
		return 0, nil, p
	}
	if a.discoveries.Add(1) > maxDiscoveries {
		a.discoveries.Add(-1)
		p := problem.New(http.StatusServiceUnavailable, "busy", "too much is looked for at the moment: try again")
		p.RetryAfter = 5 * time.Second
		return 0, nil, p
	}
	defer a.discoveries.Add(-1)
	return discover(r, a.Discoverer)
}

func discover(r *http.Request, d *onboard.Discoverer) (int, any, error) {
	var req Discover
	if err := decode(r, &req); err != nil {
		return 0, nil, err
	}
	found, err := d.Discover(r.Context(), req.Input)
	return http.StatusOK, found, err
}

// wellKnown is GET /.well-known/posthorn: what this server is by the host that it is asked by. It says nothing of
// contexts or users.
func (a *API) wellKnown(r *http.Request) (page, error) {
	host := a.host(r)
	provider, ours, err := a.Tenants.ProviderByHost(r.Context(), host)
	if err != nil {
		return page{}, err
	}
	key, err := a.Tenants.DirectoryKey(r.Context())
	if err != nil {
		return page{}, err
	}
	keyID, err := brand.KeyID(key)
	if err != nil {
		return page{}, err
	}
	doc := onboard.WellKnown{
		Schema: onboard.Schema, Server: onboard.WellKnownServer{Name: "Posthorn", Version: a.Version}, API: "/api/v1",
		App: onboard.WellKnownApp{Enabled: true}, SignIn: []string{tenant.SignInPassword}, Transports: a.Push.Offered(provider.Name),
		Directory: &onboard.WellKnownDirectory{URL: "/api/v1/directory", Key: "/api/v1/directory/key.pem", KeyID: keyID},
	}
	if ours {
		doc.Provider = &onboard.WellKnownProvider{Name: provider.Name, Title: provider.Title, Branding: "/api/v1/providers/" + provider.Name}
		doc.SignIn = []string{provider.SignIn}
		doc.App.Contact = provider.Contact
		if provider.BaseURL != "" {
			doc.API = provider.BaseURL + doc.API
		}
	}
	if refused := a.Tenants.JudgeHost(host); refused != nil {
		doc.App.Enabled, doc.App.Reason, doc.App.Detail = false, refused.Reason, refused.Detail
	}
	body, err := json.Marshal(doc)
	return page{body: append(body, '\n'), mediaType: "application/json", maxAge: "60"}, err
}
