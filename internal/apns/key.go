package apns

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"time"
)

// TokenKey is a team's signing key (.p8). One serves all apps of the team, in both environments.
type TokenKey struct {
	private *ecdsa.PrivateKey
	keyID   string
	teamID  string
}

// LoadTokenKey reads the file that Apple's developer site hands out once (AuthKey_<key id>.p8).
func LoadTokenKey(pemBytes []byte, keyID, teamID string) (*TokenKey, error) {
	if !tenCharacters(keyID) {
		return nil, fmt.Errorf("apns key id: must be 10 letters and digits, as in AuthKey_XXXXXXXXXX.p8; has %d", len(keyID))
	}
	if !tenCharacters(teamID) {
		return nil, fmt.Errorf("apns team id: must be 10 letters and digits, as in Apple's membership page; has %d", len(teamID))
	}
	block, _ := pem.Decode(pemBytes)
	if block == nil {
		return nil, errors.New(`apns token key: not PEM; expected the .p8 file with its line "-----BEGIN PRIVATE KEY-----"`)
	}
	if block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf(`apns token key: the PEM block is %q; expected "PRIVATE KEY" (PKCS#8, not encrypted)`, clip(block.Type, 40))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("apns token key: the PEM block holds no PKCS#8 key") // the cause could quote key bytes
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, errors.New("apns token key: not a P-256 key; Apple's .p8 files hold no other kind")
	}
	return &TokenKey{private: private, keyID: keyID, teamID: teamID}, nil
}

func tenCharacters(s string) bool {
	if len(s) != 10 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// String, GoString and LogValue keep the private part out of every kind of print.
func (k *TokenKey) String() string { return "apns key " + k.keyID + " [redacted]" }

// GoString is for %#v.
func (k *TokenKey) GoString() string { return k.String() }

// LogValue is for slog.
func (k *TokenKey) LogValue() slog.Value {
	return slog.GroupValue(slog.String("key_id", k.keyID), slog.String("team_id", k.teamID))
}

// sign makes the provider token. The signature is the deterministic one (RFC 6979), so that every
// node of a cluster, and a node before and after its restart, makes the same token to the byte from
// the same iat: Apple then sees one token, not one per node.
func (k *TokenKey) sign(iat time.Time) (string, error) {
	head, err := json.Marshal(struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
	}{"ES256", k.keyID})
	if err != nil {
		return "", fmt.Errorf("encode token header: %w", err)
	}
	claims, err := json.Marshal(struct {
		Iss string `json:"iss"`
		Iat int64  `json:"iat"`
	}{k.teamID, iat.Unix()})
	if err != nil {
		return "", fmt.Errorf("encode token claims: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(text))
	der, err := k.private.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("sign provider token: %w", err)
	}
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &pair); err != nil {
		return "", fmt.Errorf("read own signature: %w", err)
	}
	var raw [64]byte // r || s, RFC 7518 section 3.4
	pair.R.FillBytes(raw[:32])
	pair.S.FillBytes(raw[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(raw[:]), nil
}

// Apple refuses tokens older than 60 minutes, and tokens that change more often than every 20.
const (
	// tokenPeriod is the length of a bucket: all nodes change token at the same moments.
	tokenPeriod = 40 * time.Minute
	// tokenSettle is how far in the past a new iat lies, for clocks that run ahead of Apple's. A
	// token is used from this age to tokenSettle + tokenPeriod.
	tokenSettle = 5 * time.Minute
	// tokenMaxAge is when a new token is due even though Apple told us to keep the old one.
	tokenMaxAge = 50 * time.Minute
	// remintPause is the least time between tokens that are made out of turn.
	remintPause = 20 * time.Minute
)

// minter holds the one provider token in use. Signing happens under the lock: a few dozen
// microseconds, and nobody signs twice.
type minter struct {
	key *TokenKey

	mu    sync.Mutex
	jwt   string
	iat   time.Time
	until time.Time // when the next token is due
	// rested is the end of the pause that TooManyProviderTokenUpdates, or a token made out of turn,
	// asks for.
	rested time.Time
}

// current returns the token to use now.
func (m *minter) current(now time.Time) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.jwt != "" && !now.Before(m.iat) { // a clock that was set back makes iat lie in the future
		if now.Before(m.until) || (now.Before(m.rested) && now.Sub(m.iat) < tokenMaxAge) {
			return m.jwt, nil
		}
	}
	settled := now.Add(-tokenSettle).Unix()
	iat := time.Unix(settled-settled%int64(tokenPeriod/time.Second), 0)
	return m.mint(iat)
}

// remint replaces a token that Apple called expired. Of many callers with the same refused token
// the first signs and the others get the result.
func (m *minter) remint(refused string, now time.Time) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.jwt != refused {
		return m.jwt, nil
	}
	if now.Before(m.rested) {
		return "", errors.New("apple calls the provider token expired although it is fresh: check this machine's clock")
	}
	m.rested = now.Add(remintPause)
	// The bucket's iat was too old for Apple, so our clock is behind: take the latest we believe in.
	return m.mint(now.Truncate(time.Minute))
}

// rest keeps the token in use for a while.
func (m *minter) rest(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rested = now.Add(remintPause)
}

// mint expects the lock held.
func (m *minter) mint(iat time.Time) (string, error) {
	jwt, err := m.key.sign(iat)
	if err != nil {
		return "", err
	}
	m.jwt, m.iat, m.until = jwt, iat, iat.Add(tokenSettle+tokenPeriod)
	return jwt, nil
}

// clip shortens foreign text for an error message.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
