package webpush

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"
)

type claims struct {
	Aud, Sub string
	Exp      int64
}

// readVAPID checks an Authorization header as a push service does, and returns the token's claims.
func readVAPID(t *testing.T, header string) claims {
	t.Helper()
	rest, ok := strings.CutPrefix(header, "vapid t=")
	jwt, k, ok2 := strings.Cut(rest, ", k=")
	parts := strings.Split(jwt, ".")
	if !ok || !ok2 || len(parts) != 3 {
		t.Fatalf("Authorization %q is not of RFC 8292 section 3", header)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), b64(t, k))
	if err != nil {
		t.Fatal(err)
	}
	var head struct{ Typ, Alg string }
	if err := json.Unmarshal(b64(t, parts[0]), &head); err != nil || head.Typ != "JWT" || head.Alg != "ES256" {
		t.Fatalf("JWT header %+v, %v", head, err)
	}
	sig := b64(t, parts[2])
	if len(sig) != 64 {
		t.Fatalf("a signature of %d bytes", len(sig))
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		t.Fatal("the signature is wrong")
	}
	var c claims
	dec := json.NewDecoder(bytes.NewReader(b64(t, parts[1])))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

func newTestVAPID(t testing.TB, subject string) *vapid {
	t.Helper()
	key, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	v, err := newVAPID(key, subject)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAuthorization(t *testing.T) {
	v := newTestVAPID(t, "mailto:push@example.com")
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	header := func(origin string) string {
		t.Helper()
		h, err := v.authorization(origin, now)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	first := header("https://push.example.com")
	if got, want := readVAPID(t, first), (claims{"https://push.example.com", "mailto:push@example.com", now.Add(12 * time.Hour).Unix()}); got != want {
		t.Errorf("claims %+v, want %+v", got, want)
	}
	if !strings.HasSuffix(first, ", k="+v.public) {
		t.Error("k is not the public key")
	}
	if got := readVAPID(t, header("https://other.example.com:8443")); got.Aud != "https://other.example.com:8443" {
		t.Errorf("aud %q", got.Aud)
	}

	signed := now
	now = now.Add(5*time.Hour + 59*time.Minute)
	if got := v.oldest(now); !got.Equal(signed) {
		t.Errorf("the oldest token is of %s, want %s", got, signed)
	}
	if got := v.oldest(now.Add(time.Minute)); !got.IsZero() {
		t.Errorf("a token of %s that is not used any more", got)
	}
	if header("https://push.example.com") != first {
		t.Error("signed anew within six hours")
	}
	now = now.Add(time.Minute)
	second := header("https://push.example.com")
	if exp := readVAPID(t, second).Exp; second == first || exp != now.Add(12*time.Hour).Unix() {
		t.Error("not signed anew after six hours")
	}
	now = now.Add(-20 * time.Hour) // the clock is set back: the old token would seem to live 32 hours
	if exp := readVAPID(t, header("https://push.example.com")).Exp; exp > now.Add(24*time.Hour).Unix() {
		t.Error("a token that lives over 24 hours")
	}
	v.forget("https://push.example.com")
	if header("https://push.example.com") == second {
		t.Error("a forgotten token was sent")
	}

	if c := readVAPID(t, must(newTestVAPID(t, "").authorization("https://push.example.com", now))(t)); c.Sub != "" {
		t.Errorf("sub %q without a subject", c.Sub)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestAuthorizationCacheIsBounded(t *testing.T) {
	v := newTestVAPID(t, "")
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for i := range maxTokens {
		v.tokens[fmt.Sprintf("https://%d.example.com", i)] = token{header: "vapid", expires: now.Add(tokenLife)}
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 40 {
				if _, err := v.authorization(fmt.Sprintf("https://%d.example.net", (i+j)%50), now); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(v.tokens) != maxTokens {
		t.Errorf("%d tokens are kept", len(v.tokens))
	}
	// Once the others are stale, they make room together.
	if _, err := v.authorization("https://late.example.net", now.Add(tokenUse)); err != nil || len(v.tokens) != 1 {
		t.Errorf("%d tokens are kept, %v", len(v.tokens), err)
	}
}

func TestCheckSubject(t *testing.T) {
	for _, ok := range []string{
		"", "mailto:push@example.com", "mailto:first.last+tag@mail.example.co.uk", "https://example.com", "https://example.com/contact?x=1",
		"https://host.tailnet.ts.net:8443/",
	} {
		if err := CheckSubject(ok); err != nil {
			t.Errorf("CheckSubject(%q) = %v", ok, err)
		}
	}
	for _, bad := range []string{
		"push@example.com", "mailto:", "mailto:push", "mailto:push@localhost", "mailto:push@LOCALHOST", "mailto:push@mail.localhost",
		"mailto:push@posthorn", "mailto:push@box.local", "mailto:push@box.lan", "mailto:push@example.invalid", "mailto:push@[127.0.0.1]",
		"mailto:push@127.0.0.1", "mailto:Push <push@example.com>", "mailto:<push@example.com>", "mailto:a@example.com,b@example.com",
		"mailto:push@example.com?subject=x", "mailto:mailto:push@example.com", "http://example.com", "https://", "https://localhost/",
		"https://127.0.0.1/", "https://8.8.8.8/", "https://[::1]/", "https://u@example.com/", "tel:123", "https://intranet/", "mailto:a@example.com\n",
	} {
		if err := CheckSubject(bad); err == nil {
			t.Errorf("CheckSubject(%q) accepted", bad)
		}
	}
}

func TestKeys(t *testing.T) {
	key := must(GenerateKey())(t)
	text := must(MarshalKey(key))(t)
	back, err := ParseKey(text)
	if err != nil || !back.Equal(key) {
		t.Fatalf("the key did not come back: %v", err)
	}
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	wrongCurve := must(MarshalKey(p384))(t)
	sec1 := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(key))(t)})
	for name, text := range map[string][]byte{
		"empty": nil, "not PEM": []byte("key"), "P-384": wrongCurve, "SEC 1": sec1, "two keys": append(bytes.Clone(text), text...),
		"garbage": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}),
	} {
		if _, err := ParseKey(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := newVAPID(p384, ""); err == nil {
		t.Error("a P-384 key signs")
	}
	if _, err := newVAPID(nil, ""); err == nil {
		t.Error("no key signs")
	}
}
