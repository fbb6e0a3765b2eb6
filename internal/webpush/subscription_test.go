package webpush

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const (
	rfcP256dh = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
	rfcAuth   = "BTBZMqHH6r4Tts7J_aSIgg"
)

func subscriptionJSON(endpoint, p256dh, auth string) string {
	text, err := json.Marshal(map[string]any{
		"endpoint": endpoint, "expirationTime": nil, "keys": map[string]string{"p256dh": p256dh, "auth": auth},
	})
	if err != nil {
		panic(err)
	}
	return string(text)
}

func TestParseSubscription(t *testing.T) {
	const endpoint = "https://push.example.com/wpush/v2/gAAAAA"
	for name, text := range map[string]string{
		"browser":  subscriptionJSON(endpoint, rfcP256dh, rfcAuth),
		"padded":   subscriptionJSON(endpoint, rfcP256dh+"=", rfcAuth+"=="),
		"loopback": subscriptionJSON("http://127.0.0.1:8026/push/1", rfcP256dh, rfcAuth), // outbound decides
	} {
		sub, err := ParseSubscription([]byte(text))
		if err != nil || len(sub.P256dh) != 65 || len(sub.Auth) != 16 || !strings.Contains(text, sub.Endpoint) {
			t.Errorf("%s: %v, %v", name, sub, err)
		}
	}

	off := b64(t, rfcP256dh)
	off[64] ^= 1
	compressed := append([]byte{2}, b64(t, rfcP256dh)[1:33]...)
	hybrid := append([]byte{6}, b64(t, rfcP256dh)[1:]...)
	enc := base64.RawURLEncoding.EncodeToString
	for name, c := range map[string]struct{ text, field, problem string }{
		"nothing":           {"", "token", "is not a JSON object"},
		"null":              {"null", "token", "is missing"},
		"array":             {"[]", "token", "is not a JSON object"},
		"string":            {`"x"`, "token", "is not a JSON object"},
		"trailing":          {subscriptionJSON(endpoint, rfcP256dh, rfcAuth) + "{}", "token", "is not a JSON object"},
		"long":              {`{"endpoint":"` + strings.Repeat(" ", 4096) + `"}`, "token", "is longer than 4096 bytes"},
		"no endpoint":       {`{"keys":{}}`, "token.endpoint", "is missing"},
		"endpoint a number": {`{"endpoint":1}`, "token.endpoint", "has the wrong type"},
		"keys a string":     {`{"endpoint":"` + endpoint + `","keys":"x"}`, "token.keys", "has the wrong type"},
		"auth a list":       {`{"endpoint":"` + endpoint + `","keys":{"auth":[]}}`, "token.keys.auth", "has the wrong type"},
		"relative":          {subscriptionJSON("/push/1", rfcP256dh, rfcAuth), "token.endpoint", "is refused: the scheme is neither https nor http"},
		"user name":         {subscriptionJSON("https://u@push.example.com/", rfcP256dh, rfcAuth), "token.endpoint", "is refused: the URL holds a user name"},
		"no keys":           {`{"endpoint":"` + endpoint + `"}`, "token.keys.p256dh", "is missing"},
		"keys null":         {`{"endpoint":"` + endpoint + `","keys":null}`, "token.keys.p256dh", "is missing"},
		"p256dh hex":        {subscriptionJSON(endpoint, "!"+rfcP256dh[1:], rfcAuth), "token.keys.p256dh", "is not base64url"},
		"p256dh short":      {subscriptionJSON(endpoint, rfcP256dh[:84], rfcAuth), "token.keys.p256dh", "has the wrong length"},
		"p256dh off curve":  {subscriptionJSON(endpoint, enc(off), rfcAuth), "token.keys.p256dh", "is not an uncompressed point on P-256"},
		"p256dh compressed": {subscriptionJSON(endpoint, enc(compressed), rfcAuth), "token.keys.p256dh", "has the wrong length"},
		"p256dh hybrid":     {subscriptionJSON(endpoint, enc(hybrid), rfcAuth), "token.keys.p256dh", "is not an uncompressed point on P-256"},
		"p256dh zero":       {subscriptionJSON(endpoint, enc(make([]byte, 65)), rfcAuth), "token.keys.p256dh", "is not an uncompressed point on P-256"},
		"p256dh broken":     {subscriptionJSON(endpoint, rfcP256dh[:40]+"\n"+rfcP256dh[40:], rfcAuth), "token.keys.p256dh", "is not base64url"},
		"p256dh standard":   {subscriptionJSON(endpoint, strings.ReplaceAll(rfcP256dh, "_", "/"), rfcAuth), "token.keys.p256dh", "is not base64url"},
		"no auth":           {subscriptionJSON(endpoint, rfcP256dh, ""), "token.keys.auth", "is missing"},
		"auth short":        {subscriptionJSON(endpoint, rfcP256dh, rfcAuth[:20]), "token.keys.auth", "has the wrong length"},
		"auth long":         {subscriptionJSON(endpoint, rfcP256dh, rfcP256dh), "token.keys.auth", "has the wrong length"},
		"auth half padded":  {subscriptionJSON(endpoint, rfcP256dh, rfcAuth+"="), "token.keys.auth", "is not base64url"},
		"auth loose bits":   {subscriptionJSON(endpoint, rfcP256dh, rfcAuth[:21]+"h"), "token.keys.auth", "is not base64url"},
	} {
		_, err := ParseSubscription([]byte(c.text))
		var field *FieldError
		if !errors.As(err, &field) || field.Field != c.field || field.Problem != c.problem {
			t.Errorf("%s: got %v, want %s %s", name, err, c.field, c.problem)
		}
	}
}

