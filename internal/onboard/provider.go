package onboard

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/brand"
)

// ProviderRequest is a provider to be examined, whether it is kept already or not.
type ProviderRequest struct {
	Provider tenant.Provider
	// Accounts sign in for the examination, and are kept nowhere.
	Accounts []TestAccount
	// User, when set, has his devices told of a test.
	User tenant.UserID
	// Guest says that it is not the operator who asks, but somebody at an address: his test accounts count as sign-ins
	// from there, and of mail hosts, which are not his, he is told no more than that they work.
	Guest bool
	From  netip.Addr
}

// TestAccount is a mailbox that a provider has for tests.
type TestAccount struct {
	Login    string
	Password account.Password
	// MailHost is where it lives; "" for the provider's only one.
	MailHost string
}

// PushProbe is one push credential of a provider, to be asked for at Apple or Google.
type PushProbe struct {
	// Name is "apns example.blue.mail".
	Transport, Name string
	// Err is why it cannot be used at all; Ends when a certificate does.
	Err  error
	Ends time.Time
	// Send sends to a device that there is not. It is nil where nobody can be asked.
	Send func(context.Context) PushAnswer
}

// PushAnswer is what came of a notification, in the words of outcome.
type PushAnswer struct {
	Device, Outcome, Reason string
	Status                  int
	Err                     error
}

const (
	// certificateSoon is how long before its end the certificate of a base URL is warned of.
	certificateSoon = 30 * 24 * time.Hour
	// maxHosts and maxAccounts bound one examination.
	maxHosts, maxAccounts = 10, 5
	// recognisable is how far an accent may be from the brand's colour before that is said.
	recognisable = 0.2
	oidcPath     = "/.well-known/openid-configuration"
)

// providerExam is the examination of one provider.
type providerExam struct {
	*Doctor
	Report
	req    ProviderRequest
	p      tenant.Provider
	stored bool
	told   func(Report)
}

// Provider examines a provider from its colour to a notification. Each check is told as soon as it is made, as a report
// of its own; told may be nil. Errors are those of a request that cannot be right, and come before any check.
func (d *Doctor) Provider(ctx context.Context, req ProviderRequest, told func(Report)) (Report, error) {
	if len(req.Accounts) > maxAccounts {
		return Report{}, &tenant.InvalidError{Field: "accounts", Problem: fmt.Sprintf("must be %d at most", maxAccounts)}
	}
	e := &providerExam{Doctor: d, req: req, p: req.Provider, told: told}
	_, err := d.Tenants.Provider(ctx, e.p.Name)
	if err != nil && !errors.Is(err, tenant.ErrNotFound) {
		return Report{}, err
	}
	e.stored = err == nil
	ctx, cancel := context.WithTimeout(ctx, examTimeout)
	defer cancel()
	base := cmp.Or(e.p.BaseURL, d.PublicURL)
	e.Report.Provider, e.Address = e.p.Name, base
	e.check(ctx, "colour", e.colour)
	e.check(ctx, "logo", e.logo)
	e.web(ctx, base)
	e.signIns(ctx, req.Accounts)
	e.push(ctx, req.User)
	return e.Report, nil
}

// check makes one check, and tells of it.
func (e *providerExam) check(ctx context.Context, name string, check func(context.Context) Check) bool {
	good := e.run(ctx, name, check)
	e.tell(e.Checks[len(e.Checks)-1])
	return good
}

func (e *providerExam) tell(checks ...Check) {
	if e.told != nil {
		e.told(Report{Provider: e.Report.Provider, Address: e.Address, Checks: checks})
	}
}

