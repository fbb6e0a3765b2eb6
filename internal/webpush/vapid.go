package webpush

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/mail"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outbound"
)

const (
	// A token may live 24 hours (RFC 8292 section 2). Half of it is left to clocks that differ; it is
	// used for half its life, so that none expires on the way.
	tokenLife = 12 * time.Hour
	tokenUse  = 6 * time.Hour

	// maxTokens bounds the cache: origins are of the subscribers' choice. About 0.5 KB each.
	maxTokens = 1024
)

// vapid makes the Authorization header that names us to a push service (RFC 8292). Signing costs about
// as much as encrypting, so a token is kept for each origin.
type vapid struct {
	key     *ecdsa.PrivateKey
	subject string
	public  string

	mu     sync.Mutex       // guards tokens; never held while signing
	tokens map[string]token // by origin, at most maxTokens
}

type token struct {
	header  string
	expires time.Time
}

func newVAPID(key *ecdsa.PrivateKey, subject string) (*vapid, error) {
	if key == nil || key.Curve != elliptic.P256() {
		return nil, errors.New("the VAPID key is not a P-256 key")
	}
	if err := CheckSubject(subject); err != nil {
		return nil, err
	}
	public, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode the VAPID public key: %w", err)
	}
	return &vapid{
		key: key, subject: subject, public: base64.RawURLEncoding.EncodeToString(public),
		tokens: make(map[string]token),
	}, nil
}

// authorization returns the value of the Authorization header for requests to origin.
func (v *vapid) authorization(origin string, now time.Time) (string, error) {
	now = now.Round(0) // push services read the wall clock, so no monotonic one here
	v.mu.Lock()
	t, ok := v.tokens[origin]
	v.mu.Unlock()
	// The upper bound is for a clock that was set back: the token would seem to live too long.
	if left := t.expires.Sub(now); ok && left > tokenLife-tokenUse && left <= tokenLife {
		return t.header, nil
	}
	// Two callers may both sign here; both tokens are good.
	t.expires = now.Add(tokenLife)
	jwt, err := v.sign(origin, t.expires)
	if err != nil {
		return "", err
	}
	t.header = "vapid t=" + jwt + ", k=" + v.public
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.tokens[origin]; !ok && len(v.tokens) >= maxTokens {
		v.evict(now)
	}
	v.tokens[origin] = t
	return t.header, nil
}

// evict makes room: stale tokens go, or else any one. Called with mu held.
func (v *vapid) evict(now time.Time) {
	victim := ""
	for origin, t := range v.tokens {
		if t.expires.Sub(now) <= tokenLife-tokenUse {
			delete(v.tokens, origin)
		}
		victim = origin
	}
	if len(v.tokens) >= maxTokens {
		delete(v.tokens, victim)
	}
}

// oldest is when the oldest of the tokens was signed that are still used.
func (v *vapid) oldest(now time.Time) (signed time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, t := range v.tokens {
		if at := t.expires.Add(-tokenLife); now.Sub(at) < tokenUse && (signed.IsZero() || at.Before(signed)) {
			signed = at
		}
	}
	return signed
}

// forget drops the token for origin.
func (v *vapid) forget(origin string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.tokens, origin)
}

// jwtHeader is the base64url form of {"typ":"JWT","alg":"ES256"}.
const jwtHeader = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9"

func (v *vapid) sign(origin string, expires time.Time) (string, error) {
	claims, err := json.Marshal(struct {
		Aud string `json:"aud"`
		Exp int64  `json:"exp"`
		Sub string `json:"sub,omitempty"`
	}{origin, expires.Unix(), v.subject})
	if err != nil {
		return "", fmt.Errorf("encode the VAPID claims: %w", err)
	}
	signed := jwtHeader + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, v.key, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign the VAPID token: %w", err)
	}
	var sig [64]byte // RFC 7518 section 3.4: two 32-byte integers, not ASN.1
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig[:]), nil
}

// CheckSubject says whether subject will do as the VAPID "sub" claim: a mailto: or https: URI of a place
// that can exist on the Internet (RFC 8292 section 2.1), or "". Apple answers 403 BadJwtToken to a
// made-up one such as mailto:root@localhost, while other services do not look.
func CheckSubject(subject string) error {
	if subject == "" {
		return nil
	}
	page, domain := subject, ""
	if address, ok := strings.CutPrefix(subject, "mailto:"); ok {
		a, err := mail.ParseAddress(address)
		if err != nil || a.Address != address || a.Name != "" {
			return fmt.Errorf("VAPID subject %q: not mailto: with one plain address", subject)
		}
		domain = address[strings.LastIndexByte(address, '@')+1:]
		page = "https://" + domain
	}
	u, err := outbound.ParseURL(page)
	if err != nil {
		return fmt.Errorf("VAPID subject %q: %w", subject, err)
	}
	if u.Scheme != "https" || domain != "" && u.Host != domain {
		return fmt.Errorf("VAPID subject %q: neither mailto with one plain address nor https", subject)
	}
	name := strings.ToLower(u.Hostname())
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("VAPID subject %q: push services want a name, not an IP address", subject)
	}
	labels := strings.Split(name, ".")
	switch last := labels[len(labels)-1]; last {
	case "localhost", "localdomain", "local", "internal", "lan", "home", "invalid", "test", "example":
		return fmt.Errorf("VAPID subject %q: push services refuse names under .%s", subject, last)
	}
	if len(labels) == 1 {
		return fmt.Errorf("VAPID subject %q: push services want a full domain name", subject)
	}
	return nil
}

// GenerateKey makes a VAPID key.
func GenerateKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate a VAPID key: %w", err)
	}
	return key, nil
}

const pemType = "PRIVATE KEY"

// MarshalKey returns key as PKCS #8 in PEM.
func MarshalKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the VAPID key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// ParseKey reads what MarshalKey wrote, or any P-256 key in unencrypted PKCS #8 PEM.
func ParseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, errors.New("read the VAPID key: no PEM block")
	case block.Type != pemType:
		return nil, fmt.Errorf("read the VAPID key: the PEM block is %q, not %q (convert it with openssl pkcs8 -topk8 -nocrypt)", block.Type, pemType)
	case strings.TrimSpace(string(rest)) != "":
		return nil, errors.New("read the VAPID key: something follows the PEM block")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the VAPID key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("read the VAPID key: not a P-256 key")
	}
	return key, nil
}
