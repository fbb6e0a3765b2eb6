package push

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// APNsApp is one app's credential and the clients it is for.
type APNsApp struct {
	// Provider is whose credential it is; "" is the installation.
	Provider string

	Match  func(client string) bool
	Topic  string
	Sender *apns.Sender
	// Privacy, when set, takes the place of what the installation says.
	Privacy Privacy
	// Environment is Sender's. Other, when not nil, sends to the other one with the same credential.
	Environment string
	Other       *apns.Sender
	// Expires is when a certificate ends; zero with token authentication. Since is since when it is in use.
	Expires, Since time.Time

	inUse sync.WaitGroup
	// noOther is set when Apple did not take the credential in the other environment.
	noOther atomic.Bool
}

func (a *APNsApp) serves(sub subscription.Subscription) bool {
	return a.Provider == sub.Provider && a.Match(sub.Client)
}
func (a *APNsApp) belongs() (owner, what string) { return a.Provider, a.Topic }
func (a *APNsApp) users() *sync.WaitGroup        { return &a.inUse }

// Retire waits for the sends that began before the app was replaced, and ends its connections.
func (a *APNsApp) Retire() {
	a.inUse.Wait()
	a.Sender.Close()
	if a.Other != nil {
		a.Other.Close()
	}
}

// streams is how many requests Apple takes at once at present. Each environment has connections of its own.
func (a *APNsApp) streams() int {
	if a.Sender == nil {
		return 0
	}
	_, most := a.Sender.Streams()
	if a.Other != nil {
		_, other := a.Other.Streams()
		most = max(most, other)
	}
	return most
}

// APNs sends to Apple devices.
type APNs struct {
	// Apps changes by Replace only, once the transport is in use.
	Apps []*APNsApp

	mu sync.RWMutex // guards Apps
}

// Replace puts apps in place of those there are, and returns those that are no more among them, to be retired.
func (t *APNs) Replace(apps []*APNsApp) (left []*APNsApp) { return replaceApps(&t.mu, &t.Apps, apps) }

// Name is "apns".
func (*APNs) Name() string { return "apns" }

// Lane is one for each app's credential: one topic may have two, for the two environments.
func (t *APNs) Lane(sub subscription.Subscription) (string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i := appFor(t.Apps, sub)
	if i < 0 {
		return "", false
	}
	return "apns/" + appName(t.Apps, i), true
}

// Credential is a certificate, or a token key: of the latter's requests Apple takes one at a time until
// it has seen a good one.
func (t *APNs) Credential(lane string) Credential {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for i := range t.Apps {
		if "apns/"+appName(t.Apps, i) == lane {
			return t.credential(i)
		}
	}
	return Credential{}
}

func (t *APNs) credential(i int) Credential {
	a := t.Apps[i]
	c := Credential{Name: appName(t.Apps, i), Owner: a.Provider, Expires: a.Expires, Since: a.Since, Most: a.streams}
	if a.Expires.IsZero() {
		c.First = 1
	}
	return c
}

// Watch tells of each app's credential.
func (t *APNs) Watch() []Watched {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := make([]Watched, len(t.Apps))
	for i, a := range t.Apps {
		all[i] = Watched{Credential: t.credential(i), TokenSince: a.Sender.TokenSince()}
		add := func(environment string, s *apns.Sender) {
			inFlight, limit := s.Streams()
			all[i].Streams = append(all[i].Streams, Streams{environment, inFlight, limit})
		}
		add(a.Environment, a.Sender)
		if a.Other != nil {
			add(otherEnvironment(a.Environment), a.Other)
		}
	}
	return all
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
		p.APS.Alert, p.APS.Sound = &apnsAlert{Title: n.Input.title()}, "default"
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
	a := holdApp(&t.mu, &t.Apps, n.Subscription)
	if a == nil {
		return outcome.Outcome{Kind: outcome.Blocked, Reason: "transport_disabled"}
	}
	defer a.inUse.Done()
	payload, kind, err := n.render(n.privacy(a.Privacy).of(n))
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
	return a.send(ctx, n, m)
}

func otherEnvironment(environment string) string {
	if environment == apns.Production {
		return apns.Sandbox
	}
	return apns.Production
}

// send sends to the environment that the token is of, as far as is known. When Apple does not know the token
// there, it may be of the other one: a build from Xcode and one from the App Store differ in nothing else.
func (a *APNsApp) send(ctx context.Context, n Notification, m apns.Message) outcome.Outcome {
	token := string(n.Subscription.Token.Body)
	sender, other, elsewhere := a.Sender, a.Other, otherEnvironment(a.Environment)
	if other != nil && n.Subscription.Environment == elsewhere {
		sender, other, elsewhere = other, sender, a.Environment
	}
	o := sender.Send(ctx, token, m)
	if o.Status != http.StatusBadRequest || o.Reason != "BadDeviceToken" || other == nil || !n.AskElsewhere || other == a.Other && a.noOther.Load() {
		return o
	}
	second := other.Send(ctx, token, m)
	if second.Kind == outcome.Delivered {
		second.Environment = elsewhere
		return second
	}
	if second.Status == http.StatusForbidden && other == a.Other {
		a.noOther.Store(true) // Apple has keys for one environment only
	}
	return o
}
