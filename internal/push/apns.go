package push

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// APNsApp is one app's credential and the clients it is for.
type APNsApp struct {
	Match  func(client string) bool
	Topic  string
	Sender *apns.Sender
	// Privacy, when set, takes the place of the transport's.
	Privacy Privacy
	// Expires is when a certificate ends; zero with token authentication.
	Expires time.Time
	// Streams, when not nil, is how many requests the connections carry at once; 0 when that is not known.
	Streams func() int
}

// APNs sends to Apple devices.
type APNs struct {
	Apps    []APNsApp
	Privacy Privacy
}

// Name is "apns".
func (*APNs) Name() string { return "apns" }

// app finds the first app that is for a client, or -1.
func (t *APNs) app(client string) int {
	return slices.IndexFunc(t.Apps, func(a APNsApp) bool { return a.Match(client) })
}

// Lane is one for each app's credential: one topic may have two, for the two environments.
func (t *APNs) Lane(sub subscription.Subscription) (string, bool) {
	i := t.app(sub.Client)
	if i < 0 {
		return "", false
	}
	return t.lane(i), true
}

func (t *APNs) lane(i int) string { return "apns/" + strconv.Itoa(i) + "/" + t.Apps[i].Topic }

// Credential is a certificate, or a token key: of the latter's requests Apple takes one at a time until
// it has seen a good one.
func (t *APNs) Credential(lane string) Credential {
	for i, a := range t.Apps {
		if t.lane(i) != lane {
			continue
		}
		c := Credential{Name: strconv.Itoa(i) + "/" + a.Topic, Expires: a.Expires, Most: a.Streams}
		if a.Expires.IsZero() {
			c.First = 1
		}
		return c
	}
	return Credential{}
}

// ParseToken reads {"device_token": "<hex>"}.
func (*APNs) ParseToken(raw json.RawMessage) (subscription.Token, error) {
	var body struct {
		DeviceToken string `json:"device_token"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return subscription.Token{}, &TokenError{"token", `must be an object {"device_token": "<hexadecimal>"}`}
	}
	if body.DeviceToken == "" {
		return subscription.Token{}, &TokenError{"token.device_token", "is missing: it is what iOS gives the app, in hexadecimal"}
	}
	if err := apns.CheckDeviceToken(body.DeviceToken); err != nil {
		return subscription.Token{}, &TokenError{"token.device_token", err.Error()}
	}
	token := strings.ToLower(body.DeviceToken)
	return subscription.Token{Transport: "apns", Identity: token, Body: []byte(token), Target: lastOf(token)}, nil
}

// lastOf shows the end of a token, enough to recognise it by and too little to use it.
func lastOf(token string) string { return "…" + token[max(0, len(token)-6):] }

type apnsPayload struct {
	APS aps `json:"aps"`
	facts
	// Sealed is for the app's notification service extension, which puts the texts in (mutable-content).
	Sealed string `json:"sealed,omitempty"`
}

type aps struct {
	Alert *apnsAlert `json:"alert,omitempty"`
	Badge *int       `json:"badge,omitempty"`
	Sound string     `json:"sound,omitempty"`
	// InterruptionLevel "time-sensitive" asks to break through the device's own silence.
	InterruptionLevel string `json:"interruption-level,omitempty"`
	// MutableContent and ContentAvailable are 1 or missing.
	MutableContent   int `json:"mutable-content,omitempty"`
	ContentAvailable int `json:"content-available,omitempty"`
}

type apnsAlert struct {
	Title string `json:"title"`
	Body  string `json:"body,omitempty"`
}

// render makes the payload. A silent one is sent as an alert that has only a badge, for Apple holds back
// those of the type background; content-available wakes the app that has something to clear.
func (n Notification) render(privacy Privacy) (payload []byte, kind string, err error) {
	p := apnsPayload{APS: aps{Badge: n.badge()}}
	kind = apns.Alert
	if n.silent() {
		if n.Input.Topic == topicClear {
			p.APS.ContentAvailable = 1
		}
		if p.APS.Badge == nil {
			kind = apns.Background // an alert needs something to change
		}
	} else {
		p.APS.Alert, p.APS.Sound = &apnsAlert{Title: textNewMail}, "default"
		if n.Input.VIP {
			p.APS.InterruptionLevel = "time-sensitive"
		}
	}
	if privacy == PrivacySealed {
		p.facts = envelope(n)
		if !n.silent() {
			p.APS.MutableContent = 1
		}
		p.Sealed, err = sealFor(n, apns.MaxPayload-len(encode(p))-len(`,"sealed":""`))
		return encode(p), kind, err
	}
	p.facts = factsOf(n)
	payload = fit(privacy.view(n), apns.MaxPayload, func(v view) ([]byte, int) {
		if p.APS.Alert != nil {
			p.APS.Alert.Title, p.APS.Alert.Body = v.screen()
		}
		b := encode(p)
		return b, len(b)
	})
	return payload, kind, nil
}

// Send shows an alert with sound and, when the count is known, a badge; or it changes the badge, or has
// the app clear what it shows.
func (t *APNs) Send(ctx context.Context, n Notification) outcome.Outcome {
	i := t.app(n.Subscription.Client)
	if i < 0 {
		return outcome.Outcome{Kind: outcome.Blocked, Reason: "transport_disabled"}
	}
	payload, kind, err := n.render(cmp.Or(t.Apps[i].Privacy, t.Privacy).of(n))
	if err != nil {
		return outcome.Outcome{Kind: outcome.Refused, Reason: "bad_keys", Err: err}
	}
	m := apns.Message{
		ID: uuid.UUID(n.ID).String(), Payload: payload, PushType: kind, Priority: 10,
		Expiration: n.Expires, CollapseID: n.Collapse,
	}
	if n.silent() {
		m.Priority = 5
	}
	return t.Apps[i].Sender.Send(ctx, string(n.Subscription.Token.Body), m)
}
