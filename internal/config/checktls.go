package config

import (
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// HTTPS reports whether the public listener speaks TLS itself.
func (p Public) HTTPS() bool { return p.TLS.CertificateFile != "" || len(p.TLS.ACME.Domains) > 0 }

// hostName is a DNS name in the form that goes into a certificate (RFC 5280 section 4.2.1.6): letters, digits and
// hyphens, an internationalised one in its xn-- form.
var hostName = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

// publicTLS judges public.tls and what hangs on it.
func (k *checker) publicTLS() {
	const at = "public.tls"
	t := k.c.Public.TLS
	if t.CertificateFile == "" && t.Key.IsSet() {
		k.add(at+".certificate_file", "it is needed with the key")
	}
	if t.CertificateFile != "" && strings.TrimSpace(t.Key.Reveal()) == "" {
		k.add(at+".key", "it is needed with certificate_file: give key_file, the private key in PEM")
	}
	if t.CertificateFile != "" && len(t.ACME.Domains) > 0 {
		k.add(at, "it has both certificate_file and acme.domains: keep one")
	}
	k.acme(at+".acme", t.ACME)
	if !k.c.Public.HTTPS() {
		if k.c.Public.RedirectListen != "" {
			k.add("public.redirect_listen", "it leads to https, which public.tls would have to speak: set that, or remove this and let the reverse proxy redirect")
		}
		return
	}
	u, err := url.Parse(k.c.Public.URL)
	if err == nil && u.Scheme == "http" {
		k.add("public.url", "it must begin with https://, because public.tls has a certificate")
	}
	if k.c.Public.RedirectListen == "" {
		return
	}
	if k.c.Public.URL == "" {
		k.add("public.redirect_listen", "it leads to public.url: set that too")
	}
	redirect, ok := k.listen("public.redirect_listen", k.c.Public.RedirectListen)
	for _, key := range []string{"public.listen", "internal.listen"} {
		raw := k.c.Public.Listen
		if key == "internal.listen" {
			raw = k.c.Internal.Listen
		}
		other, okOther := (&checker{c: k.c}).listen(key, raw) // what is wrong with it is said elsewhere
		if ok && okOther && redirect.port == other.port && redirect.port != "0" &&
			(redirect.host == other.host || redirect.wildcard() || other.wildcard()) {
			k.add("public.redirect_listen", "the same port as %s: choose another one", key)
		}
	}
}

func (k *checker) acme(at string, a ACME) {
	if len(a.Domains) == 0 {
		if a.Email != "" || a.AgreeTerms || a.CAFile != "" {
			k.add(at+".domains", "name the hosts to have a certificate for: without any, the rest of acme does nothing")
		}
		return
	}
	if !a.AgreeTerms {
		k.add(at+".agree_terms", "read the terms of service of the authority (%s names them); if you agree, set it to true", printable(a.CA))
	}
	seen := map[string]bool{}
	for i, d := range a.Domains {
		_, notIP := netip.ParseAddr(d)
		switch d = strings.ToLower(d); {
		case notIP == nil || !hostName.MatchString(d) || len(d) > 253:
			k.add(item(at+".domains", i), "%q is not a host name such as push.example.com; no pattern, no address, an international name in its xn-- form", printable(d))
		case seen[d]:
			k.add(item(at+".domains", i), "%q is there twice", printable(d))
		}
		seen[d] = true
	}
	if a.Email != "" && (strings.Count(a.Email, "@") != 1 || strings.HasPrefix(a.Email, "@") || strings.HasSuffix(a.Email, "@") || strings.ContainsAny(a.Email, " <>?,:")) {
		k.add(at+".email", "%q is not one mail address", printable(a.Email))
	}
	if u, err := url.Parse(a.CA); err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || !validPort(u) {
		k.add(at+".ca", "%q is not the directory of an authority: https://, a host and a path", printable(a.CA))
	}
}

// unserved warns of a public address that the certificates are not for.
func (c *Config) unserved() Warnings {
	u, err := url.Parse(c.Public.URL)
	if domains := c.Public.TLS.ACME.Domains; err == nil && u.Hostname() != "" && len(domains) > 0 {
		for _, d := range domains {
			if strings.EqualFold(d, u.Hostname()) {
				return nil
			}
		}
		return Warnings{c.Problem("public.tls.acme.domains", "%s, the host of public.url, is not among them: devices that go there find no certificate", u.Hostname())}
	}
	return nil
}
