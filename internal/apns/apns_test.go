package apns

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

var testDevice = strings.Repeat("0123456789abcdef", 4)

func testMessage() Message {
	return Message{
		ID: "0f3b7d6e-1111-4222-8333-abcdefabcdef", Payload: []byte(`{"aps":{"alert":"New mail"}}`),
		PushType: Alert, Priority: 10, Expiration: time.Unix(1795348800, 0), CollapseID: "acc-1",
	}
}

// apple is net/http's own HTTP/2 server in Apple's place.
type apple struct {
	*httptest.Server
	connections atomic.Int32
	// closed gets a value for each connection that ended.
	closed chan struct{}
}

func startApple(tb testing.TB, h http.HandlerFunc, change func(*httptest.Server)) *apple {
	tb.Helper()
	a := &apple{Server: httptest.NewUnstartedServer(h), closed: make(chan struct{}, 100)}
	a.EnableHTTP2 = true
	a.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			a.connections.Add(1)
		}
		if s == http.StateClosed {
			a.closed <- struct{}{}
		}
	}
	if change != nil {
		change(a.Server)
	}
	a.StartTLS()
	tb.Cleanup(a.Close)
	return a
}

func (a *apple) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate())
	return pool
}

// mode is one of the two wires.
type mode bool

const (
	own     mode = false
	netHTTP mode = true
)

func (m mode) String() string {
	if m == netHTTP {
		return "net/http"
	}
	return "own"
}

// overBoth runs a test of behaviour over both wires.
func overBoth(t *testing.T, test func(*testing.T, mode)) {
	for _, m := range []mode{own, netHTTP} {
		t.Run(m.String(), func(t *testing.T) { test(t, m) })
	}
}

func (a *apple) sender(tb testing.TB, m mode, change func(*Config)) (*Sender, *ecdsa.PublicKey) {
	tb.Helper()
	key, public := newTokenKey(tb)
	c := Config{URL: a.URL, Environment: Sandbox, Topic: testTopic, TokenKey: key, RootCAs: a.roots(), HTTP2Transport: bool(m)}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s, public
}

func TestSendWithToken(t *testing.T) { overBoth(t, testSendWithToken) }

func testSendWithToken(t *testing.T, m mode) {
	var public *ecdsa.PublicKey
	a := startApple(t, func(w http.ResponseWriter, r *http.Request) {
		iat, err := verifyJWT(strings.TrimPrefix(r.Header.Get("Authorization"), "bearer "), public)
		if age := time.Since(iat); err != nil || age < 5*time.Minute || age > 46*time.Minute {
			t.Errorf("token: age %v, error %v", age, err)
		}
		if r.ProtoMajor != 2 || r.Method != http.MethodPost || r.URL.Path != "/3/device/"+testDevice || r.URL.RawQuery != "" {
			t.Errorf("%s %s %s", r.Proto, r.Method, r.URL)
		}
		got := fmt.Sprint(r.Header["Apns-Id"], r.Header["Apns-Topic"], r.Header["Apns-Push-Type"], r.Header["Apns-Priority"], r.Header["Apns-Expiration"], r.Header["Apns-Collapse-Id"])
		if want := "[0f3b7d6e-1111-4222-8333-abcdefabcdef] [org.posthorn.mail] [alert] [10] [1795348800] [acc-1]"; got != want {
			t.Errorf("header fields\n got %s\nwant %s", got, want)
		}
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != `{"aps":{"alert":"New mail"}}` || r.ContentLength != int64(len(body)) {
			t.Errorf("body %q, %v", body, err)
		}
		if r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("accept-encoding %q", r.Header.Get("Accept-Encoding"))
		}
		w.Header().Set("Apns-Id", r.Header.Get("Apns-Id"))
	}, nil)
	var s *Sender
	s, public = a.sender(t, m, nil)
	want := outcome.Outcome{Kind: outcome.Delivered, Status: 200, ProviderID: testMessage().ID}
	for range 3 {
		if o := s.Send(t.Context(), testDevice, testMessage()); o != want {
			t.Fatalf("outcome %+v", o)
		}
	}
	if n := a.connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestFieldsLeftOut: what has no value is not sent, and zero expiration means "try once".
func TestFieldsLeftOut(t *testing.T) {
	m := testMessage()
	m.CollapseID, m.Expiration = "", time.Time{}
	r := request{topic: testTopic, token: testDevice, m: m}
	for _, f := range r.fields() {
		if f.name == "apns-collapse-id" || f.name == "authorization" || (f.name == "apns-expiration" && f.value != "0") {
			t.Errorf("field %s: %q", f.name, f.value)
		}
	}
}

func TestSendWithCertificate(t *testing.T) { overBoth(t, testSendWithCertificate) }

