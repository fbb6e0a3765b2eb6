package certificate_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/certificate"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// pair writes a certificate that ends at a time, and returns its file and key.
func pair(t *testing.T, file, name string, ends time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	spec := &x509.Certificate{
		SerialNumber: big.NewInt(ends.Unix()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: ends.Add(-90 * 24 * time.Hour), NotAfter: ends,
	}
	der, err := x509.CreateCertificate(rand.Reader, spec, spec, key.Public(), key)
	must(t, err)
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	der, err = x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	file, now := filepath.Join(t.TempDir(), "cert.pem"), time.Now()
	key := pair(t, file, "push.example.org", now.Add(time.Hour))
	if p, err := certificate.Read(file, key, now); err != nil || p.Expires().Sub(now) > time.Hour {
		t.Errorf("%v, %v", p, err)
	}
	if p, err := certificate.Read(file, key, now.Add(2*time.Hour)); !errors.Is(err, certificate.ErrExpired) || p == nil {
		t.Errorf("expired: %v, %v", p, err)
	}
	if p, err := certificate.Read(file, pair(t, filepath.Join(t.TempDir(), "other"), "x", now), now); err == nil || p != nil {
		t.Errorf("another key: %v, %v", p, err)
	}
	if _, err := certificate.Read(file+"x", key, now); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestFilesChange: a changed file is asked for within a minute, until what is in it was taken over.
func TestFilesChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "cert.pem")
		key := pair(t, file, "one.example.org", time.Now().Add(60*24*time.Hour))
		p, err := certificate.Read(file, key, time.Now())
		must(t, err)
		var logged strings.Builder
		f := certificate.NewFiles(p, slog.New(slog.NewTextHandler(&logged, nil)), time.Now)
		var asked atomic.Int32
		var whole atomic.Pointer[[]byte] // the key, once there is one that fits
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- f.Run(ctx, func(context.Context) error {
				asked.Add(1)
				key := whole.Load()
				if key == nil {
					return errors.New("half written")
				}
				p, err := certificate.Read(file, *key, time.Now())
				if err == nil && !f.Replace(p) {
					t.Error("replaced by itself")
				}
				return err
			})
		}()
		at := func(d time.Duration, want int32) {
			t.Helper()
			<-time.After(d)
			synctest.Wait()
			if got := asked.Load(); got != want {
				t.Errorf("asked %d times, want %d", got, want)
			}
		}
		at(61*time.Second, 0)
		key = pair(t, file, "two.example.org", time.Now().Add(20*24*time.Hour))
		at(time.Minute, 1)
		whole.Store(&key)
		at(time.Minute, 2)
		at(10*time.Minute, 2)
		c, err := f.TLSConfig().GetCertificate(&tls.ClientHelloInfo{})
		must(t, err)
		if got := c.Leaf.DNSNames[0]; got != "two.example.org" || f.Expiries()[got].IsZero() {
			t.Errorf("served is %s, %v", got, f.Expiries())
		}
		at(21*24*time.Hour, 2)
		cancel()
		must(t, <-done)
		for message, want := range map[string]int{"cannot take over": 1, "expires soon": 3, "has expired": 1} {
			if got := strings.Count(logged.String(), message); got != want {
				t.Errorf("%q is logged %d times, want %d:\n%s", message, got, want, logged.String())
			}
		}
	})
}

// storages runs a test on both engines, with two nodes on one database.
func storages(t *testing.T, test func(t *testing.T, d *db.DB, one, two *certificate.Storage, tick *time.Time)) {
	t.Helper()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		d, err := db.Open(t.Context(), url, db.Options{})
		must(t, err)
		t.Cleanup(func() { must(t, d.Close()) })
		keys := ring(t, strings.Repeat("11", seal.KeySize))
		now := time.UnixMilli(1790000000000)
		clock := func() time.Time { return now }
		test(t, d, certificate.NewStorage(d, keys, "n1", clock), certificate.NewStorage(d, keys, "n2", clock), &now)
	})
}

func ring(t *testing.T, text string) *seal.Keyring {
	t.Helper()
	keys, err := seal.ParseKeyFile(text)
	must(t, err)
	return keys
}

