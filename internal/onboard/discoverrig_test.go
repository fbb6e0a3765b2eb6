package onboard

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/posthorn-mail/posthorn/internal/outbound"
)

// trusted is whom this process trusts, because SSL_CERT_FILE says so.
var trusted *issuer

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "onboard")
	if err != nil {
		panic(err)
	}
	trusted = newIssuer()
	file := filepath.Join(dir, "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted.cert.Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		panic(err)
	}
	if err := os.Setenv("SSL_CERT_FILE", file); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// issuer is a certificate authority.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newIssuer() *issuer {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Discovery Test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &issuer{cert, key}
}

// issue makes a certificate that ends at a time.
func (i *issuer) issue(ends time.Time, names ...string) *tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	t := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: names, NotBefore: ends.Add(-48 * time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, t, i.cert, &key.PublicKey, i.key)
	if err != nil {
		panic(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// internet is DNS, web and mail servers of a test, all on this machine.
type internet struct {
	t     *testing.T
	names map[string]bool // that have an address
	srv   map[string][]dnsmessage.SRVResource
	mx    map[string][]dnsmessage.MXResource
	lame  map[string]bool // for which DNS fails
	certs map[string]*tls.Certificate
	pages map[string]http.HandlerFunc // by host and path
	https int
	d     *Discoverer
	allow []string

	mu    sync.Mutex // guards the maps and asked
	asked []string   // of the web servers: host, path and query
}

func newInternet(t *testing.T) *internet {
	t.Helper()
	n := &internet{
		t: t, names: map[string]bool{}, srv: map[string][]dnsmessage.SRVResource{}, mx: map[string][]dnsmessage.MXResource{},
		lame: map[string]bool{}, certs: map[string]*tls.Certificate{}, pages: map[string]http.HandlerFunc{},
	}
	web := httptest.NewUnstartedServer(http.HandlerFunc(n.serve))
	web.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return n.certificate(hello.ServerName), nil
	}}
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	web.StartTLS()
	t.Cleanup(web.Close)
	n.https = web.Listener.Addr().(*net.TCPAddr).Port
	closed := n.closed()
	n.d = &Discoverer{Resolver: n.dns(), Now: time.Now, ports: ports{n.https, closed, closed, closed, closed}}
	return n
}

// set changes what there is, while the servers run.
func (n *internet) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func (n *internet) certify(name string, c *tls.Certificate) { n.set(func() { n.certs[name] = c }) }

func (n *internet) certificate(name string) *tls.Certificate {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.certs[name]; c != nil {
		return c
	}
	return trusted.issue(time.Now().Add(24*time.Hour), name)
}

// closed is a port at which nobody listens.
func (n *internet) closed() int {
	l, err := new(net.ListenConfig).Listen(n.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	return port
}

// page serves text at a URL without scheme.
func (n *internet) page(at string, status int, kind, text string) {
	n.handle(at, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	})
}

func (n *internet) handle(at string, page http.HandlerFunc) {
	host, _, _ := strings.Cut(at, "/")
	n.set(func() { n.names[host], n.pages[at] = true, page })
}

func (n *internet) serve(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.Host)
	n.mu.Lock()
	n.asked = append(n.asked, host+r.URL.RequestURI())
	page := n.pages[host+r.URL.Path]
	n.mu.Unlock()
	if page != nil {
		page(w, r)
		return
	}
	http.NotFound(w, r)
}

// mail starts a server that greets, and returns its port. With STARTTLS it says lines before TLS begins.
func (n *internet) mail(host, greeting string, startTLS ...string) int {
	n.set(func() { n.names[host] = true })
	l, err := new(net.ListenConfig).Listen(n.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	var working sync.WaitGroup
	n.t.Cleanup(func() { _ = l.Close(); working.Wait() })
	config := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return n.certificate(host), nil }}
	working.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			working.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
				if len(startTLS) > 0 {
					_, _ = io.WriteString(conn, greeting)
					in := bufio.NewReader(conn)
					for _, answer := range startTLS {
						if _, err := in.ReadString('\n'); err != nil {
							return
						}
						_, _ = io.WriteString(conn, answer)
					}
				}
				c := tls.Server(conn, config)
				if c.HandshakeContext(context.Background()) == nil && len(startTLS) == 0 {
					_, _ = io.WriteString(c, greeting)
				}
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
	port := l.Addr().(*net.TCPAddr).Port
	n.allow = append(n.allow, net.JoinHostPort(host, strconv.Itoa(port)))
	return port
}

