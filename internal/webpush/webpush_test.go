package webpush

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outbound"
	"github.com/posthorn-mail/posthorn/internal/outcome"
)

var testNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// newSender returns a Sender that may also send to the given origins.
func newSender(t testing.TB, allow []string) *Sender {
	t.Helper()
	guard, err := outbound.New(outbound.Config{Allow: allow})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(guard.Client().CloseIdleConnections)
	s, err := New(Config{
		Key: must(GenerateKey())(t), Subject: "mailto:push@example.com", HTTP: guard.Client(), Now: func() time.Time { return testNow },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSend(t *testing.T) {
	r := newReceiver(t)
	var got *http.Request
	var body []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		got = req
		body, _ = io.ReadAll(req.Body)
		w.Header().Set("Location", "https://push.example.com/m/1")
		w.WriteHeader(http.StatusCreated)
	}))
	defer srv.Close()
	s := newSender(t, []string{srv.URL})

	const plain = `{"web_push":8030,"notification":{"title":"Ünread"}}`
	o := s.Send(t.Context(), r.subscription(srv.URL+"/push/abc?d=1"), Message{
		Body: []byte(plain), TTL: 90*time.Second + time.Millisecond, Urgency: "high", Topic: "abcd-_12",
	})
	if o != (outcome.Outcome{Kind: outcome.Delivered, Status: 201, ProviderID: "https://push.example.com/m/1"}) {
		t.Fatalf("outcome %+v", o)
	}
	if back, err := r.decrypt(body); err != nil || string(back) != plain {
		t.Errorf("decrypted %q, %v", back, err)
	}
	if got.Method != http.MethodPost || got.RequestURI != "/push/abc?d=1" || got.ContentLength != int64(len(body)) {
		t.Errorf("%s %s, Content-Length %d", got.Method, got.RequestURI, got.ContentLength)
	}
	for name, want := range map[string]string{
		"TTL": "91", "Urgency": "high", "Topic": "abcd-_12", "Content-Encoding": "aes128gcm", "Content-Type": "application/octet-stream",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	if c := readVAPID(t, got.Header.Get("Authorization")); c.Aud != srv.URL {
		t.Errorf("aud %q, want %q", c.Aud, srv.URL)
	}
	if !strings.HasSuffix(got.Header.Get("Authorization"), ", k="+s.PublicKey()) {
		t.Error("k is not PublicKey")
	}

	for ttl, want := range map[time.Duration]string{0: "0", -time.Hour: "0", 365 * 24 * time.Hour: "2592000"} {
		if o := s.Send(t.Context(), r.subscription(srv.URL+"/x"), Message{TTL: ttl}); o.Kind != outcome.Delivered {
			t.Fatalf("outcome %+v", o)
		}
		_, urgency := got.Header["Urgency"]
		_, topic := got.Header["Topic"]
		if got.Header.Get("TTL") != want || urgency || topic {
			t.Errorf("TTL %v: header %v", ttl, got.Header)
		}
	}
}

// TestPushVerification: what a JMAP server posts to a new push subscription (RFC 8620 section 7.2.2) goes out
// encrypted to the keys that it came with, and as plain JSON where it has none.
func TestPushVerification(t *testing.T) {
	const verification = `{"@type":"PushVerification","pushSubscriptionId":"P43dcfa4-1dd4-41ef-9156-2c89b3b19c60","verificationCode":"da1f097b11ca17f06424e30bf02bfa67"}`
	r := newReceiver(t)
	var header http.Header
	var body []byte
	status := http.StatusCreated
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		header = req.Header
		body, _ = io.ReadAll(req.Body)
		w.WriteHeader(status)
	}))
	defer srv.Close()
	s := newSender(t, []string{srv.URL})
	m := Message{Body: []byte(verification), TTL: time.Hour, Urgency: "high"}

	if o := s.Send(t.Context(), r.subscription(srv.URL+"/push"), m); o.Kind != outcome.Delivered {
		t.Fatalf("outcome %+v", o)
	}
	if plain, err := r.decrypt(body); err != nil || string(plain) != verification || strings.Contains(string(body), "PushVerification") {
		t.Errorf("decrypted %q, %v", plain, err)
	}

	if o := s.SendPlain(t.Context(), srv.URL+"/push", m); o.Kind != outcome.Delivered {
		t.Fatalf("outcome %+v", o)
	}
	_, encoded := header["Content-Encoding"]
	if string(body) != verification || header.Get("Content-Type") != "application/json" || encoded || header.Get("TTL") != "3600" || header.Get("Urgency") != "high" {
		t.Errorf("%s, header %v", body, header)
	}
	if c := readVAPID(t, header.Get("Authorization")); c.Aud != srv.URL { // RFC 9749
		t.Errorf("aud %q", c.Aud)
	}
	status = http.StatusGone
	if o := s.SendPlain(t.Context(), srv.URL+"/push", m); o.Kind != outcome.Gone {
		t.Errorf("outcome %+v", o)
	}
	for reason, c := range map[string]struct {
		endpoint string
		m        Message
	}{
		"not_json":     {srv.URL, Message{Body: []byte("PushVerification")}},
		ReasonTooLarge: {srv.URL, Message{Body: make([]byte, MaxBody+1)}},
		"bad_endpoint": {srv.URL + "#f", m},
	} {
		body = nil
		if o := s.SendPlain(t.Context(), c.endpoint, c.m); o.Kind != outcome.Refused || o.Reason != reason || o.Err == nil || body != nil {
			t.Errorf("%s: %+v, sent %q", reason, o, body)
		}
	}
	// Keys that were lost never make a message of Posthorn's a plain one.
	if o := s.Send(t.Context(), Subscription{Endpoint: srv.URL + "/push"}, m); o.Kind != outcome.Refused || o.Reason != "bad_keys" || body != nil {
		t.Errorf("%+v, sent %q", o, body)
	}
}

