package push

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// twoEnvironments is one app's token key, and Apple's two services.
type twoEnvironments struct {
	app                 *APNsApp
	production, sandbox *fake.APNs
}

// newTwoEnvironments has the services know the key's id, of which Apple may have limited the use to production.
func newTwoEnvironments(t *testing.T, productionOnly bool) *twoEnvironments {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	tokenKey, err := apns.LoadTokenKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "ABC123DEFG", "DEF123GHIJ")
	must(t, err)
	start := func(environment string) (*fake.APNs, *apns.Sender) {
		f, err := fake.NewAPNs(fake.APNsConfig{
			Keys:   []fake.APNsKey{{KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", Public: &key.PublicKey}},
			Topics: []string{"com.example.mail"},
		})
		must(t, err)
		f.Register(strings.Repeat("0", 64)) // and nobody else
		s, err := apns.New(apns.Config{URL: f.URL(), Environment: environment, Topic: "com.example.mail", TokenKey: tokenKey, RootCAs: f.RootCAs()})
		must(t, err)
		t.Cleanup(func() { must(t, f.Close()) })
		return f, s
	}
	e := &twoEnvironments{app: &APNsApp{
		Match: func(string) bool { return true }, Topic: "com.example.mail", Environment: apns.Production,
	}}
	e.production, e.app.Sender = start(apns.Production)
	e.sandbox, e.app.Other = start(apns.Sandbox)
	if productionOnly {
		e.sandbox.Revoke("ABC123DEFG")
	}
	t.Cleanup(e.app.Retire)
	return e
}

// asked counts the requests to both so far.
func (e *twoEnvironments) asked() string {
	sum := func(f *fake.APNs) (n int64) {
		for _, c := range f.Counts() {
			n += c
		}
		return n
	}
	return fmt.Sprintf("%d+%d", sum(e.production), sum(e.sandbox))
}

// TestOtherEnvironment: one try at the other one, only when it may help and only where the credential is good.
func TestOtherEnvironment(t *testing.T) {
	for _, c := range []struct {
		name              string
		known             string // which environment knows the token
		remembered        string
		may, refused, own bool // other may be asked; it refuses the key; there is no other
		asked             string
		kind              outcome.Kind
		found             string
	}{
		{name: "its own", known: "production", may: true, asked: "1+0", kind: outcome.Delivered},
		{name: "the other", known: "sandbox", may: true, asked: "1+1", kind: outcome.Delivered, found: "sandbox"},
		{name: "the other, remembered", known: "sandbox", remembered: "sandbox", may: true, asked: "0+1", kind: outcome.Delivered},
		{name: "back", known: "production", remembered: "sandbox", may: true, asked: "1+1", kind: outcome.Delivered, found: "production"},
		{name: "neither", may: true, asked: "1+1", kind: outcome.Suspect},
		{name: "asked just now", known: "sandbox", asked: "1+0", kind: outcome.Suspect},
		{name: "a key for production only", known: "sandbox", may: true, refused: true, asked: "1+1", kind: outcome.Suspect},
		{name: "no other", known: "sandbox", remembered: "sandbox", may: true, own: true, asked: "1+0", kind: outcome.Suspect},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newTwoEnvironments(t, c.refused)
			switch c.known {
			case "production":
				e.production.Register(deviceToken)
			case "sandbox":
				e.sandbox.Register(deviceToken)
			}
			if c.own {
				e.app.Other.Close()
				e.app.Other = nil
			}
			tr := &APNs{Apps: []*APNsApp{e.app}}
			n := Notification{
				Collapse: strings.Repeat("c", 32), Expires: time.Now().Add(time.Hour), AskElsewhere: c.may, Input: Input{Topic: "mail:new"},
				Subscription: subscription.Subscription{Client: "app", Environment: c.remembered, Token: subscription.Token{Body: []byte(deviceToken)}},
			}
			o := tr.Send(t.Context(), n)
			want(t, "requests", e.asked(), c.asked)
			want(t, "outcome", o.Kind, c.kind)
			want(t, "found", o.Environment, c.found)
			if o.Kind == outcome.Suspect {
				want(t, "reason", o.Reason, "BadDeviceToken")
			}
			if c.refused { // is not asked again
				tr.Send(t.Context(), n)
				want(t, "requests", e.asked(), "2+1")
			}
		})
	}
}

// TestEnvironmentIsRemembered: with the subscription, so that a restart does not lose it; a token that both
// call bad is asked about elsewhere once, and is suspect.
func TestEnvironmentIsRemembered(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		r := newRig(t, url, 2)
		e := newTwoEnvironments(t, false)
		fromXcode, bad := strings.Repeat("a", 64), strings.Repeat("b", 64)
		e.sandbox.Register(fromXcode)
		sub, badSub := r.subscribe(1, "apns", "…", fromXcode), r.subscribe(2, "apns", "…", bad)
		var s *Service
		var stop func()
		mail := func(id int64, sub subscription.Subscription, want string) {
			t.Helper()
			s.Wake(r.mail(s, id, Input{}, false))
			for deadline := time.Now().Add(10 * time.Second); !strings.HasSuffix(r.outcomes(s, sub), want); {
				if time.Now().After(deadline) {
					t.Fatalf("trace %q, want %s", r.outcomes(s, sub), want)
				}
				<-time.After(5 * time.Millisecond)
			}
		}
		begin := func() {
			s = r.service(nil, &APNs{Apps: []*APNsApp{e.app}})
			stop = r.start(s)
		}
		begin()
		mail(1, sub, "1:delivered")
		want(t, "requests", e.asked(), "1+1")
		stop()
		begin()
		mail(1, sub, "2:delivered")
		want(t, "requests after a restart", e.asked(), "1+2")
		want(t, "the other user's device has none", r.environment(badSub), "")
		want(t, "environment", r.environment(sub), apns.Sandbox)
		r.subscribe(1, "apns", "…", fromXcode)
		mail(1, sub, "3:delivered")
		want(t, "requests after it was renewed", e.asked(), "1+3")

		mail(2, badSub, "1:suspect/BadDeviceToken")
		want(t, "requests", e.asked(), "2+4")
		mail(2, badSub, "2:suspect/BadDeviceToken")
		want(t, "requests within an hour", e.asked(), "3+4")
	})
}

func (r *rig) environment(sub subscription.Subscription) string {
	r.tb.Helper()
	loaded, err := r.subs.Load(r.tb.Context(), sub.ID)
	must(r.tb, err)
	return loaded.Environment
}
