package fake

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"
)

const testRegistration = "cM3kq9xT0bE:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx_Qk1T5T5T5T5T5T5T5T5T5T5T5T5"

// Making RSA keys is slow under the race detector; the tests share one.
var serviceKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

type fcmPeer struct {
	*FCM
	clock   *clock
	key     *rsa.PrivateKey
	account map[string]string
	client  *http.Client
}

func newFCM(t testing.TB, change func(*FCMConfig)) *fcmPeer {
	t.Helper()
	key, err := serviceKey()
	if err != nil {
		t.Fatal(err)
	}
	p := &fcmPeer{clock: newClock(), key: key}
	cfg := FCMConfig{Project: "mail-push", Key: key, Now: p.clock.now}
	if change != nil {
		change(&cfg)
	}
	f, err := NewFCM(cfg)
	if err != nil {
		t.Fatal(err)
	}
	closed(t, f)
	p.FCM = f
	raw, err := f.ServiceAccount()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &p.account); err != nil {
		t.Fatal(err)
	}
	p.client = newClient(t, &http.Transport{})
	return p
}

func (p *fcmPeer) assertion(t testing.TB, header, claims object) string {
	t.Helper()
	signed := segment(t, with(object{"alg": "RS256", "typ": "JWT", "kid": p.account["private_key_id"]}, header)) + "." +
		segment(t, with(object{
			"iss": p.account["client_email"], "scope": fcmScope, "aud": p.account["token_uri"],
			"iat": p.clock.in(0), "exp": p.clock.in(time.Hour),
		}, claims))
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, p.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func (p *fcmPeer) grant(t testing.TB, grantType, assertion string) answerOf {
	t.Helper()
	form := url.Values{"grant_type": {grantType}, "assertion": {assertion}}
	return mustDo(t, p.client, http.MethodPost, p.account["token_uri"],
		http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, []byte(form.Encode()))
}

func (p *fcmPeer) bearer(t testing.TB) string {
	t.Helper()
	a := p.grant(t, grantType, p.assertion(t, nil, nil))
	if a.status != 200 {
		t.Fatalf("token endpoint: %+v", a)
	}
	o := a.json(t)
	if o["token_type"] != "Bearer" || o["expires_in"] != 3600.0 {
		t.Fatalf("token endpoint: %v", o)
	}
	return "Bearer " + text(o, "access_token")
}

func (p *fcmPeer) send(t testing.TB, bearer, body string) answerOf {
	t.Helper()
	return mustDo(t, p.client, http.MethodPost, p.URL()+"/v1/projects/mail-push/messages:send",
		http.Header{"Authorization": {bearer}, "Content-Type": {"application/json; charset=UTF-8"}}, []byte(body))
}

// fcmErrors digests an error document: google.rpc code, FcmError code, and the fields at fault.
func fcmErrors(t testing.TB, a answerOf) (status, code, fields string) {
	t.Helper()
	e, _ := a.json(t)["error"].(object)
	if e["code"] != float64(a.status) {
		t.Errorf("code %v in an answer %d", e["code"], a.status)
	}
	details, _ := e["details"].([]any)
	for _, d := range details {
		switch d := d.(object); d["@type"] {
		case "type.googleapis.com/google.firebase.fcm.v1.FcmError":
			code = text(d, "errorCode")
		case "type.googleapis.com/google.rpc.BadRequest":
			violations, _ := d["fieldViolations"].([]any)
			for _, v := range violations {
				fields += text(v.(object), "field") + ";"
			}
		default:
			t.Errorf("detail of type %v", d["@type"])
		}
	}
	return text(e, "status"), code, fields
}

func TestFCMServiceAccount(t *testing.T) {
	p := newFCM(t, nil)
	block, _ := pem.Decode([]byte(p.account["private_key"]))
	if block == nil {
		t.Fatal("no PEM key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil || !p.key.Equal(key) {
		t.Errorf("private key: %v", err)
	}
	if p.account["type"] != "service_account" || p.account["project_id"] != "mail-push" || p.Project() != "mail-push" ||
		p.account["token_uri"] != p.URL()+"/token" {
		t.Errorf("service account %v", p.account["token_uri"])
	}
	// A client that is not ours, on the real clock.
	live := newFCM(t, func(c *FCMConfig) { c.Now = nil; c.Key = nil })
	conf := jwt.Config{
		Email: live.account["client_email"], PrivateKey: []byte(live.account["private_key"]),
		PrivateKeyID: live.account["private_key_id"], Scopes: []string{fcmScope}, TokenURL: live.account["token_uri"],
	}
	client := conf.Client(context.WithValue(t.Context(), oauth2.HTTPClient, live.client))
	body := fmt.Sprintf(`{"message":{"token":%q,"data":{"a":"b"}}}`, testRegistration)
	a := mustDo(t, client, http.MethodPost, live.URL()+"/v1/projects/mail-push/messages:send", http.Header{"Content-Type": {"application/json"}}, []byte(body))
	if a.status != 200 || live.TokensIssued() != 1 {
		t.Errorf("x/oauth2: %+v, %d tokens", a, live.TokensIssued())
	}
}

func TestFCMGrant(t *testing.T) {
	p := newFCM(t, nil)
	type grant struct{ kind, assertion string }
	claims := func(c object) grant { return grant{grantType, p.assertion(t, nil, c)} }
	for name, c := range map[string]struct {
		grant grant
		word  string
	}{
		"as it should be": {claims(nil), ""},
		"several scopes":  {claims(object{"scope": "x " + fcmScope}), ""},
		"no kid":          {grant{grantType, p.assertion(t, object{"kid": nil}, nil)}, ""},
		"other grant":     {grant{"client_credentials", ""}, "unsupported_grant_type"},
		"no assertion":    {grant{grantType, ""}, "invalid_grant"},
		"garbage":         {grant{grantType, "a.b.c"}, "invalid_grant"},
		"other kid":       {grant{grantType, p.assertion(t, object{"kid": "x"}, nil)}, "invalid_grant"},
		"alg none":        {grant{grantType, p.assertion(t, object{"alg": "none"}, nil)}, "invalid_grant"},
		"cut signature":   {grant{grantType, strings.TrimRight(p.assertion(t, nil, nil), "-_") + "AAAA"}, "invalid_grant"},
		"other account":   {claims(object{"iss": "x@example.org"}), "invalid_grant"},
		"other audience":  {claims(object{"aud": p.URL()}), "invalid_grant"},
		"other scope":     {claims(object{"scope": fcmScope + ".x"}), "invalid_scope"},
		"no scope":        {claims(object{"scope": nil}), "invalid_scope"},
		"no iat":          {claims(object{"iat": nil}), "invalid_grant"},
		"no exp":          {claims(object{"exp": nil}), "invalid_grant"},
		"iat ahead":       {claims(object{"iat": p.clock.in(time.Minute)}), "invalid_grant"},
		"over":            {claims(object{"iat": p.clock.in(-time.Hour), "exp": p.clock.in(0)}), "invalid_grant"},
		"too long":        {claims(object{"exp": p.clock.in(time.Hour + time.Second)}), "invalid_grant"},
	} {
		t.Run(name, func(t *testing.T) {
			a := p.grant(t, c.grant.kind, c.grant.assertion)
			if c.word == "" {
				if a.status != 200 {
					t.Errorf("%+v", a)
				}
				return
			}
			if a.status != 400 || a.json(t)["error"] != c.word {
				t.Errorf("%d %s, want %s", a.status, a.body, c.word)
			}
		})
	}
	if a := mustDo(t, p.client, http.MethodGet, p.account["token_uri"], nil, nil); a.status != 405 {
		t.Errorf("GET: %+v", a)
	}
	if a := mustDo(t, p.client, http.MethodPost, p.account["token_uri"], nil, []byte("{}")); a.status != 400 || a.json(t)["error"] != "invalid_request" {
		t.Errorf("no form: %+v", a)
	}
	if n := p.Count(200, "token"); n != int64(p.TokensIssued()) || n != 3 {
		t.Errorf("counted %d tokens, issued %d, want 3", n, p.TokensIssued())
	}
	p.ScriptToken(Queue(Answer{Status: 503, Reason: "internal_failure"}, Answer{}))
	if a := p.grant(t, grantType, p.assertion(t, nil, nil)); a.status != 503 {
		t.Errorf("scripted: %+v", a)
	}
	p.bearer(t)
	p.ScriptToken(nil)
	p.bearer(t)
}

func TestFCMBearer(t *testing.T) {
	p := newFCM(t, func(c *FCMConfig) { c.TokenLife = 0 })
	body := fmt.Sprintf(`{"message":{"token":%q}}`, testRegistration)
	good := p.bearer(t)
	if a := p.send(t, good, body); a.status != 200 {
		t.Fatalf("%+v", a)
	}
	for _, bad := range []string{"", "Bearer x", "Basic " + good, strings.TrimPrefix(good, "Bearer ")} {
		a := p.send(t, bad, body)
		if status, code, _ := fcmErrors(t, a); a.status != 401 || status != "UNAUTHENTICATED" || code != "" || a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%q: %+v", bad, a)
		}
	}
	p.clock.add(time.Hour)
	if a := p.send(t, good, body); a.status != 401 {
		t.Errorf("expired: %+v", a)
	}
	fresh := p.bearer(t)
	if a := p.send(t, fresh, body); a.status != 200 {
		t.Errorf("fresh: %+v", a)
	}
	p.RevokeTokens()
	if a := p.send(t, fresh, body); a.status != 401 {
		t.Errorf("revoked: %+v", a)
	}
}

func TestFCMMessages(t *testing.T) {
	p := newFCM(t, nil)
	bearer := p.bearer(t)
	message := func(members string) string {
		return fmt.Sprintf(`{"message":{"token":%q%s}}`, testRegistration, members)
	}
	android := func(members string) string { return message(`,"android":{` + members + `}`) }
	big := func(n int) string {
		return message(fmt.Sprintf(`,"data":{"k":%q}`, strings.Repeat("x", n-1)))
	}
	for name, c := range map[string]struct {
		body   string
		fields string // "" is accepted
	}{
		"data":             {message(`,"data":{"folder":"INBOX","uid":"7"},"android":{"priority":"HIGH","ttl":"3600s","collapse_key":"u3","restricted_package_name":"org.example.mail"}`), ""},
		"camel case, null": {message(`,"notification":null,"android":{"collapseKey":"u3","restrictedPackageName":"x","priority":"high","ttl":"3.5s"}`), ""},
		"everything": {message(`,"notification":{"title":"t","body":"b"},"data":{},"fcm_options":{"analytics_label":"x"},
			"android":{"notification":{"title_loc_args":["a"],"notification_count":3,"event_time":"2026-11-22T09:00:00.5Z","vibrate_timings":["1s","0.5s"],
			"visibility":"PRIVATE","light_settings":{"color":{"red":0.5},"light_on_duration":"1s"}},"direct_boot_ok":true},
			"webpush":{"headers":{"TTL":"5"},"notification":{"any":{"thing":1}}},"apns":{"payload":{"aps":{}},"headers":{"apns-priority":"5"}}`), ""},
		"validate only": {fmt.Sprintf(`{"validate_only":true,"message":{"token":%q}}`, testRegistration), ""},
		"ttl 0":         {android(`"ttl":"0s"`), ""},
		"ttl 28 days":   {android(`"ttl":"2419200s"`), ""},
		"4096":          {big(4096), ""},

		"not JSON":          {`{"message"`, ";"},
		"a list":            {`[]`, ";"},
		"null":              {`null`, ";"},
		"twice":             {message("") + "{}", ";"},
		"bad UTF-8":         {message(",\"data\":{\"a\":\"\xff\"}"), ";"},
		"too long":          {message(`,"data":{"a":"` + strings.Repeat("x", maxFCMBody) + `"}`), ";"},
		"no message":        {`{}`, "message;"},
		"unknown at top":    {`{"to":"x"}`, ";"},
		"unknown":           {message(`,"to":"x"`), "message;"},
		"unknown deep":      {android(`"Priority":"HIGH"`), "message.android;"},
		"legacy":            {message(`,"time_to_live":5,"content_available":true`), "message;message;"},
		"no token":          {`{"message":{"data":{}}}`, "message.token;"},
		"bad token":         {`{"message":{"token":"x y"}}`, "message.token;"},
		"topic":             {message(`,"topic":"news"`), "message.topic;"},
		"name":              {message(`,"name":"x"`), "message.name;"},
		"number in data":    {message(`,"data":{"a":"b","uid":7}`), "message.data[1].value;"},
		"null in data":      {message(`,"data":{"uid":null}`), "message.data[0].value;"},
		"object in data":    {message(`,"data":{"uid":{}}`), "message.data[0].value;"},
		"data a list":       {message(`,"data":[]`), "message.data;"},
		"key from":          {message(`,"data":{"from":"x"}`), "message.data;"},
		"key message_type":  {message(`,"data":{"message_type":"x"}`), "message.data;"},
		"key google.":       {message(`,"data":{"google.x":"x"}`), "message.data;"},
		"key gcm.":          {android(`"data":{"gcm.x":"x"}`), "message.android.data;"},
		"ttl a number":      {android(`"ttl":60`), "message.android.ttl;"},
		"ttl without s":     {android(`"ttl":"60"`), "message.android.ttl;"},
		"ttl in minutes":    {android(`"ttl":"1m"`), "message.android.ttl;"},
		"ttl negative":      {android(`"ttl":"-1s"`), "message.android.ttl;"},
		"ttl over 28 days":  {android(`"ttl":"2419201s"`), "message.android.ttl;"},
		"ttl huge":          {android(`"ttl":"999999999999s"`), "message.android.ttl;"},
		"priority urgent":   {android(`"priority":"URGENT"`), "message.android.priority;"},
		"collapse a number": {android(`"collapse_key":4`), "message.android.collapse_key;"},
		"android a text":    {message(`,"android":"x"`), "message.android;"},
		"two spellings":     {android(`"collapse_key":"a","collapseKey":"b"`), "message.android;"},
		"bool a text":       {android(`"direct_boot_ok":"yes"`), "message.android.direct_boot_ok;"},
		"args no list":      {android(`"notification":{"title_loc_args":"a"}`), "message.android.notification.title_loc_args;"},
		"args of numbers":   {android(`"notification":{"title_loc_args":["a",1]}`), "message.android.notification.title_loc_args[1];"},
		"bad time":          {android(`"notification":{"event_time":"now"}`), "message.android.notification.event_time;"},
		"bad struct":        {message(`,"apns":{"payload":[]}`), "message.apns.payload;"},
		"bad count":         {android(`"notification":{"notification_count":"x"}`), "message.android.notification.notification_count;"},
		"4097":              {big(4097), "message;"},
		"4097 in all":       {message(fmt.Sprintf(`,"data":{"k":%q},"notification":{"title":"1234567890"}`, strings.Repeat("x", 4087))), "message;"},
	} {
		t.Run(name, func(t *testing.T) {
			a := p.send(t, bearer, c.body)
			if c.fields == "" {
				if a.status != 200 || !strings.HasPrefix(text(a.json(t), "name"), "projects/mail-push/messages/") {
					t.Errorf("%+v", a)
				}
				return
			}
			status, code, fields := fcmErrors(t, a)
			if a.status != 400 || status != "INVALID_ARGUMENT" || code != "INVALID_ARGUMENT" || fields != c.fields {
				t.Errorf("%d %s %s %s, want %s\n%s", a.status, status, code, fields, c.fields, a.body)
			}
		})
	}
}

func TestFCMDelivery(t *testing.T) {
	p := newFCM(t, nil)
	const message = `{"token":"` + testRegistration + `","data":{"uid":"7"},"android":{"collapseKey":"u3","priority":"HIGH","ttl":"60s"}}`
	a := p.send(t, p.bearer(t), `{"message":`+message+`}`)
	d, err := p.Next(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if d.ID != text(a.json(t), "name") || d.Target != testRegistration || string(d.Payload) != message ||
		d.Headers["collapse_key"] != "u3" || d.Headers["priority"] != "HIGH" || d.Headers["ttl"] != "60s" {
		t.Errorf("delivery %+v of %+v", d, a)
	}
}

func TestFCMAnswers(t *testing.T) {
	p := newFCM(t, nil)
	bearer := p.bearer(t)
	body := fmt.Sprintf(`{"message":{"token":%q}}`, testRegistration)
	want := func(a answerOf, status int, rpc, code string) {
		t.Helper()
		if gotRPC, gotCode, _ := fcmErrors(t, a); a.status != status || gotRPC != rpc || gotCode != code {
			t.Errorf("%+v, want %d %s %s", a, status, rpc, code)
		}
	}
	p.Unregister(testRegistration, p.clock.now())
	want(p.send(t, bearer, body), 404, "NOT_FOUND", "UNREGISTERED")
	p.Register(strings.Repeat("other", 8))
	want(p.send(t, bearer, strings.Replace(body, "cM3", "dM3", 1)), 404, "NOT_FOUND", "UNREGISTERED")
	p.Register(testRegistration)
	if a := p.send(t, bearer, body); a.status != 200 {
		t.Errorf("%+v", a)
	}

	p.Script(Queue(
		Answer{Status: 429, Reason: "QUOTA_EXCEEDED", Header: http.Header{"Retry-After": {"60"}}},
		Answer{Status: 503, Reason: "UNAVAILABLE"},
		Answer{Status: 500, Reason: "INTERNAL"},
		Answer{Status: 403, Reason: "SENDER_ID_MISMATCH"},
		Answer{Status: 401, Reason: "THIRD_PARTY_AUTH_ERROR"},
	))
	a := p.send(t, bearer, body)
	want(a, 429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
	if a.header.Get("Retry-After") != "60" {
		t.Errorf("headers %v", a.header)
	}
	want(p.send(t, bearer, body), 503, "UNAVAILABLE", "UNAVAILABLE")
	want(p.send(t, bearer, body), 500, "INTERNAL", "INTERNAL")
	want(p.send(t, bearer, body), 403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH")
	want(p.send(t, bearer, body), 401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR")

	other := mustDo(t, p.client, http.MethodPost, p.URL()+"/v1/projects/else/messages:send",
		http.Header{"Authorization": {bearer}, "Content-Type": {"application/json"}}, []byte(body))
	want(other, 403, "PERMISSION_DENIED", "")
	plain := mustDo(t, p.client, http.MethodPost, p.URL()+"/v1/projects/mail-push/messages:send",
		http.Header{"Authorization": {bearer}, "Content-Type": {"text/plain"}}, []byte(body))
	want(plain, 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT")
	for _, path := range []string{"/", "/v1/projects/mail-push/messages", "/v1/projects/a/b/messages:send", "/fcm/send"} {
		want(mustDo(t, p.client, http.MethodPost, p.URL()+path, nil, nil), 404, "NOT_FOUND", "")
	}
}

func TestFCMOverTLS(t *testing.T) {
	p := newFCM(t, func(c *FCMConfig) { c.TLS = true })
	p.client = newClient(t, &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: p.RootCAs()}})
	body := fmt.Sprintf(`{"message":{"token":%q}}`, testRegistration)
	if a := p.send(t, p.bearer(t), body); a.status != 200 || a.proto != 2 || !strings.HasPrefix(p.URL(), "https://") {
		t.Errorf("%+v", a)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	noServerGoroutines(t)
}

func TestFCMParallel(t *testing.T) {
	p := newFCM(t, func(c *FCMConfig) { c.Keep = 10 })
	bearer := p.bearer(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				a, err := do(t.Context(), p.client, http.MethodPost, p.URL()+"/v1/projects/mail-push/messages:send",
					http.Header{"Authorization": {bearer}, "Content-Type": {"application/json"}}, fmt.Appendf(nil, `{"message":{"token":%q}}`, testRegistration))
				if err != nil || a.status != 200 {
					t.Errorf("%v %+v", err, a)
				}
			}
		})
	}
	wg.Wait()
	if p.Count(200, "") != 160 || len(p.Deliveries()) != 10 {
		t.Errorf("counted %v, kept %d", p.Counts(), len(p.Deliveries()))
	}
}

func FuzzReadFCMMessage(f *testing.F) {
	f.Add([]byte(`{"message":{"token":"x","data":{"a":"b"},"android":{"ttl":"1s","notification":{"title_loc_args":["a"]}}}}`))
	f.Add([]byte(`{"message":{"android":{"ttl":1,"data":{"a":null}},"webpush":{"notification":[]}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := parseObject(raw)
		if err != nil {
			return
		}
		msg, faults := readFCMMessage(doc)
		if len(faults) == 0 && msg.token == "" {
			t.Fatal("no fault and no recipient")
		}
	})
}
