package fake

import (
	"crypto/x509"
	"encoding/asn1"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// providerTokens judges the JWTs that authenticate a provider to APNs.
type providerTokens struct {
	maxAge   time.Duration
	interval time.Duration

	mu   sync.Mutex
	keys map[string]APNsKey // by key id
	// verified remembers tokens by their text: one signature check takes longer than everything else
	// that a request costs.
	verified map[string]providerToken
	// uses is what each key presented so far, by key id.
	uses map[string]*keyUse
}

type providerToken struct {
	kid    string
	issued time.Time
}

// keyUse is the history that the update limit is judged by. Tokens with the same iat are the same
// token here, whatever their signature: nodes that derive iat from a common clock may sign each their own.
type keyUse struct {
	issued map[int64]struct{} // iat, in seconds
	since  time.Time          // when the newest of them was first presented
}

// maxVerified bounds the memory for tokens; a sender has one or two per key.
const maxVerified = 256

func (t *providerTokens) init(cfg APNsConfig) {
	t.maxAge, t.interval = cfg.MaxTokenAge, cfg.MinTokenInterval
	t.keys = make(map[string]APNsKey, len(cfg.Keys))
	for _, k := range cfg.Keys {
		t.keys[k.KeyID] = k
	}
	t.verified = map[string]providerToken{}
	t.uses = map[string]*keyUse{}
}

// check returns status and Apple's word for what is wrong with an authorization header, or "".
func (t *providerTokens) check(auth string, now time.Time) (int, string) {
	scheme, raw, _ := strings.Cut(auth, " ")
	if !strings.EqualFold(scheme, "bearer") || raw == "" {
		return http.StatusForbidden, "MissingProviderToken"
	}
	t.mu.Lock()
	tok, ok := t.verified[raw]
	t.mu.Unlock()
	if !ok {
		if tok, ok = t.verify(raw); !ok {
			return http.StatusForbidden, "InvalidProviderToken"
		}
	}
	switch {
	case tok.issued.After(now):
		return http.StatusForbidden, "InvalidProviderToken"
	case now.Sub(tok.issued) > t.maxAge:
		return http.StatusForbidden, "ExpiredProviderToken"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.admit(tok, now) {
		return http.StatusTooManyRequests, "TooManyProviderTokenUpdates"
	}
	if len(t.verified) >= maxVerified {
		clear(t.verified)
	}
	t.verified[raw] = tok
	return 0, ""
}

func (t *providerTokens) verify(raw string) (providerToken, bool) {
	jwt, err := parseJWT(raw)
	if err != nil {
		return providerToken{}, false
	}
	t.mu.Lock()
	key, ok := t.keys[text(jwt.header, "kid")]
	t.mu.Unlock()
	if !ok || text(jwt.claims, "iss") != key.TeamID || jwt.verifyES256(key.Public) != nil {
		return providerToken{}, false
	}
	issued, ok := moment(jwt.claims, "iat")
	return providerToken{key.KeyID, issued}, ok
}

func (t *providerTokens) revoke(kid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.keys, kid)
	clear(t.verified)
}

// admit applies the update limit: a token that was presented before may be used until it expires, a
// new one only when the newest has been in use long enough. Held: mu.
func (t *providerTokens) admit(tok providerToken, now time.Time) bool {
	use := t.uses[tok.kid]
	if use == nil {
		use = &keyUse{issued: map[int64]struct{}{}}
		t.uses[tok.kid] = use
	}
	iat := tok.issued.Unix()
	if _, ok := use.issued[iat]; ok {
		return true
	}
	if len(use.issued) > 0 && now.Sub(use.since) < t.interval {
		return false
	}
	for old := range use.issued {
		if now.Sub(time.Unix(old, 0)) > t.maxAge {
			delete(use.issued, old)
		}
	}
	use.issued[iat] = struct{}{}
	use.since = now
	return true
}

var (
	oidUserID = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}
	// oidTopics is Apple's certificate extension that lists the topics of a universal push certificate.
	oidTopics = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 3, 6}
)

// topicsOf reads the topics of a push certificate: the subject's UID is the bundle id, and a universal
// certificate lists the bundle id and its suffixed forms in an extension.
func topicsOf(cert *x509.Certificate) []string {
	var topics []string
	for _, name := range cert.Subject.Names {
		if uid, ok := name.Value.(string); ok && name.Type.Equal(oidUserID) {
			topics = append(topics, uid)
		}
	}
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidTopics) {
			continue
		}
		// SEQUENCE OF: a UTF8String topic, then a SEQUENCE of its kinds, and so on.
		var parts []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &parts); err != nil || len(rest) > 0 {
			return nil
		}
		for _, p := range parts {
			if p.Class == asn1.ClassUniversal && p.Tag == asn1.TagUTF8String && !slices.Contains(topics, string(p.Bytes)) {
				topics = append(topics, string(p.Bytes))
			}
		}
	}
	return topics
}
