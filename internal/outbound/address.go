package outbound

import (
	"net/netip"
	"net/url"
	"strings"
)

// reserved lists what is never dialled, from the IANA special-purpose address registries (RFC 6890).
// Whole blocks are refused even where a registry holds a reachable exception inside: no push service
// and no mail host lives there. Narrow blocks stand first, so that the reason is the precise one.
var reserved = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "an unspecified address"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private address"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private address"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"}, // cloud metadata services, too
	{netip.MustParsePrefix("100.64.0.0/10"), "a carrier-grade NAT address"},
	{netip.MustParsePrefix("192.0.0.0/24"), "a protocol assignment"},
	{netip.MustParsePrefix("192.0.2.0/24"), "a documentation address"},
	{netip.MustParsePrefix("198.51.100.0/24"), "a documentation address"},
	{netip.MustParsePrefix("203.0.113.0/24"), "a documentation address"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "a benchmarking address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("255.255.255.255/32"), "a broadcast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address"},

	{netip.MustParsePrefix("::/128"), "an unspecified address"},
	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("::/96"), "an IPv4-compatible address"},
	{netip.MustParsePrefix("64:ff9b::/96"), "a NAT64 address"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a NAT64 address"},
	{netip.MustParsePrefix("100::/64"), "a discard-only address"},
	{netip.MustParsePrefix("fc00::/7"), "a unique local address"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("fec0::/10"), "a site-local address"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
	{netip.MustParsePrefix("2001::/32"), "a Teredo address"},
	{netip.MustParsePrefix("2001:2::/48"), "a benchmarking address"},
	{netip.MustParsePrefix("2001::/23"), "a protocol assignment"},
	{netip.MustParsePrefix("2001:db8::/32"), "a documentation address"},
	{netip.MustParsePrefix("3fff::/20"), "a documentation address"},
	{netip.MustParsePrefix("2002::/16"), "a 6to4 address"},
}

// globalUnicast is all that IANA has given out for global IPv6 unicast (RFC 4291 section 2.4).
var globalUnicast = netip.MustParsePrefix("2000::/3")

// judge returns why a must not be dialled, or "".
func judge(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "not an address"
	case a.Zone() != "":
		return "an address with a zone"
	case a.Is4In6():
		return "an IPv4-mapped address"
	}
	for _, r := range reserved {
		if r.prefix.Contains(a) {
			return r.what
		}
	}
	if a.Is6() && !globalUnicast.Contains(a) {
		return "not a global unicast address"
	}
	return ""
}

// judgeName judges what parseHost returned, as far as that is possible without DNS.
func judgeName(host string, addr netip.Addr) error {
	if addr.IsValid() {
		if why := judge(addr); why != "" {
			err := refuse(host, why)
			err.Addr = addr
			return err
		}
		return nil
	}
	// A name of one label means something only inside a network; localhost: RFC 6761 section 6.3.
	if !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") {
		return refuse(host, "a name of the local network")
	}
	return nil
}

// parseHost brings a host of a URL or of a host:port pair into one canonical form: a lower-case ASCII
// name, or an IP address. It is strict, since resolvers, URL libraries and certificates disagree about
// everything beyond: a trailing dot, IPv4 in octal, hexadecimal or with fewer parts (which inet_aton
// reads), Unicode digits and dots that IDNA folds.
func parseHost(raw string) (host string, addr netip.Addr, why string) {
	switch {
	case raw == "":
		return raw, addr, "there is no host"
	case strings.Contains(raw, "%"):
		return raw, addr, "an address with a zone"
	case strings.Contains(raw, ":"):
		a, err := netip.ParseAddr(raw)
		if err != nil {
			return raw, addr, "not an IPv6 address"
		}
		return a.String(), a, ""
	case len(raw) > 253: // RFC 1035 section 2.3.4, without the root label
		return raw, addr, "the host name is too long"
	}
	host = strings.ToLower(raw)
	var last string
	for label := range strings.SplitSeq(host, ".") {
		if !validLabel(label) {
			return raw, addr, "not a host name of ASCII letters, digits and hyphens"
		}
		last = label
	}
	if !isNumber(last) {
		return host, addr, ""
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return raw, addr, "an IPv4 address that is not written as four decimal numbers"
	}
	return host, a, ""
}

// validLabel also accepts the underscore, which RFC 952 does not, and real hosts use.
func validLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for i := range len(label) {
		switch c := label[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// isNumber says whether a last label makes resolvers read the whole host as an IPv4 address (the "ends
// in a number" rule of the WHATWG URL standard). No top-level domain is numeric.
func isNumber(label string) bool {
	digits := "0123456789"
	if rest, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = rest, "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}

// ParseURL parses an absolute http or https URL and checks its shape, not where it leads: that is
// CheckURL's part. Its errors are *RefusedError.
func ParseURL(raw string) (*url.URL, error) {
	if len(raw) > MaxURL {
		return nil, refuse("", "the URL is longer than 1000 bytes")
	}
	for i := range len(raw) {
		if raw[i] <= ' ' || raw[i] > '~' || raw[i] == '\\' {
			return nil, refuse("", "the URL holds a character that must be percent-encoded")
		}
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil: // its text quotes the URL, a capability
		return nil, refuse("", "not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, refuse("", "the scheme is neither https nor http")
	case u.Opaque != "" || u.Host == "":
		return nil, refuse("", "there is no host")
	case u.User != nil:
		return nil, refuse(u.Hostname(), "the URL holds a user name")
	case strings.Contains(raw, "#"):
		return nil, refuse(u.Hostname(), "the URL holds a fragment")
	}
	if _, _, why := parseHost(u.Hostname()); why != "" {
		return nil, refuse(u.Hostname(), why)
	}
	if strings.HasSuffix(u.Host, ":") || !validPort(portOf(u)) {
		return nil, refuse(u.Hostname(), "not a port between 1 and 65535")
	}
	return u, nil
}
