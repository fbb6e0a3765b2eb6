package apns

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

var update = flag.Bool("update", false, "write testdata/*.p12 anew")

const testTopic = "org.posthorn.mail"

// fixtureNow lies in the life of the certificates in testdata, whatever the day of the test.
var fixtureNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// certSpec describes a certificate as Apple would issue it.
type certSpec struct {
	cn                string
	uid               string
	topics            []string
	dev, prod         bool
	notBefore, before time.Time // before is NotAfter
}

func universal() certSpec {
	return certSpec{
		cn: "Apple Push Services: " + testTopic, uid: testTopic, dev: true, prod: true,
		topics:    []string{testTopic, testTopic + ".voip"},
		notBefore: fixtureNow.AddDate(0, -1, 0), before: fixtureNow.AddDate(0, 11, 0),
	}
}

// topicsValue encodes the topics extension: each topic followed by a sequence of its kinds.
func topicsValue(tb testing.TB, topics []string) []byte {
	tb.Helper()
	var items []asn1.RawValue
	for _, topic := range topics {
		kind := "app"
		if strings.HasSuffix(topic, ".voip") {
			kind = "voip"
		}
		inner, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(kind)})
		if err != nil {
			tb.Fatal(err)
		}
		items = append(items,
			asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(topic)},
			asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: inner})
	}
	der, err := asn1.Marshal(items)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

func issue(tb testing.TB, s certSpec) (*ecdsa.PrivateKey, *x509.Certificate) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: s.notBefore, NotAfter: s.before,
		Subject:     pkix.Name{CommonName: s.cn},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if s.uid != "" {
		tmpl.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: oidUserID, Value: s.uid}}
	}
	null := []byte{asn1.TagNull, 0}
	if s.dev {
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, pkix.Extension{Id: oidDevelopment, Value: null})
	}
	if s.prod {
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, pkix.Extension{Id: oidProduction, Value: null})
	}
	if s.topics != nil {
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, pkix.Extension{Id: oidTopics, Value: topicsValue(tb, s.topics)})
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return key, cert
}

