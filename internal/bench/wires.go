package bench

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/webpush"
)

// apns measures Apple's wire without storage: CPU against http2.Transport, and the rate when the
// provider takes 50 ms.
func (r *runner) apns(ctx context.Context) error {
	id, err := newIdentity()
	if err != nil {
		return err
	}
	const answer = 50 * time.Millisecond
	count := pick(r, 40_000, 10_000)
	limit := float64(streamLimit) / answer.Seconds()
	var ours, plain, one, oneCPU, two, twoCPU []float64
	for range r.repeats() {
		a, err := r.sends(ctx, id, 0, apnsConfig{Connections: 1, Count: count})
		if err != nil {
			return err
		}
		b, err := r.sends(ctx, id, 0, apnsConfig{Connections: 1, Count: count, Plain: true})
		if err != nil {
			return err
		}
		c, err := r.sends(ctx, id, answer, apnsConfig{Connections: 1, Count: 2 * count})
		if err != nil {
			return err
		}
		d, err := r.sends(ctx, id, answer, apnsConfig{Connections: 2, Count: 2 * count})
		if err != nil {
			return err
		}
		ours, plain = append(ours, a.CPU), append(plain, b.CPU)
		one, oneCPU = append(one, c.Rate), append(oneCPU, c.Busy)
		two, twoCPU = append(two, d.Rate), append(twoCPU, d.Busy)
		r.say("apns: %.1f us, http2.Transport %.1f us; at 50 ms %.0f/s on one connection, %.0f/s on two (machine %.0f %% busy)", a.CPU, b.CPU, c.Rate, d.Rate, d.Busy)
	}
	r.put("apns.cpu_us", "us", ours...)
	r.put("apns.baseline_http2_cpu_us", "us", plain...)
	r.put("apns.rate_50ms", "1/s", one...)
	r.put("apns.stream_limit_rate", "1/s", limit)
	r.put("apns.rate_50ms_busy_pct", "%", oneCPU...)
	r.put("apns.rate_50ms_two", "1/s", two...)
	r.put("apns.rate_50ms_two_busy_pct", "%", twoCPU...)
	return nil
}

func (r *runner) sends(ctx context.Context, id identity, delay time.Duration, c apnsConfig) (res apnsResult, err error) {
	var ready sinkReady
	p, err := r.child(ctx, "sink", sinkConfig{Certificate: id.leaf, CertificateKey: id.leafKey, Delay: delay}, &ready)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, p.kill()) }()
	c.URL, c.CA, c.TokenKey = ready.URL, id.caPEM, id.tokenPEM
	return res, r.run(ctx, "apns", c, &res)
}

// apnsConfig is one measurement of a sender: Count notifications, as many in flight as streams.
type apnsConfig struct {
	URL          string
	CA, TokenKey []byte
	Connections  int
	Count        int
	Plain        bool // http2.Transport instead of ours
}

// apnsResult is CPU in us for each notification, notifications a second, and how busy all cores of the
// machine were meanwhile, in percent.
type apnsResult struct{ CPU, Rate, Busy float64 }

func apnsChild(ctx context.Context, c apnsConfig, out io.Writer) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(c.CA) {
		return errors.New("no certificate")
	}
	var lanes []func(context.Context, int) error
	for range c.Connections {
		send, done, err := c.lane(roots)
		if err != nil {
			return err
		}
		defer done()
		lanes = append(lanes, send)
		if err := send(ctx, 0); err != nil { // the connection is there, and its limits are known
			return err
		}
	}
	if err := flood(ctx, lanes, c.Count/10); err != nil {
		return err
	}
	before, idle, start := selfCPU(), idleTime(), time.Now()
	if err := flood(ctx, lanes, c.Count); err != nil {
		return err
	}
	took := time.Since(start)
	return json.NewEncoder(out).Encode(apnsResult{
		CPU: micros(selfCPU()-before) / float64(c.Count), Rate: float64(c.Count) / took.Seconds(),
		Busy: 100 - 100*(idleTime()-idle).Seconds()/(took.Seconds()*cores()),
	})
}

