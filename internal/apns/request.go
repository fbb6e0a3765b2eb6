package apns

import (
	"errors"
	"strconv"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// The push types that mail needs. A background push must have priority 5.
const (
	Alert      = "alert"
	Background = "background"
)

// Message is one notification.
type Message struct {
	// ID is a UUID in lower case. The same on every retry: Apple echoes it, and it is how a repeated
	// notification can be recognised.
	ID string
	// Payload is the JSON document with "aps", at most [MaxPayload] bytes.
	Payload  []byte
	PushType string
	// Priority is 10 (at once), 5 (power-aware) or 1 (do not wake).
	Priority int
	// Expiration is how long Apple keeps the notification for a device that is away (30 days at
	// most). Zero means not at all: try once.
	Expiration time.Time
	// CollapseID replaces a shown notification with the same id; at most 64 bytes, empty for none.
	CollapseID string
}

// Device tokens are of variable length by Apple's word. 32 bytes are usual, 80 occur.
const (
	minTokenDigits = 64
	maxTokenDigits = 512
)

// CheckDeviceToken refuses what cannot be a device token. The error does not repeat the token.
func CheckDeviceToken(s string) error {
	switch {
	case len(s) < minTokenDigits || len(s) > maxTokenDigits || len(s)%2 != 0:
		return errors.New("device token: must have 64 to 512 hexadecimal digits, an even number")
	case !hexadecimal(s, true):
		return errors.New("device token: must be hexadecimal digits only")
	}
	return nil
}

func hexadecimal(s string, upper bool) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (!upper || c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

// isUUID takes Apple's canonical form only: 32 lower-case digits as 8-4-4-4-12.
func isUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return hexadecimal(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:], false)
}

func visibleASCII(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// precheck finds what Apple would refuse, without asking, and says it in Apple's words.
func precheck(token string, m Message) (outcome.Outcome, bool) {
	refused := func(reason, detail string) (outcome.Outcome, bool) {
		return outcome.Outcome{Kind: outcome.Refused, Reason: reason, Err: errors.New(detail)}, false
	}
	if err := CheckDeviceToken(token); err != nil {
		return outcome.Outcome{Kind: outcome.Suspect, Reason: "BadDeviceToken", Err: err}, false
	}
	switch {
	case !isUUID(m.ID):
		return refused("BadMessageId", "message id: must be a lower-case UUID")
	case len(m.Payload) == 0:
		return refused("PayloadEmpty", "payload: empty")
	case len(m.Payload) > MaxPayload:
		return refused("PayloadTooLarge", "payload: "+strconv.Itoa(len(m.Payload))+" bytes, the limit is "+strconv.Itoa(MaxPayload))
	case m.PushType != Alert && m.PushType != Background:
		return refused("InvalidPushType", "push type: must be alert or background")
	case m.Priority != 10 && m.Priority != 5 && m.Priority != 1:
		return refused("BadPriority", "priority: must be 10, 5 or 1")
	case m.PushType == Background && m.Priority != 5:
		return refused("BadPriority", "priority: a background push must have 5")
	case len(m.CollapseID) > 64 || !visibleASCII(m.CollapseID):
		return refused("BadCollapseId", "collapse id: at most 64 bytes of visible ASCII")
	}
	return outcome.Outcome{}, true
}

// field is one header field; names are in lower case as HTTP/2 wants them (RFC 9113 section 8.2).
type field struct{ name, value string }

// request is what any HTTP/2 connection needs to know, ours or net/http's.
type request struct {
	path   string
	fields []field
	body   []byte
}

// build expects what precheck let pass. jwt is empty with certificate authentication.
func build(topic, token, jwt string, m Message) request {
	expiration := int64(0)
	if !m.Expiration.IsZero() {
		expiration = max(0, m.Expiration.Unix())
	}
	r := request{
		path: "/3/device/" + token,
		body: m.Payload,
		fields: []field{
			{"apns-id", m.ID},
			{"apns-topic", topic},
			{"apns-push-type", m.PushType},
			{"apns-priority", strconv.Itoa(m.Priority)},
			{"apns-expiration", strconv.FormatInt(expiration, 10)},
			{"content-type", "application/json"},
			{"user-agent", "Posthorn"},
		},
	}
	if m.CollapseID != "" {
		r.fields = append(r.fields, field{"apns-collapse-id", m.CollapseID})
	}
	if jwt != "" {
		r.fields = append(r.fields, field{"authorization", "bearer " + jwt})
	}
	return r
}
