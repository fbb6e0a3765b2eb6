package fake

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

const (
	testDevice = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
	testUUID   = "eabeae54-14a8-11e5-b60b-1697f925ec7b"
	testTopic  = "org.example.mail"
)

// apnsPeer is a fake with a client that may talk to it.
type apnsPeer struct {
	*APNs
	key    *ecdsa.PrivateKey
	clock  *clock
	client *http.Client
}

func newAPNs(t testing.TB, change func(*APNsConfig)) *apnsPeer {
	t.Helper()
	p := &apnsPeer{key: newECKey(t), clock: newClock()}
	cfg := APNsConfig{
		Keys:   []APNsKey{{KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", Public: &p.key.PublicKey}},
		Topics: []string{testTopic},
		Now:    p.clock.now,
	}
	if change != nil {
		change(&cfg)
	}
	a, err := NewAPNs(cfg)
	if err != nil {
		t.Fatal(err)
	}
	closed(t, a)
	p.APNs = a
	p.client = newClient(t, &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: a.RootCAs()}})
	return p
}

func (p *apnsPeer) token(t testing.TB, header, claims object) string {
	t.Helper()
	return "bearer " + signES256(t, p.key,
		with(object{"alg": "ES256", "kid": "ABC123DEFG"}, header),
		with(object{"iss": "DEF123GHIJ", "iat": p.clock.in(0)}, claims))
}

func (p *apnsPeer) headers(t testing.TB) http.Header {
	t.Helper()
	h := http.Header{}
	h.Set("authorization", p.token(t, nil, nil))
	h.Set("apns-topic", testTopic)
	h.Set("apns-push-type", "alert")
	h.Set("apns-priority", "10")
	h.Set("apns-expiration", strconv.FormatInt(p.clock.in(time.Hour), 10))
	h.Set("apns-collapse-id", "3-INBOX")
	h.Set("apns-id", testUUID)
	return h
}

const testAlert = `{"aps":{"alert":{"title":"Anna","body":"Hello"},"badge":3},"folder":"INBOX"}`

// padded is an alert of exactly n bytes.
func padded(n int) string {
	const start, end = `{"aps":{"alert":"`, `"}}`
	return start + strings.Repeat("x", n-len(start)-len(end)) + end
}

