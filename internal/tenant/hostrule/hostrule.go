// Package hostrule says for which hosts the app may be used: the rules of mailapp-config.yml, in the form that the
// system before had them.
//
// It is pure: [Parse] reads the bytes of a file, [Rules.Judge] answers for a host. Which host a request was for, and
// what becomes of a refusal, is for others.
//
// Rules are not changed after Parse and may be asked from any goroutine.
package hostrule

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// All is the host of the rule that holds where no other does.
const All = "all"

// Rule is one entry of the file.
type Rule struct {
	Name string // of the entry: "default", "myhost"
	// Host is a normalised host, "*." and a domain for all hosts below it, or All.
	Host    string
	Allowed bool
	Line    int // of the entry's name
}

// Rules are those of one file. A nil *Rules allows every host.
type Rules struct {
	file  string
	all   []Rule
	exact map[string]int // by normalised host, indices of all
	below map[string]int // by the domain after "*."
	rest  int            // the rule for All; -1 for none
}

// Verdict is the answer for one host.
type Verdict struct {
	Allowed bool
	// Rule is the name of the entry that decided, Pattern its host and Line its line; empty and 0 when none did.
	Rule    string
	Pattern string
	Line    int
	// Host is the host as it was understood; as it was given, when it was not.
	Host string
	// Why says in a few words which rule decided.
	Why string
}

// Judge answers for a host as a request names it, perhaps with a port. The most specific rule decides: the host
// itself, then the longest domain with "*." that it is below, then All. Without any of them, and for what is no
// host at all, the answer is no.
func (r *Rules) Judge(host string) Verdict {
	name, err := Normalise(host)
	switch {
	case r == nil && err != nil:
		return Verdict{Allowed: true, Host: host, Why: "there are no host rules"}
	case r == nil:
		return Verdict{Allowed: true, Host: name, Why: "there are no host rules"}
	case err != nil:
		return Verdict{Host: host, Why: "this is no host: " + err.Error()}
	}
	if i, ok := r.exact[name]; ok {
		return r.verdict(i, name, "the rule for this host")
	}
	if !isAddr(name) {
		for _, domain, ok := strings.Cut(name, "."); ok; _, domain, ok = strings.Cut(domain, ".") {
			if i, ok := r.below[domain]; ok {
				return r.verdict(i, name, "the rule for *."+domain)
			}
		}
	}
	if r.rest >= 0 {
		return r.verdict(r.rest, name, "the rule for all hosts, since none is more specific")
	}
	return Verdict{Host: name, Why: "no rule matches, and there is none for all hosts"}
}

func (r *Rules) verdict(i int, host, why string) Verdict {
	rule := r.all[i]
	return Verdict{Allowed: rule.Allowed, Rule: rule.Name, Pattern: rule.Host, Line: rule.Line, Host: host, Why: why}
}

// List returns the rules in the order of the file.
func (r *Rules) List() []Rule {
	if r == nil {
		return nil
	}
	return append([]Rule(nil), r.all...)
}

// File is what the rules were read from; "" for none.
func (r *Rules) File() string {
	if r == nil {
		return ""
	}
	return r.file
}

// profile maps a name as browsers do (UTS 46, not transitional). Letters are judged by Normalise: real hosts have
// underscores.
var profile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.StrictDomainName(false), idna.VerifyDNSLength(true))

// Normalise brings a host, perhaps with a port, into the one form that is compared: lower-case ASCII without port
// and trailing dot; an address without brackets.
func Normalise(host string) (string, error) {
	name, err := withoutPort(host)
	if err != nil {
		return "", err
	}
	if strings.Contains(name, ":") {
		a, err := netip.ParseAddr(name)
		if err != nil || a.Zone() != "" {
			return "", fmt.Errorf("%s is no IPv6 address", quoted(name))
		}
		return a.Unmap().String(), nil
	}
	return normaliseName(name)
}

// normaliseName is Normalise for what has no port and is no IPv6 address.
func normaliseName(name string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("there is no name")
	}
	if len(name) > 1024 || !utf8.ValidString(name) {
		return "", fmt.Errorf("the name is not a text of at most 1024 bytes")
	}
	ascii, err := profile.ToASCII(strings.TrimSuffix(name, "."))
	if err != nil {
		return "", fmt.Errorf("%s is no host name", quoted(name))
	}
	for label := range strings.SplitSeq(ascii, ".") {
		if !isLabel(label) {
			return "", fmt.Errorf("%s is no host name", quoted(name))
		}
	}
	return ascii, nil
}

func isLabel(label string) bool {
	if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	return strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// withoutPort cuts the port off, and the brackets of an IPv6 address.
func withoutPort(host string) (string, error) {
	inner, bracketed := strings.CutPrefix(host, "[")
	switch {
	case bracketed:
		name, rest, ok := strings.Cut(inner, "]")
		if !ok || !strings.Contains(name, ":") || rest != "" && !isPort(strings.TrimPrefix(rest, ":")) || rest != "" && rest[0] != ':' {
			return "", fmt.Errorf("%s is no IPv6 address in brackets", quoted(host))
		}
		return name, nil
	case strings.Count(host, ":") == 1:
		name, port, err := net.SplitHostPort(host)
		if err != nil || !isPort(port) {
			return "", fmt.Errorf("%s has no port after its colon", quoted(host))
		}
		return name, nil
	}
	return host, nil
}

func isPort(s string) bool { return s != "" && len(s) <= 5 && strings.Trim(s, "0123456789") == "" }

func isAddr(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

// quoted shows what somebody wrote, cut to a length that fits a message.
func quoted(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return fmt.Sprintf("%q", s)
}
