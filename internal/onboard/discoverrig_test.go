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
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// world is what there is in an internet. Tests add to it while its servers run, so each method locks for itself, and
// does nothing else meanwhile: no page is served and no server asked under the lock, which these need as well.
type world struct {
	mu    sync.Mutex      // guards all below
	names map[string]bool // that have an address
	srv   map[string][]dnsmessage.SRVResource
	mx    map[string][]dnsmessage.MXResource
	alias map[string]string // CNAME
	lame  map[string]bool   // for which DNS fails
	certs map[string]*tls.Certificate
	pages map[string]http.HandlerFunc // by host and path
	asked []string                    // of the web servers: host, path and query
}

// name gives hosts an address.
func (w *world) name(hosts ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, host := range hosts {
		w.names[host] = true
	}
}

func (w *world) has(host string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.names[host]
}

func (w *world) hosts() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.names))
}

func (w *world) certify(host string, c *tls.Certificate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.certs[host] = c
}

func (w *world) certificate(host string) *tls.Certificate {
	w.mu.Lock()
	c := w.certs[host]
	w.mu.Unlock()
	if c == nil {
		c = trusted.issue(time.Now().Add(24*time.Hour), host)
	}
	return c
}

// page serves text at a URL without scheme.
func (w *world) page(at string, status int, kind, text string) {
	w.handle(at, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	})
}

func (w *world) handle(at string, page http.HandlerFunc) {
	host, _, _ := strings.Cut(at, "/")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[host], w.pages[at] = true, page
}

// visit notes what a web server is asked, and returns the page for it, nil for none.
func (w *world) visit(r *http.Request) http.HandlerFunc {
	host, _, _ := net.SplitHostPort(r.Host)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, host+r.URL.RequestURI())
	return w.pages[host+r.URL.Path]
}

// visits returns what has been asked since it was called last.
func (w *world) visits() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked := w.asked
	w.asked = nil
	return asked
}

func (w *world) addSRV(service, domain, target string, port int) {
	w.addSRVs(service, domain, dnsmessage.SRVResource{Target: dnsmessage.MustNewName(target), Port: uint16(port)}) //nolint:gosec // G115: a port
}

func (w *world) addSRVs(service, domain string, records ...dnsmessage.SRVResource) {
	name := service + "._tcp." + domain + "."
	w.mu.Lock()
	defer w.mu.Unlock()
	w.srv[name] = append(w.srv[name], records...)
}

func (w *world) addMX(domain string, pref uint16, target string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mx[domain+"."] = append(w.mx[domain+"."], dnsmessage.MXResource{Pref: pref, MX: dnsmessage.MustNewName(target)})
}

// addAlias makes a name another name of a host.
func (w *world) addAlias(name, host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alias[name], w.names[name] = host, true
}

// cripple has DNS fail for a host.
func (w *world) cripple(host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lame[host] = true
}

// answer is what DNS says.
func (w *world) answer(m dnsmessage.Message) ([]byte, error) {
	q := m.Questions[0]
	name := strings.ToLower(q.Name.String())
	host := strings.TrimSuffix(name, ".")
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionAvailable: true}
	m.Additionals = nil
	at := q.Name
	add := func(body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: at, Class: dnsmessage.ClassINET, TTL: 1}, Body: body})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	known := w.names[host] || len(w.srv[name]) > 0 || len(w.mx[name]) > 0
	if canonical := w.alias[host]; canonical != "" {
		add(&dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(canonical + ".")})
		at, host = dnsmessage.MustNewName(canonical+"."), canonical
	}
	switch {
	case w.lame[host]:
		m.RCode = dnsmessage.RCodeServerFailure
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA && w.names[host]:
		add(&dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}})
	case q.Type == dnsmessage.TypeSRV:
		for _, r := range w.srv[name] {
			add(&r)
		}
	case q.Type == dnsmessage.TypeMX:
		for _, r := range w.mx[name] {
			add(&r)
		}
	}
	return m.Pack()
}

// internet is DNS, web and mail servers of a test, all on this machine.
type internet struct {
	t *testing.T
	world
	https int
	d     *Discoverer
	allow []string
}

func newInternet(t *testing.T) *internet {
	t.Helper()
	n := &internet{t: t, world: world{
		names: map[string]bool{}, srv: map[string][]dnsmessage.SRVResource{}, mx: map[string][]dnsmessage.MXResource{}, alias: map[string]string{},
		lame: map[string]bool{}, certs: map[string]*tls.Certificate{}, pages: map[string]http.HandlerFunc{},
	}}
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

// closed is a port at which nobody listens, and which nobody else gets while the test runs: it is bound.
func (n *internet) closed() int {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		n.t.Fatal(err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		n.t.Fatal(err)
	}
	return at.(*syscall.SockaddrInet4).Port
}

func (n *internet) serve(w http.ResponseWriter, r *http.Request) {
	if page := n.visit(r); page != nil {
		page(w, r)
		return
	}
	http.NotFound(w, r)
}

// mail starts a server that greets, and returns its port. With STARTTLS it says lines before TLS begins.
func (n *internet) mail(host, greeting string, startTLS ...string) int {
	n.name(host)
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

// discover allows what has been set up, and discovers.
func (n *internet) discover(input string) Discovery {
	n.t.Helper()
	allow := append([]string{}, n.allow...)
	for _, name := range n.hosts() {
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
