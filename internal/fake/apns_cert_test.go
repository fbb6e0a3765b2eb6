package fake

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"
)

// pushCertificate makes a client certificate as Apple does: the bundle id as UID, and every topic in
// an extension when there are several.
func pushCertificate(t *testing.T, topics ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(7),
		Subject: pkix.Name{
			CommonName: "Apple Push Services: " + testTopic,
			ExtraNames: []pkix.AttributeTypeAndValue{{Type: oidUserID, Value: testTopic}},
		},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(topics) > 0 {
		var parts []any
		for _, topic := range topics {
			parts = append(parts, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(topic)}, []asn1.RawValue{{Tag: asn1.TagUTF8String, Bytes: []byte("app")}})
		}
		var inner []byte
		for _, part := range parts {
			der, err := asn1.Marshal(part)
			if err != nil {
				t.Fatal(err)
			}
			inner = append(inner, der...)
		}
		der, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: inner})
		if err != nil {
			t.Fatal(err)
		}
		tmpl.ExtraExtensions = []pkix.Extension{{Id: oidTopics, Value: der}}
	}
	key := newECKey(t)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestAPNsClientCertificate(t *testing.T) {
	for name, c := range map[string]struct {
		topics []string // of the certificate
		kind   string
		topic  string // of the request
		status int
		reason string
	}{
		"its only topic":   {nil, "alert", testTopic, 200, ""},
		"topic left out":   {nil, "alert", "", 200, ""},
		"other topic":      {nil, "alert", "org.example.other", 400, "TopicDisallowed"},
		"no voip":          {nil, "voip", testTopic + ".voip", 400, "TopicDisallowed"},
		"one of several":   {[]string{testTopic, testTopic + ".voip"}, "voip", testTopic + ".voip", 200, ""},
		"none of several":  {[]string{testTopic, testTopic + ".voip"}, "alert", "", 400, "MissingTopic"},
		"not of the token": {[]string{testTopic, testTopic + ".voip"}, "alert", "org.example.key", 400, "TopicDisallowed"},
	} {
		t.Run(name, func(t *testing.T) {
			cert, pool := pushCertificate(t, c.topics...)
			p := newAPNs(t, func(cfg *APNsConfig) {
				cfg.ClientCAs = pool
				cfg.Topics = []string{"org.example.key"}
				cfg.FirstStream = true
			})
			p.client.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{cert}
			h := p.headers(t)
			h.Del("authorization")
			h.Set("apns-push-type", c.kind)
			h.Set("apns-topic", c.topic)
			if c.topic == "" {
				h.Del("apns-topic")
			}
			a := mustDo(t, p.client, http.MethodPost, p.URL()+"/3/device/"+testDevice, h, []byte(testAlert))
			if a.status != c.status || c.reason != "" && !strings.Contains(a.body, c.reason) {
				t.Errorf("%d %s, want %d %s", a.status, a.body, c.status, c.reason)
			}
		})
	}
}

func TestAPNsConfig(t *testing.T) {
	if _, err := NewAPNs(APNsConfig{}); err == nil {
		t.Error("started without any way to authenticate")
	}
	own, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	p := newAPNs(t, func(c *APNsConfig) { c.Certificate = &own.leaf })
	if p.RootCAs() != nil || p.CAPEM() != nil {
		t.Error("has a CA although a certificate was given")
	}
	p.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = own.pool
	if a := mustDo(t, p.client, http.MethodPost, p.URL()+"/3/device/"+testDevice, p.headers(t), []byte(testAlert)); a.status != 200 {
		t.Errorf("%+v", a)
	}
}
