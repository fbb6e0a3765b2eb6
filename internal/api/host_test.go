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

// TestClientAddress: who is held up is who the nearest trusted proxy saw, whatever a client wrote before it.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	a := &API{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fe80::/10")}}
	const proxy, stranger = "10.0.0.1:4711", "192.0.2.1:4711"
	for _, tt := range []struct {
		name, peer string
		told       []string
		want       string
	}{
		{"its own", stranger, nil, "192.0.2.1"},
		{"a stranger's word", stranger, []string{"198.51.100.1"}, "192.0.2.1"},
		{"a proxy's word", proxy, []string{"198.51.100.1"}, "198.51.100.1"},
		{"what the proxy was told stands before", proxy, []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"},
		{"in lines of their own", proxy, []string{"203.0.113.9", "198.51.100.1"}, "198.51.100.1"},
		{"two proxies", proxy, []string{"203.0.113.9, 198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"with a port", proxy, []string{"198.51.100.1:55555"}, "198.51.100.1"},
		{"IPv6", proxy, []string{"2001:db8::1"}, "2001:db8::1"},
		{"IPv6 with a port", proxy, []string{"[2001:db8::1]:55555"}, "2001:db8::1"},
		{"IPv6 in brackets", proxy, []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"IPv4 in IPv6", proxy, []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"IPv4 in IPv6, a proxy", "[::ffff:10.0.0.1]:4711", []string{"198.51.100.1"}, "198.51.100.1"},
		{"a zone", proxy, []string{"fe80::1%any text"}, "fe80::1"},
		{"a proxy with a zone", "[fe80::1%eth0]:4711", []string{"198.51.100.1"}, "198.51.100.1"},
		{"nonsense", proxy, []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		{"nothing", proxy, []string{""}, "10.0.0.1"},
		{"no address at all", "@", []string{"198.51.100.1"}, "invalid IP"},
	} {
		r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{"X-Forwarded-For": tt.told}}
		if got := a.clientAddress(r); got.String() != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func FuzzClientAddress(f *testing.F) {
	for _, seed := range []string{"[::1]:1", "1.2.3.4:5", "fe80::1%x,[", "10.0.0.1,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		a := &API{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		r := &http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{"X-Forwarded-For": {header}}}
		if got := a.clientAddress(r); !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Errorf("%q: got %q", header, got)
		}
		r.Header["X-Forwarded-For"] = []string{header, "192.0.2.1"}
		if got := a.clientAddress(r); got != netip.MustParseAddr("192.0.2.1") {
			t.Errorf("%q: got %q before what the proxy saw", header, got)
		}
	})
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
