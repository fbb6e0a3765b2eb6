package push

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// faultScript is a way in which a provider misbehaves.
type faultScript struct {
	name string
	// do is what the first so many requests get.
	do    func(fake.Delivery) *fake.Answer
	times int64
	// only limits it to one transport.
	only string
	// wires are the tests of the same on one connection, with what each request came to.
	wires string
}

func always(a fake.Answer) func(fake.Delivery) *fake.Answer {
	return func(fake.Delivery) *fake.Answer { return &a }
}

// faultScripts is all of them. Each is played with the real senders, whole, in TestFaults; an expired token
// and a wrong key, which concern the credential, are TestCredentialFaults.
var faultScripts = []faultScript{
	{
		name: "503 storm", do: always(fake.Answer{Status: 503, Reason: "ServiceUnavailable"}), times: 24,
		wires: "apns.TestReconnectRate apns.TestReconnectAfterShutdown",
	},
	{
		name: "503 storm with GOAWAY", do: always(fake.Answer{Status: 503, Reason: "Shutdown", Header: header("Connection", "close")}), only: "apns", times: 3, // each costs a connection, which are not opened in quick succession
		wires: "apns.TestGracefulGoAway apns.TestBurstAfterGoAway",
	},
	{
		name: "killed mid-stream", do: always(fake.Answer{Close: true, Status: 500}), times: 3,
		wires: "apns.TestKilledMidStream apns.TestConnectionFaults webpush.TestTransportFailures fcm.TestNoAnswer",
	},
	{
		name: "taken, and killed before the answer", do: always(fake.Answer{Hang: true, Close: true}), times: 3,
		wires: "apns.TestNoAnswer",
	},
	{
		name: "refused streams", do: func(fake.Delivery) *fake.Answer { panic(http.ErrAbortHandler) }, only: "apns", times: 24, // the fake makes REFUSED_STREAM of it
		wires: "apns.TestRefusedStreams",
	},
	{
		name: "black hole", do: always(fake.Answer{Hang: true, Status: 500}), times: 5,
		wires: "apns.TestBlackHole apns.TestBlackHoleByPing fcm.TestDeadlineAndCancel webpush.TestSendHonoursTheContext",
	},
	{
		name: "slow", do: always(fake.Answer{Delay: 30 * time.Millisecond}), times: 8,
		wires: "apns.TestSlowDrip fcm.TestSlowDrip webpush.TestSlowDrip",
	},
	{
		name: "5xx with garbage", do: always(fake.Answer{Status: 502, Body: []byte("<html>\x00\xff" + strings.Repeat("{", 9000))}), times: 24,
		wires: "apns.TestAnswerBodies fcm.TestEveryAnswer webpush.TestAnswers",
	},
}

// impatient gives up on a request sooner than a provider would have to be waited for.
type impatient struct{ Transport }

func (i impatient) Send(ctx context.Context, n Notification) outcome.Outcome {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	return i.Transport.Send(ctx, n)
}

// fastClock runs so much faster than the real one, which the network keeps to, that a back-off of ten minutes
// takes seconds. hurry has the service look at it.
func fastClock() func() time.Time {
	begin := time.Now()
	return func() time.Time { return begin.Add(500 * time.Since(begin)) }
}

