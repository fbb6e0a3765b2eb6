package apns

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	testKeyID  = "ABC123DEFG"
	testTeamID = "DEF123GHIJ"
)

func p8(tb testing.TB, key any) []byte {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func newTokenKey(tb testing.TB) (*TokenKey, *ecdsa.PublicKey) {
	tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	key, err := LoadTokenKey(p8(tb, private), testKeyID, testTeamID)
	if err != nil {
		tb.Fatal(err)
	}
	return key, &private.PublicKey
}

// verifyJWT is the other side, written from RFC 7515 and Apple's description, sharing nothing with
// the code under test. It returns iat.
func verifyJWT(jwt string, public *ecdsa.PublicKey) (time.Time, error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return time.Time{}, fmt.Errorf("%d parts", len(parts))
	}
	var raw [3][]byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.DecodeString(p)
		if err != nil {
			return time.Time{}, fmt.Errorf("part %d: %w", i, err)
		}
		raw[i] = b
	}
	var head map[string]any
	var claims struct {
		Iss string `json:"iss"`
		Iat int64  `json:"iat"`
	}
	if err := json.Unmarshal(raw[0], &head); err != nil {
		return time.Time{}, err
	}
	if head["alg"] != "ES256" || head["kid"] != testKeyID || len(head) != 2 {
		return time.Time{}, fmt.Errorf("header %v", head)
	}
	dec := json.NewDecoder(bytes.NewReader(raw[1]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&claims); err != nil {
		return time.Time{}, err
	}
	if claims.Iss != testTeamID {
		return time.Time{}, fmt.Errorf("iss %q", claims.Iss)
	}
	if len(raw[2]) != 64 {
		return time.Time{}, fmt.Errorf("signature of %d bytes", len(raw[2]))
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(raw[2][:32]), new(big.Int).SetBytes(raw[2][32:])
	if !ecdsa.Verify(public, digest[:], r, s) {
		return time.Time{}, fmt.Errorf("signature does not verify")
	}
	return time.Unix(claims.Iat, 0), nil
}

func TestLoadTokenKeyRefuses(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	good := p8(t, p256)
	tests := []struct {
		name         string
		pem          []byte
		keyID, teamI string
		want         string
	}{
		{"not PEM", []byte("MIGTAgEAMBMGByqGSM49AgEG"), testKeyID, testTeamID, "not PEM"},
		{"empty", nil, testKeyID, testTeamID, "not PEM"},
		{"SEC 1", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}), testKeyID, testTeamID, `"EC PRIVATE KEY"`},
		{"encrypted", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: sec1}), testKeyID, testTeamID, "not encrypted"},
		{"garbage inside", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), testKeyID, testTeamID, "no PKCS#8 key"},
		{"P-384", p8(t, p384), testKeyID, testTeamID, "not a P-256 key"},
		{"RSA", p8(t, rsaKey), testKeyID, testTeamID, "not a P-256 key"},
		{"short key id", good, "ABC123DEF", testTeamID, "apns key id: must be 10"},
		{"odd key id", good, "ABC123DEF\n", testTeamID, "apns key id: must be 10"},
		{"no team id", good, testKeyID, "", "apns team id: must be 10"},
		{"long team id", good, testKeyID, testTeamID + "K", "apns team id: must be 10"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := LoadTokenKey(tc.pem, tc.keyID, tc.teamI); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	if _, err := LoadTokenKey(good, testKeyID, testTeamID); err != nil {
		t.Errorf("good key: %v", err)
	}
}

func TestTokenKeyIsNotPrinted(t *testing.T) {
	key, _ := newTokenKey(t)
	d := key.private.D.String() //nolint:staticcheck // the secret itself, to look for it
	var log bytes.Buffer
	cert := tlsCertificate(t, universal())
	s, err := New(Config{Environment: Production, Topic: testTopic, TokenKey: key})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("x", slog.Any("key", key), slog.Any("config", Config{Topic: testTopic, TokenKey: key}),
		slog.Any("other", Config{Certificate: cert}), slog.Any("sender", s))
	text := log.String() + fmt.Sprintf("%v %+v %#v %+v", key, key, key, Config{TokenKey: key, Certificate: cert})
	if strings.Contains(text, d) || strings.Contains(text, "PrivateKey") {
		t.Errorf("the key shows in %s", text)
	}
	if !strings.Contains(text, testKeyID) {
		t.Errorf("the key id does not show in %s", text)
	}
}

