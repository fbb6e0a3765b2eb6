package fcm

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// verifyAssertion is the other side of RFC 7523, sharing nothing with the code under test.
func verifyAssertion(r *http.Request, audience string) error {
	if ct := r.Header.Get("Content-Type"); ct != "application/x-www-form-urlencoded" {
		return fmt.Errorf("content type %q", ct)
	}
	if g := r.PostFormValue("grant_type"); g != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		return fmt.Errorf("grant type %q", g)
	}
	parts := strings.Split(r.PostFormValue("assertion"), ".")
	if len(parts) != 3 {
		return fmt.Errorf("assertion of %d parts", len(parts))
	}
	var raw [3][]byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.DecodeString(p)
		if err != nil {
			return fmt.Errorf("part %d: %w", i, err)
		}
		raw[i] = b
	}
	var head struct{ Alg, Typ, Kid string }
	var claims struct {
		Iss, Scope, Aud string
		Iat, Exp        int64
	}
	if err := json.Unmarshal(raw[0], &head); err != nil {
		return err
	}
	if err := json.Unmarshal(raw[1], &claims); err != nil {
		return err
	}
	if head.Alg != "RS256" || head.Typ != "JWT" || head.Kid != "0123abcd" {
		return fmt.Errorf("header %+v", head)
	}
	now := time.Now()
	if claims.Iss != "push@posthorn-test.iam.gserviceaccount.com" || claims.Aud != audience || claims.Scope != "https://www.googleapis.com/auth/firebase.messaging" {
		return fmt.Errorf("claims %+v", claims)
	}
	iat, exp := time.Unix(claims.Iat, 0), time.Unix(claims.Exp, 0)
	if iat.After(now) || now.Sub(iat) > time.Minute || !exp.After(now.Add(50*time.Minute)) || exp.Sub(iat) > time.Hour {
		return fmt.Errorf("iat %s, exp %s", iat, exp)
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	return rsa.VerifyPKCS1v15(&testKey().PublicKey, crypto.SHA256, digest[:], raw[2])
}

func TestRefreshAfter401(t *testing.T) {
	const refusal = `{"error":{"code":401,"message":"Request had invalid authentication credentials.","status":"UNAUTHENTICATED"}}`
	f := startFirebase(t)
	f.send = func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.Header.Get("Authorization") == "Bearer access-1" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, refusal)
		}
	}
	s := f.sender(t, nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if o := s.Send(t.Context(), testToken, testMessage()); o.Kind != outcome.Delivered {
				t.Errorf("outcome %+v", o)
			}
		})
	}
	wg.Wait()
	if n, _ := f.counts(); n != 2 {
		t.Errorf("%d token exchanges for one refused token", n)
	}
	// Refused whatever we present: one refresh, then blocked.
	f.mu.Lock()
	f.send = func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, refusal)
	}
	f.sends = 0
	f.mu.Unlock()
	o := s.Send(t.Context(), testToken, testMessage())
	if exchanges, sends := f.counts(); o.Kind != outcome.Blocked || o.Reason != "UNAUTHENTICATED" || exchanges != 3 || sends != 2 {
		t.Errorf("outcome %+v after %d exchanges, %d sends", o, exchanges, sends)
	}
}

