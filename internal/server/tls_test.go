package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/server"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const publicName = "push.example.org"

// certify writes a certificate for publicName, and returns who trusts it.
func (w *world) certify(ends time.Time) *x509.CertPool {
	w.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.tb, err)
	spec := &x509.Certificate{
		SerialNumber: big.NewInt(ends.Unix()), Subject: pkix.Name{CommonName: publicName}, DNSNames: []string{publicName},
		NotBefore: ends.Add(-90 * 24 * time.Hour), NotAfter: ends, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, spec, spec, key.Public(), key)
	must(w.tb, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(w.tb, err)
	dir := filepath.Dir(w.config)
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	w.write(dir, "tls.pem", chain)
	w.write(dir, "tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(chain)
	return roots
}

// browser asks the server as devices reach it, whatever the name; it follows no redirect and keeps no connection.
func browser(tb testing.TB, roots *x509.CertPool) *http.Client {
	tb.Helper()
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: publicName, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true, DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// fetched is a response that was read to its end.
type fetched struct {
	Status     string
	StatusCode int
	Proto      string
	Header     http.Header
	TLS        *tls.ConnectionState
}

func fetch(tb testing.TB, c *http.Client, method, url, body string) fetched {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, url, strings.NewReader(body))
	must(tb, err)
	res, err := c.Do(req)
	must(tb, err)
	_, err = io.Copy(io.Discard, res.Body)
	must(tb, err)
	must(tb, res.Body.Close())
	return fetched{res.Status, res.StatusCode, res.Proto, res.Header, res.TLS}
}

// fails asks what must not be answered, and returns why it was not.
func fails(tb testing.TB, c *http.Client, url string) string {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, url, nil)
	must(tb, err)
	res, err := c.Do(req)
	if err == nil {
		tb.Errorf("%s is answered: %s", url, res.Status)
		must(tb, res.Body.Close())
		return ""
	}
	return err.Error()
}

// TestCertificateFiles: the public listener speaks TLS, HTTP/2 and nothing old, and takes over another certificate
// while it runs.
func TestCertificateFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	ports := testpeer.FreeAddresses(t, 1)
	w.edit(`public: {`, `public: {redirect_listen: "`+ports[0]+`", tls: {certificate_file: tls.pem, key_file: tls.key}, `)
	roots := w.certify(time.Now().Add(60 * 24 * time.Hour))
	w.start()
	public := "https://" + w.server.PublicAddr()

	res := fetch(t, browser(t, roots), "GET", public+"/api/v1/transports", "")
	if res.StatusCode != 200 || res.Proto != "HTTP/2.0" || res.TLS.Version != tls.VersionTLS13 {
		t.Errorf("%s, %s, TLS %x", res.Status, res.Proto, res.TLS.Version)
	}
	old := browser(t, roots)
	old.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS10
	old.Transport.(*http.Transport).TLSClientConfig.MaxVersion = tls.VersionTLS11
	fails(t, old, public+"/")

	redirect := "http://" + ports[0]
	for _, tc := range []struct {
		method, path string
		status       int
		to           string
	}{
		{"GET", "/a%2Fb?c=d&e", 308, "https://push.example.org/a%2Fb?c=d&e"},
		{"HEAD", "//evil.example/x", 308, "https://push.example.org/"},
		{"POST", "/api/v1/sessions", 403, ""},
	} {
		res := fetch(t, browser(t, nil), tc.method, redirect+tc.path, "{}")
		if got := res.Header.Get("Location"); res.StatusCode != tc.status || got != tc.to {
			t.Errorf("%s %s: %s, %q", tc.method, tc.path, res.Status, got)
		}
		if res.Header.Get("Strict-Transport-Security") != "" {
			t.Error("HSTS in clear (RFC 6797 section 7.2)")
		}
	}

	if done, err := w.reload(); err != nil || len(done.Changed) > 0 {
		t.Errorf("reload of the same: %+v, %v", done, err)
	}
	roots = w.certify(time.Now().Add(50 * 24 * time.Hour))
	if done, err := w.reload(); err != nil || strings.Join(done.Changed, ";") != "certificate of the public listener" || len(done.NeedsRestart) > 0 {
		t.Errorf("reload: %+v, %v", done, err)
	}
	fetch(t, browser(t, roots), "GET", public+"/", "") // trusts the new one only
	w.certify(time.Now().Add(-time.Hour))
	if done, err := w.reload(); err == nil || !strings.Contains(err.Error(), "the certificate has expired on") {
		t.Errorf("reload of an expired one: %+v, %v", done, err)
	}
	w.write(filepath.Dir(w.config), "tls.pem", []byte("half"))
	if done, err := w.reload(); err == nil {
		t.Errorf("reload of half a file: %+v", done)
	}
	fetch(t, browser(t, roots), "GET", public+"/", "")
	if !strings.Contains(w.metrics(), `posthorn_tls_certificate_expiry_timestamp_seconds{name="push.example.org"} `) {
		t.Error("no metric of the certificate's end")
	}
	w.stop()

	// One that has expired keeps nobody from starting; half a file does.
	cfg, _, err := config.Load(w.config, func(string) (string, bool) { return "", false })
	must(t, err)
	if _, err := server.New(t.Context(), cfg, server.Options{}); err == nil || !strings.Contains(err.Error(), "public.tls.certificate_file: ") {
		t.Errorf("start with half a file: %v", err)
	}
	roots = w.certify(time.Now().Add(-time.Hour))
	if problems, _ := server.Check(cfg); len(problems) != 1 || !strings.Contains(problems[0].Message, "and its key") {
		t.Errorf("another key: %v", problems) // cfg holds the one before
	}
	w.start()
	if why := fails(t, browser(t, roots), "https://"+w.server.PublicAddr()+"/"); !strings.Contains(why, "expired") {
		t.Errorf("an expired certificate: %s", why)
	}
}