// colour says what becomes of the colour. That it can be used at all is settled before it is kept.
func (e *providerExam) colour(context.Context) Check {
	p, err := e.p.Palette()
	var wrong *brand.ColourError
	var invalid *tenant.InvalidError
	switch {
	case errors.As(err, &wrong):
		return failed("take "+wrong.Nearest.String()+" as "+wrong.Field, "%s", wrong.Problem)
	case errors.As(err, &invalid):
		return failed("give a colour as #1c6ea4", "%s %s", invalid.Field, invalid.Problem)
	case err != nil:
		return failed("give a colour as #1c6ea4", "%v", err)
	}
	light, dark := p.Moved()
	if light > recognisable && dark > recognisable {
		return warning("look at the palette in the branding document; a colour of middle lightness stays nearer to itself",
			"links and buttons are %s by day and %s by night: %s cannot be read on either page", p.Light.Accent, p.Dark.Accent, e.p.Colour)
	}
	return ok("text on %s is %s (%.1f:1); links are %s by day and %s by night", e.p.Colour, p.Light.OnBrand,
		brand.Contrast(p.Light.Brand, p.Light.OnBrand), p.Light.Accent, p.Dark.Accent)
}

func (e *providerExam) logo(context.Context) Check {
	l := e.p.Logo
	if l.SHA256 == "" && len(l.Body) > 0 { // not kept yet
		clean, mediaType, err := brand.CleanLogo(l.Body)
		if err != nil {
			return failed("give another picture", "the logo %v", err)
		}
		return ok("%s, %d bytes once it is cleaned", mediaType, len(clean))
	}
	if l.SHA256 == "" {
		return warning("give a PNG or SVG with --logo", "there is none: the directory shows the name alone")
	}
	return ok("%s", l.MediaType)
}

// web looks at the base URL and at each host as a phone does, all at once.
func (e *providerExam) web(ctx context.Context, base string) {
	if base == "" {
		e.check(ctx, "reachable", func(context.Context) Check {
			return failed("give the provider a --base-url, or set public.url", "nothing says where phones reach this server")
		})
		return
	}
	origins := []string{base}
	port := ""
	if u, err := url.Parse(base); err == nil && u.Port() != "" {
		port = ":" + u.Port()
	}
	for _, h := range e.p.Hosts {
		if strings.Contains(h, ":") {
			h = "[" + h + "]"
		}
		if origin := "https://" + h + port; !slices.Contains(origins, origin) && len(origins) <= maxHosts {
			origins = append(origins, origin)
		}
	}
	found := make([]chan []Check, len(origins))
	var working sync.WaitGroup
	defer working.Wait()
	for i, origin := range origins {
		found[i] = make(chan []Check, 1)
		working.Go(func() { found[i] <- e.origin(ctx, origin) })
	}
	for _, one := range found {
		checks := <-one
		e.Checks = append(e.Checks, checks...)
		e.tell(checks...)
	}
}

// origin asks one origin who it is.
func (e *providerExam) origin(ctx context.Context, origin string) []Check {
	var r Report
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	var v visited
	good := r.run(ctx, "reachable", func(ctx context.Context) (c Check) {
		v, c = e.fetch(ctx, origin, PosthornPath)
		return c
	})
	if !good {
		if c := &r.Checks[0]; !v.reached && strings.HasPrefix(c.Detail, origin+": the certificate") {
			c.Name = "certificate"
		}
		return r.Checks
	}
	r.run(ctx, "certificate", func(context.Context) Check { return e.certificateOf(origin, v.tls) })
	r.run(ctx, "discovery", func(ctx context.Context) Check { return e.discovery(ctx, origin, v.status, v.body) })
	return r.Checks
}

// visited is what came of asking an origin.
type visited struct {
	reached bool
	status  int
	tls     *tls.ConnectionState
	body    []byte
}

// fetch gets a small document through the guard. It follows nothing: a phone is to be given the last address.
func (e *providerExam) fetch(ctx context.Context, origin, path string) (visited, Check) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, origin+path, nil)
	if err != nil {
		return visited{}, failed("give scheme and host, as https://push.blue.example", "%s is no URL", origin)
	}
	req.Close = true // the next examination shows the certificate of its day
	start := time.Now()
	res, err := e.Guard.Client().Do(req)
	if err != nil {
		fault, detail := faultOf(err, e.Now())
		return visited{}, failed(whatToDo(fault), "%s: %s", origin, detail)
	}
	defer res.Body.Close()
	v := visited{reached: true, status: res.StatusCode, tls: res.TLS}
	if v.body, err = io.ReadAll(res.Body); err != nil {
		return v, failed("look at the web server's log", "%s: the answer ends early", origin)
	}
	if l := res.Header.Get("Location"); res.StatusCode/100 == 3 && l != "" {
		return v, failed("give the last address as the base URL, or have this one answer itself", "%s: leads to %s", origin, clip(l))
	}
	return v, ok("%s answers in %s", origin, in(time.Since(start)))
}

