package push

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/fcm"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/webpush"
)

// bench is the three transports, each with a strict fake behind it and one device.
type bench struct {
	tb      testing.TB
	privacy Privacy
	apns    APNs
	fcm     FCM
	webpush WebPush

	apnsFake    *fake.APNs
	fcmFake     *fake.FCM
	webpushFake *fake.WebPush
	tokens      map[string]subscription.Token // by transport
	device      *fake.DeviceKeys
	keys        []byte // its, as stored; nil is a device without
}

// moment is what the transports take for now; the wires and the fakes keep to the real clock.
var moment = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)

const deviceToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"

// registrationToken has the form of one.
const registrationToken = "cXh1-0Z:APA91bHPRgkF3JUikC4ENAHEeMrd41Zxv3hVZjC9KtT8OvPVGJ-hQMRKRrZuJAEcl7B338qju59zJMjw2DELjzEvxwYv7hH5Ynpc1ODQ0aT4U4OFEeco8ohsN5PjL1iC2dNtk2BAokeMCg2ZXKqpc8FXKmhX94kIxQ" //nolint:gosec // nobody has this device

// fcmKey is the key of every service account: to make one takes a while.
var fcmKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newBench(tb testing.TB, privacy Privacy) *bench {
	tb.Helper()
	b := &bench{tb: tb, privacy: privacy, tokens: map[string]subscription.Token{}}
	clock := func() time.Time { return moment }
	anybody := func(client string) bool { return client == "app" }
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(tb, err)
	b.apnsFake, err = fake.NewAPNs(fake.APNsConfig{
		Keys:   []fake.APNsKey{{KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", Public: &key.PublicKey}},
		Topics: []string{"com.example.mail"}, FirstStream: true, MinTokenInterval: -1, // a second token at once
	})
	must(tb, err)
	tokenKey, err := apns.LoadTokenKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "ABC123DEFG", "DEF123GHIJ")
	must(tb, err)
	apnsSender, err := apns.New(apns.Config{
		URL: b.apnsFake.URL(), Environment: apns.Production, Topic: "com.example.mail", TokenKey: tokenKey, RootCAs: b.apnsFake.RootCAs(),
	})
	must(tb, err)
	b.apns = APNs{Apps: []*APNsApp{{Match: anybody, Topic: "com.example.mail", Sender: apnsSender}}}

	b.fcmFake, err = fake.NewFCM(fake.FCMConfig{Key: fcmKey()})
	must(tb, err)
	account, err := b.fcmFake.ServiceAccount()
	must(tb, err)
	fcmSender, err := fcm.New(fcm.Config{ServiceAccount: account, Endpoint: b.fcmFake.URL()})
	must(tb, err)
	b.fcm = FCM{Now: clock, Apps: []*FCMApp{
		{Match: anybody, Project: b.fcmFake.Project(), Package: "com.example.mail", Sender: fcmSender},
	}}

	b.webpushFake, err = fake.NewWebPush(fake.WebPushConfig{TLS: true})
	must(tb, err)
	vapid, err := webpush.GenerateKey()
	must(tb, err)
	webpushSender, err := webpush.New(webpush.Config{
		Key: vapid, Subject: "mailto:ops@example.org", HTTP: clientOf(b.webpushFake.RootCAs()),
	})
	must(tb, err)
	b.webpush = WebPush{
		Keys: map[string]VAPID{"": {Sender: webpushSender}}, CheckEndpoint: func(string) error { return nil },
		Navigate: "https://push.example.org/", Now: clock,
	}
	b.device, err = fake.NewDeviceKeys()
	must(tb, err)
	b.keys, err = ParseKeys(b.device.JSON())
	must(tb, err)
	tb.Cleanup(func() {
		for _, c := range []io.Closer{b.apnsFake, b.fcmFake, b.webpushFake} {
			must(tb, c.Close())
		}
		apnsSender.Close()
	})
	receiver, err := b.webpushFake.Subscribe(webpushSender.PublicKey())
	must(tb, err)
	for t, raw := range map[Transport]string{
		&b.apns:    fmt.Sprintf(`{"device_token":%q}`, deviceToken),
		&b.fcm:     fmt.Sprintf(`{"registration_token":%q}`, registrationToken),
		&b.webpush: string(receiver.JSON()),
	} {
		b.tokens[t.Name()], err = t.ParseToken(json.RawMessage(raw))
		must(tb, err)
	}
	return b
}

func (b *bench) transports() []Transport { return []Transport{&b.apns, &b.fcm, &b.webpush} }

// send sends to a transport's device and returns what its fake took.
func (b *bench) send(t Transport, n Notification) (outcome.Outcome, fake.Delivery) {
	b.tb.Helper()
	n.Subscription.Client, n.Subscription.Privacy = "app", string(b.privacy)
	n.Subscription.User = tenant.UserID{Context: 1, ID: 3}
	n.Subscription.Token = b.tokens[t.Name()]
	n.Subscription.Keys = b.keys
	n.Badge = n.Input.Unseen // of the one account
	o := t.Send(b.tb.Context(), n)
	if o.Kind != outcome.Delivered {
		return o, fake.Delivery{}
	}
	var d fake.Delivery
	var err error
	switch t.Name() {
	case "apns":
		d, err = b.apnsFake.Next(b.tb.Context())
	case "fcm":
		d, err = b.fcmFake.Next(b.tb.Context())
	default:
		d, err = b.webpushFake.Next(b.tb.Context())
	}
	must(b.tb, err)
	return o, d
}

func TestParseToken(t *testing.T) {
	b := newBench(t, PrivacyFull)
	b.webpush.CheckEndpoint = func(endpoint string) error {
		if strings.Contains(endpoint, "internal") {
			return errors.New("is refused: a private address")
		}
		return nil
	}
	keys := string(b.tokens["webpush"].Body)
	p256dh, auth := between(keys, `"P256dh":"`), between(keys, `"Auth":"`)
	browser := func(endpoint string) string {
		url := strings.NewReplacer("+", "-", "/", "_", "=", "")
		return fmt.Sprintf(`{"endpoint":%q,"expirationTime":null,"keys":{"p256dh":%q,"auth":%q}}`, endpoint, url.Replace(p256dh), url.Replace(auth))
	}
	s := newRig(t, sqliteURL(t), 1).service(nil, b.transports()...)
	want(t, "offered", s.Offered(""), []string{"apns", "fcm", "webpush"})
	for _, c := range []struct {
		transport, client, raw string
		identity, target, lane string
		field                  string // at fault
		err                    error
	}{
		{transport: "apns", raw: `{"device_token":"` + strings.ToUpper(deviceToken) + `"}`, identity: deviceToken, target: "…1de8f0", lane: "apns/0/com.example.mail"},
		{transport: "apns", raw: `{"device_token":""}`, field: "token.device_token"},
		{transport: "apns", raw: `{"device_token":"xyz"}`, field: "token.device_token"},
		{transport: "apns", raw: `{"device_token":7}`, field: "token"},
		{transport: "apns", raw: `[]`, field: "token"},
		{transport: "apns", raw: ``, field: "token"},
		{transport: "apns", client: "other", raw: `{"device_token":"` + deviceToken + `"}`, err: ErrNoTransport},
		{transport: "fcm", raw: `{"registration_token":"` + registrationToken + `"}`, identity: registrationToken, target: "…94kIxQ", lane: "fcm/0/posthorn-fake"},
		{transport: "fcm", raw: `{"registration_token":"a b"}`, field: "token.registration_token"},
		{transport: "fcm", raw: `{}`, field: "token.registration_token"},
		{transport: "fcm", raw: `"token"`, field: "token"},
		{transport: "fcm", client: "other", raw: `{"registration_token":"abc"}`, err: ErrNoTransport},
		{transport: "webpush", raw: browser("https://Push.Example:443/x"), identity: "https://Push.Example:443/x", target: "https://push.example", lane: "webpush/https://push.example"},
		{transport: "webpush", raw: browser("https://push.example:8443/x"), identity: "https://push.example:8443/x", target: "https://push.example:8443", lane: "webpush/https://push.example:8443"},
		{transport: "webpush", raw: browser("https://internal.example/x"), field: "token.endpoint"},
		{transport: "webpush", raw: browser("ftp://push.example/x"), field: "token.endpoint"},
		{transport: "webpush", raw: `{"endpoint":"https://push.example/x"}`, field: "token.keys.p256dh"},
		{transport: "webpush", raw: `null`, field: "token"},
		{transport: "pigeon", raw: `{}`, err: ErrNoTransport},
	} {
		client := c.client
		if client == "" {
			client = "app"
		}
		tok, _, err := s.ParseToken(c.transport, "", client, json.RawMessage(c.raw))
		var wrong *TokenError
		switch {
		case c.err != nil:
			if !errors.Is(err, c.err) {
				t.Errorf("%s %s: %v, want %v", c.transport, c.raw, err, c.err)
			}
		case c.field != "":
			if !errors.As(err, &wrong) || wrong.Field != c.field || wrong.Problem == "" {
				t.Errorf("%s %s: %v, want a fault of %s", c.transport, c.raw, err, c.field)
			}
		case err != nil:
			t.Errorf("%s %s: %v", c.transport, c.raw, err)
		default:
			want(t, "identity", tok.Identity, c.identity)
			want(t, "target", tok.Target, c.target)
			want(t, "transport", tok.Transport, c.transport)
			want(t, "lane", s.laneOf(subscription.Subscription{Client: client, Token: tok}), c.lane)
			tok.Body = nil // as For returns it: the lane must not need it
			want(t, "lane", s.laneOf(subscription.Subscription{Client: client, Token: tok}), c.lane)
		}
	}
}

func between(s, before string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, `"`)
	return s
}

