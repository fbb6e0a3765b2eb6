package webpush

import (
	"crypto/ecdh"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/outbound"
)

const (
	authSize = 16   // bytes, RFC 8291 section 3.2
	maxToken = 4096 // bytes of JSON; endpoints end at outbound.MaxURL
)

// Subscription is where to send and for whom to encrypt.
type Subscription struct {
	Endpoint string // the push resource URL
	Keys
}

// Keys are for whom to encrypt.
type Keys struct {
	P256dh []byte // the receiver's public key: an uncompressed point on P-256, 65 bytes
	Auth   []byte // the shared secret, 16 bytes
}

// LogValue returns nothing of them.
func (Keys) LogValue() slog.Value { return slog.StringValue("keys") }

// String returns nothing of them.
func (Keys) String() string { return "keys" }

// String returns only the endpoint's origin.
func (s Subscription) String() string {
	u, err := outbound.ParseURL(s.Endpoint)
	if err != nil {
		return "invalid endpoint"
	}
	return originOf(u)
}

// LogValue returns only the endpoint's origin.
func (s Subscription) LogValue() slog.Value { return slog.StringValue(s.String()) }

// FieldError names the member of a subscription request that is at fault. The subscription is the
// request's "token" member.
type FieldError struct {
	Field   string // "token.keys.p256dh"
	Problem string // a phrase to follow the field's name, "is missing"; never holds the value
}

// Error implements error.
func (e *FieldError) Error() string { return e.Field + " " + e.Problem }

// ParseSubscription reads the JSON form of a browser's PushSubscription (Push API section 8). Members it
// does not know are ignored. Its errors are *FieldError. Whether the endpoint may be dialled is outbound's
// question.
func ParseSubscription(text []byte) (Subscription, error) {
	if len(text) > maxToken {
		return Subscription{}, &FieldError{"token", "is longer than 4096 bytes"}
	}
	var in *struct {
		Endpoint string   `json:"endpoint"`
		Keys     keysJSON `json:"keys"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		field := "token"
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
			return Subscription{}, &FieldError{field + "." + wrong.Field, "has the wrong type"}
		}
		return Subscription{}, &FieldError{field, "is not a JSON object"}
	}
	if in == nil {
		return Subscription{}, &FieldError{"token", "is missing"}
	}
	sub := Subscription{Endpoint: in.Endpoint}
	if sub.Endpoint == "" {
		return Subscription{}, &FieldError{"token.endpoint", "is missing"}
	}
	if _, err := outbound.ParseURL(sub.Endpoint); err != nil {
		problem := "is not a URL"
		if refused, ok := errors.AsType[*outbound.RefusedError](err); ok {
			problem = "is refused: " + refused.Reason
		}
		return Subscription{}, &FieldError{"token.endpoint", problem}
	}
	var err error
	if sub.Keys, err = in.Keys.decode("token.keys"); err != nil {
		return Subscription{}, err
	}
	return sub, nil
}

// keysJSON is the form of keys in a browser's PushSubscription.
type keysJSON struct {
	P256dh string `json:"p256dh"`
	Auth   string `json:"auth"`
}

// ParseKeys reads {"p256dh": "…", "auth": "…"}, the member "keys" of a request. Its errors are *FieldError.
func ParseKeys(text []byte) (Keys, error) {
	var in *keysJSON
	if err := json.Unmarshal(text, &in); err != nil || in == nil {
		return Keys{}, &FieldError{"keys", `is not an object {"p256dh": "…", "auth": "…"}`}
	}
	return in.decode("keys")
}

func (in keysJSON) decode(field string) (k Keys, err error) {
	var problem string
	if k.P256dh, problem = decodeKey(in.P256dh, keySize); problem != "" {
		return Keys{}, &FieldError{field + ".p256dh", problem}
	}
	// NewPublicKey takes the uncompressed form only, and no point off the curve.
	if _, err := ecdh.P256().NewPublicKey(k.P256dh); err != nil {
		return Keys{}, &FieldError{field + ".p256dh", "is not an uncompressed point on P-256"}
	}
	if k.Auth, problem = decodeKey(in.Auth, authSize); problem != "" {
		return Keys{}, &FieldError{field + ".auth", problem}
	}
	return k, nil
}

// decodeKey reads base64url with or without padding.
func decodeKey(text string, size int) (key []byte, problem string) {
	if text == "" {
		return nil, "is missing"
	}
	enc := base64.RawURLEncoding
	if strings.HasSuffix(text, "=") {
		enc = base64.URLEncoding
	}
	// The decoder skips line breaks, which no browser sends.
	key, err := enc.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, "is not base64url"
	}
	if len(key) != size {
		return nil, "has the wrong length"
	}
	return key, ""
}