func TestSubscriptionIsRedacted(t *testing.T) {
	sub, err := ParseSubscription([]byte(subscriptionJSON("https://push.example.com/secret-path?secret=query", rfcP256dh, rfcAuth)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("sent", slog.Any("subscription", sub), slog.Any("message", Message{Body: []byte("secret body")}))
	fmt.Fprintf(&out, "%v %+v %s", sub, &sub, sub)
	if text := out.String(); strings.Contains(text, "secret") || strings.Contains(text, rfcAuth) || strings.Count(text, "https://push.example.com") != 4 {
		t.Errorf("logged %s", text)
	}
	if (Subscription{Endpoint: "secret"}).String() != "invalid endpoint" {
		t.Error("a bad endpoint is shown")
	}
}

func FuzzParseSubscription(f *testing.F) {
	f.Add([]byte(subscriptionJSON("https://push.example.com/x", rfcP256dh, rfcAuth)))
	f.Add([]byte(subscriptionJSON("http://[::1]:80/x#f", rfcP256dh+"=", rfcAuth+"==")))
	f.Add([]byte(`{"endpoint":"https://a","keys":{"p256dh":"BA","auth":1}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		sub, err := ParseSubscription(text)
		if err != nil {
			if _, ok := errors.AsType[*FieldError](err); !ok {
				t.Fatalf("%v is not a *FieldError", err)
			}
			return
		}
		if _, err := Encrypt(sub.Keys, []byte("x")); err != nil {
			t.Fatalf("accepted, but cannot be encrypted for: %v", err)
		}
		if origin := sub.String(); !strings.HasPrefix(origin, "http") || strings.Count(origin, "/") != 2 {
			t.Fatalf("accepted %q with origin %q", sub.Endpoint, origin)
		}
	})
}

func TestParseKeys(t *testing.T) {
	text := func(p256dh, auth string) string { return fmt.Sprintf(`{"p256dh":%q,"auth":%q}`, p256dh, auth) }
	keys, err := ParseKeys([]byte(text(rfcP256dh, rfcAuth)))
	if err != nil || len(keys.P256dh) != 65 || len(keys.Auth) != 16 {
		t.Errorf("good keys: %v", err)
	}
	for in, field := range map[string]string{
		`null`: "keys", `[]`: "keys", `{"p256dh":7}`: "keys", `{}`: "keys.p256dh", text("", rfcAuth): "keys.p256dh",
		text(rfcP256dh, ""): "keys.auth", text(rfcAuth, rfcAuth): "keys.p256dh", text("A"+rfcP256dh[1:], rfcAuth): "keys.p256dh",
	} {
		var wrong *FieldError
		if _, err := ParseKeys([]byte(in)); !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%s: %v, want a fault of %s", in, err, field)
		}
	}
	if shown := fmt.Sprint(keys) + fmt.Sprintf("%v", keys.LogValue()); strings.Contains(shown, fmt.Sprint(keys.Auth[0])) {
		t.Errorf("keys are shown: %s", shown)
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(`{"p256dh":%q,"auth":%q}`, rfcP256dh, rfcAuth)))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := ParseKeys(text)
		if err != nil {
			return
		}
		if _, err := Encrypt(keys, []byte("x")); err != nil {
			t.Errorf("keys that were taken cannot be used: %v", err)
		}
	})
}