// flood sends count notifications, streamLimit at a time on each lane.
func flood(ctx context.Context, lanes []func(context.Context, int) error, count int) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	for _, send := range lanes {
		for range streamLimit {
			all.Go(func() {
				for failed.Load() == nil {
					i := int(next.Add(1))
					if i > count {
						return
					}
					if err := send(ctx, i); err != nil {
						failed.Store(&err)
					}
				}
			})
		}
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// lane is one connection: ours, rendering included, or http2.Transport with a payload made before.
func (c apnsConfig) lane(roots *x509.CertPool) (send func(context.Context, int) error, done func(), err error) {
	if c.Plain {
		return c.plainLane(roots)
	}
	key, err := apns.LoadTokenKey(c.TokenKey, apnsKeyID, apnsTeamID)
	if err != nil {
		return nil, nil, err
	}
	s, err := apns.New(apns.Config{URL: c.URL, Environment: apns.Production, Topic: apnsTopic, TokenKey: key, RootCAs: roots})
	if err != nil {
		return nil, nil, err
	}
	anybody := func(string) bool { return true }
	t := &push.APNs{Apps: []*push.APNsApp{{Match: anybody, Topic: apnsTopic, Sender: s}}}
	expires := time.Now().Add(24 * time.Hour)
	return func(ctx context.Context, i int) error {
		n := push.Notification{Version: int64(i), Collapse: collapseID, Expires: expires, ID: [16]byte{8: 0x80, 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}} //nolint:gosec // bytes of a number
		n.Subscription.Client, n.Subscription.Token.Transport, n.Subscription.Privacy = "bench", "apns", string(push.PrivacyFull)
		n.Subscription.Token.Body = fmt.Appendf(nil, "%064x", i)
		n.Input = push.Input{
			Topic: "mail:new", Folder: "INBOX", UIDValidity: 1700000000, UID: uint32(i), Sender: mailSender, Subject: mailSubject, Unseen: 7, //nolint:gosec // a uid has 32 bits
		}
		if o := t.Send(ctx, n); o.Kind != outcome.Delivered {
			return fmt.Errorf("send: %s %d %s: %w", o.Kind, o.Status, o.Reason, o.Err)
		}
		return nil
	}, s.Close, nil
}

const (
	collapseID  = "0123456789abcdef0123456789abcdef"
	mailSender  = "Erika Mustermann"
	mailSubject = "Minutes of the meeting, and what is left to do"
)

// plainLane is the baseline.
//
//nolint:staticcheck // deprecated for net/http's, which is the same code; the limit names this one
func (c apnsConfig) plainLane(roots *x509.CertPool) (send func(context.Context, int) error, done func(), err error) {
	t := &http2.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, StrictMaxConcurrentStreams: true, DisableCompression: true,
	}
	payload := []byte(`{"aps":{"alert":{"title":"` + mailSender + `","body":"` + mailSubject + `"},"badge":7,"sound":"default"},"user":"0@0",` +
		`"topic":"mail:new","folder":"INBOX","uidvalidity":1700000000,"uid":12345,"unseen":7,"version":12345}`)
	bearer := "bearer " + strings.Repeat("t", 190) // as long as a token is; the sink does not look
	return func(ctx context.Context, i int) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("%s/3/device/%064x", c.URL, i), bytes.NewReader(payload))
		if err != nil {
			return err
		}
		for name, value := range map[string]string{
			"Apns-Id": fmt.Sprintf("00000000-0000-8000-8000-%012x", i), "Apns-Topic": apnsTopic, "Apns-Push-Type": "alert", "Apns-Priority": "10",
			"Apns-Expiration": "1800000000", "Apns-Collapse-Id": collapseID, "Authorization": bearer, "Content-Type": "application/json", "User-Agent": "Posthorn",
		} {
			req.Header[name] = []string{value}
		}
		res, err := t.RoundTrip(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	}, t.CloseIdleConnections, nil
}

// webpush measures the encoding of one message and its cached VAPID header against what RFC 8291 makes
// unavoidable: one P-256 key pair and one agreement.
func (r *runner) webpush(ctx context.Context) error {
	count := pick(r, 8_000, 1_000)
	var ours, floor []float64
	for range r.repeats() {
		var a, b float64
		if err := r.run(ctx, "webpush", webpushConfig{Count: count}, &a); err != nil {
			return err
		}
		if err := r.run(ctx, "webpush", webpushConfig{Count: count, Plain: true}, &b); err != nil {
			return err
		}
		ours, floor = append(ours, a), append(floor, b)
		r.say("webpush: %.1f us, the agreement alone %.1f us", a, b)
	}
	r.put("webpush.cpu_us", "us", ours...)
	r.put("webpush.baseline_ecdh_us", "us", floor...)
	return nil
}

type webpushConfig struct {
	Count int
	Plain bool // the agreement alone
}

// webpushChild prints the CPU in us of one message.
func webpushChild(ctx context.Context, c webpushConfig, out io.Writer) error {
	device, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	send := func() error { return agree(device.PublicKey()) }
	if !c.Plain {
		if send, err = webpushSend(ctx, device.PublicKey()); err != nil {
			return err
		}
	}
	for range c.Count / 10 {
		if err := send(); err != nil {
			return err
		}
	}
	before := selfCPU()
	for range c.Count {
		if err := send(); err != nil {
			return err
		}
	}
	return json.NewEncoder(out).Encode(micros(selfCPU()-before) / float64(c.Count))
}

func agree(device *ecdh.PublicKey) error {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	_, err = key.ECDH(device)
	return err
}

// webpushSend sends through a client that answers 201 without a socket.
func webpushSend(ctx context.Context, device *ecdh.PublicKey) (func() error, error) {
	key, err := webpush.GenerateKey()
	if err != nil {
		return nil, err
	}
	created := &http.Response{StatusCode: http.StatusCreated, Header: http.Header{}, Body: http.NoBody}
	s, err := webpush.New(webpush.Config{Key: key, Subject: "mailto:postmaster@example.org", HTTP: &http.Client{Transport: answers(created)}})
	if err != nil {
		return nil, err
	}
	sub := webpush.Subscription{Endpoint: "https://push.example.org/send/0123456789abcdef", Keys: webpush.Keys{P256dh: device.Bytes(), Auth: make([]byte, 16)}}
	m := webpush.Message{
		TTL: time.Hour, Urgency: "high", Topic: collapseID,
		Body: []byte(`{"web_push":8030,"notification":{"title":"` + mailSender + `","body":"` + mailSubject + `","navigate":"https://mail.example.org/",` +
			`"tag":"` + collapseID + `","data":{"user":"1@1","topic":"mail:new","folder":"INBOX","uidvalidity":1700000000,"uid":12345,"unseen":7,"version":12345}},"app_badge":"7"}`),
	}
	return func() error {
		if o := s.Send(ctx, sub, m); o.Kind != outcome.Delivered {
			return fmt.Errorf("send: %s %s: %w", o.Kind, o.Reason, o.Err)
		}
		return nil
	}, nil
}

// oneAnswer is a RoundTripper that knows one answer.
type oneAnswer struct{ res *http.Response }

func answers(res *http.Response) http.RoundTripper { return oneAnswer{res} }

// RoundTrip implements http.RoundTripper.
func (a oneAnswer) RoundTrip(req *http.Request) (*http.Response, error) {
	res := *a.res
	res.Request = req
	return &res, nil
}
