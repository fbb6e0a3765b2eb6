package push

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/webpush"
)

// WebPush sends to browsers and to UnifiedPush distributors.
type WebPush struct {
	// CheckEndpoint refuses endpoints that we would not dial.
	CheckEndpoint func(endpoint string) error
	// Navigate is the URL that a click on a notification opens.
	Navigate string
	Now      func() time.Time
	// Keys are the VAPID keys, by whose they are: the installation is "". They change by Replace only, once the
	// transport is in use.
	Keys map[string]VAPID

	mu sync.RWMutex // guards Keys
}

// VAPID sends under one VAPID key.
type VAPID struct {
	Sender *webpush.Sender
	// Since is since when the key is in use.
	Since time.Time
}

// Replace has the sends from now on go out under other VAPID keys.
func (t *WebPush) Replace(keys map[string]VAPID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Keys = keys
}

func (t *WebPush) key(provider string) (VAPID, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	k, ok := t.Keys[provider]
	return k, ok
}

// PublicKey is the VAPID key of a provider, or of the installation when he has none, as browsers want it; ""
// when there is neither.
func (t *WebPush) PublicKey(provider string) string {
	k, ok := t.key(provider)
	if !ok {
		if k, ok = t.key(""); !ok {
			return ""
		}
	}
	return k.Sender.PublicKey()
}

// Name is "webpush".
func (*WebPush) Name() string { return "webpush" }

// Lane is one for each push service, by its origin, and each VAPID key.
func (t *WebPush) Lane(sub subscription.Subscription) (string, bool) {
	_, ok := t.key(sub.Provider)
	if sub.Provider == "" {
		return "webpush/" + sub.Token.Target, ok
	}
	return "webpush/" + sub.Provider + " " + sub.Token.Target, ok
}

// Credential is a VAPID key: the origins are foreign input, and no labels. Each begins with little,
// for there may be many that do not answer.
func (t *WebPush) Credential(lane string) Credential {
	provider, _, own := strings.Cut(strings.TrimPrefix(lane, "webpush/"), " ")
	if !own {
		provider = ""
	}
	k, ok := t.key(provider)
	if !ok {
		return Credential{}
	}
	return credentialOf(provider, k)
}

func credentialOf(provider string, k VAPID) Credential {
	name := "vapid"
	if provider != "" {
		name = provider + "/vapid"
	}
	return Credential{Name: name, Owner: provider, Since: k.Since, First: 2}
}

// Watch tells of the VAPID keys. Of the tokens of each, one for each origin, it is the oldest.
func (t *WebPush) Watch() (all []Watched) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, provider := range slices.Sorted(maps.Keys(t.Keys)) {
		k := t.Keys[provider]
		all = append(all, Watched{Credential: credentialOf(provider, k), TokenSince: k.Sender.TokenSince()})
	}
	return all
}

// ParseToken reads a browser's PushSubscription.toJSON().
func (t *WebPush) ParseToken(raw json.RawMessage) (subscription.Token, error) {
	sub, err := webpush.ParseSubscription(raw)
	if err != nil {
		return subscription.Token{}, fieldError(err, "token")
	}
	if err := t.CheckEndpoint(sub.Endpoint); err != nil {
		return subscription.Token{}, &TokenError{"token.endpoint", err.Error()}
	}
	// The target names the lane, so it is the origin in its one spelling, which sub's String gives.
	return subscription.Token{
		Transport: "webpush", Identity: sub.Endpoint, Body: encode(sub), Target: sub.String(),
	}, nil
}

// fieldError is a wire's finding as the API tells it; whole is the member that it is about.
func fieldError(err error, whole string) *TokenError {
	if field, ok := errors.AsType[*webpush.FieldError](err); ok {
		return &TokenError{field.Field, field.Problem}
	}
	return &TokenError{whole, "cannot be read"}
}

// declarative is the body of Declarative Web Push: newer browsers show it without waking a service
// worker, older ones hand it to theirs. 8030 is the format's mark.
type declarative struct {
	WebPush      int                `json:"web_push"`
	Notification declarativeContent `json:"notification"`
	AppBadge     string             `json:"app_badge,omitempty"`
}

type declarativeContent struct {
	Title    string `json:"title"`
	Body     string `json:"body,omitempty"`
	Navigate string `json:"navigate"`
	Tag      string `json:"tag"`
	Data     facts  `json:"data"`
}

// silentBody is what shows nothing. It has not the mark of the declarative form, which cannot be without a
// notification: it is for the app's code alone. Devices get it that have asked for it.
type silentBody struct {
	Data     facts  `json:"data"`
	AppBadge string `json:"app_badge,omitempty"`
}

// Send encrypts and sends one notification. The encryption of the wire is up to the app already, so that
// PrivacySealed tells as much as PrivacyFull.
func (t *WebPush) Send(ctx context.Context, n Notification) outcome.Outcome {
	var sub webpush.Subscription
	if err := json.Unmarshal(n.Subscription.Token.Body, &sub); err != nil {
		return outcome.Outcome{Kind: outcome.Refused, Reason: "damaged_token", Err: errors.New("stored token cannot be read")}
	}
	appBadge := ""
	if n.Badge >= 0 {
		appBadge = strconv.Itoa(n.Badge)
	}
	key, ok := t.key(n.Subscription.Provider)
	if !ok {
		return outcome.Outcome{Kind: outcome.Blocked, Reason: "transport_disabled"}
	}
	m := webpush.Message{TTL: n.Expires.Sub(t.Now()), Urgency: "high", Topic: n.Collapse}
	if n.silent() {
		m.Body, m.Urgency = encode(silentBody{factsOf(n), appBadge}), "low"
	} else {
		m.Body = fit(n.privacy("").view(n), webpush.MaxBody, func(v view) ([]byte, int) {
			d := declarative{WebPush: 8030, AppBadge: appBadge}
			d.Notification = declarativeContent{Navigate: t.Navigate, Tag: n.Collapse, Data: factsOf(n)}
			d.Notification.Title, d.Notification.Body = v.screen()
			b := encode(d)
			return b, len(b)
		})
	}
	return key.Sender.Send(ctx, sub, m)
}
