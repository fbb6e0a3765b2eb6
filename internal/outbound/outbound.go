// Package outbound is the only way in which Posthorn dials an address that a user or a tenant named.
//
// A push endpoint or a mail host typed into a form must not become a way into the operator's own
// network. So a [Guard] resolves the name itself, keeps only globally reachable addresses, and dials
// exactly an address it has judged: there is no second look-up that could answer otherwise (DNS
// rebinding). A name with public and internal addresses is dialled at its public ones. Refusing it
// altogether would be no safer, since nothing is ever dialled unjudged, and would silence honest names:
// on a network with DNS64 every IPv4-only host also has a synthesised address that we refuse.
//
// The [Guard.Client] speaks HTTP/1.1 and HTTP/2 over verified TLS, follows no redirect (a 3xx is an
// answer), knows no proxy, and bounds time, header and body. Only origins that the operator listed in
// the configuration, matched by scheme, host and port, skip the judgement; nothing switches it off.
//
// It does not know which of a network's public addresses are sensitive, and cannot recognise a NAT64
// prefix of the operator's own choice (RFC 6052 section 2.2): such a translator must not reach inside.
//
// A Guard is immutable; all methods are safe for concurrent use.
package outbound

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxURL is the longest accepted URL in bytes (UnifiedPush SERV_1.2.0; browsers stay far below).
	MaxURL = 1000

	dialTimeout  = 6 * time.Second // look-up and all connection attempts together
	tryTimeout   = 3 * time.Second // one connection attempt
	triesPerKind = 2               // addresses tried of each family, so that a broken route of one leaves time for the other
)

// Config is what a Guard is made of.
type Config struct {
	// Allow lists what may be dialled although it is internal: origins ("http://127.0.0.1:8026") for
	// Client, and host:port pairs ("127.0.0.1:143") for DialContext. Each entry matches exactly.
	Allow []string
	// Resolver replaces the system's resolver; nil means the system's.
	Resolver func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Guard judges and dials addresses.
type Guard struct {
	allow  map[string]bool // see originKey
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// connect dials an address and port that have been judged. A field, so that a test can see which.
	connect func(ctx context.Context, network, address string) (net.Conn, error)
	http    *transport
}

// RefusedError says why an address is not dialled. It never holds the path of a URL, which in a push
// endpoint is a capability.
type RefusedError struct {
	Host   string     // as the caller wrote it, cut to a printable length; empty when there is none
	Addr   netip.Addr // the address that decided; invalid when the name or URL alone did
	Reason string     // from a fixed set of phrases, fit to be shown to the person who named the address
}

// Error describes the refusal in one line.
func (e *RefusedError) Error() string {
	switch {
	case e.Host == "":
		return "refused: " + e.Reason
	case e.Addr.IsValid() && e.Addr.String() != e.Host:
		return fmt.Sprintf("refused %q (%s): %s", e.Host, e.Addr, e.Reason)
	}
	return fmt.Sprintf("refused %q: %s", e.Host, e.Reason)
}

func refuse(host, reason string) *RefusedError {
	const maxShown = 100 // bytes; a host of the caller's choice ends up in logs and answers
	if len(host) > maxShown {
		host = host[:maxShown]
	}
	return &RefusedError{Host: host, Reason: reason}
}

// New returns a Guard, or an error that names the entry of Allow at fault.
func New(cfg Config) (*Guard, error) {
	g := &Guard{
		allow:   make(map[string]bool, len(cfg.Allow)),
		lookup:  cfg.Resolver,
		connect: new(net.Dialer).DialContext,
	}
	if g.lookup == nil {
		g.lookup = systemLookup
	}
	for _, entry := range cfg.Allow {
		key, err := parseAllow(entry)
		if err != nil {
			return nil, fmt.Errorf("allow %q: %w", entry, err)
		}
		g.allow[key] = true
	}
	g.http = newTransport(g)
	return g, nil
}

// CheckURL says whether Client would try raw, without asking DNS: what a person can be told at once,
// when a subscription is made. Its errors are *RefusedError. A name that passes is judged again, by its
// addresses, each time it is dialled.
func (g *Guard) CheckURL(raw string) error {
	u, err := ParseURL(raw)
	if err != nil {
		return err
	}
	return g.check(u)
}

// Client returns an HTTP client whose every request goes through the guard. All clients of one Guard
// share their connections; CloseIdleConnections on any of them closes those that are idle.
func (g *Guard) Client() *http.Client {
	return &http.Client{
		Transport: g.http,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
		Timeout: requestTimeout,
	}
}

// DialContext connects to "host:port" for protocols other than HTTP. The network is "tcp", "tcp4" or "tcp6".
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return g.dial(ctx, "", network, address)
}