func testSendWithCertificate(t *testing.T, m mode) {
	cert := tlsCertificate(t, universalNow())
	leaf, err := leafOf(cert)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	a := startApple(t, func(_ http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 || !r.TLS.PeerCertificates[0].Equal(leaf) {
			t.Errorf("%d client certificates", len(r.TLS.PeerCertificates))
		}
		if r.Header.Get("Authorization") != "" {
			t.Error("a provider token beside the certificate")
		}
	}, func(s *httptest.Server) {
		s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12}
	})
	s, _ := a.sender(t, m, func(c *Config) { c.TokenKey, c.Certificate = nil, cert })
	if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Delivered || o.ProviderID != testMessage().ID {
		t.Errorf("outcome %+v", o)
	}
}

// universalNow is for tests against the real clock.
func universalNow() certSpec {
	s := universal()
	s.notBefore, s.before = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	return s
}

// TestCertificateRefusedByServer: the handshake's alert is about our credential, not the network.
func TestCertificateRefusedByServer(t *testing.T) { overBoth(t, testCertificateRefusedByServer) }

func testCertificateRefusedByServer(t *testing.T, m mode) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			a := startApple(t, func(http.ResponseWriter, *http.Request) { t.Error("served") }, func(s *httptest.Server) {
				s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool(), MinVersion: version, MaxVersion: version}
				s.Config.ErrorLog = silent
			})
			s, _ := a.sender(t, m, func(c *Config) { c.TokenKey, c.Certificate = nil, tlsCertificate(t, universalNow()) })
			o := s.Send(t.Context(), testDevice, testMessage())
			if version == tls.VersionTLS13 && o.Kind == outcome.Later && o.Reason == "connection" {
				return // the alert follows the handshake, and the reset that follows it may overtake it
			}
			if o.Kind != outcome.Blocked || o.Reason != "certificate_refused" {
				t.Errorf("outcome %+v", o)
			}
		})
	}
}

func TestCertificateExpiresInUse(t *testing.T) { overBoth(t, testCertificateExpiresInUse) }

func testCertificateExpiresInUse(t *testing.T, m mode) {
	now := time.Now()
	a := startApple(t, func(http.ResponseWriter, *http.Request) {}, nil)
	s, _ := a.sender(t, m, func(c *Config) {
		c.TokenKey, c.Certificate, c.Now = nil, tlsCertificate(t, universalNow()), func() time.Time { return now }
	})
	if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Delivered {
		t.Errorf("outcome %+v", o)
	}
	now = now.Add(2 * time.Hour)
	if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Blocked || o.Reason != "certificate_expired" || o.Err == nil {
		t.Errorf("outcome %+v", o)
	}
}

func TestExpiredProviderToken(t *testing.T) { overBoth(t, testExpiredProviderToken) }

func testExpiredProviderToken(t *testing.T, m mode) {
	var mu sync.Mutex
	var ids, tokens []string
	always := false
	a := startApple(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		jwt := r.Header.Get("Authorization")
		ids = append(ids, r.Header.Get("Apns-Id"))
		if !slices.Contains(tokens, jwt) {
			tokens = append(tokens, jwt)
		}
		if always || jwt == tokens[0] {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"reason":"ExpiredProviderToken"}`)
		}
	}, nil)
	s, _ := a.sender(t, m, nil)
	// Twenty at once meet the refusal: one new token, every one is sent once more and delivered.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Delivered {
				t.Errorf("outcome %+v", o)
			}
		})
	}
	wg.Wait()
	if len(tokens) != 2 {
		t.Errorf("%d tokens were made", len(tokens))
	}
	for _, id := range ids {
		if id != testMessage().ID {
			t.Errorf("apns-id %q", id)
		}
	}
	// Refused although new: blocked, with a hint, and no third token.
	always = true
	o := s.Send(t.Context(), testDevice, testMessage())
	if o.Kind != outcome.Blocked || o.Reason != "ExpiredProviderToken" || o.Err == nil || !strings.Contains(o.Err.Error(), "clock") || len(tokens) != 2 {
		t.Errorf("outcome %+v after %d tokens", o, len(tokens))
	}
}

// TestStreamLimit: a burst above the server's limit waits its turn on one connection. The limit of 1
// is what Apple starts with.
func TestStreamLimit(t *testing.T) { overBoth(t, testStreamLimit) }

func testStreamLimit(t *testing.T, m mode) {
	for _, limit := range []int32{1, 10} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			var inside, most atomic.Int32
			a := startApple(t, func(_ http.ResponseWriter, r *http.Request) {
				most.Store(max(most.Load(), inside.Add(1)))
				_, _ = io.Copy(io.Discard, r.Body)
				inside.Add(-1)
			}, func(s *httptest.Server) { s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: int(limit)} })
			s, _ := a.sender(t, m, nil)
			var wg sync.WaitGroup
			for range 200 {
				wg.Go(func() {
					if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Delivered {
						t.Errorf("outcome %+v", o)
					}
				})
			}
			wg.Wait()
			if n := a.connections.Load(); n != 1 || most.Load() > limit {
				t.Errorf("%d connections, %d streams at once", n, most.Load())
			}
		})
	}
}

func TestReconnectAfterShutdown(t *testing.T) { overBoth(t, testReconnectAfterShutdown) }

func testReconnectAfterShutdown(t *testing.T, m mode) {
	var down atomic.Bool
	down.Store(true)
	a := startApple(t, func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"reason":"Shutdown"}`)
		}
	}, nil)
	s, _ := a.sender(t, m, nil)
	for range 5 { // a storm of them must not become a storm of connections
		if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Later || o.Reason != "Shutdown" {
			t.Errorf("outcome %+v", o)
		}
	}
	down.Store(false)
	if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Delivered {
		t.Errorf("outcome %+v", o)
	}
	if n := a.connections.Load(); n != 2 {
		t.Errorf("%d connections, want the first and its successor", n)
	}
	a.awaitClosed(t) // the first
	s.Close()
	a.awaitClosed(t) // the second
}

