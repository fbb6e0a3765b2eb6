package onboard

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

// Understood is what somebody typed, as it was understood.
type Understood struct {
	// Base is the origin of a server: "https://gold.ox.io"; for an address that of its domain.
	Base string `json:"base"`
	// Domain is whose mail it is about.
	Domain string `json:"domain"`
	// Address is there when an address was typed. Only its domain is asked about, unless a server insists.
	Address string `json:"address,omitempty"`
	// Notes say what was changed or left out, for people.
	Notes []string `json:"notes,omitempty"`

	host, port string // of Base; port is "" for 443
	local      string // of Address
}

// maxInput bounds what is typed, in bytes.
const maxInput = 1000

// schemes is how people begin a URL, with what they mistype.
var schemes = regexp.MustCompile(`^(?i:(https?)(?::/*|//+))`)

// understand makes sense of a URL, a host or an address.
func understand(input string) (Understood, error) {
	invalid := func(problem string) (Understood, error) {
		return Understood{}, &tenant.InvalidError{Field: "input", Problem: problem}
	}
	if len(input) > maxInput {
		return invalid("must be at most 1000 bytes")
	}
	var u Understood
	note := func(text string) { u.Notes = append(u.Notes, text) }
	text := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, input)
	if text != strings.TrimSpace(input) {
		note("spaces were left out")
	}
	if i := strings.LastIndexByte(text, '<'); i > 0 && strings.HasSuffix(text, ">") {
		text = text[i:] // a name stands before the address
		note("what stands before the address was left out")
	}
	text = strings.Trim(text, `<>"'`)
	if rest, ok := cutPrefixFold(text, "mailto:"); ok {
		text, _, _ = strings.Cut(rest, "?")
	}
	scheme := ""
	if m := schemes.FindStringSubmatchIndex(text); m != nil {
		scheme, text = strings.ToLower(text[m[2]:m[3]]), text[m[1]:]
		if scheme == "http" {
			note("https is used instead of http")
		}
	} else if strings.Contains(text, "://") {
		return invalid("must be a web address that begins with https://, a host or a mail address")
	}
	text = strings.ReplaceAll(text, `\`, "/")
	authority := text
	if i := strings.IndexAny(text, "/?#"); i >= 0 {
		authority = text[:i]
		if strings.Trim(text[i:], "/") != "" {
			note("only the server's base address is used, without what follows the host")
		}
	}
	host := authority
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		if scheme != "" {
			return invalid("must have no user name before the host: leave out what stands before the @")
		}
		u.local, host = authority[:i], authority[i+1:]
		if u.local == "" || len(u.local) > 64 || strings.ContainsAny(u.local, `"/?#()<>[]:;@,`) || authority != text {
			return invalid("must be a mail address as in alice@example.org")
		}
	}
	name, err := hostrule.Normalise(host)
	if err != nil {
		return invalid("must be a web address, a host or a mail address, as in https://gold.ox.io, gold.ox.io or alice@example.org: " + err.Error())
	}
	if u.port, err = portIn(host); err != nil || u.local != "" && u.port != "" {
		return invalid("must have a port between 1 and 65535 after the colon, or none")
	}
	if scheme == "http" && u.port == "80" || u.port == "443" {
		u.port = ""
	}
	u.host, u.Domain = name, name
	if u.local != "" {
		u.Address = u.local + "@" + name
	}
	u.Base = "https://" + authorityOf(u.host, u.port)
	return u, nil
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// portIn is the port of a host that hostrule.Normalise accepts.
func portIn(host string) (string, error) {
	if strings.HasSuffix(host, "]") || strings.Count(host, ":") != 1 && !strings.HasPrefix(host, "[") {
		return "", nil
	}
	_, port, err := net.SplitHostPort(host)
	if err != nil {
		return "", err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("%s is no port", port)
	}
	return strconv.FormatUint(n, 10), nil
}

// authorityOf is a host with its port as a URL has them.
func authorityOf(host, port string) string {
	switch {
	case port != "":
		return net.JoinHostPort(host, port)
	case strings.Contains(host, ":"):
		return "[" + host + "]"
	}
	return host
}
