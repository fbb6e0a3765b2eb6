package onboard

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/outbound"
)

// PosthornPath is where a Posthorn describes itself.
const (
	PosthornPath = "/.well-known/posthorn"
	jmapPath     = "/.well-known/jmap"
)

// Schema is the version of WellKnown that we write. A reader takes a higher one, too: members are only ever added.
const Schema = 1

// WellKnown is what a Posthorn says of itself to whoever asks, by the host that it is asked by.
type WellKnown struct {
	Schema int             `json:"posthorn"`
	Server WellKnownServer `json:"server"`
	// API is the base of the REST API, a reference to be resolved against the document's own URL (RFC 3986).
	API string       `json:"api"`
	App WellKnownApp `json:"app"`
	// SignIn is how users sign in by this host: "password" or "oidc".
	SignIn []string `json:"sign_in"`
	// Transports are the ways of push that are switched on.
	Transports []string           `json:"transports"`
	Provider   *WellKnownProvider `json:"provider,omitempty"`
	// Directory is where the signed list of providers is, and the key that it is signed with; references as API.
	Directory *WellKnownDirectory `json:"directory,omitempty"`
}

// WellKnownServer is what answers.
type WellKnownServer struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// WellKnownApp says whether the app may sign in by this host.
type WellKnownApp struct {
	Enabled bool   `json:"enabled"`
	Reason  string `json:"reason,omitempty"`
	Detail  string `json:"detail,omitempty"`
	Contact string `json:"contact,omitempty"`
}

// WellKnownProvider is whose host it is.
type WellKnownProvider struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	// Branding is its document with colours and logo, a reference as API.
	Branding string `json:"branding"`
}

// WellKnownDirectory is where to find the list of providers.
type WellKnownDirectory struct {
	URL string `json:"url"`
	Key string `json:"key"`
	// KeyID is that key's id, which tells this installation from any other.
	KeyID string `json:"key_id,omitempty"`
}

// errRedirects: there were too many, or one led away from https.
var errRedirects = errors.New("too many redirects")

// fetched is an HTTP answer.
type fetched struct {
	status int
	header http.Header
	body   []byte
	from   *url.URL // after redirects
}

