package push

import (
	"encoding/base64"
	"encoding/json"

	"github.com/posthorn-mail/posthorn/internal/webpush"
)

// sealedContent is what only the app can read.
type sealedContent struct {
	facts
	Badge   *int   `json:"badge,omitempty"`
	Sender  string `json:"sender,omitempty"`
	Subject string `json:"subject,omitempty"`
}

// envelope is what everybody on the way can read of a sealed notification: whom it is for.
func envelope(n Notification) facts {
	return facts{User: n.Subscription.User.String(), Topic: n.Input.Topic, Version: n.Version}
}

// keysOf reads the keys of a device; ok is false when it has none, and gets less instead.
func keysOf(n Notification) (keys webpush.Keys, ok bool) {
	return keys, len(n.Subscription.Keys) > 0 && json.Unmarshal(n.Subscription.Keys, &keys) == nil
}

// of is the level that one notification gets: who has given no key cannot be sealed to.
func (p Privacy) of(n Notification) Privacy {
	if p == PrivacySealed {
		if _, ok := keysOf(n); !ok {
			return PrivacyNone
		}
	}
	return p
}

// sealFor encrypts what a notification tells for its device, cut so that its base64url is at most limit long.
func sealFor(n Notification, limit int) (string, error) {
	keys, _ := keysOf(n)
	plain := fit(PrivacySealed.view(n), limit, func(v view) ([]byte, int) {
		b := encode(sealedContent{factsOf(n), n.badge(), v.sender, v.subject})
		return b, base64.RawURLEncoding.EncodedLen(webpush.EncryptedSize(len(b)))
	})
	body, err := webpush.Encrypt(keys, plain)
	return base64.RawURLEncoding.EncodeToString(body), err
}

// ParseKeys reads the keys that an app wants its notifications sealed with. Errors are *TokenError.
func ParseKeys(raw json.RawMessage) ([]byte, error) {
	keys, err := webpush.ParseKeys(raw)
	if err != nil {
		return nil, fieldError(err, "keys")
	}
	return encode(keys), nil
}