func p12(tb testing.TB, s certSpec) []byte {
	tb.Helper()
	key, cert := issue(tb, s)
	b, err := pkcs12.Modern.Encode(key, cert, nil, "posthorn")
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// fixtures are the files in testdata with the password that opens each (testdata/README says so too).
var fixtures = []struct {
	file, password string
	encoder        *pkcs12.Encoder
}{
	{"modern.p12", "posthorn", pkcs12.Modern2023},
	{"legacy-3des.p12", "posthorn", pkcs12.LegacyDES},
	{"legacy-rc2.p12", "pässwörd ✉", pkcs12.LegacyRC2},
}

func TestLoadCertificateFiles(t *testing.T) {
	if *update {
		spec := universal()
		spec.before = fixtureNow.AddDate(30, 0, 0)
		key, cert := issue(t, spec)
		for _, f := range fixtures {
			b, err := f.encoder.Encode(key, cert, nil, f.password)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join("testdata", f.file), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, f := range fixtures {
		t.Run(f.file, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join("testdata", f.file))
			if err != nil {
				t.Fatal(err)
			}
			cert, info, err := LoadCertificate(b, f.password, Production, testTopic, fixtureNow)
			if err != nil {
				t.Fatal(err)
			}
			if cert.Leaf == nil || len(cert.Certificate) != 1 {
				t.Errorf("certificate has leaf %v and %d in the chain", cert.Leaf != nil, len(cert.Certificate))
			}
			if want := []string{testTopic, testTopic + ".voip"}; !slices.Equal(info.Topics, want) {
				t.Errorf("topics %q, want %q", info.Topics, want)
			}
			if want := []string{Production, Sandbox}; !slices.Equal(info.Environments, want) {
				t.Errorf("environments %q, want %q", info.Environments, want)
			}
			if !info.NotAfter.Equal(fixtureNow.AddDate(30, 0, 0)) {
				t.Errorf("not after %s", info.NotAfter)
			}
			if _, _, err := LoadCertificate(b, "wrong", Production, testTopic, fixtureNow); err == nil || !strings.Contains(err.Error(), "wrong password") {
				t.Errorf("wrong password: error %v", err)
			}
		})
	}
}

// TestLoadCertificateFromOpenSSL reads what the usual tool writes, in its default form and in the
// form of the years before version 3.
func TestLoadCertificateFromOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("SKIPPED: openssl is not installed; only the files in testdata were read")
	}
	// A chain in an unhelpful order: the CA first, so that the leaf has to be found by its key.
	dir := t.TempDir()
	key, leaf := issue(t, universal())
	ca := universal()
	ca.cn, ca.uid, ca.topics = "Posthorn Test CA", "", nil
	_, caCert := issue(t, ca)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, blocks ...*pem.Block) string {
		var b []byte
		for _, block := range blocks {
			b = append(b, pem.EncodeToMemory(block)...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyFile := write("key.pem", &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	certFile := write("certs.pem", &pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}, &pem.Block{Type: "CERTIFICATE", Bytes: caCert.Raw})
	for name, args := range map[string][]string{
		"default":     nil,
		"legacy_3des": {"-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1"},
		"legacy_rc2":  {"-legacy"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(dir, name+".p12")
			args := append([]string{"pkcs12", "-export", "-inkey", keyFile, "-in", certFile, "-passout", "pass:posthorn", "-out", out}, args...)
			if msg, err := exec.CommandContext(t.Context(), openssl, args...).CombinedOutput(); err != nil { //nolint:gosec // a fixed tool with our own arguments
				t.Skipf("SKIPPED: this openssl cannot write that form: %v\n%s", err, msg)
			}
			b, err := os.ReadFile(out) //nolint:gosec // our own temporary file
			if err != nil {
				t.Fatal(err)
			}
			cert, _, err := LoadCertificate(b, "posthorn", Sandbox, testTopic, fixtureNow)
			if err != nil {
				t.Fatal(err)
			}
			if !cert.Leaf.Equal(leaf) || len(cert.Certificate) != 2 {
				t.Error("the leaf was not found among the certificates")
			}
		})
	}
}

func TestLoadCertificateRefuses(t *testing.T) {
	with := func(change func(*certSpec)) certSpec {
		s := universal()
		change(&s)
		return s
	}
	sandboxOnly := with(func(s *certSpec) { s.cn, s.prod = "Apple Development IOS Push Services: "+testTopic, false })
	productionOnly := with(func(s *certSpec) { s.cn, s.dev = "Apple Production IOS Push Services: "+testTopic, false })
	tests := []struct {
		name        string
		spec        certSpec
		password    string
		environment string
		topic       string
		want        string // part of the error; empty for none
	}{
		{"good", universal(), "posthorn", Production, testTopic, ""},
		{"good for voip", universal(), "posthorn", Production, testTopic + ".voip", ""},
		{"blank password", universal(), "", Production, testTopic, "password is blank"},
		{"white password", universal(), "  ", Production, testTopic, "password is blank"},
		{"expired", with(func(s *certSpec) { s.before = fixtureNow.Add(-time.Hour) }), "posthorn", Production, testTopic, "expired on 2026-11-22"},
		{"not yet", with(func(s *certSpec) { s.notBefore = fixtureNow.Add(time.Hour) }), "posthorn", Production, testTopic, "not valid before 2026-11-22"},
		{"sandbox for production", sandboxOnly, "posthorn", Production, testTopic, "good for sandbox only, but the environment is production"},
		{"sandbox for sandbox", sandboxOnly, "posthorn", Sandbox, testTopic, ""},
		{"production for sandbox", productionOnly, "posthorn", Sandbox, testTopic, "good for production only"},
		{"development by name", with(func(s *certSpec) { s.cn, s.prod, s.dev = sandboxOnly.cn, false, false }), "posthorn", Production, testTopic, "good for sandbox only"},
		{"production by name", with(func(s *certSpec) { s.cn, s.prod, s.dev = productionOnly.cn, false, false }), "posthorn", Sandbox, testTopic, "good for production only"},
		{"unmarked", with(func(s *certSpec) { s.prod, s.dev = false, false }), "posthorn", Sandbox, testTopic, ""},
		{"other topic", universal(), "posthorn", Production, "org.example.other", `not for the topic "org.example.other", only for org.posthorn.mail`},
		{"topic by uid", with(func(s *certSpec) { s.topics = nil }), "posthorn", Production, testTopic, ""},
		{"no topic", with(func(s *certSpec) { s.topics, s.uid = nil, "" }), "posthorn", Production, testTopic, "names no topic"},
		{"no such environment", universal(), "posthorn", "staging", testTopic, `"staging" is neither`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			cert, info, err := LoadCertificate(p12(t, tc.spec), tc.password, tc.environment, tc.topic, fixtureNow)
			if expired := errors.Is(err, ErrExpired); expired != (tc.name == "expired") || (cert != nil) != (err == nil || expired) {
				t.Errorf("returned %v with %v", cert, err)
			} else if expired && !info.NotAfter.Equal(tc.spec.before) {
				t.Errorf("ends %s, want %s", info.NotAfter, tc.spec.before)
			}
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	for name, b := range map[string][]byte{"empty": nil, "pem": []byte("-----BEGIN CERTIFICATE-----"), "cut": p12(t, universal())[:200]} {
		if _, _, err := LoadCertificate(b, "posthorn", Production, testTopic, fixtureNow); err == nil || !strings.Contains(err.Error(), "read the .p12 file") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	key, _ := issue(t, universal())
	_, other := issue(t, universal())
	b, err := pkcs12.Modern.Encode(key, other, nil, "posthorn")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadCertificate(b, "posthorn", Production, testTopic, fixtureNow); err == nil || !strings.Contains(err.Error(), "fits its private key") {
		t.Errorf("foreign key: error %v", err)
	}
}

// TestTopicsAsIssued decodes the extension in the form that Apple's certificates carry it: long-form
// length, topic and kind in turn.
func TestTopicsAsIssued(t *testing.T) {
	short := func(s string) string { return fmt.Sprintf("0c%02x%x", len(s), s) }
	kind := func(s string) string { return fmt.Sprintf("30%02x%s", len(s)+2, short(s)) }
	long := "com.example.a-fairly-long-bundle-identifier.Mail"
	inner := short(long) + kind("app") + short(long+".voip") + kind("voip") + short("com.example.b") + kind("complication")
	der, err := hex.DecodeString(fmt.Sprintf("3081%02x%s", len(inner)/2, inner))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := parseTopics(der), []string{long, long + ".voip", "com.example.b"}; !slices.Equal(got, want) {
		t.Errorf("topics %q, want %q", got, want)
	}
}

func FuzzTopics(f *testing.F) {
	f.Add(topicsValue(f, []string{testTopic, testTopic + ".voip"}))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		for _, topic := range parseTopics(der) {
			if !topicForm.MatchString(topic) {
				t.Errorf("topic %q", topic)
			}
		}
	})
}

// tlsCertificate makes a usable certificate without the way through a file.
func tlsCertificate(tb testing.TB, s certSpec) *tls.Certificate {
	tb.Helper()
	key, cert := issue(tb, s)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: crypto.PrivateKey(key)}
}