// get fetches a document over https, following few redirects, each through the guard.
func (s *search) get(ctx context.Context, target, accept string) (fetched, error) {
	const most = 3
	client := s.Guard.Client()
	for range most + 1 {
		u, err := outbound.ParseURL(target)
		if err != nil {
			return fetched{}, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return fetched{}, err
		}
		req.Header.Set("Accept", accept)
		req.Header.Set("User-Agent", "Posthorn-Discovery")
		res, err := client.Do(req)
		if err != nil {
			return fetched{}, err
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		location := res.Header.Get("Location")
		if res.StatusCode/100 != 3 || location == "" {
			return fetched{res.StatusCode, res.Header, body, u}, err
		}
		next, err := u.Parse(location)
		if err != nil || next.Scheme != "https" {
			return fetched{}, fmt.Errorf("%w: it leads to no https address", errRedirects)
		}
		next.Fragment = ""
		target = next.String()
	}
	return fetched{}, errRedirects
}

// webFault is faultOf for get.
func (s *search) webFault(ctx context.Context, err error) (Fault, string) {
	switch {
	case errors.Is(err, errRedirects):
		return FaultStatus, "it redirects too often, or to an address without https"
	case ctx.Err() != nil:
		return FaultTimeout, "there is no answer in time"
	}
	return faultOf(err, s.Now())
}

// posthorn asks an origin whether it is a Posthorn.
func (s *search) posthorn(ctx context.Context, base string) (found *PosthornServer, step Step) {
	step = s.step(ctx, "posthorn", base+PosthornPath, func(ctx context.Context) (Fault, string) {
		a, err := s.get(ctx, base+PosthornPath, "application/json")
		if err != nil {
			return s.webFault(ctx, err)
		}
		switch {
		case a.status == http.StatusNotFound || a.status == http.StatusGone:
			return FaultNotPosthorn, fmt.Sprintf("there is a web server, but no Posthorn (HTTP %d)", a.status)
		case a.status != http.StatusOK:
			return FaultStatus, fmt.Sprintf("it answers with HTTP %d", a.status)
		}
		var doc WellKnown
		if err := json.Unmarshal(a.body, &doc); err != nil || doc.Schema < 1 || doc.API == "" {
			return FaultNotPosthorn, "there is a web server, but what it answers is not a Posthorn's"
		}
		if !doc.App.Enabled {
			text := cmp.Or(clip(doc.App.Detail), "The app is not switched on for this host.")
			if doc.App.Contact != "" {
				text += " Contact: " + clip(doc.App.Contact)
			}
			return FaultDisabled, text
		}
		api, err := a.from.Parse(doc.API)
		if err != nil || s.Guard.CheckURL(api.String()) != nil {
			return FaultBadDocument, "it is a Posthorn, but it names no address for its API that can be used"
		}
		found = &PosthornServer{
			Base: api.Scheme + "://" + api.Host, API: strings.TrimSuffix(api.String(), "/"), Title: "Posthorn",
			Version: clip(doc.Server.Version), SignIn: []string{},
		}
		for _, way := range doc.SignIn[:min(len(doc.SignIn), 4)] {
			found.SignIn = append(found.SignIn, clip(way))
		}
		found.Contact = clip(doc.App.Contact)
		if doc.Provider != nil {
			found.Title = strings.ToValidUTF8(doc.Provider.Title, "?")
			if len(found.Title) > 255 {
				found.Title = "Posthorn"
			}
		}
		return "", "a Posthorn"
	})
	return found, step
}

// jmap asks an origin whether it is a JMAP server (RFC 8620 section 2.2). One that asks for a sign-in is taken for one
// when it says so in the words of HTTP authentication.
func (s *search) jmap(ctx context.Context, base string) (session string, step Step) {
	step = s.step(ctx, "jmap", base+jmapPath, func(ctx context.Context) (Fault, string) {
		a, err := s.get(ctx, base+jmapPath, "application/json")
		if err != nil {
			return s.webFault(ctx, err)
		}
		var doc struct {
			Capabilities map[string]json.RawMessage `json:"capabilities"`
			APIURL       string                     `json:"apiUrl"`
		}
		kind, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
		switch {
		case a.status == http.StatusUnauthorized && a.header.Get("WWW-Authenticate") != "":
			session = a.from.String()
			return "", "asks for a sign-in, as a JMAP server does"
		case a.status != http.StatusOK:
			return FaultStatus, fmt.Sprintf("it answers with HTTP %d", a.status)
		case kind != "application/json" || json.Unmarshal(a.body, &doc) != nil || doc.Capabilities["urn:ietf:params:jmap:core"] == nil:
			return FaultNotJMAP, "what it answers is no JMAP session"
		}
		session = a.from.String()
		return "", "a JMAP server"
	})
	return session, step
}

// autoconfig fetches a document of Thunderbird's format.
func (s *search) autoconfig(ctx context.Context, target string) (servers []MailServer, status int, step Step) {
	shown, _, _ := strings.Cut(target, "?")
	step = s.step(ctx, "autoconfig", shown, func(ctx context.Context) (Fault, string) {
		a, err := s.get(ctx, target, "application/xml, text/xml")
		if err != nil {
			fault, text := s.webFault(ctx, err)
			if fault == FaultNoSuchName {
				return FaultNone, text
			}
			return fault, text
		}
		switch status = a.status; {
		case status == http.StatusNotFound || status == http.StatusGone:
			return FaultNone, fmt.Sprintf("there is no such document (HTTP %d)", status)
		case status != http.StatusOK:
			return FaultStatus, fmt.Sprintf("it answers with HTTP %d", status)
		}
		if servers, err = parseAutoconfig(a.body, s.Understood.Domain); err != nil {
			return FaultBadDocument, "what it answers is no autoconfig document"
		}
		if len(servers) == 0 {
			return FaultBadDocument, "the document names no IMAP or submission server with encryption"
		}
		return "", "names servers: " + serverNames(servers)
	})
	return servers, status, step
}

func serverNames(servers []MailServer) string {
	var names []string
	for _, m := range servers {
		names = append(names, clip(m.address()))
	}
	return strings.Join(names, ", ")
}