func TestSendRefusesWhatCannotBeSent(t *testing.T) {
	s := newSender(t, nil)
	r := newReceiver(t)
	good := r.subscription("https://push.example.com/secret")
	for reason, c := range map[string]struct {
		sub Subscription
		m   Message
	}{
		ReasonTooLarge:    {good, Message{Body: make([]byte, MaxBody+1)}},
		"bad_urgency":     {good, Message{Urgency: "urgent"}},
		"bad_topic":       {good, Message{Topic: "mail new"}},
		"bad_endpoint":    {r.subscription("https://push.example.com/secret#f"), Message{}},
		"bad_keys":        {Subscription{Endpoint: good.Endpoint, Keys: Keys{P256dh: make([]byte, 65), Auth: good.Auth}}, Message{}},
		"refused_address": {r.subscription("https://127.0.0.1/secret"), Message{}},
	} {
		o := s.Send(t.Context(), c.sub, c.m)
		if o.Kind != outcome.Refused || o.Reason != reason || o.Err == nil || strings.Contains(o.Err.Error(), "secret") {
			t.Errorf("%s: %+v", reason, o)
		}
	}
	for topic, ok := range map[string]bool{
		"": true, "ab": true, "abc": true, "abcd": true, strings.Repeat("a", 32): true, "-_-_": true,
		"a": false, "abcde": false, strings.Repeat("a", 33): false, strings.Repeat("a", 34): false, "ab+/": false, "ab==": false, "äb": false,
	} {
		if err := CheckTopic(topic); (err == nil) != ok {
			t.Errorf("CheckTopic(%q) = %v", topic, err)
		}
	}
}