// TestStorage holds ours to the rules of certmagic.Storage.
func TestStorage(t *testing.T) {
	t.Parallel()
	storages(t, func(t *testing.T, _ *db.DB, one, two *certificate.Storage, tick *time.Time) {
		ctx := t.Context()
		for name, value := range map[string]string{"certs/a/a.crt": "1", "certs/a/a.key": "canary", "certs/ab/x": "", "ocsp": "o"} {
			must(t, one.Store(ctx, name, []byte(value)))
		}
		if v, err := two.Load(ctx, "certs/a/a.key"); err != nil || string(v) != "canary" {
			t.Errorf("%q, %v", v, err)
		}
		*tick = tick.Add(time.Minute)
		must(t, two.Store(ctx, "certs/a/a.crt", []byte("22")))
		if i, err := one.Stat(ctx, "certs/a/a.crt"); err != nil || i.Size != 2 || !i.IsTerminal || !i.Modified.Equal(*tick) {
			t.Errorf("%+v, %v", i, err)
		}
		if i, err := one.Stat(ctx, "certs/a"); err != nil || i.IsTerminal {
			t.Errorf("%+v, %v", i, err)
		}
		for _, name := range []string{"cert", "certs/a/a", "certs/a/"} {
			if _, err := one.Load(ctx, name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("load %s: %v", name, err)
			}
		}
		for name, want := range map[string]bool{"certs": true, "certs/a": true, "ocsp": true, "cert": false, "certs/a/b": false, "oc%": false} {
			if got := one.Exists(ctx, name); got != want {
				t.Errorf("exists %s: %v", name, got)
			}
		}
		for _, tc := range []struct {
			name      string
			recursive bool
			want      string
		}{
			{"certs", false, "certs/a certs/ab"},
			{"certs", true, "certs/a/a.crt certs/a/a.key certs/ab/x"},
			{"certs/a", false, "certs/a/a.crt certs/a/a.key"},
			{"", false, "certs ocsp"},
		} {
			if got, err := two.List(ctx, tc.name, tc.recursive); err != nil || strings.Join(got, " ") != tc.want {
				t.Errorf("list %q: %q, %v", tc.name, got, err)
			}
		}
		must(t, one.Delete(ctx, "certs/a"))
		must(t, one.Delete(ctx, "certs/a"))
		if got, err := two.List(ctx, "", true); err != nil || !slices.Equal(got, []string{"certs/ab/x", "ocsp"}) {
			t.Errorf("left: %q, %v", got, err)
		}
		if _, err := two.List(ctx, "certs/a", true); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("list nothing: %v", err)
		}
	})
}

// TestLocks: one node at a time, and no lock outlives its lease.
func TestLocks(t *testing.T) {
	t.Parallel()
	storages(t, func(t *testing.T, _ *db.DB, one, two *certificate.Storage, tick *time.Time) {
		ctx := t.Context()
		must(t, one.Lock(ctx, "a"))
		must(t, two.Lock(ctx, "b"))
		try := func(s *certificate.Storage, name string, want bool) {
			t.Helper()
			if got, err := s.TryLock(ctx, name); err != nil || got != want {
				t.Errorf("lock %s: %v, %v", name, got, err)
			}
		}
		try(two, "a", false)
		try(one, "a", false)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if err := two.Lock(ended, "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("lock by who has gone: %v", err)
		}
		must(t, two.Unlock(ctx, "a")) // not his
		try(two, "a", false)
		*tick = tick.Add(4 * time.Minute)
		must(t, one.RenewLockLease(ctx, "a", time.Hour))
		*tick = tick.Add(2 * time.Minute)
		try(two, "a", false)
		try(one, "b", true)
		if err := two.RenewLockLease(ctx, "b", time.Hour); err == nil {
			t.Error("a lost lock is held for longer")
		}
		must(t, one.Unlock(ended, "a"))
		try(two, "a", true)
	})
}

// TestReseal: nothing is readable in the database, and a rotation leaves nothing to the old key.
func TestReseal(t *testing.T) {
	t.Parallel()
	storages(t, func(t *testing.T, d *db.DB, one, _ *certificate.Storage, _ *time.Time) {
		ctx := t.Context()
		for _, name := range []string{"a", "b"} {
			must(t, one.Store(ctx, name, []byte("canary")))
		}
		var sealed string
		must(t, d.QueryRow(ctx, "SELECT sealed FROM acme_storage WHERE name = ?", "a").Scan(&sealed))
		if strings.Contains(sealed, "canary") {
			t.Error("kept in clear")
		}
		must(t, d.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE acme_storage SET sealed = ? WHERE name = ?", sealed, "b")
			return err
		}))
		if _, err := one.Load(ctx, "b"); err == nil {
			t.Error("a value opens under another name")
		}
		must(t, one.Store(ctx, "b", []byte("canary")))
		newer := strings.Repeat("22", seal.KeySize)
		both := certificate.NewStorage(d, ring(t, newer+"\n"+strings.Repeat("11", seal.KeySize)), "n1", time.Now)
		next, m, err := both.Reseal(ctx, "")
		if err != nil || next != "b" || m.Changed != 2 {
			t.Errorf("%q, %+v, %v", next, m, err)
		}
		if next, m, err = both.Reseal(ctx, next); err != nil || next != "" || m.Seen != 0 {
			t.Errorf("%q, %+v, %v", next, m, err)
		}
		if v, err := certificate.NewStorage(d, ring(t, newer), "n1", time.Now).Load(ctx, "a"); err != nil || string(v) != "canary" {
			t.Errorf("%q, %v", v, err)
		}
	})
}
