package api

import (
	"net/http"
	"net/netip"
	"testing"
)

// TestHost: what a request says of the host that it is for is believed of the peer's own Host alone, or of a
// trusted proxy, and then only what this proxy has added itself.
func TestHost(t *testing.T) {
	t.Parallel()
	a := &API{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	const proxy, stranger = "10.0.0.1:4711", "192.0.2.1:4711"
	for _, tt := range []struct {
		name, peer, host string
		header           http.Header
		want             string
	}{
		{"its own", stranger, "Mail.Example.org:8443", nil, "mail.example.org"},
		{"of a proxy that says nothing", proxy, "mail.example.org", nil, "mail.example.org"},
		{"an address", stranger, "[2001:db8::1]:443", nil, "2001:db8::1"},
		{"no host", stranger, "mail..example.org", nil, ""},
		{"a stranger's word", stranger, "mail.example.org", http.Header{"X-Forwarded-Host": {"evil.example"}, "Forwarded": {"host=evil.example"}}, "mail.example.org"},
		{"a proxy's word", proxy, "127.0.0.1:8008", http.Header{"X-Forwarded-Host": {"Mail.example.org:443"}}, "mail.example.org"},
		{"what the proxy was told stands before", proxy, "127.0.0.1", http.Header{"X-Forwarded-Host": {"evil.example, mail.example.org"}}, "mail.example.org"},
		{"in lines of their own", proxy, "127.0.0.1", http.Header{"X-Forwarded-Host": {"evil.example", "mail.example.org"}}, "mail.example.org"},
		{"standard", proxy, "127.0.0.1", http.Header{"Forwarded": {`for=192.0.2.1;Host="mail.example.org:443";proto=https`}}, "mail.example.org"},
		{"standard, the last one", proxy, "127.0.0.1", http.Header{"Forwarded": {`host=evil.example`, `for="[2001:db8::2]:1"; host=mail.example.org`}}, "mail.example.org"},
		{"a comma in quotes", proxy, "127.0.0.1", http.Header{"Forwarded": {`for="a,host=evil.example";host=mail.example.org`}}, "mail.example.org"},
		{"a last element without a host", proxy, "mail.example.org", http.Header{"Forwarded": {"host=evil.example, for=192.0.2.1"}}, "mail.example.org"},
		{"two that agree", proxy, "127.0.0.1", http.Header{"X-Forwarded-Host": {"mail.example.org"}, "Forwarded": {"host=mail.example.org"}}, "mail.example.org"},
		{"two that do not: one is the client's", proxy, "mail.example.org", http.Header{"X-Forwarded-Host": {"mail.example.org"}, "Forwarded": {"host=evil.example"}}, ""},
		{"a quote that swallows", proxy, "mail.example.org", http.Header{"Forwarded": {`for="x;host=evil.example;y=`, "host=mail.example.org"}}, ""},
		{"a quote that swallows the other", proxy, "mail.example.org", http.Header{"X-Forwarded-Host": {`"evil.example`, "mail.example.org"}}, ""},
		{"nonsense of a proxy", proxy, "mail.example.org", http.Header{"X-Forwarded-Host": {"a b"}}, ""},
		{"nothing of a proxy", proxy, "mail.example.org", http.Header{"X-Forwarded-Host": {""}}, "mail.example.org"},
	} {
		r := &http.Request{RemoteAddr: tt.peer, Host: tt.host, Header: tt.header}
		if got := a.host(r); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func FuzzForwardedHost(f *testing.F) {
	f.Add(`for="a,b";host="x.example", host=y.example`)
	f.Add(`"\",`)
	f.Add(`for="x;host=evil.example;y=`)
	f.Fuzz(func(t *testing.T, header string) {
		a := &API{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}
		r := &http.Request{RemoteAddr: "10.0.0.1:1", Host: "mail.example.org", Header: http.Header{"Forwarded": {header, "host=last.example"}}}
		// Whatever the client wrote, a proxy that adds an element of its own has the last word, or nobody has.
		if got := a.host(r); got != "last.example" && got != "" {
			t.Errorf("%q: got %q", header, got)
		}
	})
}
