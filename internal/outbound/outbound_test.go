package outbound

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// answers returns a resolver that gives the n-th list on its n-th call, and the last one ever after.
func answers(lists ...[]string) func(context.Context, string) ([]netip.Addr, error) {
	var calls atomic.Int32
	return func(context.Context, string) ([]netip.Addr, error) {
		n := min(int(calls.Add(1)), len(lists))
		var addrs []netip.Addr
		for _, s := range lists[n-1] {
			addrs = append(addrs, netip.MustParseAddr(s))
		}
		return addrs, nil
	}
}

// noting makes g note the addresses it connects to, and fail each attempt.
func noting(g *Guard) *[]string {
	var dialled []string
	g.connect = func(_ context.Context, _, address string) (net.Conn, error) {
		dialled = append(dialled, address)
		return nil, errors.New("no route in a test")
	}
	return &dialled
}

func wantRefused(t *testing.T, err error, reason string) {
	t.Helper()
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reason != reason {
		t.Errorf("got error %v, want a refusal: %s", err, reason)
	}
}

func TestDialRebinding(t *testing.T) {
	g := mustNew(t, Config{Resolver: answers([]string{"93.184.215.14"}, []string{"127.0.0.1"})})
	dialled := noting(g)
	for range 2 {
		_, err := g.DialContext(t.Context(), "tcp", "push.example.com:443")
		if len(*dialled) != 1 || (*dialled)[0] != "93.184.215.14:443" {
			t.Fatalf("dialled %v, want only the address of the first answer", *dialled)
		}
		var refused *RefusedError
		if errors.As(err, &refused) && (refused.Addr != netip.MustParseAddr("127.0.0.1") || refused.Host != "push.example.com") {
			t.Errorf("refused %+v", refused)
		}
	}
	_, err := g.DialContext(t.Context(), "tcp", "push.example.com:443")
	wantRefused(t, err, "a loopback address")
}

func TestDialChoosesAddresses(t *testing.T) {
	for name, c := range map[string]struct {
		answer, dialled []string
		reason          string
	}{
		"internal ones left out": {
			answer:  []string{"10.0.0.1", "64:ff9b::808:808", "8.8.8.8", "::1"},
			dialled: []string{"8.8.8.8:443"},
		},
		"two of a family, in order": {
			answer:  []string{"2606:4700::1", "2606:4700::2", "2606:4700::3", "8.8.8.8", "8.8.4.4", "1.1.1.1"},
			dialled: []string{"[2606:4700::1]:443", "[2606:4700::2]:443", "8.8.8.8:443", "8.8.4.4:443"},
		},
		"all internal":      {answer: []string{"192.168.0.1", "fd00::1"}, reason: "a private address"},
		"mapped":            {answer: []string{"::ffff:10.0.0.1"}, reason: "an IPv4-mapped address"},
		"zoned":             {answer: []string{"2606:4700::1%eth0"}, reason: "an address with a zone"},
		"metadata":          {answer: []string{"169.254.169.254"}, reason: "a link-local address"},
		"nothing at all":    {},
		"another's network": {answer: []string{"198.18.0.1"}, reason: "a benchmarking address"},
	} {
		t.Run(name, func(t *testing.T) {
			g := mustNew(t, Config{Resolver: answers(c.answer)})
			dialled := noting(g)
			_, err := g.DialContext(t.Context(), "tcp", "push.example.com:443")
			if err == nil || !slices.Equal(*dialled, c.dialled) {
				t.Errorf("dialled %v, error %v; want %v", *dialled, err, c.dialled)
			}
			if c.reason != "" {
				wantRefused(t, err, c.reason)
			}
			var dns *net.DNSError
			if c.answer == nil && !errors.As(err, &dns) {
				t.Errorf("error %v, want a *net.DNSError", err)
			}
		})
	}
}