func TestThirdPartyAuthErrorDoesNotRefresh(t *testing.T) {
	f := startFirebase(t)
	f.send = func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write(apiBody(401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", "THIRD_PARTY_AUTH_ERROR"))
	}
	o := f.sender(t, nil).Send(t.Context(), testToken, testMessage())
	if exchanges, sends := f.counts(); o.Kind != outcome.Blocked || o.Reason != "THIRD_PARTY_AUTH_ERROR" || exchanges != 1 || sends != 1 {
		t.Errorf("outcome %+v after %d exchanges, %d sends", o, exchanges, sends)
	}
}

func TestAccessTokenLife(t *testing.T) {
	f := startFirebase(t)
	now := time.Now()
	s := f.sender(t, func(c *Config) { c.Now = func() time.Time { return now } })
	send := func(wantKind outcome.Kind, wantExchanges int) {
		t.Helper()
		o := s.Send(t.Context(), testToken, testMessage())
		if n, _ := f.counts(); o.Kind != wantKind || n != wantExchanges {
			t.Errorf("after %s: %d exchanges, outcome %+v", time.Until(now), n, o)
		}
	}
	if !s.TokenSince().IsZero() {
		t.Error("a token before the first send")
	}
	send(outcome.Delivered, 1)
	if got := s.TokenSince(); got.UnixMilli() != now.UnixMilli() {
		t.Errorf("token of %s, want %s", got, now)
	}
	now = now.Add(57 * time.Minute)
	send(outcome.Delivered, 1)
	now = now.Add(90 * time.Second) // 98 s left: due
	send(outcome.Delivered, 2)
	// A failing exchange does not hurt while the old token lasts.
	f.mu.Lock()
	f.token = func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusBadGateway) }
	f.mu.Unlock()
	now = now.Add(58 * time.Minute)
	send(outcome.Delivered, 3)
	send(outcome.Delivered, 3) // and is not repeated at once
	now = now.Add(5 * time.Minute)
	send(outcome.Later, 4)
	send(outcome.Later, 4)
	now = now.Add(failurePause)
	send(outcome.Later, 5)
}

func TestTokenExchangeFails(t *testing.T) {
	body := func(status int, text string) func(http.ResponseWriter, *http.Request, int) {
		return func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	tests := []struct {
		name   string
		token  func(http.ResponseWriter, *http.Request, int)
		kind   outcome.Kind
		reason string
		after  time.Duration
		text   string
	}{
		{"invalid_grant", body(400, `{"error":"invalid_grant","error_description":"Invalid JWT Signature."}`), outcome.Blocked, "invalid_grant", 0, "Invalid JWT Signature."},
		{"unauthorized_client", body(401, `{"error":"unauthorized_client"}`), outcome.Blocked, "unauthorized_client", 0, "401"},
		{"unknown word", body(400, `{"error":"weather","error_description":["x"]}`), outcome.Blocked, "token_refused", 0, "400"},
		{"404 with HTML", body(404, `<html>`), outcome.Blocked, "token_refused", 0, "404"},
		{"redirect", func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, outcome.Blocked, "token_refused", 0, "307"},
		{"429", func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Retry-After", "77")
			w.WriteHeader(http.StatusTooManyRequests)
		}, outcome.Later, "token_unavailable", 77 * time.Second, "429"},
		{"500", body(500, `{"error":"invalid_grant"}`), outcome.Later, "token_unavailable", 10 * time.Second, "500"},
		{"portal", body(200, `<html>Welcome to our hotel</html>`), outcome.Later, "token_response", 0, "holds none"},
		{"empty token", body(200, `{"access_token":"","expires_in":3599}`), outcome.Later, "token_response", 0, "holds none"},
		{"cut", func(_ http.ResponseWriter, _ *http.Request, _ int) { panic(http.ErrAbortHandler) }, outcome.Later, "connection", 0, "fetch access token"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			f := startFirebase(t)
			f.token = tc.token
			o := f.sender(t, nil).Send(t.Context(), testToken, testMessage())
			if o.Kind != tc.kind || o.Reason != tc.reason || o.RetryAfter != tc.after || o.Err == nil || !strings.Contains(o.Err.Error(), tc.text) {
				t.Errorf("outcome %+v", o)
			}
			if _, sends := f.counts(); sends != 0 {
				t.Errorf("%d sends", sends)
			}
		})
	}
}

// TestExchangeIsNotAStampede: many messages that wait for one access token cause one exchange, also
// when it fails.
func TestExchangeIsNotAStampede(t *testing.T) {
	for _, status := range []int{200, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			f := startFirebase(t)
			granted := f.token
			f.token = func(w http.ResponseWriter, r *http.Request, n int) {
				if status != 200 {
					w.WriteHeader(status)
					return
				}
				granted(w, r, n)
			}
			now := time.Now()
			s := f.sender(t, func(c *Config) { c.Now = func() time.Time { return now } })
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() { s.Send(t.Context(), testToken, testMessage()) })
			}
			wg.Wait()
			if n, _ := f.counts(); n != 1 {
				t.Errorf("%d exchanges", n)
			}
		})
	}
}
