package push

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/fcm"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// FCMApp is one Firebase project's credential and the clients it is for.
type FCMApp struct {
	// Provider is whose credential it is; "" is the installation.
	Provider string

	Match   func(client string) bool
	Project string
	// Package, when set, is the only app that may show the notification.
	Package string
	Sender  *fcm.Sender
	// Privacy, when set, takes the place of what the installation says.
	Privacy Privacy
	// Since is since when the service account is in use.
	Since time.Time

	inUse sync.WaitGroup
}

func (a *FCMApp) serves(sub subscription.Subscription) bool {
	return a.Provider == sub.Provider && a.Match(sub.Client)
}
func (a *FCMApp) belongs() (owner, what string) { return a.Provider, a.Project }
func (a *FCMApp) users() *sync.WaitGroup        { return &a.inUse }

// Retire waits for the sends that began before the app was replaced, and ends its connections.
func (a *FCMApp) Retire() {
	a.inUse.Wait()
	a.Sender.Close()
}

// FCM sends to Android devices: data messages, from which the app builds its notification.
type FCM struct {
	Now func() time.Time
	// Apps changes by Replace only, once the transport is in use.
	Apps []*FCMApp

	mu sync.RWMutex // guards Apps
}

// Replace puts apps in place of those there are, and returns those that are no more among them, to be retired.
func (t *FCM) Replace(apps []*FCMApp) (left []*FCMApp) { return replaceApps(&t.mu, &t.Apps, apps) }

// Name is "fcm".
func (*FCM) Name() string { return "fcm" }

// Lane is one for each service account: one project may have several.
func (t *FCM) Lane(sub subscription.Subscription) (string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i := appFor(t.Apps, sub)
	if i < 0 {
		return "", false
	}
	return "fcm/" + appName(t.Apps, i), true
}

// Credential is a service account.
func (t *FCM) Credential(lane string) Credential {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for i := range t.Apps {
		if "fcm/"+appName(t.Apps, i) == lane {
			return t.credential(i)
		}
	}
	return Credential{}
}

func (t *FCM) credential(i int) Credential {
	a := t.Apps[i]
	return Credential{Name: appName(t.Apps, i), Owner: a.Provider, Since: a.Since, PerMinute: fcmPerMinute}
}

// Watch tells of each app's service account.
func (t *FCM) Watch() []Watched {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := make([]Watched, len(t.Apps))
	for i, a := range t.Apps {
		all[i] = Watched{Credential: t.credential(i), TokenSince: a.Sender.TokenSince()}
	}
	return all
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
	a := holdApp(&t.mu, &t.Apps, n.Subscription)
	if a == nil {
		return outcome.Outcome{Kind: outcome.Blocked, Reason: "transport_disabled"}
	}
	defer a.inUse.Done()
	data, err := n.data(n.privacy(a.Privacy).of(n))
	if err != nil {
		return outcome.Outcome{Kind: outcome.Refused, Reason: "bad_keys", Err: err}
	}
	priority := "HIGH"
	if n.silent() {
		priority = "NORMAL"
	}
	return a.Sender.Send(ctx, string(n.Subscription.Token.Body), fcm.Message{
		Data: data, Priority: priority, TTL: n.Expires.Sub(t.Now()), CollapseKey: n.Collapse, RestrictedPackage: a.Package,
	})
}