// TestAnswers is the table of what each answer leads to. RetryAfter and ProviderID are in the rows that
// have them; everything else must leave them empty.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		status     int
		retryAfter string
		body       string
		kind       outcome.Kind
		reason     string
		wait       time.Duration
	}{
		{status: 200, kind: outcome.Delivered},
		{status: 201, kind: outcome.Delivered},
		{status: 202, kind: outcome.Delivered},
		{status: 204, kind: outcome.Delivered},
		{status: 201, body: `{"errno":103}`, retryAfter: "60", kind: outcome.Delivered},

		{status: 301, kind: outcome.Refused, reason: "redirect"},
		{status: 302, body: `{"errno":103}`, kind: outcome.Refused, reason: "errno_103"},
		{status: 307, kind: outcome.Refused, reason: "redirect"},
		{status: 308, kind: outcome.Refused, reason: "redirect"},
		{status: 304, kind: outcome.Refused, reason: "redirect"},

		{status: 400, kind: outcome.Refused, reason: "bad_request"},
		{status: 400, body: `{"code":400,"errno":101}`, kind: outcome.Refused, reason: "errno_101"},
		{status: 400, body: `{"code":400,"errno":110}`, kind: outcome.Refused, reason: "errno_110"},
		{status: 400, body: `{"code":400,"errno":111}`, kind: outcome.Refused, reason: "errno_111"},
		{status: 400, body: `{"code":400,"errno":112}`, kind: outcome.Refused, reason: "errno_112"},
		{status: 400, body: `{"code":400,"errno":113}`, kind: outcome.Refused, reason: "errno_113"},
		{status: 400, body: `{"errno":102}`, kind: outcome.Gone, reason: "errno_102"},
		{status: 400, body: `{"errno":103}`, kind: outcome.Gone, reason: "errno_103"},
		{status: 400, body: `{"errno":105}`, kind: outcome.Gone, reason: "errno_105"},
		{status: 400, body: `{"errno":106}`, kind: outcome.Gone, reason: "errno_106"},
		{status: 400, body: `{"errno":4711}`, kind: outcome.Refused, reason: "bad_request"},
		{status: 400, body: `{"errno":"103"}`, kind: outcome.Refused, reason: "bad_request"},
		{status: 400, body: `{"reason":"BadWebPushTopic"}`, kind: outcome.Refused, reason: "BadWebPushTopic"},
		{status: 400, body: `{"reason":"anything <script>"}`, kind: outcome.Refused, reason: "bad_request"},
		{status: 400, body: `{"reason":"VapidPkHashMismatch"}`, kind: outcome.Refused, reason: ReasonKeyMismatch},
		{status: 400, body: "\x00\xff not JSON", kind: outcome.Refused, reason: "bad_request"},

		{status: 401, kind: outcome.Blocked, reason: "unauthorized"},
		{status: 401, body: `{"code":401,"errno":109}`, kind: outcome.Blocked, reason: "errno_109"},
		{status: 401, body: `{"errno":103}`, kind: outcome.Blocked, reason: "errno_103"},
		{status: 401, body: `{"errno":109,"message":"VAPID public key mismatch"}`, kind: outcome.Refused, reason: ReasonKeyMismatch},
		{status: 403, kind: outcome.Blocked, reason: "forbidden"},
		{status: 403, body: `{"reason":"BadJwtToken"}`, kind: outcome.Blocked, reason: "BadJwtToken"},
		{status: 403, body: `{"reason":"VapidPkHashMismatch"}`, kind: outcome.Refused, reason: ReasonKeyMismatch},
		{status: 403, body: "the VAPID credentials in the authorization header do not correspond to the credentials used to create the subscriptions.\n", kind: outcome.Refused, reason: ReasonKeyMismatch},

		{status: 404, kind: outcome.Gone, reason: "not_found"},
		{status: 404, body: `{"errno":102}`, kind: outcome.Gone, reason: "errno_102"},
		{status: 410, kind: outcome.Gone, reason: "gone"},
		{status: 410, body: `{"code":410,"errno":106,"error":"Gone"}`, kind: outcome.Gone, reason: "errno_106"},
		{status: 410, body: `{"reason":"Unregistered"}`, kind: outcome.Gone, reason: "Unregistered"},

		{status: 413, kind: outcome.Refused, reason: ReasonTooLarge},
		{status: 413, body: `{"code":413,"errno":104}`, kind: outcome.Refused, reason: ReasonTooLarge},
		{status: 413, body: `{"errno":103}`, kind: outcome.Refused, reason: ReasonTooLarge},

		{status: 405, kind: outcome.Refused, reason: "client_error"},
		{status: 408, kind: outcome.Refused, reason: "client_error"},
		{status: 422, kind: outcome.Refused, reason: "client_error"},
		{status: 499, body: `{"errno":106}`, kind: outcome.Gone, reason: "errno_106"},

		{status: 429, kind: outcome.Later, reason: "too_many_requests"},
		{status: 429, body: `{"errno":103}`, retryAfter: "30", kind: outcome.Later, reason: "errno_103", wait: 30 * time.Second},
		{status: 429, retryAfter: "0", kind: outcome.Later, reason: "too_many_requests"},
		{status: 429, retryAfter: "3600", kind: outcome.Later, reason: "too_many_requests", wait: time.Hour},
		{status: 429, retryAfter: "3601", kind: outcome.Later, reason: "too_many_requests", wait: time.Hour},
		{status: 429, retryAfter: "99999999999999999999", kind: outcome.Later, reason: "too_many_requests", wait: time.Hour},
		{status: 429, retryAfter: "-5", kind: outcome.Later, reason: "too_many_requests"},
		{status: 429, retryAfter: "soon", kind: outcome.Later, reason: "too_many_requests"},
		{status: 429, retryAfter: "Sun, 22 Nov 2026 12:02:00 GMT", kind: outcome.Later, reason: "too_many_requests", wait: 2 * time.Minute},
		{status: 429, retryAfter: "Sun, 22 Nov 2026 11:00:00 GMT", kind: outcome.Later, reason: "too_many_requests"},
		{status: 429, retryAfter: "Tue, 22 Nov 2033 12:00:00 GMT", kind: outcome.Later, reason: "too_many_requests", wait: time.Hour},

		{status: 500, kind: outcome.Later, reason: "server_error"},
		{status: 500, body: `{"errno":999}`, kind: outcome.Later, reason: "errno_999"},
		{status: 502, body: "<html>garbage", kind: outcome.Later, reason: "server_error"},
		{status: 503, retryAfter: "120", body: `{"errno":201}`, kind: outcome.Later, reason: "errno_201", wait: 2 * time.Minute},
		{status: 503, body: `{"errno":103}`, kind: outcome.Later, reason: "errno_103"},
		{status: 599, kind: outcome.Later, reason: "server_error"},

		{status: 101, kind: outcome.Refused, reason: "unexpected_status"},
		{status: 600, kind: outcome.Refused, reason: "unexpected_status"},
		{status: 999, kind: outcome.Refused, reason: "unexpected_status"},
	} {
		h := http.Header{}
		if c.retryAfter != "" {
			h.Set("Retry-After", c.retryAfter)
		}
		want := outcome.Outcome{Kind: c.kind, Status: c.status, Reason: c.reason, RetryAfter: c.wait}
		if got := answer(c.status, h, []byte(c.body), testNow); got != want {
			t.Errorf("%d %q %q\ngot  %+v\nwant %+v", c.status, c.retryAfter, c.body, got, want)
		}
	}
	for location, want := range map[string]string{
		"/m/1": "/m/1", "": "", "/m/1\r\nx": "", strings.Repeat("a", maxProviderID+1): "",
	} {
		if got := answer(201, http.Header{"Location": {location}}, nil, testNow).ProviderID; got != want {
			t.Errorf("Location %q became %q", location, got)
		}
	}
}

