package outbound

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	for in, want := range map[string]string{
		"8.8.8.8":                "",
		"1.1.1.1":                "",
		"100.63.255.255":         "",
		"100.128.0.1":            "",
		"172.15.255.255":         "",
		"172.32.0.1":             "",
		"198.17.255.255":         "",
		"198.20.0.1":             "",
		"223.255.255.255":        "",
		"2606:4700:4700::1111":   "",
		"2a00:1450:4001:82a::20": "",
		"2001:200::1":            "",
		"2003::1":                "",

		"0.0.0.0":         "an unspecified address",
		"0.1.2.3":         "an unspecified address",
		"127.0.0.1":       "a loopback address",
		"127.255.255.255": "a loopback address",
		"10.0.0.1":        "a private address",
		"172.16.0.1":      "a private address",
		"172.31.255.255":  "a private address",
		"192.168.1.1":     "a private address",
		"169.254.169.254": "a link-local address",
		"100.64.0.1":      "a carrier-grade NAT address",
		"100.127.255.255": "a carrier-grade NAT address",
		"192.0.0.9":       "a protocol assignment",
		"192.0.2.1":       "a documentation address",
		"198.51.100.1":    "a documentation address",
		"203.0.113.1":     "a documentation address",
		"192.88.99.1":     "a 6to4 relay address",
		"198.18.0.1":      "a benchmarking address",
		"198.19.255.255":  "a benchmarking address",
		"224.0.0.1":       "a multicast address",
		"239.255.255.255": "a multicast address",
		"240.0.0.1":       "a reserved address",
		"255.255.255.254": "a reserved address",
		"255.255.255.255": "a broadcast address",

		"::":                       "an unspecified address",
		"::1":                      "a loopback address",
		"::127.0.0.1":              "an IPv4-compatible address",
		"::ffff:127.0.0.1":         "an IPv4-mapped address",
		"::ffff:8.8.8.8":           "an IPv4-mapped address",
		"64:ff9b::127.0.0.1":       "a NAT64 address",
		"64:ff9b::8.8.8.8":         "a NAT64 address",
		"64:ff9b:1::a00:1":         "a NAT64 address",
		"64:ff9b:2::1":             "not a global unicast address",
		"100::1":                   "a discard-only address",
		"fc00::1":                  "a unique local address",
		"fdff::1":                  "a unique local address",
		"fe80::1":                  "a link-local address",
		"febf::1":                  "a link-local address",
		"fe80::1%eth0":             "an address with a zone",
		"2606:4700:4700::1111%x":   "an address with a zone",
		"fec0::1":                  "a site-local address",
		"feff::1":                  "a site-local address",
		"ff02::1":                  "a multicast address",
		"2001::1":                  "a Teredo address",
		"2001:0:4136:e378::1":      "a Teredo address",
		"2001:2::1":                "a benchmarking address",
		"2001:10::1":               "a protocol assignment",
		"2001:1ff:ffff::1":         "a protocol assignment",
		"2001:db8::1":              "a documentation address",
		"3fff:fff::1":              "a documentation address",
		"2002:7f00:1::1":           "a 6to4 address",
		"2002:0808:0808::1":        "a 6to4 address",
		"4000::1":                  "not a global unicast address",
		"5f00::1":                  "not a global unicast address",
		"0:0:0:0:0:ffff:0:1":       "an IPv4-mapped address",
		"1::1":                     "not a global unicast address",
		"::ffff:0:127.0.0.1":       "not a global unicast address", // RFC 2765 IPv4-translated
		"fe00::1":                  "not a global unicast address",
		"e000::1":                  "not a global unicast address",
		"100:0:0:1::1":             "not a global unicast address",
		"200::1":                   "not a global unicast address",
		"::2:0:0:0:0:0":            "not a global unicast address",
		"::ffff:ffff:ffff:0:0:0":   "not a global unicast address",
		"1fff:ffff::1":             "not a global unicast address",
		"3ffe:831f::1":             "", // 6bone, returned to IANA: routes nowhere
		"2620:4f:8000::1":          "",
		"2001:4860:4860::8888":     "",
		"2001:4860:4860::6464":     "",
		"2a01:4f8::127.0.0.1":      "", // looks odd, is an ordinary interface identifier
		"192.0.1.1":                "",
		"192.167.255.255":          "",
		"191.255.255.255":          "",
		"126.255.255.255":          "",
		"128.0.0.1":                "",
		"11.0.0.1":                 "",
		"9.255.255.255":            "",
		"169.253.255.255":          "",
		"169.255.0.1":              "",
		"203.0.114.1":              "",
		"203.0.112.255":            "",
		"192.88.98.1":              "",
		"2606:4700::6810:84e5":     "",
		"2400:cb00:2048:1::c629":   "",
		"2a03:2880:f12f:83:face::": "",
	} {
		if got := judge(netip.MustParseAddr(in)); got != want {
			t.Errorf("judge(%s) = %q, want %q", in, got, want)
		}
	}
	if judge(netip.Addr{}) == "" {
		t.Error("the zero address passed")
	}
}