func portOf(tb testing.TB, address string) (port int) {
	tb.Helper()
	_, text, err := net.SplitHostPort(address)
	must(tb, err)
	_, err = fmt.Sscan(text, &port)
	must(tb, err)
	return port
}

// TestACME gets certificates from a real authority: by a TLS challenge at the listener itself, by an HTTP challenge
// at the redirect, and, when started again, from the database, where nothing can be read.
func TestACME(t *testing.T) {
	t.Parallel()
	for _, challenge := range []string{"tls", "http"} {
		t.Run(challenge, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sqliteURL(t), "login")
			at := testpeer.FreeAddresses(t, 3)
			p := testpeer.StartPebble(t, portOf(t, at[map[string]int{"tls": 0, "http": 2}[challenge]]), portOf(t, at[1])) // the other one leads nowhere
			redirect := ""
			if challenge == "http" {
				redirect = `redirect_listen: "` + at[1] + `", `
			}
			w.edit(`public: {listen: "127.0.0.1:0"`, fmt.Sprintf(`public: {%slisten: %q, tls: {acme: {domains: [%s, other.example.org], agree_terms: true, ca: %q, ca_file: %q}}`,
				redirect, at[0], publicName, p.Directory, p.CAFile))
			w.start()
			serial := map[string]string{}
			served := func(name string) func() bool {
				return func() bool {
					c := browser(t, p.Roots)
					c.Transport.(*http.Transport).TLSClientConfig.ServerName = name
					req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+w.server.PublicAddr()+"/api/v1/transports", nil)
					must(t, err)
					res, err := c.Do(req)
					if err != nil {
						return false
					}
					defer res.Body.Close()
					leaf := res.TLS.PeerCertificates[0]
					if was := serial[name]; was != "" && was != leaf.SerialNumber.String() {
						t.Errorf("%s has another certificate after a restart", name)
					}
					serial[name] = leaf.SerialNumber.String()
					return res.StatusCode == 200 && leaf.DNSNames[0] == name
				}
			}
			w.waitFor("the first certificate", served(publicName))
			w.waitFor("the second certificate", served("other.example.org"))
			if !strings.Contains(w.metrics(), `posthorn_tls_certificate_expiry_timestamp_seconds{name="other.example.org"} 1`) {
				t.Error("no metric of the certificate's end")
			}
			w.stop()
			w.start()
			w.waitFor("the certificate kept", served(publicName))
			if n := w.exec("UPDATE acme_storage SET modified_ms = 1 WHERE name LIKE 'certificates/%' AND sealed LIKE '%PRIVATE%'"); n != 0 {
				t.Error("a key is kept in clear")
			}
		})
	}
}

// TestSecurityHeaders looks at every kind of answer that the public listener has.
func TestSecurityHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	for _, tc := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 404},
		{"GET", "/api/v1/transports", 200},
		{"GET", "/api/v1/subscriptions", 401},
		{"PUT", "/api/v1/sessions", 405},
		{"POST", "/api/v1/sessions", 400},
		{"OPTIONS", "/api/v1/sessions", 405},
		{"GET", "//api/v1/../v1/transports", 307}, // net/http's own
		{"GET", "/api/v1/%zz", 400},               // and its refusal, before any of ours
	} {
		c := browser(t, nil)
		req, err := http.NewRequestWithContext(t.Context(), tc.method, w.public, strings.NewReader("x"))
		must(t, err)
		req.URL.Opaque = tc.path
		res, err := c.Do(req)
		must(t, err)
		must(t, res.Body.Close())
		if res.StatusCode != tc.status {
			t.Errorf("%s %s: %s, want %d", tc.method, tc.path, res.Status, tc.status)
		}
		if strings.Contains(tc.path, "%zz") {
			continue
		}
		for name, want := range map[string]string{
			"Strict-Transport-Security":    "max-age=31536000",
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "no-referrer",
			"Content-Security-Policy":      "default-src 'none'; frame-ancestors 'none'",
			"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Server":                       "",
			"X-Powered-By":                 "",
		} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s %s: %s is %q, want %q", tc.method, tc.path, name, got, want)
			}
		}
	}
	w.stop()
	w.edit(`url: "https://push.example.org"`, `url: "http://127.0.0.1:8008"`)
	w.edit("transports:", "transports:\n  webpush: {subject: 'mailto:postmaster@example.org'}")
	w.start()
	if got := fetch(t, browser(t, nil), "GET", w.public+"/", "").Header.Get("Strict-Transport-Security"); got != "" {
		t.Errorf("HSTS %q where there is no TLS", got)
	}
}