// whatToDo is the advice for a fault of the way to a base URL.
func whatToDo(f Fault) string {
	switch f {
	case FaultNoSuchName, FaultNoAnswer:
		return "publish an address (A, AAAA) for this name in DNS, and wait until it is known"
	case FaultRefused, FaultTimeout, FaultUnreachable:
		return "start the web server or proxy there, and open the firewall for port 443"
	case FaultExpired:
		return "renew the certificate, and reload the web server"
	case FaultNotYetValid:
		return "set the clocks right, or wait"
	case FaultWrongName:
		return "get a certificate that names this host, too"
	case FaultUntrusted:
		return "get a certificate of a public authority, and have the web server send its intermediate certificates: phones trust no other"
	case FaultNoTLS, FaultTLS:
		return "have the web server speak TLS 1.2 or 1.3 at this port"
	case FaultInternal:
		return "give an address that the internet reaches; only the operator may name internal ones, in outbound.allow"
	default:
	}
	return "look at the web server's log"
}

// certificateOf warns of a certificate that ends soon. That it is trusted, and for this name, the connection has shown.
func (e *providerExam) certificateOf(origin string, state *tls.ConnectionState) Check {
	if state == nil || len(state.PeerCertificates) == 0 {
		return warning("phones reach it over https only: put TLS in front of it", "%s: no TLS", origin)
	}
	leaf := state.PeerCertificates[0]
	ends := day(leaf.NotAfter)
	if left := leaf.NotAfter.Sub(e.Now()); left < certificateSoon {
		return warning("renew it, or see why it does not renew itself", "%s: trusted, but it ends on %s, in %d days", origin, ends, int(left.Hours()/24))
	}
	return ok("%s: trusted; it ends on %s", origin, ends)
}

// discovery looks whether this very Posthorn answers, and lets the app in.
func (e *providerExam) discovery(ctx context.Context, origin string, status int, body []byte) Check {
	const toUs = "have the proxy pass all paths to public.listen of this server, with the Host that was asked for"
	var doc WellKnown
	if err := json.Unmarshal(body, &doc); status != http.StatusOK || err != nil || doc.Schema < 1 {
		return failed(toUs, "%s%s: not a Posthorn's answer (HTTP %d)", origin, PosthornPath, status)
	}
	key, err := e.Tenants.DirectoryKey(ctx)
	if err != nil {
		return failed("see database", "the key of the directory cannot be read: %s", why(ctx, err))
	}
	ours, err := brand.KeyID(key)
	if err != nil {
		return failed("see the log", "%v", err)
	}
	switch {
	case doc.Directory == nil || doc.Directory.KeyID != ours:
		return failed(toUs, "%s: a Posthorn answers, but another installation than this one", origin)
	case !doc.App.Enabled:
		return failed("let the host in: posthorn host check "+hostOf(origin)+" says which rule keeps it out", "%s: the app is not let in: %s", origin, clip(doc.App.Detail))
	case e.stored && slices.Contains(e.p.Hosts, hostOf(origin)) && (doc.Provider == nil || doc.Provider.Name != e.p.Name):
		return warning("have the proxy pass the Host that was asked for on, and add itself to public.trusted_proxies if it says so in X-Forwarded-Host",
			"%s: this Posthorn answers, but does not see which host was asked for, and so not whose it is", origin)
	}
	return ok("%s: this Posthorn answers, and lets the app in", origin)
}

func hostOf(origin string) string {
	u, err := url.Parse(origin)
	if err != nil {
		return origin
	}
	return u.Hostname()
}

// address of a mail host, for a report.
func address(h tenant.MailHost) string { return net.JoinHostPort(h.IMAPHost, fmt.Sprint(h.IMAPPort)) }
