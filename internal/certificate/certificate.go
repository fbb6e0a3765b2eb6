// Package certificate keeps the certificates of the public listener: one from files, read again when they
// change ([Files]), or one for each host name from an authority that speaks ACME ([Authority]).
//
// It does not listen, and asks nobody but the authority. What certmagic, which does the work of RFC 8555, wants
// kept is in the database ([Storage]), sealed, so that the nodes of a cluster share certificates, and challenges
// that reach another node than the one that asked.
//
// Concurrency: everything may be called from any goroutine. Run belongs to one. certmagic has goroutines of its
// own, which Authority.Close tells to end; one that waits for the authority then fails at the closed database.
package certificate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrExpired is what a certificate has that is past its end. The pair beside it can be used all the same.
var ErrExpired = errors.New("the certificate has expired")

// Pair is a certificate with its key.
type Pair struct {
	file        string
	certificate tls.Certificate
	sum         [sha256.Size]byte // of the certificate file
}

// Expires is when the certificate ends.
func (p *Pair) Expires() time.Time { return p.certificate.Leaf.NotAfter }

// Read reads a certificate file and opens it with its key. With ErrExpired there is a pair all the same.
func Read(file string, key []byte, now time.Time) (*Pair, error) {
	raw, err := os.ReadFile(file) //nolint:gosec // the operator names this path
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	c, err := tls.X509KeyPair(raw, key)
	if err != nil {
		return nil, fmt.Errorf("%s and its key: %w", file, err)
	}
	p := &Pair{file: file, certificate: c, sum: sha256.Sum256(raw)}
	if now.After(p.Expires()) {
		return p, fmt.Errorf("%s: %w on %s: put a new one in its place", file, ErrExpired, p.Expires().UTC().Format(time.DateTime))
	}
	return p, nil
}

// base is what every public listener speaks: TLS 1.2 and later with Go's choice of ciphers, HTTP/2 and HTTP/1.1.
func base() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
}

// lookEvery is how long a changed file may go unnoticed, and the pause between two looks at when certificates end.
const lookEvery = time.Minute

// Files is a certificate from files. The zero value is not ready: use NewFiles.
type Files struct {
	log     *slog.Logger
	now     func() time.Time
	current atomic.Pointer[Pair]
	endings endings
}

// NewFiles serves a pair until Replace brings another.
func NewFiles(pair *Pair, log *slog.Logger, now func() time.Time) *Files {
	f := &Files{log: log, now: now}
	f.current.Store(pair)
	return f
}

// Replace serves another pair from the next connection on, and reports whether it is another one.
func (f *Files) Replace(pair *Pair) bool {
	before := f.current.Swap(pair)
	return !bytes.Equal(before.certificate.Certificate[0], pair.certificate.Certificate[0])
}

// TLSConfig is for a listener.
func (f *Files) TLSConfig() *tls.Config {
	c := base()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &f.current.Load().certificate, nil }
	return c
}

// Expiries is when each certificate ends.
func (f *Files) Expiries() map[string]time.Time {
	leaf := f.current.Load().certificate.Leaf
	return map[string]time.Time{nameOf(leaf): leaf.NotAfter}
}

func nameOf(leaf *x509.Certificate) string {
	if len(leaf.DNSNames) > 0 {
		return leaf.DNSNames[0]
	}
	return leaf.Subject.CommonName
}

// Run calls changed when the file is another one than was read, each time it looks until Replace is given what is
// in it; and warns of the certificate's end. It returns when ctx ends.
func (f *Files) Run(ctx context.Context, changed func(context.Context) error) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		f.endings.warn(ctx, f.log, f.Expiries(), f.now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		pair := f.current.Load()
		raw, err := os.ReadFile(pair.file)
		if err == nil && sha256.Sum256(raw) != pair.sum {
			err = changed(ctx)
		}
		if err != nil {
			f.log.ErrorContext(ctx, "cannot take over the changed certificate: the one in use stays", slog.String("file", pair.file), slog.Any("err", err))
		}
	}
}

// warnings is how long before a certificate's end it is warned of, and that it has come.
var warnings = []time.Duration{30 * 24 * time.Hour, 7 * 24 * time.Hour, 24 * time.Hour, 0}

// endings remembers what was warned of. The zero value is ready.
type endings struct {
	mu   sync.Mutex
	said map[ending]int
}

type ending struct {
	name string
	when time.Time
}

// warn says, once for each of warnings, which certificates end.
func (e *endings) warn(ctx context.Context, log *slog.Logger, expiries map[string]time.Time, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	said := map[ending]int{}
	for name, when := range expiries {
		if when.IsZero() {
			continue
		}
		left, reached := when.Sub(now), 0
		for reached < len(warnings) && left <= warnings[reached] {
			reached++
		}
		this := ending{name, when}
		before := e.said[this]
		said[this] = max(reached, before)
		if reached <= before {
			continue
		}
		attrs := []slog.Attr{slog.String("name", name), slog.Time("expires", when)}
		if reached == len(warnings) {
			log.LogAttrs(ctx, slog.LevelError, "certificate has expired: no device trusts this server", attrs...)
		} else {
			log.LogAttrs(ctx, slog.LevelWarn, "certificate expires soon: renew it", append(attrs, slog.Int("days_left", int(left/(24*time.Hour))))...)
		}
	}
	e.said = said
}

// Collector shows when certificates end.
type Collector struct{ Expiries func() map[string]time.Time }

var expiryDesc = prometheus.NewDesc("posthorn_tls_certificate_expiry_timestamp_seconds",
	"When a certificate of the public listener ends, in Unix time; 0 while there is none yet.", []string{"name"}, nil)

// Describe implements prometheus.Collector.
func (Collector) Describe(ch chan<- *prometheus.Desc) { ch <- expiryDesc }

// Collect implements prometheus.Collector.
func (c Collector) Collect(ch chan<- prometheus.Metric) {
	for name, when := range c.Expiries() {
		var at float64
		if !when.IsZero() {
			at = float64(when.Unix())
		}
		ch <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, at, name)
	}
}
