package fake

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"
)

// maxJWT bounds a token; the three kinds read here are under 1 kB.
const maxJWT = 8 << 10

// token is a parsed, not yet verified, JWT in compact form (RFC 7515 section 7.1).
type token struct {
	header map[string]any
	claims map[string]any
	signed []byte // what the signature covers
	sig    []byte
}

func parseJWT(s string) (*token, error) {
	if len(s) > maxJWT {
		return nil, errors.New("token is too long")
	}
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return nil, errors.New("token does not have three parts")
	}
	t := &token{signed: []byte(s[:len(parts[0])+1+len(parts[1])])}
	var err error
	if t.header, err = parseSegment(parts[0]); err != nil {
		return nil, fmt.Errorf("parse token header: %w", err)
	}
	if t.claims, err = parseSegment(parts[1]); err != nil {
		return nil, fmt.Errorf("parse token claims: %w", err)
	}
	if t.sig, err = base64.RawURLEncoding.Strict().DecodeString(parts[2]); err != nil {
		return nil, fmt.Errorf("decode token signature: %w", err)
	}
	if _, ok := t.header["crit"]; ok { // RFC 7515 section 4.1.11: unknown extensions must be refused
		return nil, errors.New("token has critical header extensions")
	}
	if typ, ok := t.header["typ"]; ok && typ != "JWT" {
		return nil, errors.New("token type is not JWT")
	}
	return t, nil
}

func parseSegment(s string) (map[string]any, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, err
	}
	m, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// parseObject reads exactly one JSON object, numbers kept as written.
func parseObject(raw []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errors.New("null instead of an object")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the object")
	}
	return m, nil
}

func text(m map[string]any, name string) string {
	s, _ := m[name].(string)
	return s
}

// moment reads a NumericDate in whole seconds; all three providers document integers.
func moment(m map[string]any, name string) (time.Time, bool) {
	num, ok := m[name].(json.Number)
	if !ok {
		return time.Time{}, false
	}
	n, err := num.Int64()
	if err != nil || n < 0 || n > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(n, 0), true
}

// verifyES256 checks a signature of two 32-byte integers (RFC 7518 section 3.4).
func (t *token) verifyES256(key *ecdsa.PublicKey) error {
	if text(t.header, "alg") != "ES256" {
		return errors.New("token algorithm is not ES256")
	}
	if len(t.sig) != 64 {
		return errors.New("token signature is not 64 bytes")
	}
	sum := sha256.Sum256(t.signed)
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(t.sig[:32]), new(big.Int).SetBytes(t.sig[32:])) {
		return errors.New("token signature does not verify")
	}
	return nil
}

// verifyRS256 checks a PKCS #1 v1.5 signature (RFC 7518 section 3.3).
func (t *token) verifyRS256(key *rsa.PublicKey) error {
	if text(t.header, "alg") != "RS256" {
		return errors.New("token algorithm is not RS256")
	}
	sum := sha256.Sum256(t.signed)
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], t.sig); err != nil {
		return errors.New("token signature does not verify")
	}
	return nil
}