// TestSendAnswer: what Send adds to answer, over a socket.
func TestSendAnswer(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	status := 0
	const path = "/push/secret-token?and=secret-query"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", elsewhere.URL)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "no such resource: "+path+strings.Repeat(" and so on", 20_000))
	}))
	defer srv.Close()
	s := newSender(t, []string{srv.URL, elsewhere.URL})
	sub := newReceiver(t).subscription(srv.URL + path)
	for code, want := range map[int]outcome.Kind{
		404: outcome.Gone, 403: outcome.Blocked, 500: outcome.Later, 302: outcome.Refused, 307: outcome.Refused,
	} {
		status = code
		o := s.Send(t.Context(), sub, Message{Body: []byte("x")})
		if o.Kind != want || o.Status != code || o.Err == nil || strings.Contains(o.Err.Error(), "secret") || len(o.Err.Error()) > 400 {
			t.Errorf("%d: %+v", code, o)
		}
		if _, kept := s.vapid.tokens[srv.URL]; kept == (code == 403) {
			t.Errorf("%d: token kept: %v", code, kept)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTransportFailures(t *testing.T) {
	r := newReceiver(t)
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for name, c := range map[string]struct {
		err    error
		kind   outcome.Kind
		reason string
	}{
		"internal":  {fmt.Errorf("dial: %w", &outbound.RefusedError{Host: "a", Addr: netip.MustParseAddr("10.0.0.1"), Reason: "a private address"}), outcome.Refused, "refused_address"},
		"canceled":  {context.Canceled, outcome.Later, "canceled"},
		"deadline":  {context.DeadlineExceeded, outcome.Later, "timeout"},
		"no name":   {fmt.Errorf("look up a: %w", &net.DNSError{Err: "no such host", IsNotFound: true}), outcome.Later, "dns"},
		"slow dns":  {&net.DNSError{Err: "timeout", IsTimeout: true}, outcome.Later, "dns"},
		"slow dial": {dial(context.DeadlineExceeded), outcome.Later, "timeout"},
		"no dial":   {fmt.Errorf("connect to a: %w", dial(errors.New("connection refused"))), outcome.Later, "connect"},
		"alert":     {&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}, outcome.Later, "tls"},
		"bad cert":  {x509Error(t), outcome.Later, "tls"},
		"version":   {errors.New("tls: server selected unsupported protocol version 301"), outcome.Later, "tls"},
		"plain":     {http.ErrSchemeMismatch, outcome.Later, "tls"},
		"reset":     {&net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}, outcome.Later, "connection"},
		"eof":       {io.ErrUnexpectedEOF, outcome.Later, "connection"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSender(t, nil)
			s.http.Transport = roundTripper(func(*http.Request) (*http.Response, error) { return nil, c.err })
			o := s.Send(t.Context(), r.subscription("https://push.example.com/secret"), Message{})
			if o.Kind != c.kind || o.Reason != c.reason || o.Status != 0 || !errors.Is(o.Err, c.err) || strings.Contains(o.Err.Error(), "secret") {
				t.Errorf("%+v", o)
			}
		})
	}
}

