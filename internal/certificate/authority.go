package certificate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Options are what an Authority is asked for, and how it reaches us.
type Options struct {
	Domains []string
	Email   string
	// CA is the directory of the authority, Roots whom to trust there; nil: the system's.
	CA    string
	Roots *x509.CertPool
	// Agreed says that the operator agrees to the authority's terms.
	Agreed bool
	// TLSPort is where TLS challenges reach the listener, HTTPPort where HTTP challenges reach Challenge; 0: they do not.
	TLSPort, HTTPPort int
	Storage           *Storage
	Log               *slog.Logger
	Now               func() time.Time
}

// Authority is certificates from an authority that speaks ACME.
type Authority struct {
	o       Options
	cache   *certmagic.Cache
	magic   *certmagic.Config
	issuer  *certmagic.ACMEIssuer
	endings endings
}

// OpenAuthority prepares certificates; Run gets them. Close must follow.
func OpenAuthority(o Options) *Authority {
	a := &Authority{o: o}
	log := zap.New(core{log: o.Log})
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return a.magic, nil },
		Logger:           log,
	})
	a.magic = certmagic.New(a.cache, certmagic.Config{
		Storage: o.Storage, Logger: log, DefaultServerName: o.Domains[0],
		// Who asks for another name, as by address, is shown the first certificate rather than a failed handshake.
		FallbackServerName: o.Domains[0],
	})
	a.issuer = certmagic.NewACMEIssuer(a.magic, certmagic.ACMEIssuer{
		CA: o.CA, Email: o.Email, Agreed: o.Agreed, TrustedRoots: o.Roots, Logger: log,
		AltTLSALPNPort: o.TLSPort, AltHTTPPort: o.HTTPPort, DisableHTTPChallenge: o.HTTPPort == 0,
	})
	a.magic.Issuers = []certmagic.Issuer{a.issuer}
	return a
}

// TLSConfig is for the listener that TLS challenges reach.
func (a *Authority) TLSConfig() *tls.Config {
	c := base()
	c.GetCertificate = a.magic.GetCertificate
	c.NextProtos = append(c.NextProtos, "acme-tls/1") // RFC 8737 section 6.2
	return c
}

// Challenge answers the authority's HTTP challenges, and leaves other requests to next.
func (a *Authority) Challenge(next http.Handler) http.Handler {
	return a.issuer.HTTPChallengeHandler(next)
}

// Run gets certificates and renews them until ctx ends. While the authority refuses, it asks again, more and more
// seldom.
func (a *Authority) Run(ctx context.Context) error {
	if err := a.o.Storage.ForgetLocks(ctx); err != nil {
		return err
	}
	if err := a.magic.ManageAsync(ctx, a.o.Domains); err != nil {
		return fmt.Errorf("manage certificates: %w", err)
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		a.endings.warn(ctx, a.o.Log, a.Expiries(), a.o.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Expiries is when the certificate of each domain ends; zero while there is none.
func (a *Authority) Expiries() map[string]time.Time {
	all := map[string]time.Time{}
	for _, d := range a.o.Domains {
		all[d] = time.Time{}
		for _, c := range a.cache.AllMatchingCertificates(d) {
			if slices.Contains(c.Names, d) && c.Leaf.NotAfter.After(all[d]) {
				all[d] = c.Leaf.NotAfter
			}
		}
	}
	return all
}

// Close ends what certmagic began.
func (a *Authority) Close() { a.cache.Stop() }

// core brings certmagic's log lines to ours; it implements zapcore.Core. Its debug lines, which show whole
// requests, go nowhere.
type core struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (c core) Enabled(l zapcore.Level) bool { return l >= zapcore.InfoLevel }

func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{c.log, append(slices.Clip(c.fields), fields...)}
}

func (c core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelInfo
	switch {
	case e.Level >= zapcore.ErrorLevel:
		level = slog.LevelError
	case e.Level == zapcore.WarnLevel:
		level = slog.LevelWarn
	}
	m := zapcore.NewMapObjectEncoder()
	for _, f := range append(slices.Clip(c.fields), fields...) {
		f.AddTo(m)
	}
	c.log.LogAttrs(context.Background(), level, "automatic certificates", slog.String("what", e.Message), slog.Any("about", m.Fields))
	return nil
}

func (core) Sync() error { return nil }