func (n *internet) addSRV(service, domain, target string, port int) {
	name := service + "._tcp." + domain + "."
	record := dnsmessage.SRVResource{Target: dnsmessage.MustNewName(target), Port: uint16(port)} //nolint:gosec // G115: a port
	n.set(func() { n.srv[name] = append(n.srv[name], record) })
}

// dns starts a name server, and returns a resolver that asks it.
func (n *internet) dns() *net.Resolver {
	conn, err := new(net.ListenConfig).ListenPacket(n.t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	var working sync.WaitGroup
	n.t.Cleanup(func() { _ = conn.Close(); working.Wait() })
	working.Go(func() {
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var question dnsmessage.Message
			if question.Unpack(buf[:size]) != nil || len(question.Questions) != 1 {
				continue
			}
			if answer, err := n.answer(question); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (n *internet) answer(m dnsmessage.Message) ([]byte, error) {
	q := m.Questions[0]
	name := strings.ToLower(q.Name.String())
	host := strings.TrimSuffix(name, ".")
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionAvailable: true}
	m.Additionals = nil
	n.mu.Lock()
	defer n.mu.Unlock()
	add := func(body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}, Body: body})
	}
	known := n.names[host] || len(n.srv[name]) > 0 || len(n.mx[name]) > 0
	switch {
	case n.lame[host]:
		m.RCode = dnsmessage.RCodeServerFailure
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA && n.names[host]:
		add(&dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}})
	case q.Type == dnsmessage.TypeSRV:
		for _, r := range n.srv[name] {
			add(&r)
		}
	case q.Type == dnsmessage.TypeMX:
		for _, r := range n.mx[name] {
			add(&r)
		}
	}
	return m.Pack()
}

// discover allows what has been set up, and discovers.
func (n *internet) discover(input string) Discovery {
	n.t.Helper()
	allow := append([]string{}, n.allow...)
	n.mu.Lock()
	names := maps.Clone(n.names)
	n.mu.Unlock()
	for name := range names {
		allow = append(allow, fmt.Sprintf("https://%s:%d", name, n.https))
		for _, port := range []int{n.d.ports.imaps, n.d.ports.imap, n.d.ports.submissions, n.d.ports.submission} {
			allow = append(allow, fmt.Sprintf("%s:%d", name, port))
		}
	}
	guard, err := outbound.New(outbound.Config{Allow: allow, Resolver: func(ctx context.Context, host string) ([]netip.Addr, error) {
		return n.d.Resolver.LookupNetIP(ctx, "ip4", host+".")
	}})
	if err != nil {
		n.t.Fatal(err)
	}
	defer guard.Client().CloseIdleConnections()
	n.d.Guard = guard
	found, err := n.d.Discover(n.t.Context(), input)
	if err != nil {
		n.t.Fatal(err)
	}
	if n.t.Failed() || testing.Verbose() {
		for _, s := range found.Steps {
			n.t.Logf("%-10s %-70s %-8s %-20s %s", s.Name, s.Target, s.State, s.Fault, s.Detail)
		}
	}
	return found
}

// document is what a Posthorn says of itself.
const document = `{"posthorn": 1, "server": {"name": "Posthorn", "version": "1.2.3"}, "api": "/api/v1", "app": {"enabled": true},
	"sign_in": ["password"], "transports": ["apns"], "provider": {"name": "gold", "title": "Gold Mail", "branding": "/x"}, "later": [1]}`