func TestTransportFailureTextIsBounded(t *testing.T) {
	s := newSender(t, nil)
	s.http.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
		return nil, fmt.Errorf("malformed header %q", req.URL.Path+strings.Repeat("\xff", 30_000))
	})
	o := s.Send(t.Context(), newReceiver(t).subscription("https://push.example.com/secret-token"), Message{})
	if o.Reason != "connection" || len(o.Err.Error()) > 300 || strings.Contains(o.Err.Error(), "secret") {
		t.Errorf("%+v", o)
	}
}

// x509Error is what a TLS client returns for a certificate it does not trust.
func x509Error(t *testing.T) error {
	t.Helper()
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	client := http.Client{Transport: &http.Transport{}} // without the server's root
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err == nil {
		_ = resp.Body.Close()
		t.Fatal("trusted")
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Fatal(err)
	}
	return errors.Unwrap(err)
}

func TestSendHonoursTheContext(t *testing.T) {
	release := make(chan struct{})
	reached := make(chan struct{}, 2)
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		reached <- struct{}{}
		<-release
	}))
	defer srv.Close()
	defer close(release)
	s := newSender(t, []string{srv.URL})
	sub := newReceiver(t).subscription(srv.URL + "/x")

	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-reached
		cancel(errors.New("shutting down"))
	}()
	if o := s.Send(ctx, sub, Message{}); o.Kind != outcome.Later || o.Reason != "canceled" {
		t.Errorf("canceled: %+v", o)
	}
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if o := s.Send(ctx, sub, Message{}); o.Kind != outcome.Later || o.Reason != "timeout" {
		t.Errorf("timed out: %+v", o)
	}
}

// TestSlowDrip: an answer that comes octet by octet is waited for no longer than any other; its status counts.
func TestSlowDrip(t *testing.T) {
	for status, kind := range map[int]outcome.Kind{201: outcome.Delivered, 503: outcome.Later} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
				<-tick.C
			}
		}))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		begin := time.Now()
		if o := newSender(t, []string{srv.URL}).Send(ctx, newReceiver(t).subscription(srv.URL+"/x"), Message{}); o.Kind != kind || o.Status != status {
			t.Errorf("outcome %+v", o)
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("after %v", d)
		}
		srv.Close()
	}
}

func TestOriginOf(t *testing.T) {
	for in, want := range map[string]string{
		"https://Push.Example.com/x":        "https://push.example.com",
		"https://push.example.com:443/x":    "https://push.example.com",
		"https://push.example.com:8443/x":   "https://push.example.com:8443",
		"https://push.example.com:80/x":     "https://push.example.com:80",
		"http://127.0.0.1:80/x":             "http://127.0.0.1",
		"http://127.0.0.1:8026/x":           "http://127.0.0.1:8026",
		"https://[2606:4700:4700::1111]/x":  "https://[2606:4700:4700::1111]",
		"https://[2606:4700::1]:443/x?a=/b": "https://[2606:4700::1]",
	} {
		if got := originOf(must(outbound.ParseURL(in))(t)); got != want {
			t.Errorf("originOf(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	key := must(GenerateKey())(t)
	for name, cfg := range map[string]Config{
		"no key":      {HTTP: http.DefaultClient},
		"no client":   {Key: key},
		"bad subject": {Key: key, HTTP: http.DefaultClient, Subject: "mailto:root@localhost"},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
