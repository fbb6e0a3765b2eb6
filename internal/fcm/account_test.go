package fcm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
)

// testKey is shared: RSA keys are slow to make.
var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func keyPEM(tb testing.TB, key any) string {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// accountFile is a service account as the Firebase console hands it out.
func accountFile(tb testing.TB, tokenURI string) map[string]any {
	tb.Helper()
	return map[string]any{
		"type": "service_account", "project_id": "posthorn-test", "private_key_id": "0123abcd",
		"private_key": keyPEM(tb, testKey()), "client_email": "push@posthorn-test.iam.gserviceaccount.com",
		"client_id": "1", "auth_uri": "https://accounts.google.com/o/oauth2/auth", "token_uri": tokenURI,
		"universe_domain": "googleapis.com",
	}
}

func encode(tb testing.TB, v any) []byte {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestServiceAccountRefused(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // weak on purpose
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := func(field string, v any) func(map[string]any) { return func(m map[string]any) { m[field] = v } }
	tests := []struct {
		name   string
		change func(map[string]any)
		want   string
	}{
		{"no type", set("type", nil), "type: missing"},
		{"other type", set("type", "authorized_user"), `type: is "authorized_user"`},
		{"no project", set("project_id", ""), "project_id: missing"},
		{"odd project", set("project_id", "a/../b"), "project_id: is not"},
		{"project is a number", set("project_id", 7), "project_id: must be a string"},
		{"no address", set("client_email", ""), "client_email: missing"},
		{"odd address", set("client_email", "me"), "client_email: is not"},
		{"no key", set("private_key", ""), "private_key: missing"},
		{"key not PEM", set("private_key", "secret-bytes"), "private_key: not PEM"},
		{"key garbage", set("private_key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}))), "private_key: holds no"},
		{"key too small", set("private_key", keyPEM(t, small)), "private_key: an RSA key of 1024"},
		{"key not RSA", set("private_key", keyPEM(t, ec)), "private_key: not an RSA"},
		{"no token address", set("token_uri", ""), "token_uri: missing"},
		{"token address in clear", set("token_uri", "http://oauth2.googleapis.com/token"), "token_uri: must be an https"},
		{"token address odd", set("token_uri", "https://u:p@x/"), "token_uri: must be an https"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			m := accountFile(t, "https://oauth2.googleapis.com/token")
			tc.change(m)
			_, err := New(Config{ServiceAccount: encode(t, m)})
			if err == nil || !strings.Contains(err.Error(), "fcm service account: "+tc.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	good := encode(t, accountFile(t, "https://oauth2.googleapis.com/token"))
	for name, b := range map[string][]byte{"empty": nil, "not JSON": []byte("{secret"), "a list": []byte("[]"), "null": []byte("null"), "trailing": append(slices.Clone(good), "{}"...)} {
		if _, err := New(Config{ServiceAccount: b}); err == nil || !strings.HasPrefix(err.Error(), "fcm service account: ") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	pkcs1 := accountFile(t, "https://oauth2.googleapis.com/token")
	pkcs1["private_key"] = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(testKey())}))
	if _, err := New(Config{ServiceAccount: encode(t, pkcs1)}); err != nil {
		t.Errorf("PKCS#1 key: %v", err)
	}
	for _, endpoint := range []string{"http://fcm.example", "https://x/v1", "ftp://x", "https://u@x", "https://x?y", "://"} {
		if _, err := New(Config{ServiceAccount: good, Endpoint: endpoint}); err == nil || !strings.Contains(err.Error(), "fcm endpoint") {
			t.Errorf("endpoint %s: error %v", endpoint, err)
		}
	}
	s, err := New(Config{ServiceAccount: good})
	if err != nil || s.url != "https://fcm.googleapis.com/v1/projects/posthorn-test/messages:send" {
		t.Errorf("google's address: %v", err)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	f := startFirebase(t)
	c := Config{ServiceAccount: encode(t, accountFile(t, f.URL+"/token")), Endpoint: f.URL, HTTP: f.Client()}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.Send(t.Context(), testToken, testMessage())
	a, err := parseAccount(c.ServiceAccount)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", slog.Any("config", c), slog.Any("sender", s), slog.Any("account", a))
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", slog.Any("config", c), slog.Any("sender", s), slog.Any("account", a))
	text := log.String() + fmt.Sprintf("%v %+v", a, a)
	if strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, "access-1") || !strings.Contains(text, "posthorn-test") {
		t.Errorf("log: %s", text)
	}
}
