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
	return hexadecimal(s[:8], false) && hexadecimal(s[9:13], false) && hexadecimal(s[14:18], false) &&
		hexadecimal(s[19:23], false) && hexadecimal(s[24:], false)
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

// request is one notification on its way, as any HTTP/2 connection needs it, ours or net/http's. It
// expects what precheck let pass; jwt is empty with certificate authentication.
type request struct {
	topic, token, jwt string
	m                 Message
}

// devicePath precedes the device token in :path.
const devicePath = "/3/device/"

// expiration is in Unix seconds; 0 is "try once".
func (r *request) expiration() int64 {
	if r.m.Expiration.IsZero() {
		return 0
	}
	return max(0, r.m.Expiration.Unix())
}

// field is one header field; names are in lower case as HTTP/2 wants them (RFC 9113 section 8.2).
type field struct{ name, value string }

// fields are the header fields beside those that HTTP itself wants.
func (r *request) fields() []field {
	fields := []field{
		{"apns-id", r.m.ID},
		{"apns-topic", r.topic},
		{"apns-push-type", r.m.PushType},
		{"apns-priority", strconv.Itoa(r.m.Priority)},
		{"apns-expiration", strconv.FormatInt(r.expiration(), 10)},
		{"content-type", contentType},
		{"user-agent", userAgent},
	}
	if r.m.CollapseID != "" {
		fields = append(fields, field{"apns-collapse-id", r.m.CollapseID})
	}
	if r.jwt != "" {
		fields = append(fields, field{"authorization", "bearer " + r.jwt})
	}
	return fields
}

const (
	contentType = "application/json"
	userAgent   = "Posthorn"
)