// TestLanesPerCredential: one topic or project may have two credentials, and each has its own lane.
func TestLanesPerCredential(t *testing.T) {
	is := func(name string) func(string) bool { return func(client string) bool { return client == name } }
	sub := func(client string) subscription.Subscription { return subscription.Subscription{Client: client} }
	for _, tr := range []Transport{
		&APNs{Apps: []*APNsApp{{Match: is("live"), Topic: "t"}, {Match: is("test"), Topic: "t"}}},
		&FCM{Apps: []*FCMApp{{Match: is("live"), Project: "p"}, {Match: is("test"), Project: "p"}}},
	} {
		live, ok1 := tr.Lane(sub("live"))
		test, ok2 := tr.Lane(sub("test"))
		if _, ok := tr.Lane(sub("neither")); ok || !ok1 || !ok2 || live == test {
			t.Errorf("%s: lanes %q %v, %q %v", tr.Name(), live, ok1, test, ok2)
		}
		if o := tr.Send(t.Context(), Notification{Subscription: sub("neither")}); o.Kind != outcome.Blocked {
			t.Errorf("%s: sent without an app: %v", tr.Name(), o)
		}
	}
}

// TestProviders: a subscription goes by the credential that it was made with, and by no other.
func TestProviders(t *testing.T) {
	b := newBench(t, PrivacyFull)
	b.apns.Apps = append(b.apns.Apps, &APNsApp{Provider: "blue", Match: b.apns.Apps[0].Match, Topic: "com.example.blue", Sender: b.apns.Apps[0].Sender})
	b.fcm.Apps = append(b.fcm.Apps, &FCMApp{Provider: "red", Match: b.fcm.Apps[0].Match, Project: "red", Sender: b.fcm.Apps[0].Sender})
	b.webpush.Keys["blue"] = b.webpush.Keys[""]
	s := newRig(t, sqliteURL(t), 1).service(nil, b.transports()...)
	for _, c := range []struct{ transport, provider, owner, lane, credential string }{
		{"apns", "", "", "apns/0/com.example.mail", "0/com.example.mail"},
		{"apns", "blue", "blue", "apns/blue/0/com.example.blue", "blue/0/com.example.blue"},
		{"apns", "red", "", "apns/0/com.example.mail", "0/com.example.mail"},
		{"fcm", "red", "red", "fcm/red/0/red", "red/0/red"},
		{"fcm", "blue", "", "fcm/0/" + b.fcmFake.Project(), "0/" + b.fcmFake.Project()},
		{"webpush", "blue", "blue", "webpush/blue " + b.tokens["webpush"].Target, "blue/vapid"},
		{"webpush", "red", "", "webpush/" + b.tokens["webpush"].Target, "vapid"},
	} {
		raw := map[string]string{
			"apns": fmt.Sprintf(`{"device_token":%q}`, deviceToken), "fcm": fmt.Sprintf(`{"registration_token":%q}`, registrationToken),
			"webpush": `{"endpoint":"` + between(string(b.tokens["webpush"].Body), `"Endpoint":"`) + `","keys":` + string(b.device.JSON()) + `}`,
		}[c.transport]
		tok, owner, err := s.ParseToken(c.transport, c.provider, "app", json.RawMessage(raw))
		if err != nil || owner != c.owner {
			t.Errorf("%s of %q belongs to %q, want %q (%v)", c.transport, c.provider, owner, c.owner, err)
			continue
		}
		tok.Target = b.tokens[c.transport].Target
		sub := subscription.Subscription{Client: "app", Token: tok, Provider: owner}
		lane, ok := s.transport(c.transport).Lane(sub)
		if cred := s.credential(lane); !ok || lane != c.lane || cred.Name != c.credential || cred.Owner != c.owner {
			t.Errorf("%s of %q: lane %q %v of %+v, want %q of %q", c.transport, c.provider, lane, ok, cred, c.lane, c.credential)
		}
	}
	want(t, "offered", s.Offered("blue"), []string{"apns", "fcm", "webpush"})
	for _, tr := range b.transports() {
		n := Notification{Subscription: subscription.Subscription{Client: "app", Token: b.tokens[tr.Name()], Provider: "gone"}}
		if o := tr.Send(t.Context(), n); o.Kind != outcome.Blocked || o.Reason != "transport_disabled" {
			t.Errorf("%s: sent with another's credential: %v", tr.Name(), o)
		}
	}
}

func TestDamagedWebPushToken(t *testing.T) {
	b := newBench(t, PrivacyFull)
	o := b.webpush.Send(t.Context(), Notification{Subscription: subscription.Subscription{Token: subscription.Token{Body: []byte("{")}}})
	if o.Kind != outcome.Refused || o.Reason != "damaged_token" {
		t.Errorf("outcome %v", o)
	}
}
