package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

func (k *checker) signIn() {
	for i, uri := range k.c.SignIn.RedirectURIs {
		if problem := checkRedirectURI(uri); problem != "" {
			k.add(fmt.Sprintf("sign_in.redirect_uris[%d]", i), "%s", problem)
		}
	}
}

// checkRedirectURI says what is wrong with an address that users are sent to.
func checkRedirectURI(uri string) string {
	u, err := url.Parse(uri)
	switch {
	case err != nil || u.Scheme == "" || u.Opaque != "" || strings.ContainsFunc(uri, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "it is no address such as https://mail.example.com/signed-in or com.example.mail:/signed-in"
	case u.User != nil || strings.Contains(uri, "#"):
		return "it must have no user and no fragment"
	case u.Scheme == "https":
		if u.Hostname() == "" {
			return "it names no host"
		}
	case u.Scheme == "http":
		addr, err := netip.ParseAddr(u.Hostname())
		if err != nil || !addr.IsLoopback() || addr.Zone() != "" || u.Path == "" {
			return "with http it must be http://127.0.0.1/… or http://[::1]/…: anything else can be overheard, and localhost may be another machine (RFC 8252 section 8.3)"
		}
	case !strings.Contains(u.Scheme, "."):
		return "the scheme of an app must be a domain name backwards, as com.example.mail, which nobody else has (RFC 8252 section 7.1)"
	}
	return ""
}