func hurry(t *testing.T, s *Service) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for pause(ctx, 2*time.Millisecond) {
			s.sched.wake()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// TestFaults: a provider misbehaves for the first requests, while users get three mails each. Each device
// gets the newest state, none is sent an older one after it, and no subscription is lost.
func TestFaults(t *testing.T) {
	const users, mails = 8, 3
	for _, f := range faultScripts {
		for _, transport := range []string{"apns", "fcm", "webpush"} {
			if f.only != "" && f.only != transport {
				continue
			}
			t.Run(f.name+"/"+transport, func(t *testing.T) {
				b := newBench(t, PrivacyFull)
				tr := b.transport(transport)
				b.fcm.Now, b.webpush.Now = time.Now, time.Now
				var requests atomic.Int64
				b.answer(tr, func(d fake.Delivery) *fake.Answer {
					if requests.Add(1) > f.times {
						return nil
					}
					return f.do(d)
				})
				r := newRig(t, sqliteURL(t), users)
				s := r.service(func(c *Config) { c.Now = fastClock() }, impatient{tr})
				stop := r.start(s)
				hurry(t, s)
				var subs []subscription.Subscription
				for id := range int64(users) {
					subs = append(subs, r.device(t, id+1, b.another(t, tr, int(id))))
				}
				for range mails {
					for id := range int64(users) {
						s.Wake(r.mail(s, id+1, Input{}, false))
					}
				}
				comeToRest(t, s)
				stop()
				if n := requests.Load(); n < f.times+users && f.name != "slow" {
					t.Errorf("only %d requests: nothing was tried again", n)
				}
				for i, sub := range subs {
					want(t, "subscribed", r.subscribed(sub), true)
					if line := r.trace(s, sub)[0]; line.Outcome != "delivered" || line.Version != mails {
						t.Errorf("device %d: the last outcome is %+v", i, line)
					}
				}
				newestArrived(t, b.deliveries(tr), users, mails)
			})
		}
	}
}

var versionOf = regexp.MustCompile(`"version":"?(\d+)`)

// newestArrived holds what a fake took to the promise: to each device ever newer states, the newest at last.
func newestArrived(t *testing.T, all []fake.Delivery, users, newest int) {
	t.Helper()
	last := map[string]int{}
	for _, d := range all {
		version := 0
		if m := versionOf.FindSubmatch(d.Payload); m != nil {
			_ = json.Unmarshal(m[1], &version)
		}
		if version == 0 || version < last[d.Target] {
			t.Errorf("version %d after %d", version, last[d.Target])
		}
		last[d.Target] = version
	}
	want(t, "devices reached", len(last), users)
	for _, version := range last {
		want(t, "newest", version, newest)
	}
}

// TestFaultsAreOnTheWiresToo: the tests that the list names exist.
func TestFaultsAreOnTheWiresToo(t *testing.T) {
	for _, f := range faultScripts {
		for name := range strings.FieldsSeq(f.wires) {
			wire, test, _ := strings.Cut(name, ".")
			files, err := filepath.Glob("../" + wire + "/*_test.go")
			must(t, err)
			found := false
			for _, file := range files {
				source, err := os.ReadFile(file) //nolint:gosec // a file of this repository
				must(t, err)
				found = found || strings.Contains(string(source), "\nfunc "+test+"(t *testing.T)")
			}
			if !found {
				t.Errorf("%s: there is no %s", f.name, name)
			}
		}
	}
}

// TestCredentialFaults: a token that the provider finds expired, and a key that it does not know, cost nobody
// anything once they are set right.
func TestCredentialFaults(t *testing.T) {
	const users = 4
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	key, err := apns.LoadTokenKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "ABC123DEFG", "DEF123GHIJ")
	must(t, err)
	for _, c := range []struct {
		name, transport, reason string
		wrong                   func(b *bench) // makes it so
	}{
		{"expired token", "apns", "ExpiredProviderToken", func(b *bench) {
			b.apnsFake.Script(always(fake.Answer{Status: 403, Reason: "ExpiredProviderToken"}))
		}},
		{"expired token", "fcm", "UNAUTHENTICATED", func(b *bench) {
			b.fcmFake.Script(always(fake.Answer{Status: 401, Reason: "UNAUTHENTICATED"}))
		}},
		{"expired token", "webpush", "unauthorized", func(b *bench) {
			b.webpushFake.Script(always(fake.Answer{Status: 401}))
		}},
		{"wrong key", "apns", "InvalidProviderToken", func(b *bench) {
			sender, err := apns.New(apns.Config{
				URL: b.apnsFake.URL(), Environment: apns.Production, Topic: "com.example.mail", TokenKey: key, RootCAs: b.apnsFake.RootCAs(),
			})
			must(b.tb, err)
			b.tb.Cleanup(sender.Close)
			b.apns.Apps[0].Sender = sender
		}},
		{"wrong key", "fcm", "invalid_grant", func(b *bench) {
			b.fcmFake.ScriptToken(always(fake.Answer{Status: 400, Reason: "invalid_grant"}))
		}},
	} {
		t.Run(c.name+"/"+c.transport, func(t *testing.T) {
			b := newBench(t, PrivacyFull)
			tr := b.transport(c.transport)
			b.fcm.Now, b.webpush.Now = time.Now, time.Now
			right := b.apns.Apps[0].Sender
			c.wrong(b)
			r := newRig(t, sqliteURL(t), users)
			now := fastClock()
			s := r.service(func(c *Config) { c.Now = now }, tr)
			stop := r.start(s)
			hurry(t, s)
			var subs []subscription.Subscription
			for id := range int64(users) {
				subs = append(subs, r.device(t, id+1, b.another(t, tr, int(id))))
				s.Wake(r.mail(s, id+1, Input{}, false))
			}
			until(t, func() bool { return len(r.trace(s, subs[0])) >= 2 })
			want(t, "outcome", fmt.Sprint(r.trace(s, subs[0])[0].Outcome, "/", r.trace(s, subs[0])[0].Reason), "blocked/"+c.reason)
			want(t, "kept", s.sched.dirty(), float64(users))
			for id := range int64(users) {
				s.Wake(r.mail(s, id+1, Input{}, false))
			}
			stop() // as for a new configuration
			b.answer(tr, nil)
			b.fcmFake.ScriptToken(nil)
			b.apns.Apps[0].Sender = right
			s = r.service(func(c *Config) { c.Now = now }, tr)
			stop = r.start(s)
			hurry(t, s)
			for _, sub := range subs {
				until(t, func() bool { return !r.pending(s, sub) })
			}
			stop()
			newestArrived(t, b.deliveries(tr), users, 2)
			for _, sub := range subs {
				want(t, "subscribed", r.subscribed(sub), true)
			}
		})
	}
}

func (b *bench) transport(name string) Transport {
	for _, tr := range b.transports() {
		if tr.Name() == name {
			return tr
		}
	}
	return nil
}

func (b *bench) deliveries(tr Transport) []fake.Delivery {
	switch tr.Name() {
	case "apns":
		return b.apnsFake.Deliveries()
	case "fcm":
		return b.fcmFake.Deliveries()
	}
	return b.webpushFake.Deliveries()
}