func TestCheckURL(t *testing.T) {
	g, err := New(Config{Allow: []string{"http://127.0.0.1:8026", "https://push.lan:8443", "http://[::1]:80", "http://push"}})
	if err != nil {
		t.Fatal(err)
	}
	long := "https://push.example.com/" + strings.Repeat("a", MaxURL-len("https://push.example.com/"))
	for in, want := range map[string]string{
		"https://fcm.googleapis.com/fcm/send/abc:APA91b":     "",
		"https://updates.push.services.mozilla.com/wpush/v2": "",
		"https://web.push.apple.com/QG":                      "",
		"https://push.example.com:8443/up?token=x%20y":       "",
		"HTTPS://Push.Example.COM/x":                         "",
		"https://8.8.8.8/x":                                  "",
		"https://[2606:4700:4700::1111]/x":                   "",
		"https://xn--bcher-kva.example.com/":                 "",
		"https://a_b.example.com/":                           "",
		long:                                                 "",

		long + "a":                            "the URL is longer than 1000 bytes",
		"":                                    "the scheme is neither https nor http",
		"push.example.com/x":                  "the scheme is neither https nor http",
		"//push.example.com/x":                "the scheme is neither https nor http",
		"ftp://push.example.com/x":            "the scheme is neither https nor http",
		"file:///etc/passwd":                  "the scheme is neither https nor http",
		"gopher://push.example.com:25/x":      "the scheme is neither https nor http",
		"http://push.example.com/x":           "the scheme is not https",
		"https:push.example.com/x":            "there is no host",
		"https:///x":                          "there is no host",
		"https://:443/x":                      "there is no host",
		"https://user@push.example.com/x":     "the URL holds a user name",
		"https://push.example.com@127.0.0.1/": "the URL holds a user name",
		"https://a:b@push.example.com/x":      "the URL holds a user name",
		"https://@push.example.com/x":         "the URL holds a user name",
		"https://push.example.com/x#f":        "the URL holds a fragment",
		"https://push.example.com/x#":         "the URL holds a fragment",
		"https://push.example.com#@127.0.0.1": "the URL holds a fragment",
		"https://push.example.com:0/x":        "not a port between 1 and 65535",
		"https://push.example.com:65536/x":    "not a port between 1 and 65535",
		"https://push.example.com:0443/x":     "not a port between 1 and 65535",
		"https://push.example.com:/x":         "not a port between 1 and 65535",
		"https://push.example.com:443:80/x":   "not a URL",
		"https://push.example.com:+443/x":     "not a URL",

		"https://localhost/x":                           "a name of the local network",
		"https://LOCALHOST/x":                           "a name of the local network",
		"https://foo.localhost/x":                       "a name of the local network",
		"https://metadata/x":                            "a name of the local network",
		"https://push/x":                                "a name of the local network",
		"https://localhost./x":                          "not a host name of ASCII letters, digits and hyphens",
		"https://push.example.com./x":                   "not a host name of ASCII letters, digits and hyphens",
		"https://.example.com/x":                        "not a host name of ASCII letters, digits and hyphens",
		"https://a..example.com/x":                      "not a host name of ASCII letters, digits and hyphens",
		"https://-a.example.com/x":                      "not a host name of ASCII letters, digits and hyphens",
		"https://a-.example.com/x":                      "not a host name of ASCII letters, digits and hyphens",
		"https://a*b.example.com/x":                     "not a host name of ASCII letters, digits and hyphens",
		"https://" + strings.Repeat("a", 64) + ".com/":  "not a host name of ASCII letters, digits and hyphens",
		"https://" + strings.Repeat("a.", 126) + "com/": "the host name is too long",
		"https://127.0.0.1/x":                           "a loopback address",
		"https://127.0.0.1:8026/x":                      "a loopback address", // another scheme than allowed
		"https://127.0.0.1./x":                          "not a host name of ASCII letters, digits and hyphens",
		"https://2130706433/x":                          "an IPv4 address that is not written as four decimal numbers",
		"https://0x7f000001/x":                          "an IPv4 address that is not written as four decimal numbers",
		"https://0x7f.0.0.1/x":                          "an IPv4 address that is not written as four decimal numbers",
		"https://127.0.0.0x1/x":                         "an IPv4 address that is not written as four decimal numbers",
		"https://127.0.0.0X1/x":                         "an IPv4 address that is not written as four decimal numbers",
		"https://127.0.0.0x/x":                          "an IPv4 address that is not written as four decimal numbers",
		"https://0177.0.0.1/x":                          "an IPv4 address that is not written as four decimal numbers",
		"https://127.1/x":                               "an IPv4 address that is not written as four decimal numbers",
		"https://127.0.1/x":                             "an IPv4 address that is not written as four decimal numbers",
		"https://0/x":                                   "an IPv4 address that is not written as four decimal numbers",
		"https://127.000.000.001/x":                     "an IPv4 address that is not written as four decimal numbers",
		"https://256.1.1.1/x":                           "an IPv4 address that is not written as four decimal numbers",
		"https://1.2.3.4.5/x":                           "an IPv4 address that is not written as four decimal numbers",
		"https://foo.127/x":                             "an IPv4 address that is not written as four decimal numbers",
		"https://[::1]/x":                               "a loopback address",
		"https://[0:0:0:0:0:0:0:1]/x":                   "a loopback address",
		"https://[::ffff:127.0.0.1]/x":                  "an IPv4-mapped address",
		"https://[::ffff:7f00:1]/x":                     "an IPv4-mapped address",
		"https://[::127.0.0.1]/x":                       "an IPv4-compatible address",
		"https://[64:ff9b::7f00:1]/x":                   "a NAT64 address",
		"https://[fe80::1%25eth0]/x":                    "an address with a zone",
		"https://[fe80::1]/x":                           "a link-local address",
		"https://[127.0.0.1]/x":                         "not a URL",
		"https://[push.example.com]/x":                  "not a URL",
		"https://::1/x":                                 "not a URL",
		"https://169.254.169.254/latest/meta-data":      "a link-local address",
		"https://①②⑦.⓪.⓪.①/x":                           "the URL holds a character that must be percent-encoded",
		"https://127。0。0。1/x":                           "the URL holds a character that must be percent-encoded",
		"https://bücher.example.com/x":                  "the URL holds a character that must be percent-encoded",
		"https://%31%32%37.0.0.1/x":                     "not a URL",
		"https://b%C3%BCcher.example.com/x":             "not a host name of ASCII letters, digits and hyphens",
		"https://push.example.com\\@127.0.0.1/x":        "the URL holds a character that must be percent-encoded",
		"https://push.example.com/a b":                  "the URL holds a character that must be percent-encoded",
		"https://push.example.com/\r\nHost: x":          "the URL holds a character that must be percent-encoded",
		"https://push.example.com/\x00":                 "the URL holds a character that must be percent-encoded",
		" https://push.example.com/":                    "the URL holds a character that must be percent-encoded",
		"https://push.example.com/%zz":                  "not a URL",

		"http://127.0.0.1:8026/x":   "",
		"http://127.0.0.1:8027/x":   "the scheme is not https",
		"http://127.0.0.2:8026/x":   "the scheme is not https",
		"http://localhost:8026/x":   "the scheme is not https",
		"https://push.lan:8443/x":   "",
		"https://PUSH.lan:8443/x":   "",
		"http://push.lan:8443/x":    "the scheme is not https",
		"http://[::1]/x":            "",
		"http://[0::1]:80/x":        "",
		"http://[::1]:81/x":         "the scheme is not https",
		"http://push/x":             "",
		"http://push:80/x":          "",
		"http://a@127.0.0.1:8026/x": "the URL holds a user name",
	} {
		err := g.CheckURL(in)
		if want == "" {
			if err != nil {
				t.Errorf("CheckURL(%q) = %v, want nil", in, err)
			}
			continue
		}
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Reason != want {
			t.Errorf("CheckURL(%q) = %v, want %q", in, err, want)
		}
	}
}

