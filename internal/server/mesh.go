package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/cluster"
	"github.com/posthorn-mail/posthorn/internal/config"
)

// openMesh reads what the configuration says of the mesh; nil: there is none.
func openMesh(cfg *config.Config, now func() time.Time, found *findings) *bus.Mesh {
	b := cfg.Bus
	if b.Listen == "" {
		return nil
	}
	m := &bus.Mesh{Listen: b.Listen, Advertise: b.Advertise, Routes: b.Routes, Name: config.BusCertificateName, CAs: x509.NewCertPool()}
	fail := func(key, format string, args ...any) *bus.Mesh {
		found.problems = append(found.problems, cfg.Problem(key, format, args...))
		return nil
	}
	ca, err := os.ReadFile(b.CAFile)
	if err != nil {
		return fail("bus.ca_file", "%v", err)
	}
	if !m.CAs.AppendCertsFromPEM(ca) {
		return fail("bus.ca_file", "%s holds no PEM certificate", b.CAFile)
	}
	pem, err := os.ReadFile(b.CertificateFile)
	if err != nil {
		return fail("bus.certificate_file", "%v", err)
	}
	if m.Certificate, err = tls.X509KeyPair(pem, []byte(b.Key.Reveal())); err != nil {
		return fail("bus.certificate_file", "%s: it does not go with bus.key: %v", b.CertificateFile, err)
	}
	switch err := verify(m, now()); {
	case errors.Is(err, errExpired):
		// A server starts with it, alone, for the sake of its users.
		found.expired = append(found.expired, cfg.Problem("bus.certificate_file", "%s: %v", b.CertificateFile, err))
	case err != nil:
		return fail("bus.certificate_file", "%s: %v", b.CertificateFile, err)
	}
	if end := m.Certificate.Leaf.NotAfter; now().Before(end) && end.Sub(now()) <= warnBefore {
		found.soon = append(found.soon, cfg.Problem("bus.certificate_file", "%s: the certificate ends on %s: make a new one and restart this node",
			b.CertificateFile, end.UTC().Format(time.DateTime)))
	}
	return m
}

// errExpired is of a certificate that is only that.
var errExpired = errors.New("the certificate has expired, and other nodes refuse it: make a new one")

// verify looks at our own certificate as the other nodes will.
func verify(m *bus.Mesh, now time.Time) error {
	between := x509.NewCertPool()
	for _, raw := range m.Certificate.Certificate[1:] {
		if c, err := x509.ParseCertificate(raw); err == nil {
			between.AddCert(c)
		}
	}
	leaf, at := m.Certificate.Leaf, now
	if now.After(leaf.NotAfter) {
		at = leaf.NotAfter
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := leaf.Verify(x509.VerifyOptions{
			DNSName: m.Name, Roots: m.CAs, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use},
		})
		if err != nil {
			return fmt.Errorf("other nodes would refuse it: %w", err)
		}
	}
	if at != now {
		return errExpired
	}
	return nil
}

// join makes this server a node of the cluster.
func (s *Server) join(ctx context.Context, reg *prometheus.Registry) error {
	name := s.cfg.NodeName
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return config.Problems{s.cfg.Problem("node_name", "there is no default, because this machine has no name: %v", err)}
		}
		name = host
	}
	var err error
	s.cluster, err = cluster.Join(ctx, cluster.Config{
		Bus: s.bus, ID: s.state.node, Name: name, Version: cmp.Or(s.version, "development"), Willing: s.cfg.Listen.AllowPermanentPush,
		KeyCheck: s.state.keys.KeyCheck(), Log: s.log, Metrics: reg, Now: time.Now,
	})
	return err
}
