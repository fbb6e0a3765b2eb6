package fcm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// MaxData is the most bytes that the data of a message may have. Google counts keys and values, in
// UTF-8 and after JSON is undone; the JSON around them, the token and the android block are free.
const MaxData = 4096

// maxTTL is the longest that FCM keeps a message: 28 days.
const maxTTL = 28 * 24 * time.Hour

// The two priorities. High is for what shows a notification: it wakes a sleeping device.
const (
	High   = "HIGH"
	Normal = "NORMAL"
)

// Message is a data message: the app decides what to show. (A notification message would be shown by
// Android itself, and ignore the collapse key.)
type Message struct {
	// Data is what the app gets; keys and values in UTF-8, together at most [MaxData] bytes.
	Data     map[string]string
	Priority string
	// TTL is how long FCM keeps the message for a device that is away, up to 28 days. 0 means not at all.
	TTL time.Duration
	// CollapseKey replaces a waiting message with the same key; FCM keeps four keys per device.
	CollapseKey string
	// RestrictedPackage, when set, is the only Android package that may receive the message.
	RestrictedPackage string
}

// CheckToken refuses what cannot be a registration token. The error does not repeat the token.
func CheckToken(s string) error {
	if s == "" || len(s) > 4096 {
		return fmt.Errorf("registration token: must have 1 to 4096 characters, has %d", len(s))
	}
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return errors.New("registration token: must be visible ASCII without spaces")
		}
	}
	return nil
}

func (m Message) size() int {
	n := 0
	for k, v := range m.Data {
		n += len(k) + len(v)
	}
	return n
}

// The wire form (REST reference, projects.messages).
type wireBody struct {
	Message wireMessage `json:"message"`
}

type wireMessage struct {
	Token   string            `json:"token"`
	Data    map[string]string `json:"data,omitempty"`
	Android wireAndroid       `json:"android"`
}

type wireAndroid struct {
	Priority              string `json:"priority"`
	TTL                   string `json:"ttl"` // seconds, as google.protobuf.Duration writes them
	CollapseKey           string `json:"collapse_key,omitempty"`
	RestrictedPackageName string `json:"restricted_package_name,omitempty"`
}

func (m Message) encode(token string) ([]byte, error) {
	if m.Priority != High && m.Priority != Normal {
		return nil, errors.New("priority: must be HIGH or NORMAL")
	}
	ttl := min(max(0, m.TTL), maxTTL)
	body, err := json.Marshal(wireBody{wireMessage{
		Token: token,
		Data:  m.Data,
		Android: wireAndroid{
			Priority:              m.Priority,
			TTL:                   strconv.FormatInt(int64(ttl/time.Second), 10) + "s",
			CollapseKey:           m.CollapseKey,
			RestrictedPackageName: m.RestrictedPackage,
		},
	}})
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return body, nil
}
