package bus

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

const nodeName = "node.test"

// authority signs the certificates of a mesh.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var raw []byte
	raw, a.key = a.sign(template, template)
	a.cert, _ = x509.ParseCertificate(raw)
	a.pool.AddCert(a.cert)
	return a
}

// sign makes a key and a certificate of it; without an authority's own key yet, its own signs.
func (a *authority) sign(template, parent *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return raw, key
}

// issue makes a node's certificate, changed by change unless that is nil.
func (a *authority) issue(change func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{nodeName}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	raw, key := a.sign(template, a.cert)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

func (a *authority) mesh(routes ...string) *Mesh {
	return &Mesh{Listen: "127.0.0.1:0", Routes: routes, Name: nodeName, Certificate: a.issue(nil), CAs: a.pool}
}

func (o opened) address() string { return o.server.ClusterAddr().String() }

func openMesh(t *testing.T, m *Mesh) opened {
	t.Helper()
	o := opened{log: &logBuffer{}, reg: prometheus.NewRegistry()}
	var err error
	o.Bus, err = Open(t.Context(), Options{Mesh: m, Log: slog.New(slog.NewTextHandler(o.log, nil)), Metrics: o.reg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		_ = o.Close(ctx)
	})
	return o
}

// connected waits until a request from one is answered by the other.
func connected(t *testing.T, one, other opened) {
	t.Helper()
	s := NewSubject("test", "connected", rand.Text())
	sub := subscribe(t, other, s, func(_ context.Context, m Message) { _ = m.Reply(nil) }, nil)
	defer sub.Close()
	eventually(t, "an answer over a route", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := one.Request(ctx, s, nil)
		return err == nil
	})
}

// TestMesh: three nodes, of which two know only the first, hear each other; also the last words of one that
// stops.
func TestMesh(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	one := openMesh(t, a.mesh())
	two, three := openMesh(t, a.mesh(one.address())), openMesh(t, a.mesh(one.address(), "127.0.0.1:1"))
	for _, pair := range [][2]opened{{one, two}, {one, three}, {two, one}, {two, three}, {three, one}, {three, two}} {
		connected(t, pair[0], pair[1])
	}
	eventually(t, "one route for each pair", func() bool {
		return one.server.NumRoutes() == 2 && two.server.NumRoutes() == 2 && three.server.NumRoutes() == 2
	})
	if one.Alone() || !open(t, "").Alone() {
		t.Error("alone")
	}
	if strings.Contains(one.log.String(), "level=WARN") {
		t.Errorf("log: %s", one.log)
	}
	got, _ := inbox(t, one, hello)
	connected(t, three, one) // so that three knows of hello as well
	for range 10 {
		publish(t, three, hello, "last words")
	}
	if err := three.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for range 10 {
		receive(t, "the last words", got)
	}
	publish(t, one, hello, "to myself")
	if m := receive(t, "one's own word", got); m != "to myself" {
		t.Error(m)
	}
}

// TestMeshRestart: a node that comes back at the same address is found again, and those who heard it are
// told of the gap.
func TestMeshRestart(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	m := a.mesh()
	m.Listen = "127.0.0.1:" + freePort(t)
	m.Routes = []string{m.Listen} // itself: that is no route
	one := openMesh(t, m)
	two := openMesh(t, a.mesh(m.Listen))
	_, gaps := inbox(t, two, hello)
	receive(t, "the gap of the first route", gaps)
	if err := one.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss is logged", func() bool { return strings.Contains(two.log.String(), "bus route down") })
	if len(gaps) > 0 {
		t.Error("a gap is told before messages can arrive again")
	}
	if err := two.Ready(); err != nil {
		t.Error(err)
	}
	one = openMesh(t, m)
	receive(t, "the gap", gaps)
	connected(t, two, one)
	connected(t, one, two)
}

