package account

import (
	"net/url"
	"testing"
)

// Redirects are compared letter by letter, but for the port of loopback addresses.
func TestSameRedirect(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		allowed, uri string
		want         bool
	}{
		{"com.example.mail:/in", "com.example.mail:/in", true},
		{"com.example.mail:/in", "com.example.mail:/in/", false},
		{"com.example.mail:/in", "com.example.mail:/in?x", false},
		{"com.example.mail:/in", "com.example.mail2:/in", false},
		{"https://mail.example.org/in", "https://mail.example.org/in", true},
		{"https://mail.example.org/in", "https://mail.example.org:443/in", false},
		{"https://mail.example.org/in", "https://mail.example.org/in/../x", false},
		{"https://mail.example.org/in", "https://mail.example.org.evil.example/in", false},
		{"https://mail.example.org/in", "https://mail.example.org@evil.example/in", false},
		{"http://127.0.0.1/in", "http://127.0.0.1:49152/in", true},
		{"http://127.0.0.1/in?a=b", "http://127.0.0.1:49152/in?a=b", true},
		{"http://127.0.0.1:8080/in", "http://127.0.0.1:49152/in", true},
		{"http://[::1]/in", "http://[::1]:49152/in", true},
		{"http://127.0.0.1/in", "http://127.0.0.1:49152/out", false},
		{"http://127.0.0.1/in", "http://127.0.0.1:49152/in?a=b", false},
		{"http://127.0.0.1/in", "http://127.0.0.1:49152/in#x", false},
		{"http://127.0.0.1/in", "http://127.0.0.1:/in", false},
		{"http://127.0.0.1/in", "http://127.0.0.1:1@evil.example/in", false},
		{"http://127.0.0.1/in", "http://127.0.0.1:123456/in", false},
		{"http://127.0.0.1/in", "http://127.0.0.1.evil.example:80/in", false},
		{"http://127.0.0.1/in", "http://[::1]:49152/in", false},
		{"http://127.0.0.1/in", "https://127.0.0.1:49152/in", false},
		{"http://127.0.0.1/in", "http://localhost:49152/in", false},
	} {
		if got := sameRedirect(c.allowed, c.uri); got != c.want {
			t.Errorf("%s for %s: %v", c.uri, c.allowed, got)
		}
	}
}

// FuzzRedirect: whatever is asked for, a user is sent to what is allowed and nowhere else.
func FuzzRedirect(f *testing.F) {
	const web, local = "https://mail.example.org/in?x=1", "http://127.0.0.1/in"
	for _, seed := range []string{
		oidcApp, web, local, "http://127.0.0.1:1/in", "http://127.0.0.1:1@evil.example/in", "http://127.0.0.1:1\\@evil.example/in", "http://127.0.0.1:/in", "//evil.example",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		for _, allowed := range []string{oidcApp, web, local} {
			if !sameRedirect(allowed, uri) {
				continue
			}
			want, err := url.Parse(allowed)
			must(t, err)
			to, err := url.Parse(withQuery(uri, url.Values{"code": {"x"}}))
			if err != nil || to.Scheme != want.Scheme || to.Hostname() != want.Hostname() || to.Path != want.Path || to.User != nil || to.Fragment != "" ||
				to.Query().Get("code") != "x" || to.Query().Get("x") != want.Query().Get("x") {
				t.Errorf("%q is sent to %v, %v", uri, to, err)
			}
		}
	})
}
