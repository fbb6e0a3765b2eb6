package push

import (
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
	APS struct {
		Alert apnsAlert `json:"alert"`
		Badge *int      `json:"badge,omitempty"`
		Sound string    `json:"sound"`
	} `json:"aps"`
	facts
}

type apnsAlert struct {
	Title string `json:"title"`
	Body  string `json:"body,omitempty"`
}

// Send shows an alert with sound and, when the unseen count is known, a badge.
func (t *APNs) Send(ctx context.Context, n Notification) outcome.Outcome {
	i := t.app(n.Subscription.Client)
	if i < 0 {
		return outcome.Outcome{Kind: outcome.Blocked, Reason: "transport_disabled"}
	}
	payload := fit(t.Privacy.view(n), apns.MaxPayload, func(v view) ([]byte, int) {
		p := apnsPayload{facts: factsOf(n)}
		p.APS.Alert.Title, p.APS.Alert.Body = v.screen()
		p.APS.Badge, p.APS.Sound = p.Unseen, "default"
		b := encode(p)
		return b, len(b)
	})
	return t.Apps[i].Sender.Send(ctx, string(n.Subscription.Token.Body), apns.Message{
		ID: uuid.UUID(n.ID).String(), Payload: payload, PushType: apns.Alert, Priority: 10,
		Expiration: n.Expires, CollapseID: n.Collapse,
	})
}