// TestMeshRefuses: whoever has no certificate of our authority, with our name, in date and for both
// directions, gets no route.
func TestMeshRefuses(t *testing.T) {
	t.Parallel()
	a, foreign := newAuthority(t), newAuthority(t)
	one := openMesh(t, a.mesh())
	for name, intruder := range map[string]*Mesh{
		"foreign authority": foreign.mesh(one.address()),
		"foreign certificate, our authority known": {
			Listen: "127.0.0.1:0", Routes: []string{one.address()}, Name: nodeName, Certificate: foreign.issue(nil), CAs: a.pool,
		},
		"other name": {
			Listen: "127.0.0.1:0", Routes: []string{one.address()}, Name: nodeName, CAs: a.pool,
			Certificate: a.issue(func(c *x509.Certificate) { c.DNSNames = []string{"mail.example.com"} }),
		},
		"expired": {
			Listen: "127.0.0.1:0", Routes: []string{one.address()}, Name: nodeName, CAs: a.pool,
			Certificate: a.issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }),
		},
		"for servers only": {
			Listen: "127.0.0.1:0", Routes: []string{one.address()}, Name: nodeName, CAs: a.pool,
			Certificate: a.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		},
	} {
		two := openMesh(t, intruder)
		eventually(t, name+": a refusal is logged", func() bool {
			return strings.Contains(two.log.String()+one.log.String(), "TLS route handshake error")
		})
		eventually(t, name+": several attempts", func() bool { return one.server.NumRoutes() == 0 && two.server.NumRoutes() == 0 })
		got, _ := inbox(t, two, hello)
		publish(t, one, hello, "secret")
		two.state.Load().link.flush(t.Context())
		if len(got) > 0 || one.server.NumRoutes() > 0 {
			t.Errorf("%s: it hears us", name)
		}
		if err := two.Close(t.Context()); err != nil {
			t.Error(err)
		}
		one.log.mu.Lock()
		one.log.b.Reset()
		one.log.mu.Unlock()
	}
	two := openMesh(t, a.mesh(one.address()))
	connected(t, one, two)
}

// TestMeshIsNotPlain: without TLS there is nothing to be had at the port of the routes.
func TestMeshIsNotPlain(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	one := openMesh(t, a.mesh())
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", one.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "CONNECT {\"verbose\":false,\"cluster\":\"posthorn\",\"name\":\"x\"}\r\nSUB > 1\r\nPING\r\n")
	answer, _ := io.ReadAll(c) // it is closed
	if bytes.Contains(answer, []byte("PONG")) || one.server.NumRoutes() > 0 {
		t.Errorf("%q", answer)
	}
	if _, err := nats.Connect("nats://"+one.server.Addr().String(), nats.UserInfo(inProcessUser, one.password)); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a client with our own password: %v", err)
	}
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: a.pool, ServerName: nodeName, MinVersion: tls.VersionTLS13}}).DialContext(t.Context(), "tcp", one.address())
	if err == nil {
		defer conn.Close()
		answer, err = io.ReadAll(conn)
	}
	if err == nil || bytes.Contains(answer, []byte("INFO")) {
		t.Errorf("without a client certificate: %q, %v", answer, err)
	}
}

func TestMeshCannotListen(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	m := a.mesh()
	m.Listen = openMesh(t, a.mesh()).address()
	start := time.Now()
	_, err := Open(t.Context(), Options{Mesh: m, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if !errors.Is(err, ErrListen) || !strings.Contains(err.Error(), "address already in use") {
		t.Error(err)
	}
	if d := time.Since(start); d > startTimeout/2 {
		t.Errorf("told after %s", d)
	}
	for _, bad := range []*Mesh{{Listen: "127.0.0.1"}, {Listen: "127.0.0.1:x"}, {Listen: "127.0.0.1:0", Routes: []string{"x"}}} {
		if _, err := Open(t.Context(), Options{Mesh: bad, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}); err == nil {
			t.Errorf("opened %+v", bad)
		}
	}
	if _, err := Open(t.Context(), Options{URL: "nats://127.0.0.1", Mesh: m, Metrics: prometheus.NewRegistry()}); err == nil {
		t.Error("opened both")
	}
}

// TestMeshBlackHole: the network between two nodes swallows everything, and comes back.
func TestMeshBlackHole(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	m := a.mesh()
	m.Advertise = "127.0.0.1:1" // nobody shall find a way past the hole
	one := openMesh(t, m)
	hole := newHole(t, one.address())
	m = a.mesh(hole.address)
	m.Advertise = "127.0.0.1:1"
	two := openMesh(t, m)
	connected(t, one, two)
	_, gaps := inbox(t, two, NewSubject("test", "hole"))
	for len(gaps) > 0 {
		<-gaps
	}
	hole.swallow.Store(true)
	fell := time.Now()
	eventually(t, "the loss is seen", func() bool { return one.server.NumRoutes() == 0 && two.server.NumRoutes() == 0 })
	if d := time.Since(fell); d > silenceTimeout+10*time.Second {
		t.Errorf("noticed after %s", d)
	}
	hole.swallow.Store(false)
	receive(t, "the gap", gaps)
	connected(t, one, two)
	connected(t, two, one)
}