// check is the policy for a URL, as far as it can be judged without DNS.
func (g *Guard) check(u *url.URL) error {
	host, addr, why := parseHost(u.Hostname())
	if why != "" {
		return refuse(u.Hostname(), why)
	}
	if g.allow[originKey(u.Scheme, host, portOf(u))] {
		return nil
	}
	if u.Scheme != "https" {
		return refuse(host, "the scheme is not https")
	}
	return judgeName(host, addr)
}

// dial connects to address for a URL of the given scheme, or for DialContext when scheme is empty.
func (g *Guard) dial(ctx context.Context, scheme, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, refuse(address, "the network is not TCP")
	}
	rawHost, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, refuse(address, "not a host and port")
	}
	if !validPort(port) {
		return nil, refuse(rawHost, "not a port between 1 and 65535")
	}
	host, literal, why := parseHost(rawHost)
	if why != "" {
		return nil, refuse(rawHost, why)
	}
	allowed := g.allow[originKey(scheme, host, port)]
	if !allowed {
		if err := judgeName(host, literal); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addrs := []netip.Addr{literal}
	if !literal.IsValid() {
		if addrs, err = g.lookup(ctx, host); err != nil {
			return nil, fmt.Errorf("look up %s: %w", host, err)
		}
	}
	addrs, err = choose(host, addrs, allowed)
	if err != nil {
		return nil, err
	}
	var first error
	for _, a := range addrs {
		conn, err := g.try(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("connect to %s: %w", host, first)
}

func (g *Guard) try(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return g.connect(ctx, network, address)
}

// choose returns the addresses to try, in the resolver's order (RFC 6724), at least one.
func choose(host string, addrs []netip.Addr, allowed bool) ([]netip.Addr, error) {
	if len(addrs) == 0 {
		return nil, fmt.Errorf("look up %s: %w", host, &net.DNSError{Err: "no address", Name: host, IsNotFound: true})
	}
	var kept []netip.Addr
	var refused *RefusedError
	tries := map[bool]int{} // by a.Is4()
	for _, a := range addrs {
		if why := judge(a); why != "" && !allowed {
			if refused == nil {
				refused = refuse(host, why)
				refused.Addr = a
			}
			continue
		}
		if tries[a.Is4()]++; tries[a.Is4()] <= triesPerKind {
			kept = append(kept, a)
		}
	}
	if len(kept) == 0 {
		return nil, refused
	}
	return kept, nil
}

// systemLookup asks the system's resolver, which writes IPv4 addresses in the IPv4-mapped form.
func systemLookup(ctx context.Context, host string) ([]netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	return addrs, err
}

// originKey is the form in which allowed origins are kept; host must come from parseHost.
func originKey(scheme, host, port string) string {
	return scheme + "://" + net.JoinHostPort(host, port)
}

func parseAllow(entry string) (key string, err error) {
	scheme, address := "", entry
	if strings.Contains(entry, "://") {
		u, err := ParseURL(entry)
		if err != nil {
			return "", err
		}
		if u.Path != "" || u.RawQuery != "" || u.ForceQuery {
			return "", refuse(u.Host, "an origin has no path and no query")
		}
		scheme, address = u.Scheme, net.JoinHostPort(u.Hostname(), portOf(u))
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", refuse("", "neither scheme://host:port nor host:port")
	}
	if !validPort(port) {
		return "", refuse(host, "not a port between 1 and 65535")
	}
	host, _, why := parseHost(host)
	if why != "" {
		return "", refuse(host, why)
	}
	return originKey(scheme, host, port), nil
}

// validPort accepts the decimal form without leading zeros, the only one under which a port is kept.
func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == port
}

// portOf returns the port of an http or https URL.
func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}