func TestAPNsAccepts(t *testing.T) {
	p := newAPNs(t, nil)
	h := p.headers(t)
	a := mustDo(t, p.client, http.MethodPost, p.URL()+"/3/device/"+strings.ToUpper(testDevice), h, []byte(testAlert))
	if a.status != 200 || a.body != "" || a.header.Get("apns-id") != testUUID || a.proto != 2 {
		t.Fatalf("answer %+v", a)
	}
	d, err := p.Next(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if d.ID != testUUID || d.Target != testDevice || string(d.Payload) != testAlert || !d.At.Equal(p.clock.now()) {
		t.Errorf("delivery %+v", d)
	}
	for _, name := range []string{"apns-topic", "apns-push-type", "apns-priority", "apns-expiration", "apns-collapse-id"} {
		if d.Headers[name] != h.Get(name) {
			t.Errorf("%s is %q, sent %q", name, d.Headers[name], h.Get(name))
		}
	}

	h.Del("apns-id")
	a = mustDo(t, p.client, http.MethodPost, p.URL()+"/3/device/"+testDevice, h, []byte(testAlert))
	if a.status != 200 || !isUUID(a.header.Get("apns-id")) || a.header.Get("apns-id") == testUUID {
		t.Errorf("without apns-id: %+v", a)
	}
}

func TestAPNsRequests(t *testing.T) {
	p := newAPNs(t, nil)
	type request struct {
		method, path string
		header       http.Header
		body         string
	}
	set := func(name, value string) func(*request) {
		return func(r *request) { r.header.Set(name, value) }
	}
	del := func(name string) func(*request) {
		return func(r *request) { r.header.Del(name) }
	}
	both := func(fs ...func(*request)) func(*request) {
		return func(r *request) {
			for _, f := range fs {
				f(r)
			}
		}
	}
	body := func(s string) func(*request) { return func(r *request) { r.body = s } }
	path := func(s string) func(*request) { return func(r *request) { r.path = s } }
	token := func(header, claims object) func(*request) {
		return func(r *request) { r.header.Set("authorization", p.token(t, header, claims)) }
	}
	ok := func(*request) {}
	other := newECKey(t)

	for name, c := range map[string]struct {
		change func(*request)
		status int
		reason string
	}{
		"as it should be": {ok, 200, ""},

		"bad path":       {path("/2/device/" + testDevice), 404, "BadPath"},
		"get":            {func(r *request) { r.method = http.MethodGet }, 405, "MethodNotAllowed"},
		"no device":      {path("/3/device/"), 400, "MissingDeviceToken"},
		"no device path": {path("/3/device"), 400, "MissingDeviceToken"},
		"short device":   {path("/3/device/00fc"), 400, "BadDeviceToken"},
		"odd device":     {path("/3/device/" + testDevice + "0"), 400, "BadDeviceToken"},
		"not hex":        {path("/3/device/g" + testDevice[1:]), 400, "BadDeviceToken"},
		"long device":    {path("/3/device/" + strings.Repeat("ab", 100)), 200, ""},
		"longest device": {path("/3/device/" + strings.Repeat("ab", 101)), 400, "BadDeviceToken"},

		"no token":        {del("authorization"), 403, "MissingProviderToken"},
		"basic":           {set("authorization", "Basic Zm9v"), 403, "MissingProviderToken"},
		"bearer alone":    {set("authorization", "bearer "), 403, "MissingProviderToken"},
		"garbage token":   {set("authorization", "bearer a.b.c"), 403, "InvalidProviderToken"},
		"other team":      {token(nil, object{"iss": "XXXXXXXXXX"}), 403, "InvalidProviderToken"},
		"unknown key":     {token(object{"kid": "XXXXXXXXXX"}, nil), 403, "InvalidProviderToken"},
		"no kid":          {token(object{"kid": nil}, nil), 403, "InvalidProviderToken"},
		"alg none":        {token(object{"alg": "none"}, nil), 403, "InvalidProviderToken"},
		"alg HS256":       {token(object{"alg": "HS256"}, nil), 403, "InvalidProviderToken"},
		"no iat":          {token(nil, object{"iat": nil}), 403, "InvalidProviderToken"},
		"iat as a string": {token(nil, object{"iat": "1"}), 403, "InvalidProviderToken"},
		"iat broken":      {token(nil, object{"iat": 1.5}), 403, "InvalidProviderToken"},
		"iat ahead":       {token(nil, object{"iat": p.clock.in(time.Minute)}), 403, "InvalidProviderToken"},
		"iat over 1 h":    {token(nil, object{"iat": p.clock.in(-time.Hour - time.Second)}), 403, "ExpiredProviderToken"},
		"crit":            {token(object{"crit": []string{"b64"}}, nil), 403, "InvalidProviderToken"},
		"bearer in capitals": {func(r *request) {
			r.header.Set("authorization", strings.Replace(r.header.Get("authorization"), "bearer", "Bearer", 1))
		}, 200, ""},
		"signed by another key": {func(r *request) {
			r.header.Set("authorization", "bearer "+signES256(t, other,
				object{"alg": "ES256", "kid": "ABC123DEFG"}, object{"iss": "DEF123GHIJ", "iat": p.clock.in(0)}))
		}, 403, "InvalidProviderToken"},
		"signature cut": {func(r *request) {
			a := r.header.Get("authorization")
			r.header.Set("authorization", a[:len(a)-4])
		}, 403, "InvalidProviderToken"},

		"two topics":      {func(r *request) { r.header.Add("apns-topic", testTopic) }, 400, "DuplicateHeaders"},
		"two tokens":      {func(r *request) { r.header.Add("authorization", "bearer x") }, 400, "DuplicateHeaders"},
		"bad id":          {set("apns-id", "1234"), 400, "BadMessageId"},
		"id in braces":    {set("apns-id", "{"+testUUID[:34]+"}"), 400, "BadMessageId"},
		"no type":         {del("apns-push-type"), 400, "InvalidPushType"},
		"odd type":        {set("apns-push-type", "Alert"), 400, "InvalidPushType"},
		"no topic":        {del("apns-topic"), 400, "MissingTopic"},
		"other topic":     {set("apns-topic", "org.example.other"), 400, "TopicDisallowed"},
		"odd topic":       {set("apns-topic", "org.example mail"), 400, "BadTopic"},
		"voip topic":      {both(set("apns-push-type", "voip"), set("apns-topic", testTopic+".voip")), 200, ""},
		"voip, no suffix": {set("apns-push-type", "voip"), 400, "TopicDisallowed"},
		"alert to voip":   {set("apns-topic", testTopic+".voip"), 400, "TopicDisallowed"},
		"priority 7":      {set("apns-priority", "7"), 400, "BadPriority"},
		"priority 05":     {set("apns-priority", "05"), 400, "BadPriority"},
		"priority 1":      {set("apns-priority", "1"), 200, ""},
		"no priority":     {del("apns-priority"), 200, ""},
		"background 5":    {both(set("apns-push-type", "background"), set("apns-priority", "5")), 200, ""},
		"background 10":   {set("apns-push-type", "background"), 400, "BadPriority"},
		"background 1":    {both(set("apns-push-type", "background"), set("apns-priority", "1")), 400, "BadPriority"},
		"background none": {both(set("apns-push-type", "background"), del("apns-priority")), 400, "BadPriority"},
		"no expiration":   {del("apns-expiration"), 200, ""},
		"expiration 0":    {set("apns-expiration", "0"), 200, ""},
		"expiration -1":   {set("apns-expiration", "-1"), 400, "BadExpirationDate"},
		"expiration +1":   {set("apns-expiration", "+1"), 400, "BadExpirationDate"},
		"expiration text": {set("apns-expiration", "tomorrow"), 400, "BadExpirationDate"},
		"expiration void": {set("apns-expiration", ""), 400, "BadExpirationDate"},
		"expiration huge": {set("apns-expiration", strings.Repeat("9", 20)), 400, "BadExpirationDate"},
		"collapse 64":     {set("apns-collapse-id", strings.Repeat("c", 64)), 200, ""},
		"collapse 65":     {set("apns-collapse-id", strings.Repeat("c", 65)), 400, "BadCollapseId"},

		"empty":       {body(""), 400, "PayloadEmpty"},
		"4096":        {body(padded(4096)), 200, ""},
		"4097":        {body(padded(4097)), 413, "PayloadTooLarge"},
		"far too big": {body(padded(100_000)), 413, "PayloadTooLarge"},
		"voip 5120":   {both(set("apns-push-type", "voip"), set("apns-topic", testTopic+".voip"), body(padded(5120))), 200, ""},
		"voip 5121":   {both(set("apns-push-type", "voip"), set("apns-topic", testTopic+".voip"), body(padded(5121))), 413, "PayloadTooLarge"},
		"not JSON":    {body(`{"aps":`), 400, "BadPayload"},
		"a list":      {body(`[{"aps":{}}]`), 400, "BadPayload"},
		"no aps":      {body(`{"alert":"x"}`), 400, "BadPayload"},
		"APS":         {body(`{"APS":{}}`), 400, "BadPayload"},
		"aps a text":  {body(`{"aps":"x"}`), 400, "BadPayload"},
		"more JSON":   {body(testAlert + testAlert), 400, "BadPayload"},
		"bad UTF-8":   {body("{\"aps\":{\"alert\":\"\xff\"}}"), 400, "BadPayload"},
	} {
		t.Run(name, func(t *testing.T) {
			before := p.Count(c.status, c.reason)
			r := request{http.MethodPost, "/3/device/" + testDevice, p.headers(t), testAlert}
			c.change(&r)
			a := mustDo(t, p.client, r.method, p.URL()+r.path, r.header, []byte(r.body))
			if a.status != c.status {
				t.Errorf("status %d %s, want %d %s", a.status, a.body, c.status, c.reason)
			}
			if !isUUID(a.header.Get("apns-id")) {
				t.Errorf("apns-id %q", a.header.Get("apns-id"))
			}
			if c.reason != "" && r.method != http.MethodHead && a.body != `{"reason":"`+c.reason+`"}` {
				t.Errorf("body %s, want %s", a.body, c.reason)
			}
			if got := p.Count(c.status, c.reason); got != before+1 {
				t.Errorf("counted %d more, want 1", got-before)
			}
		})
	}
}

func TestAPNsTokenUpdates(t *testing.T) {
	p := newAPNs(t, nil)
	send := func(authorization string, status int, reason string) {
		t.Helper()
		h := p.headers(t)
		h.Set("authorization", authorization)
		a := mustDo(t, p.client, http.MethodPost, p.URL()+"/3/device/"+testDevice, h, []byte(testAlert))
		if a.status != status || reason != "" && !strings.Contains(a.body, reason) {
			t.Errorf("%d %s, want %d %s", a.status, a.body, status, reason)
		}
	}
	first := p.token(t, nil, nil)
	send(first, 200, "")
	sameMoment := p.token(t, nil, object{"iat": p.clock.in(0)})
	if sameMoment == first {
		t.Fatal("signatures are not random")
	}
	send(sameMoment, 200, "")

	p.clock.add(19 * time.Minute)
	early := p.token(t, nil, nil)
	send(early, 429, "TooManyProviderTokenUpdates")
	send(first, 200, "")
	p.clock.add(time.Minute)
	send(early, 200, "")
	send(first, 200, "") // requests under way at the change
	p.clock.add(40 * time.Minute)
	send(first, 200, "")
	p.clock.add(time.Second)
	send(first, 403, "ExpiredProviderToken")
	send(early, 200, "")
}

func TestAPNsRegistry(t *testing.T) {
	p := newAPNs(t, nil)
	since := time.UnixMilli(1_700_000_000_123)
	post := func() answerOf {
		return mustDo(t, p.client, http.MethodPost, p.URL()+"/3/device/"+testDevice, p.headers(t), []byte(testAlert))
	}
	p.Unregister(strings.ToUpper(testDevice), since)
	if a := post(); a.status != 410 || a.body != `{"reason":"Unregistered","timestamp":1700000000123}` {
		t.Errorf("unregistered: %+v", a)
	}
	p.Register(strings.Repeat("ab", 32))
	p.Register(strings.ToUpper(testDevice))
	if a := post(); a.status != 200 {
		t.Errorf("registered again: %+v", a)
	}
	a := mustDo(t, p.client, http.MethodPost, p.URL()+"/3/device/"+strings.Repeat("cd", 32), p.headers(t), []byte(testAlert))
	if a.status != 400 || a.body != `{"reason":"BadDeviceToken"}` {
		t.Errorf("unknown: %+v", a)
	}
}

func TestAPNsScript(t *testing.T) {
	p := newAPNs(t, nil)
	url := p.URL() + "/3/device/" + testDevice
	since := time.UnixMilli(1_700_000_000_000)
	p.Script(Queue(
		Answer{Status: 503, Reason: "ServiceUnavailable", Header: http.Header{"Retry-After": {"7"}}},
		Answer{Status: 410, Reason: "ExpiredToken", GoneSince: since},
		Answer{Status: 500, Body: []byte("<html>")},
		Answer{Delay: time.Millisecond},
		Answer{Header: http.Header{"Connection": {"close"}}},
	))
	if a := mustDo(t, p.client, http.MethodPost, url, p.headers(t), []byte(testAlert)); a.status != 503 ||
		a.header.Get("Retry-After") != "7" || a.body != `{"reason":"ServiceUnavailable"}` {
		t.Errorf("503: %+v", a)
	}
	if a := mustDo(t, p.client, http.MethodPost, url, p.headers(t), []byte(testAlert)); a.status != 410 ||
		a.body != `{"reason":"ExpiredToken","timestamp":1700000000000}` {
		t.Errorf("410: %+v", a)
	}
	if a := mustDo(t, p.client, http.MethodPost, url, p.headers(t), []byte(testAlert)); a.status != 500 || a.body != "<html>" {
		t.Errorf("500: %+v", a)
	}
	for i := range 3 { // delayed, with GOAWAY, and on a new connection
		if a := mustDo(t, p.client, http.MethodPost, url, p.headers(t), []byte(testAlert)); a.status != 200 {
			t.Errorf("%d: %+v", i, a)
		}
	}
	if n := len(p.Deliveries()); n != 3 {
		t.Errorf("recorded %d, want 3", n)
	}

	// Taken, but the sender is not told.
	p.Script(func(d Delivery) *Answer {
		if string(d.Payload) != testAlert || d.ID != testUUID {
			t.Errorf("the script sees %+v", d)
		}
		return &Answer{Close: true}
	})
	if a, err := do(soon(t), p.client, http.MethodPost, url, p.headers(t), []byte(testAlert)); err == nil {
		t.Errorf("close: answered %+v", a)
	}
	if n := len(p.Deliveries()); n != 4 || p.Count(200, "close") != 1 {
		t.Errorf("recorded %d, counted %v", n, p.Counts())
	}

	// Not taken; the client gives up, and the connection serves on.
	p.Script(Queue(Answer{Status: 503, Hang: true}))
	ctx, cancel := context.WithCancel(soon(t))
	failed := make(chan error)
	go func() {
		_, err := do(ctx, p.client, http.MethodPost, url, p.headers(t), []byte(testAlert))
		failed <- err
	}()
	for p.Count(503, "hang") == 0 {
		select {
		case err := <-failed:
			t.Fatalf("hang: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("hang: %v", err)
	}
	if a := mustDo(t, p.client, http.MethodPost, url, p.headers(t), []byte(testAlert)); a.status != 200 {
		t.Errorf("after it: %+v", a)
	}
}

func TestAPNsRefusesHTTP1(t *testing.T) {
	for _, firstStream := range []bool{false, true} {
		p := newAPNs(t, func(c *APNsConfig) { c.FirstStream = firstStream })
		for _, alpn := range [][]string{nil, {"http/1.1"}} {
			c := newClient(t, &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: p.RootCAs(), NextProtos: alpn},
				TLSNextProto:    map[string]func(string, *tls.Conn) http.RoundTripper{},
			})
			a := mustDo(t, c, http.MethodPost, p.URL()+"/3/device/"+testDevice, p.headers(t), []byte(testAlert))
			if a.status != 505 || !strings.Contains(a.body, "HTTP/2 only") {
				t.Errorf("ALPN %v: %+v", alpn, a)
			}
		}
		if n := p.Count(505, "HTTP2Required"); n != 2 || len(p.Deliveries()) != 0 {
			t.Errorf("counted %v", p.Counts())
		}
	}
}

func TestAPNsParallel(t *testing.T) {
	for _, keep := range []int{0, -1} {
		p := newAPNs(t, func(c *APNsConfig) { c.Keep = keep; c.MaxConcurrentStreams = 50 })
		h := p.headers(t)
		const workers, each = 20, 25
		var wg sync.WaitGroup
		for i := range workers {
			wg.Go(func() {
				for j := range each {
					url := fmt.Sprintf("%s/3/device/%064x", p.URL(), i*each+j)
					a, err := do(t.Context(), p.client, http.MethodPost, url, h, []byte(testAlert))
					if err != nil || a.status != 200 {
						t.Errorf("%v %+v", err, a)
					}
				}
			})
		}
		if keep == 0 {
			seen := map[string]bool{}
			for range workers * each {
				d, err := p.Next(soon(t))
				if err != nil {
					t.Fatal(err)
				}
				seen[d.Target] = true
			}
			if len(seen) != workers*each {
				t.Errorf("saw %d devices, want %d", len(seen), workers*each)
			}
		}
		wg.Wait()
		if n := p.Count(200, ""); n != workers*each {
			t.Errorf("counted %d, want %d", n, workers*each)
		}
	}
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	for _, firstStream := range []bool{false, true} {
		p := newAPNs(t, func(c *APNsConfig) { c.FirstStream = firstStream })
		url := p.URL() + "/3/device/" + testDevice
		mustDo(t, p.client, http.MethodPost, url, p.headers(t), []byte(testAlert))
		p.Script(func(d Delivery) *Answer {
			if d.ID == testUUID {
				return &Answer{Hang: true}
			}
			return &Answer{Delay: time.Hour}
		})
		var wg sync.WaitGroup
		for i := range 4 {
			h := p.headers(t)
			if i%2 == 0 {
				h.Del("apns-id")
			}
			wg.Go(func() {
				if a, err := do(t.Context(), p.client, http.MethodPost, url, h, []byte(testAlert)); err == nil {
					t.Errorf("answered %+v", a)
				}
			})
		}
		for p.Count(200, "hang") < 2 {
			<-time.After(time.Millisecond)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		noServerGoroutines(t)
		if n := p.Count(200, ""); n != 1 {
			t.Errorf("counted %d accepted, want the one before", n)
		}
		for range 3 { // what was taken can still be looked at
			if _, err := p.Next(soon(t)); err != nil {
				t.Error(err)
			}
		}
		if _, err := p.Next(soon(t)); !errors.Is(err, ErrClosed) {
			t.Errorf("Next after Close: %v", err)
		}
	}
}

func FuzzHasAps(f *testing.F) {
	for _, seed := range []string{testAlert, `{"x":["aps",{"aps":{}}],"aps" : {}}`, `{"\\"":"aps","aps":1}`, `["aps"]`, `"aps"`, `{}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got := hasAps(body)
		var m map[string]json.RawMessage
		want := json.Unmarshal(body, &m) == nil && strings.HasPrefix(string(m["aps"]), "{")
		// A name may be given twice or with escapes, which only the decoder sees through.
		if got != want && utf8.Valid(body) && bytes.Count(body, []byte(`"aps"`)) < 2 && !bytes.Contains(body, []byte(`\`)) {
			t.Errorf("%q: %v, want %v", body, got, want)
		}
	})
}