func (a *apple) awaitClosed(t *testing.T) {
	t.Helper()
	select {
	case <-a.closed:
	case <-time.After(30 * time.Second):
		t.Fatal("a connection was left open")
	}
}

func TestAnswerBodies(t *testing.T) { overBoth(t, testAnswerBodies) }

func testAnswerBodies(t *testing.T, m mode) {
	release := make(chan struct{})
	a := startApple(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Apns-Collapse-Id") {
		case "endless": // a body without end, of which the beginning is read
			w.WriteHeader(http.StatusServiceUnavailable)
			chunk := make([]byte, 64<<10)
			for {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		case "stuck": // headers, then silence: the status counts
			w.WriteHeader(http.StatusGone)
			_, _ = io.WriteString(w, `{"reason":"Unreg`)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-release:
			}
		case "stuck200":
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}
	}, nil)
	defer close(release)
	s, _ := a.sender(t, m, nil)
	for _, tc := range []struct {
		name, reason string
		kind         outcome.Kind
	}{{"endless", "unknown_5xx", outcome.Later}, {"stuck", "unknown_4xx", outcome.Suspect}, {"stuck200", "", outcome.Delivered}} {
		t.Run(tc.name, func(t *testing.T) {
			msg := testMessage()
			msg.CollapseID = tc.name
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if o := s.Send(ctx, testDevice, msg); o.Kind != tc.kind || o.Reason != tc.reason {
				t.Errorf("outcome %+v", o)
			}
		})
	}
}

func TestDeadlineAndCancel(t *testing.T) { overBoth(t, testDeadlineAndCancel) }

func testDeadlineAndCancel(t *testing.T, m mode) {
	release := make(chan struct{})
	a := startApple(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}, nil)
	defer close(release)
	s, _ := a.sender(t, m, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if o := s.Send(ctx, testDevice, testMessage()); o.Kind != outcome.Later || o.Reason != "timeout" || o.Err == nil || o.Status != 0 {
		t.Errorf("outcome %+v", o)
	}
	gone, stop := context.WithCancel(t.Context())
	stop()
	if o := s.Send(gone, testDevice, testMessage()); o.Kind != outcome.Later || o.Reason != "canceled" {
		t.Errorf("outcome %+v", o)
	}
}

func TestNewRefuses(t *testing.T) {
	key, _ := newTokenKey(t)
	cert := tlsCertificate(t, universalNow())
	good := Config{Environment: Production, Topic: testTopic, TokenKey: key}
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"environment", func(c *Config) { c.Environment = "prod" }, `"prod" is neither`},
		{"topic", func(c *Config) { c.Topic = "a b" }, "not a bundle identifier"},
		{"no topic", func(c *Config) { c.Topic = "" }, "not a bundle identifier"},
		{"no credential", func(c *Config) { c.TokenKey = nil }, "apns credential"},
		{"two credentials", func(c *Config) { c.Certificate = cert }, "apns credential"},
		{"plain http", func(c *Config) { c.URL = "http://127.0.0.1:1" }, "apns url"},
		{"url with path", func(c *Config) { c.URL = "https://127.0.0.1/3/device" }, "apns url"},
		{"url with user", func(c *Config) { c.URL = "https://u:p@127.0.0.1" }, "apns url"},
		{"certificate for another topic", func(c *Config) { c.TokenKey, c.Certificate, c.Topic = nil, cert, "org.example" }, "not for the topic"},
		{"empty certificate", func(c *Config) { c.TokenKey, c.Certificate = nil, &tls.Certificate{} }, "apns certificate: empty"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			c := good
			tc.change(&c)
			if _, err := New(c); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	s, err := New(good)
	if err != nil || s.base != "https://api.push.apple.com" {
		t.Errorf("apple's address: %v", err)
	}
}
