package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/certificate"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/problem"
)

// publicTLS is where the certificate of the public listener comes from: files or authority, or neither.
type publicTLS struct {
	files     *certificate.Files
	authority *certificate.Authority
}

// readPublic reads what public.tls names. The pair is nil when that is no file, or cannot be used.
func readPublic(cfg *config.Config, now func() time.Time, found *findings) (pair *certificate.Pair, roots *x509.CertPool) {
	const at = "public.tls"
	t := cfg.Public.TLS
	if t.CertificateFile != "" {
		var err error
		switch pair, err = certificate.Read(t.CertificateFile, []byte(t.Key.Reveal()), now()); {
		case errors.Is(err, certificate.ErrExpired):
			found.expired = append(found.expired, cfg.Problem(at+".certificate_file", "%v", err))
		case err != nil:
			found.problems = append(found.problems, cfg.Problem(at+".certificate_file", "%v", err))
		case pair.Expires().Sub(now()) <= warnBefore:
			found.soon = append(found.soon, cfg.Problem(at+".certificate_file", "%s: the certificate ends on %s: renew it",
				t.CertificateFile, pair.Expires().UTC().Format(time.DateTime)))
		}
	}
	if file := t.ACME.CAFile; file != "" {
		raw, err := os.ReadFile(file) //nolint:gosec // the operator names this path
		if err == nil {
			if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(raw) {
				err = fmt.Errorf("%s holds no PEM certificate", file)
			}
		}
		if err != nil {
			found.problems = append(found.problems, cfg.Problem(at+".acme.ca_file", "%v", err))
		}
	}
	return pair, roots
}

// openTLS gives the public listener its certificate, if it has one, and the redirect its answers. The listeners
// are open.
func (s *Server) openTLS(ctx context.Context, pair *certificate.Pair, roots *x509.CertPool, reg *prometheus.Registry) error {
	var expiries func() map[string]time.Time
	redirect := http.Handler(http.HandlerFunc(s.redirect))
	switch acme := s.cfg.Public.TLS.ACME; {
	case pair != nil:
		s.tls.files = certificate.NewFiles(pair, s.log, time.Now)
		s.public.server.TLSConfig = s.tls.files.TLSConfig()
		expiries = s.tls.files.Expiries
	case len(acme.Domains) > 0:
		s.tls.authority = certificate.OpenAuthority(certificate.Options{
			Domains: acme.Domains, Email: acme.Email, CA: acme.CA, Roots: roots, Agreed: acme.AgreeTerms,
			TLSPort: portOf(s.public.listener), HTTPPort: portOf(s.redirected.listener),
			Storage: s.certificates, Log: s.log, Now: time.Now,
		})
		s.public.server.TLSConfig = s.tls.authority.TLSConfig()
		redirect, expiries = s.tls.authority.Challenge(redirect), s.tls.authority.Expiries
	default:
		return nil
	}
	if s.redirected.listener != nil {
		s.redirected.server = newHTTPServer(secured(redirect, false), s.log)
	}
	s.log.DebugContext(ctx, "the public listener speaks TLS")
	return reg.Register(certificate.Collector{Expiries: expiries})
}

// portOf is the port that a listener got; 0 for none.
func portOf(l net.Listener) int {
	if l == nil {
		return 0
	}
	return l.Addr().(*net.TCPAddr).Port
}

// runTLS keeps the certificates until ctx ends.
func (s *Server) runTLS(ctx context.Context) error {
	switch {
	case s.tls.files != nil:
		return s.tls.files.Run(ctx, s.reloadCertificate)
	case s.tls.authority != nil:
		return s.tls.authority.Run(ctx)
	}
	return nil
}

// redirect leads from plain HTTP to public.url. What is not only read is not led there: the client is to stop
// sending it in clear.
func (s *Server) redirect(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		problem.Write(w, problem.New(http.StatusForbidden, "https_needed", "this is not encrypted: use "+s.cfg.Public.URL))
		return
	}
	path := r.URL.EscapedPath()
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") {
		path = "/"
	}
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	w.Header().Set("Cache-Control", "max-age=3600")
	http.Redirect(w, r, s.cfg.Public.URL+path, http.StatusPermanentRedirect) //nolint:gosec // to our own origin, whatever was asked for
}

// serve serves one face, over TLS where it has a certificate.
func (f face) serve() error {
	if f.server.TLSConfig != nil {
		return f.server.ServeTLS(f.listener, "", "")
	}
	return f.server.Serve(f.listener)
}

// faces are those that there are.
func (s *Server) faces() []face {
	all := []face{s.public, s.internal, s.admin}
	if s.redirected.server != nil {
		all = append(all, s.redirected)
	}
	return all
}

// reloadCertificate takes over a certificate whose file has changed, and nothing else of the configuration: that
// waits for whoever is editing it.
func (s *Server) reloadCertificate(ctx context.Context) error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if s.loadConfig == nil {
		return errors.New("this server was not started from a configuration that can be read again")
	}
	cfg, err := s.loadConfig()
	if err != nil {
		return err
	}
	var found findings
	pair, _ := readPublic(cfg, time.Now, &found)
	if problems := append(found.problems, found.expired...); len(problems) > 0 {
		return problems
	}
	s.replaceCertificate(ctx, pair)
	return nil
}

// replaceCertificate takes over what public.tls names by files, and names it when it is another one.
func (s *Server) replaceCertificate(ctx context.Context, pair *certificate.Pair) (changed []string) {
	if s.tls.files == nil || pair == nil || !s.tls.files.Replace(pair) {
		return nil
	}
	s.log.InfoContext(ctx, "certificate replaced", slog.Time("expires", pair.Expires()))
	return []string{"certificate of the public listener"}
}
