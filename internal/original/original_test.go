package original

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/posthorn-mail/posthorn/internal/config"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// today is the day of all tests.
var today = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// keystore makes a .p12 with a certificate as Apple's.
func keystore(t *testing.T, file, topic, password string, notAfter time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: today.Add(-365 * 24 * time.Hour), NotAfter: notAfter,
		Subject: pkix.Name{
			CommonName: "Apple Push Services: " + topic,
			ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: topic}},
		},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 3, 2}, Value: []byte{5, 0}}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	p12, err := pkcs12.LegacyDES.Encode(key, cert, nil, password)
	must(t, err)
	must(t, os.WriteFile(file, p12, 0o600))
}

// etc is a copy of the testdata with keystores in it.
func etc(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "etc")
	must(t, os.CopyFS(dir, os.DirFS("testdata/etc")))
	security := filepath.Join(dir, "security")
	must(t, os.MkdirAll(security, 0o700))
	keystore(t, filepath.Join(security, "mailapp.p12"), "com.example.mailapp", "keystore pässword", today.Add(300*24*time.Hour))
	keystore(t, filepath.Join(security, "facade.p12"), "com.example.facade", "facade", today.Add(20*24*time.Hour))
	keystore(t, filepath.Join(security, "brand1.p12"), "com.example.brand1", "brand one", today.Add(-24*time.Hour))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// read makes the plan of the testdata.
func read(t *testing.T, dir string, opts Options) *Plan {
	t.Helper()
	opts.Now = today
	r, err := Open(dir, opts)
	must(t, err)
	for _, name := range []string{"oxdatabase_5.sql", "context.csv", "contextAttribute.tsv"} {
		f, err := os.Open(filepath.Join("testdata", name)) //nolint:gosec // the test's own
		must(t, err)
		must(t, r.Dump(name, f))
		must(t, f.Close())
	}
	p, err := r.Plan()
	must(t, err)
	return p
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(file, []byte(got), 0o644)) //nolint:gosec // a golden file
		return
	}
	want, err := os.ReadFile(file) //nolint:gosec // the test's own
	must(t, err)
	if got != string(want) {
		t.Errorf("%s is another; look at it after -update. Now:\n%s", name, got)
	}
}

// secrets are those in the testdata.
var secrets = []string{
	"correct horse", "AIzaSy", "keystore p", "master's", "s3cret", "dbsecret", "secret@", "brand one", "brand two", `"facade"`, "wJ0aK9", "a1a1a1a1", "APA91b", "quoted",
}

func TestImport(t *testing.T) {
	dir := etc(t)
	p := read(t, dir, Options{MasterLogin: "posthorn", ServiceAccount: []byte(`{"type":"service_account"}`)})
	clean := func(s string) string { return strings.ReplaceAll(s, dir, "/opt/open-xchange/etc") }
	text := clean(p.Report.Text())
	golden(t, "report.golden", text)
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("the report tells the secret %q", s)
		}
	}
	out := t.TempDir()
	for _, f := range p.Files {
		must(t, os.MkdirAll(filepath.Join(out, filepath.Dir(f.Name)), 0o700))
		must(t, os.WriteFile(filepath.Join(out, f.Name), f.Content, f.Mode))
		switch {
		case strings.HasSuffix(f.Name, ".yml"):
			golden(t, strings.ReplaceAll(f.Name, "/", "_")+".golden", clean(string(f.Content)))
			for _, s := range secrets {
				if strings.Contains(string(f.Content), s) {
					t.Errorf("%s tells the secret %q", f.Name, s)
				}
			}
		case f.Mode != 0o600:
			t.Errorf("%s has mode %o", f.Name, f.Mode)
		}
	}
	cfg, warnings, err := config.Load(filepath.Join(out, ConfigFile), func(string) (string, bool) { return "", false })
	must(t, err)
	if len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
	if problems := cfg.Check(); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
	if cfg.Internal.Notify.Password.Reveal() != "s3cret of the push URL" || cfg.Credentials.Passphrase.Reveal() != "correct horse battery staple" ||
		cfg.Transports.APNs.Apps[0].CertificatePassword.Reveal() != "keystore pässword" {
		t.Error("a secret is not what it was")
	}
}

// TestEveryKey counts: each key of each property file is in the report exactly once.
func TestEveryKey(t *testing.T) {
	dir := etc(t)
	p := read(t, dir, Options{})
	type place struct {
		file string
		line int
	}
	seen := map[place]int{}
	for _, e := range p.Report.Entries {
		seen[place{e.File, e.Line}]++
		if e.Verdict != Taken && e.Reason == "" {
			t.Errorf("%s:%d %s was %s without a reason", e.File, e.Line, e.Key, e.Verdict)
		}
		if e.Verdict != Dropped && e.To == "" {
			t.Errorf("%s:%d %s was %s to nothing", e.File, e.Line, e.Key, e.Verdict)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.properties"))
	must(t, err)
	files = append(files, filepath.Join(dir, "groupware/configdb.properties"))
	keys := 0
	for _, file := range files {
		data, err := os.ReadFile(file) //nolint:gosec // the test's own
		must(t, err)
		rel, _ := filepath.Rel(dir, file)
		for _, e := range parseProperties(data) {
			keys++
			if seen[place{rel, e.line}] != 1 {
				t.Errorf("%s:%d %s is in the report %d times", rel, e.line, e.key, seen[place{rel, e.line}])
			}
		}
	}
	if keys < 50 {
		t.Errorf("only %d keys", keys)
	}
}