func TestDialRefusesByNameAlone(t *testing.T) {
	g := mustNew(t, Config{Resolver: func(_ context.Context, host string) ([]netip.Addr, error) {
		return nil, fmt.Errorf("asked for %q", host)
	}})
	for _, c := range []struct{ network, address, reason string }{
		{"tcp", "127.0.0.1:143", "a loopback address"},
		{"tcp", "[::1]:143", "a loopback address"},
		{"tcp", "localhost:143", "a name of the local network"},
		{"tcp", "2130706433:143", "an IPv4 address that is not written as four decimal numbers"},
		{"tcp", "[fe80::1%eth0]:143", "an address with a zone"},
		{"tcp", "imap.example.com.:143", "not a host name of ASCII letters, digits and hyphens"},
		{"tcp", "imap.example.com:imap", "not a port between 1 and 65535"},
		{"tcp", "imap.example.com:0", "not a port between 1 and 65535"},
		{"tcp", "imap.example.com", "not a host and port"},
		{"udp", "imap.example.com:143", "the network is not TCP"},
		{"unix", "/run/posthorn.sock", "the network is not TCP"},
	} {
		_, err := g.DialContext(t.Context(), c.network, c.address)
		wantRefused(t, err, c.reason)
	}
	if _, err := g.DialContext(t.Context(), "tcp", "imap.example.com:143"); err == nil || !strings.Contains(err.Error(), "asked for") {
		t.Errorf("error %v, want the resolver's", err)
	}
}

func TestDialAllowedAddress(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	g := mustNew(t, Config{
		Allow:    []string{"mail:" + port, "http://127.0.0.1:" + port},
		Resolver: answers([]string{"127.0.0.1"}),
	})
	conn, err := g.DialContext(t.Context(), "tcp", "MAIL:"+port)
	if err != nil {
		t.Fatalf("dial the allowed name: %v", err)
	}
	_ = conn.Close()
	// An allowed HTTP origin opens its port to HTTP only.
	_, err = g.DialContext(t.Context(), "tcp", l.Addr().String())
	wantRefused(t, err, "a loopback address")
	_, err = g.DialContext(t.Context(), "tcp", "mail2:"+port)
	wantRefused(t, err, "a name of the local network")
}

func TestSystemLookup(t *testing.T) {
	addrs, err := systemLookup(t.Context(), "localhost")
	if err != nil || len(addrs) == 0 {
		t.Fatalf("localhost: %v, %v", addrs, err)
	}
	for _, a := range addrs {
		if judge(a) != "a loopback address" {
			t.Errorf("localhost is %v: %q", a, judge(a))
		}
	}
}

func TestRefusedErrorText(t *testing.T) {
	for want, err := range map[string]*RefusedError{
		"refused: not a URL":                                    {Reason: "not a URL"},
		`refused "push": a name of the local network`:           {Host: "push", Reason: "a name of the local network"},
		`refused "10.0.0.1": a private address`:                 {Host: "10.0.0.1", Addr: netip.MustParseAddr("10.0.0.1"), Reason: "a private address"},
		`refused "a.example.com" (10.0.0.1): a private address`: {Host: "a.example.com", Addr: netip.MustParseAddr("10.0.0.1"), Reason: "a private address"},
	} {
		if err.Error() != want {
			t.Errorf("%s, want %s", err, want)
		}
	}
}

func TestDialGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustNew(t, Config{Resolver: answers([]string{"8.8.8.8", "8.8.4.4", "2606:4700::1", "2606:4700::2"})})
		g.connect = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		start := time.Now()
		_, err := g.DialContext(t.Context(), "tcp", "push.example.com:443")
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != dialTimeout {
			t.Errorf("error %v after %v", err, time.Since(start))
		}
		g.lookup = func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.DialContext(ctx, "tcp", "push.example.com:443"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

// get returns the status, the body and what went wrong.
func get(t *testing.T, c *http.Client, url string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func TestClientFollowsNoRedirect(t *testing.T) {
	var hits atomic.Int32
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer inside.Close()
	outside := httptest.NewServer(http.RedirectHandler(inside.URL, http.StatusTemporaryRedirect))
	defer outside.Close()

	g := mustNew(t, Config{Allow: []string{outside.URL}})
	defer g.Client().CloseIdleConnections()
	status, _, err := get(t, g.Client(), outside.URL)
	if err != nil || status != http.StatusTemporaryRedirect {
		t.Errorf("got %d, %v; want the redirect itself", status, err)
	}
	// Even a client that follows is judged anew at each hop.
	_, _, err = get(t, &http.Client{Transport: g.Client().Transport}, outside.URL)
	wantRefused(t, err, "the scheme is not https")
	if hits.Load() != 0 {
		t.Error("the internal server was reached")
	}
}

func TestClientJudgesTheURL(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	g := mustNew(t, Config{})
	_, _, err := get(t, g.Client(), srv.URL)
	wantRefused(t, err, "the scheme is not https")
	_, _, err = get(t, g.Client(), strings.Replace(srv.URL, "http:", "https:", 1))
	wantRefused(t, err, "a loopback address")
	_, _, err = get(t, g.Client(), "https://localhost/")
	wantRefused(t, err, "a name of the local network")
}

// TestClientTLS serves TLS on loopback under a public address that only the test's connect knows.
func TestClientTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "push.example.com" && r.ProtoMajor == 2 {
			_, _ = io.WriteString(w, "by its name, over HTTP/2")
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate()) // for example.com, *.example.com and 127.0.0.1

	g := mustNew(t, Config{Resolver: answers([]string{"93.184.215.14"})})
	g.http.https.TLSClientConfig.RootCAs = roots
	defer g.Client().CloseIdleConnections()
	g.connect = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "93.184.215.14:443" {
			return nil, fmt.Errorf("dialled %s", address)
		}
		return new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
	}
	_, body, err := get(t, g.Client(), "https://push.example.com/x")
	if err != nil || body != "by its name, over HTTP/2" {
		t.Errorf("got %q, %v", body, err)
	}
	_, _, err = get(t, g.Client(), "https://push.example.org/x")
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("error %v, want a certificate error for another name", err)
	}
	if g.http.http.Proxy != nil || g.http.https.Proxy != nil {
		t.Error("a proxy can be configured from outside")
	}
}

func TestClientCapsTheBody(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size := map[string]int{"/exact": MaxBody, "/over": MaxBody + 1, "/far": 10 * MaxBody}[r.URL.Path]
		if r.URL.Path != "/bomb" {
			_, _ = w.Write(bytes.Repeat([]byte{'x'}, size))
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		zip := gzip.NewWriter(w)
		_, _ = zip.Write(make([]byte, 10*MaxBody))
		_ = zip.Close()
	}))
	defer srv.Close()
	g := mustNew(t, Config{Allow: []string{srv.URL}})
	defer g.Client().CloseIdleConnections()
	if _, body, err := get(t, g.Client(), srv.URL+"/exact"); err != nil || len(body) != MaxBody {
		t.Errorf("exact: %d bytes, %v", len(body), err)
	}
	for _, path := range []string{"/over", "/far"} {
		if _, body, err := get(t, g.Client(), srv.URL+path); !errors.Is(err, ErrBodyTooLarge) || len(body) != MaxBody {
			t.Errorf("%s: %d bytes, %v", path, len(body), err)
		}
	}
	if _, body, err := get(t, g.Client(), srv.URL+"/bomb"); err != nil || len(body) > MaxBody/10 {
		t.Errorf("bomb: %d bytes, %v; want the compressed form", len(body), err)
	}
}

func TestCappedBodyStaysClosed(t *testing.T) {
	b := &cappedBody{body: io.NopCloser(strings.NewReader("abcdef")), left: 3}
	p := make([]byte, 10)
	if n, err := b.Read(p); n != 3 || !errors.Is(err, ErrBodyTooLarge) {
		t.Errorf("first read: %d, %v", n, err)
	}
	if n, err := b.Read(p); n != 0 || !errors.Is(err, ErrBodyTooLarge) {
		t.Errorf("second read: %d, %v", n, err)
	}
}