// TestTokenLife walks two days minute by minute on two nodes and holds the tokens to Apple's rules.
func TestTokenLife(t *testing.T) {
	key, public := newTokenKey(t)
	a, b := &minter{key: key}, &minter{key: key}
	start := time.Date(2026, 11, 22, 0, 0, 30, 0, time.UTC)
	var last string
	var changed time.Time
	changes := 0
	for now := start; now.Before(start.Add(48 * time.Hour)); now = now.Add(time.Minute) {
		jwt, err := a.current(now)
		if err != nil {
			t.Fatal(err)
		}
		if now.Minute()%7 == 0 { // node b restarts often
			b = &minter{key: key}
		}
		if other, _ := b.current(now); other != jwt {
			t.Fatalf("%s: two nodes use two tokens", now)
		}
		if jwt == last {
			continue
		}
		iat, err := verifyJWT(jwt, public)
		if err != nil {
			t.Fatalf("%s: %v", now, err)
		}
		if age := now.Sub(iat); age < 4*time.Minute || (age > 6*time.Minute && changes > 0) {
			t.Fatalf("%s: a new token is %s old", now, age)
		}
		if changes > 1 && now.Sub(changed) < 20*time.Minute {
			t.Fatalf("%s: changed again after %s", now, now.Sub(changed))
		}
		if changes > 1 && now.Sub(changed) > 50*time.Minute {
			t.Fatalf("%s: changed only after %s", now, now.Sub(changed))
		}
		last, changed = jwt, now
		changes++
	}
	if changes < 72 || changes > 74 {
		t.Errorf("%d tokens in two days", changes)
	}
}

func TestRemint(t *testing.T) {
	key, public := newTokenKey(t)
	m := &minter{key: key}
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	first, err := m.current(now)
	if err != nil {
		t.Fatal(err)
	}
	// A hundred requests come back with the same refusal: one new token for all of them.
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		fresh = map[string]bool{}
	)
	for range 100 {
		wg.Go(func() {
			jwt, err := m.remint(first, now)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			fresh[jwt] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(fresh) != 1 || fresh[first] {
		t.Fatalf("%d tokens, the refused one among them: %v", len(fresh), fresh[first])
	}
	second, err := m.current(now.Add(time.Minute))
	if err != nil || !fresh[second] {
		t.Fatalf("the new token is not in use: %v", err)
	}
	if iat, err := verifyJWT(second, public); err != nil || !iat.Equal(now) {
		t.Errorf("iat %s, error %v", iat, err)
	}
	// Refused again at once: not a question of age, so no more tokens.
	if _, err := m.remint(second, now.Add(time.Minute)); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("second remint: %v", err)
	}
	if _, err := m.remint(second, now.Add(20*time.Minute)); err != nil {
		t.Errorf("remint after the pause: %v", err)
	}
}

func TestKeepToken(t *testing.T) {
	key, public := newTokenKey(t)
	m := &minter{key: key}
	// The start of a bucket plus the settling time: a token at the start of its use.
	now := time.Unix(2400*743000+300, 0)
	first, err := m.current(now)
	if err != nil {
		t.Fatal(err)
	}
	almost := now.Add(39 * time.Minute)
	m.rest(almost) // Apple: too many updates; the next one is due in a minute
	if jwt, _ := m.current(almost.Add(5 * time.Minute)); jwt != first {
		t.Error("the token changed although Apple asked to keep it")
	}
	if _, err := m.remint(first, almost.Add(time.Minute)); err == nil {
		t.Error("a token was made out of turn although Apple asked to keep it")
	}
	jwt, err := m.current(almost.Add(7 * time.Minute))
	if err != nil || jwt == first {
		t.Errorf("the token is still in use at 51 minutes (%v)", err)
	}
	if _, err := verifyJWT(jwt, public); err != nil {
		t.Error(err)
	}
	// The clock is set back by a day: the token at hand would be from the future.
	back := now.Add(-24 * time.Hour)
	jwt, err = m.current(back)
	if err != nil {
		t.Fatal(err)
	}
	if iat, err := verifyJWT(jwt, public); err != nil || iat.After(back) {
		t.Errorf("iat %s at %s (%v)", iat, back, err)
	}
}
