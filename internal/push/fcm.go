package push

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/posthorn-mail/posthorn/internal/fcm"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// FCMApp is one Firebase project's credential and the clients it is for.
type FCMApp struct {
	Match   func(client string) bool
	Project string
	// Package, when set, is the only app that may show the notification.
	Package string
	Sender  *fcm.Sender
	// Privacy, when set, takes the place of the transport's.
	Privacy Privacy
}

// FCM sends to Android devices: data messages, from which the app builds its notification.
type FCM struct {
	Apps    []FCMApp
	Privacy Privacy
	Now     func() time.Time
}

// Name is "fcm".
func (*FCM) Name() string { return "fcm" }

// app finds the first app that is for a client, or -1.
func (t *FCM) app(client string) int {
	return slices.IndexFunc(t.Apps, func(a FCMApp) bool { return a.Match(client) })
}

// Lane is one for each service account: one project may have several.
func (t *FCM) Lane(sub subscription.Subscription) (string, bool) {
	i := t.app(sub.Client)
	if i < 0 {
		return "", false
	}
	return t.lane(i), true
}

func (t *FCM) lane(i int) string { return "fcm/" + strconv.Itoa(i) + "/" + t.Apps[i].Project }

// Credential is a service account.
func (t *FCM) Credential(lane string) Credential {
	for i, a := range t.Apps {
		if t.lane(i) == lane {
			return Credential{Name: strconv.Itoa(i) + "/" + a.Project, PerMinute: fcmPerMinute}
		}
	}
	return Credential{}
}

// ParseToken reads {"registration_token": "…"}.
func (*FCM) ParseToken(raw json.RawMessage) (subscription.Token, error) {
	var body struct {
		RegistrationToken string `json:"registration_token"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return subscription.Token{}, &TokenError{"token", `must be an object {"registration_token": "…"}`}
	}
	token := body.RegistrationToken
	if token == "" {
		return subscription.Token{}, &TokenError{"token.registration_token", "is missing: it is what Firebase gives the app"}
	}
	if err := fcm.CheckToken(token); err != nil {
		return subscription.Token{}, &TokenError{"token.registration_token", err.Error()}
	}
	return subscription.Token{Transport: "fcm", Identity: token, Body: []byte(token), Target: lastOf(token)}, nil
}

// data makes the message: the facts, and "sender" and "subject" as far as they are told; or whom it is for,
// and the rest sealed.
func (n Notification) data(privacy Privacy) (m map[string]string, err error) {
	size := func(m map[string]string) (n int) {
		for key, text := range m {
			n += len(key) + len(text)
		}
		return n
	}
	if privacy == PrivacySealed {
		m = envelope(n).strings()
		m["sealed"], err = sealFor(n, fcm.MaxData-size(m)-len("sealed"))
		return m, err
	}
	return fit(privacy.view(n), fcm.MaxData, func(v view) (map[string]string, int) {
		m := factsOf(n).strings()
		if n.Badge >= 0 {
			m["badge"] = strconv.Itoa(n.Badge)
		}
		for key, text := range map[string]string{"sender": v.sender, "subject": v.subject} {
			if text != "" {
				m[key] = text
			}
		}
		return m, size(m)
	}), nil
}

// Send sends one data message. Those that show nothing may wait until the device wakes by itself.
func (t *FCM) Send(ctx context.Context, n Notification) outcome.Outcome {
	i := t.app(n.Subscription.Client)
	if i < 0 {
		return outcome.Outcome{Kind: outcome.Blocked, Reason: "transport_disabled"}
	}
	data, err := n.data(cmp.Or(t.Apps[i].Privacy, t.Privacy).of(n))
	if err != nil {
		return outcome.Outcome{Kind: outcome.Refused, Reason: "bad_keys", Err: err}
	}
	priority := "HIGH"
	if n.silent() {
		priority = "NORMAL"
	}
	return t.Apps[i].Sender.Send(ctx, string(n.Subscription.Token.Body), fcm.Message{
		Data: data, Priority: priority, TTL: n.Expires.Sub(t.Now()), CollapseKey: n.Collapse, RestrictedPackage: t.Apps[i].Package,
	})
}
