package fake

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	tokenPath  = "/token"
	fcmScope   = "https://www.googleapis.com/auth/firebase.messaging"
	grantType  = "urn:ietf:params:oauth:grant-type:jwt-bearer" // RFC 7523 section 2.1
	maxForm    = 16 << 10
	maxBearers = 1024 // access tokens remembered; a sender has one
)

// oauth issues access tokens to one service account, and knows them again.
type oauth struct {
	key   *rsa.PrivateKey
	keyID string
	email string
	life  time.Duration

	script atomic.Pointer[func(Delivery) *Answer]

	mu      sync.Mutex
	bearers map[string]time.Time // access token -> when it ends
	issued  int
}

func (o *oauth) init(cfg FCMConfig, project string) error {
	o.key, o.life = cfg.Key, cfg.TokenLife
	if o.key == nil {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return fmt.Errorf("fake: make service account key: %w", err)
		}
		o.key = key
	}
	if o.life == 0 {
		o.life = time.Hour
	}
	var id [20]byte
	_, _ = rand.Read(id[:])
	o.keyID = hex.EncodeToString(id[:])
	o.email = "posthorn@" + project + ".iam.gserviceaccount.com"
	o.bearers = map[string]time.Time{}
	return nil
}

// ServiceAccount is the JSON key file of the fake's service account. Its token_uri is the fake itself.
func (f *FCM) ServiceAccount() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(f.oauth.key)
	if err != nil {
		return nil, fmt.Errorf("fake: marshal service account key: %w", err)
	}
	return json.MarshalIndent(map[string]string{
		"type":                        "service_account",
		"project_id":                  f.project,
		"private_key_id":              f.oauth.keyID,
		"private_key":                 string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"client_email":                f.oauth.email,
		"client_id":                   "100000000000000000000",
		"auth_uri":                    f.url + "/auth",
		"token_uri":                   f.url + tokenPath,
		"auth_provider_x509_cert_url": f.url + "/certs",
		"client_x509_cert_url":        f.url + "/certs/posthorn",
		"universe_domain":             "googleapis.com",
	}, "", "  ")
}

// RevokeTokens makes every access token issued so far invalid.
func (f *FCM) RevokeTokens() {
	f.oauth.mu.Lock()
	defer f.oauth.mu.Unlock()
	clear(f.oauth.bearers)
}

// TokensIssued is how many access tokens were given out.
func (f *FCM) TokensIssued() int {
	f.oauth.mu.Lock()
	defer f.oauth.mu.Unlock()
	return f.oauth.issued
}

// ScriptToken is Script for the token endpoint, whose answers are counted under OAuth's error words,
// and with the reason "token" when one was issued. The delivery that the script sees is empty.
func (f *FCM) ScriptToken(script func(Delivery) *Answer) {
	if script == nil {
		f.oauth.script.Store(nil)
		return
	}
	f.oauth.script.Store(&script)
}

// checkBearer judges the Authorization headers of a send; the zero Answer means they are right.
func (o *oauth) checkBearer(values []string, now time.Time) Answer {
	refuse := Answer{Status: http.StatusUnauthorized, Reason: "UNAUTHENTICATED"}
	if len(values) != 1 {
		refuse.detail = "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential."
		return refuse
	}
	refuse.detail = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential."
	scheme, bearer, _ := strings.Cut(values[0], " ")
	o.mu.Lock()
	end, ok := o.bearers[bearer]
	o.mu.Unlock()
	if !strings.EqualFold(scheme, "bearer") || !ok || !now.Before(end) {
		return refuse
	}
	return Answer{}
}

// serveToken is the OAuth token endpoint for the JWT bearer grant (RFC 7523).
func (f *FCM) serveToken(w http.ResponseWriter, r *http.Request) {
	ans := f.checkGrant(w, r)
	if ans.Status == http.StatusOK {
		if script := f.oauth.script.Load(); script != nil {
			if given := (*script)(Delivery{}); given != nil {
				ans = *given
			}
		}
		if ans.Status == 0 {
			ans.Status, ans.Reason = http.StatusOK, "token"
		}
	}
	f.conclude(w, r, nil, ans, func(w http.ResponseWriter, ans Answer) {
		w.Header().Set("Cache-Control", "no-store")
		if ans.Status != http.StatusOK {
			writeJSON(w, ans.Status, map[string]string{"error": ans.Reason, "error_description": ans.detail})
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{
			"access_token": f.oauth.issue(f.now()),
			"expires_in":   int(f.oauth.life / time.Second),
			"token_type":   "Bearer",
		})
	})
}

func (o *oauth) issue(now time.Time) string {
	bearer := "fake." + rand.Text()
	o.mu.Lock()
	defer o.mu.Unlock()
	for b, end := range o.bearers {
		if !now.Before(end) || len(o.bearers) >= maxBearers {
			delete(o.bearers, b)
		}
	}
	o.bearers[bearer] = now.Add(o.life)
	o.issued++
	return bearer
}

func (f *FCM) checkGrant(w http.ResponseWriter, r *http.Request) Answer {
	refuse := func(word, detail string) Answer {
		return Answer{Status: http.StatusBadRequest, Reason: word, detail: detail}
	}
	if r.Method != http.MethodPost {
		return Answer{Status: http.StatusMethodNotAllowed, Reason: "invalid_request", detail: "the token endpoint takes POST"}
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return refuse("invalid_request", "the body must be application/x-www-form-urlencoded")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return refuse("invalid_request", err.Error())
	}
	if r.PostForm.Get("grant_type") != grantType {
		return refuse("unsupported_grant_type", "Invalid grant_type: "+r.PostForm.Get("grant_type"))
	}
	if detail, scope := f.oauth.checkAssertion(r.PostForm.Get("assertion"), f.url+tokenPath, f.now()); detail != "" {
		return refuse("invalid_grant", detail)
	} else if !strings.Contains(" "+scope+" ", " "+fcmScope+" ") {
		return refuse("invalid_scope", "the assertion must ask for "+fcmScope)
	}
	return Answer{Status: http.StatusOK, Reason: "token"}
}

// checkAssertion returns what is wrong with an assertion, or "" and the scope it asks for.
func (o *oauth) checkAssertion(raw, audience string, now time.Time) (fault, scope string) {
	jwt, err := parseJWT(raw)
	if err != nil {
		return "Invalid JWT: " + err.Error(), ""
	}
	if kid, ok := jwt.header["kid"]; ok && kid != o.keyID {
		return "Invalid JWT Signature: unknown key id.", ""
	}
	if err := jwt.verifyRS256(&o.key.PublicKey); err != nil {
		return "Invalid JWT Signature: " + err.Error(), ""
	}
	if text(jwt.claims, "iss") != o.email {
		return "Invalid issuer: Not found; account not found", ""
	}
	if text(jwt.claims, "aud") != audience {
		return "Invalid JWT: Failed audience check.", ""
	}
	issued, ok := moment(jwt.claims, "iat")
	end, ok2 := moment(jwt.claims, "exp")
	switch {
	case !ok || !ok2:
		return "Invalid JWT: iat and exp are required.", ""
	case issued.After(now):
		return "Invalid JWT: iat is in the future.", ""
	case !now.Before(end):
		return "Invalid JWT: Token must be a short-lived token and in a reasonable timeframe.", ""
	case end.Sub(issued) > time.Hour:
		return "Invalid JWT: exp is more than one hour after iat.", ""
	}
	return "", text(jwt.claims, "scope")
}