func TestRefusedErrorHidesThePath(t *testing.T) {
	g := mustNew(t, Config{})
	for _, raw := range []string{
		"https://127.0.0.1/secret", "http://push.example.com/secret", "https://push.example.com/secret#f",
		"https://u@push.example.com/secret", "https://push.example.com/secret%zz", "https://push.example.com/secret x",
		"https://push.example.com:0/secret", "ftp://push.example.com/secret", "https:secret",
	} {
		if err := g.CheckURL(raw); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("CheckURL(%q) = %v", raw, err)
		}
	}
}

func TestAllowRefusesBadEntries(t *testing.T) {
	for _, entry := range []string{
		"", "*", "127.0.0.1", "localhost", "http://", "ftp://127.0.0.1:21", "http://127.0.0.1:8026/", "http://127.0.0.1:8026?",
		"http://u@127.0.0.1:8026", "http://127.0.0.1:8026#", "http://*:80", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:http", ":143",
		"127.0.0.1:070", "10.0.0.0/8", "http://10.0.0.0/8", "[::1]", "[fe80::1%eth0]:80", "2130706433:80",
	} {
		if _, err := New(Config{Allow: []string{entry}}); err == nil {
			t.Errorf("Allow %q was accepted", entry)
		}
	}
}

// FuzzCheckURL holds the guard to its one promise: whatever the URL and whatever DNS answers, nothing
// internal is connected to. The oracle is written apart from the table it checks.
func FuzzCheckURL(f *testing.F) {
	for _, raw := range []string{
		"https://push.example.com/x", "https://8.8.8.8/", "https://[2606:4700:4700::1111]:8443/", "https://127.1/", "https://[::ffff:127.0.0.1]/",
		"https://0x7f.1/", "https://a@127.0.0.1/", "https://push.example.com./", "http://10.0.0.1/", "https://①.⓪.⓪.①/", "https://[fe80::1%25lo]/",
	} {
		f.Add(raw, []byte{127, 0, 0, 1}, []byte(net.ParseIP("64:ff9b::7f00:1")))
		f.Add(raw, []byte{8, 8, 8, 8}, []byte(net.ParseIP("::ffff:10.0.0.1")))
	}
	f.Fuzz(func(t *testing.T, raw string, answer4, answer6 []byte) {
		g := mustNew(t, Config{Resolver: func(context.Context, string) ([]netip.Addr, error) {
			var addrs []netip.Addr
			for _, b := range [][]byte{answer4, answer6} {
				if a, ok := netip.AddrFromSlice(b); ok {
					addrs = append(addrs, a)
				}
			}
			return addrs, nil
		}})
		var dialled []string
		g.connect = func(_ context.Context, _, address string) (net.Conn, error) {
			dialled = append(dialled, address)
			return nil, errors.New("not in a test")
		}
		accepted := g.CheckURL(raw)
		var refused *RefusedError
		if accepted != nil && !errors.As(accepted, &refused) {
			t.Fatalf("CheckURL(%q) = %v, not a *RefusedError", raw, accepted)
		}
		// The request is made even of what CheckURL refuses: the client must be safe without it.
		if req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, raw, http.NoBody); err == nil {
			if resp, err := g.Client().Do(req); err == nil {
				_ = resp.Body.Close()
				t.Fatal("an answer without a connection")
			}
		}
		if host, _, err := net.SplitHostPort(raw); err == nil {
			if _, err := g.DialContext(t.Context(), "tcp", raw); err == nil {
				t.Fatalf("connected to %s without a connection", host)
			}
		}
		for _, address := range dialled {
			host, _, err := net.SplitHostPort(address)
			ip := net.ParseIP(host)
			if err != nil || ip == nil {
				t.Fatalf("dialled %q, which is not an address: a second look-up", address)
			}
			if internal(ip) {
				t.Fatalf("dialled %s for %q", address, raw)
			}
		}
	})
}

