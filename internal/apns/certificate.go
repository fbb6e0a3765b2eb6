package apns

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// ErrExpired is wrapped by the error about a certificate of which nothing is wrong but that it has ended.
var ErrExpired = errors.New("renew it at Apple's developer site")

// CertificateInfo is what a certificate says of itself.
type CertificateInfo struct {
	// Topics it may push to: the topics extension, and the subject's UID.
	Topics []string
	// Environments it is good for; empty when it does not say.
	Environments []string
	// NotAfter is when it ends. Apple's last about a year: export it, and warn.
	NotAfter time.Time
}

// Apple's marks (certification practice statement of the Worldwide Developer Relations CA).
var (
	oidDevelopment = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 3, 1}
	oidProduction  = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 3, 2}
	oidTopics      = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 3, 6}
	oidUserID      = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1} // RFC 4519 section 2.39
)

// LoadCertificate reads a .p12 file and refuses one that could not push to topic in environment now. One that
// is refused with ErrExpired is returned all the same.
func LoadCertificate(p12 []byte, password, environment, topic string, now time.Time) (*tls.Certificate, CertificateInfo, error) {
	cert, info, err := openCertificate(p12, password)
	if err != nil {
		return nil, CertificateInfo{}, err
	}
	err = info.check(cert.Leaf, environment, topic, now)
	if err != nil && !errors.Is(err, ErrExpired) {
		return nil, CertificateInfo{}, err
	}
	return cert, info, err
}

// ReadCertificate reads what the certificate in a .p12 file says of itself, without a judgement on it.
func ReadCertificate(p12 []byte, password string) (CertificateInfo, error) {
	_, info, err := openCertificate(p12, password)
	return info, err
}

func openCertificate(p12 []byte, password string) (*tls.Certificate, CertificateInfo, error) {
	var none CertificateInfo
	if strings.TrimSpace(password) == "" {
		// A key that anyone can read who gets the file; Keychain exports so when asked to.
		return nil, none, errors.New("apns certificate: the password is blank; export the .p12 again with one")
	}
	key, first, rest, err := pkcs12.DecodeChain(p12, password)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return nil, none, errors.New("apns certificate: wrong password for the .p12 file")
	case err != nil:
		return nil, none, fmt.Errorf("apns certificate: read the .p12 file: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, none, errors.New("apns certificate: the .p12 file holds a key that cannot sign")
	}
	// The file's order is not to be relied on: the leaf is the one with our key.
	all := append([]*x509.Certificate{first}, rest...)
	own := slices.IndexFunc(all, func(c *x509.Certificate) bool { return sameKey(c, signer) })
	if own < 0 {
		return nil, none, errors.New("apns certificate: no certificate in the .p12 file fits its private key")
	}
	leaf := all[own]
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for i, c := range all {
		if i != own {
			cert.Certificate = append(cert.Certificate, c.Raw)
		}
	}
	return cert, readCertificate(leaf), nil
}

func sameKey(c *x509.Certificate, signer crypto.Signer) bool {
	public, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(signer.Public())
}

func leafOf(c *tls.Certificate) (*x509.Certificate, error) {
	if c.Leaf != nil {
		return c.Leaf, nil
	}
	if len(c.Certificate) == 0 {
		return nil, errors.New("apns certificate: empty")
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("apns certificate: parse: %w", err)
	}
	return leaf, nil
}

// readCertificate takes what is there; check decides whether it is enough.
func readCertificate(leaf *x509.Certificate) CertificateInfo {
	info := CertificateInfo{NotAfter: leaf.NotAfter}
	for _, e := range leaf.Extensions {
		switch {
		case e.Id.Equal(oidDevelopment):
			info.Environments = append(info.Environments, Sandbox)
		case e.Id.Equal(oidProduction):
			info.Environments = append(info.Environments, Production)
		case e.Id.Equal(oidTopics):
			info.Topics = append(info.Topics, parseTopics(e.Value)...)
		}
	}
	for _, name := range leaf.Subject.Names {
		if uid, ok := name.Value.(string); ok && name.Type.Equal(oidUserID) && uid != "" && !slices.Contains(info.Topics, uid) {
			info.Topics = append(info.Topics, uid)
		}
	}
	if len(info.Environments) == 0 {
		// Some old ones carry no mark and say it in their name: "Apple Development IOS Push Services: ...".
		switch cn := leaf.Subject.CommonName; {
		case strings.HasPrefix(cn, "Apple Development "):
			info.Environments = []string{Sandbox}
		case strings.HasPrefix(cn, "Apple Production "):
			info.Environments = []string{Production}
		}
	}
	slices.Sort(info.Environments)
	return info
}

// parseTopics reads the topics extension, which Apple does not document: a SEQUENCE in which each
// topic, a UTF8String, is followed by a SEQUENCE of its kinds ("app", "voip", "complication").
func parseTopics(der []byte) []string {
	var items []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &items); err != nil || len(rest) > 0 {
		return nil
	}
	var topics []string
	for _, item := range items {
		if item.Class == asn1.ClassUniversal && item.Tag == asn1.TagUTF8String && topicForm.Match(item.Bytes) {
			topics = append(topics, string(item.Bytes))
		}
	}
	return topics
}

// check refuses a certificate that Apple would refuse, naming the way out.
func (i CertificateInfo) check(leaf *x509.Certificate, environment, topic string, now time.Time) error {
	name := clip(leaf.Subject.CommonName, 100)
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("apns certificate %q: not valid before %s; check this machine's clock", name, leaf.NotBefore.UTC().Format(time.DateTime))
	case environment != Production && environment != Sandbox:
		return fmt.Errorf("apns environment: %q is neither %q nor %q", environment, Production, Sandbox)
	case len(i.Environments) > 0 && !slices.Contains(i.Environments, environment):
		return fmt.Errorf("apns certificate %q: good for %s only, but the environment is %s", name, strings.Join(i.Environments, " and "), environment)
	case len(i.Topics) == 0:
		return fmt.Errorf("apns certificate %q: names no topic, so it is no push certificate of Apple's", name)
	case !slices.Contains(i.Topics, topic):
		return fmt.Errorf("apns certificate %q: not for the topic %q, only for %s", name, topic, strings.Join(i.Topics, ", "))
	case now.After(leaf.NotAfter): // the last: see ErrExpired
		return fmt.Errorf("apns certificate %q: expired on %s; %w", name, leaf.NotAfter.UTC().Format(time.DateTime), ErrExpired)
	}
	return nil
}