// internal is the oracle: the standard library's classes and plain byte comparisons.
func internal(ip net.IP) bool {
	if ip.IsLoopback() || ip.IsPrivate() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip.IsInterfaceLocalMulticast() {
		return true
	}
	if b := ip.To4(); b != nil {
		return b[0] == 0 || b[0] >= 224 || b[0] == 127 || b[0] == 10 ||
			b[0] == 100 && b[1]&0xc0 == 64 || b[0] == 198 && b[1]&0xfe == 18 ||
			b[0] == 192 && b[1] == 0 && (b[2] == 0 || b[2] == 2) || b[0] == 192 && b[1] == 88 && b[2] == 99 ||
			b[0] == 198 && b[1] == 51 && b[2] == 100 || b[0] == 203 && b[1] == 0 && b[2] == 113
	}
	return ip[0]&0xe0 != 0x20 || ip[0] == 0x20 && ip[1] == 0x02 ||
		ip[0] == 0x20 && ip[1] == 0x01 && (ip[2] <= 1 || ip[2] == 0x0d && ip[3] == 0xb8) ||
		ip[0] == 0x3f && ip[1] == 0xff && ip[2]&0xf0 == 0
}

func mustNew(t *testing.T, cfg Config) *Guard {
	t.Helper()
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}
