package fake

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func unb64(t testing.TB, s string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestDecryptRFC8291 is the example of RFC 8291 section 5, whose steps are in its appendix A.
func TestDecryptRFC8291(t *testing.T) {
	key, err := ecdh.P256().NewPrivateKey(unb64(t, "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"))
	if err != nil {
		t.Fatal(err)
	}
	body := unb64(t, "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml"+
		"mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT"+
		"pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN")
	plain, err := decryptPush(key, unb64(t, "BTBZMqHH6r4Tts7J_aSIgg"), body)
	if err != nil || string(plain) != "When I grow up, I want to be a watermelon" {
		t.Errorf("decrypted %q, %v", plain, err)
	}
}

// sealed is a hand-made encryption whose every part can be put wrong.
type sealed struct {
	keyID  []byte // nil: the sender's public key
	size   uint32 // 0: 4096
	suffix string // "": the delimiter of a last record
}

func (s sealed) seal(t testing.TB, to *ecdh.PublicKey, auth, plain []byte) []byte {
	t.Helper()
	sender, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if s.keyID == nil {
		s.keyID = sender.PublicKey().Bytes()
	}
	if s.size == 0 {
		s.size = 4096
	}
	if s.suffix == "" {
		s.suffix = "\x02"
	}
	shared, err := sender.ECDH(to)
	if err != nil {
		t.Fatal(err)
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	derive := func(secret, salt []byte, info string, n int) []byte {
		out, err := hkdf.Key(sha256.New, secret, salt, info, n)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	ikm := derive(shared, auth, "WebPush: info\x00"+string(to.Bytes())+string(sender.PublicKey().Bytes()), 32)
	block, err := aes.NewCipher(derive(ikm, salt, "Content-Encoding: aes128gcm\x00", 16))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	body := binary.BigEndian.AppendUint32(salt, s.size)
	body = append(body, byte(len(s.keyID)&0xff))
	body = append(body, s.keyID...)
	return gcm.Seal(body, derive(ikm, salt, "Content-Encoding: nonce\x00", 12), append(bytes.Clone(plain), s.suffix...), nil)
}

func TestDecrypt(t *testing.T) {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	auth := []byte("0123456789abcdef")
	good := func(s sealed, plain string) []byte { return s.seal(t, key.PublicKey(), auth, []byte(plain)) }
	for name, c := range map[string]struct {
		body  []byte
		plain string
		fault string
	}{
		"plain":              {good(sealed{}, "x"), "x", ""},
		"empty":              {good(sealed{}, ""), "", ""},
		"zeros inside":       {good(sealed{}, "a\x00\x02"), "a\x00\x02", ""},
		"padding":            {good(sealed{suffix: "\x02\x00\x00\x00"}, "x"), "x", ""},
		"size just enough":   {good(sealed{size: 19}, "x"), "x", ""},
		"size too small":     {good(sealed{size: 18}, "x"), "", "not below the record size"},
		"size below 18":      {good(sealed{size: 17}, "x"), "", "below 18"},
		"not last":           {good(sealed{suffix: "\x01"}, "x"), "", "delimiter"},
		"no delimiter":       {good(sealed{suffix: "\x00"}, ""), "", "delimiter"},
		"short key":          {good(sealed{keyID: []byte("abc")}, "x"), "", "65"},
		"key no point":       {good(sealed{keyID: bytes.Repeat([]byte{4}, 65)}, "x"), "", "sender key"},
		"other sender":       {good(sealed{keyID: key.PublicKey().Bytes()}, "x"), "", "authenticate"},
		"other receiver":     {sealed{}.seal(t, newECDH(t).PublicKey(), auth, []byte("x")), "", "authenticate"},
		"other auth":         {sealed{}.seal(t, key.PublicKey(), bytes.ToUpper(auth), []byte("x")), "", "authenticate"},
		"nothing":            {nil, "", "shorter"},
		"header cut":         {good(sealed{}, "x")[:20], "", "shorter"},
		"key cut":            {good(sealed{}, "x")[:80], "", "within"},
		"record cut":         {good(sealed{}, "x")[:90], "", "authenticate"},
		"record missing":     {good(sealed{}, "x")[:86], "", "authenticate"},
		"something appended": {append(good(sealed{}, "x"), 0), "", "authenticate"},
	} {
		plain, err := decryptPush(key, auth, c.body)
		if c.fault == "" && (err != nil || string(plain) != c.plain) {
			t.Errorf("%s: %q, %v; want %q", name, plain, err, c.plain)
		}
		if c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)) {
			t.Errorf("%s: %q, %v; want an error with %q", name, plain, err, c.fault)
		}
	}
}

func newECDH(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type pushPeer struct {
	*WebPush
	clock  *clock
	key    *ecdsa.PrivateKey // the application server's
	public string            // its applicationServerKey
	client *http.Client
}

func newWebPush(t testing.TB, change func(*WebPushConfig)) *pushPeer {
	t.Helper()
	p := &pushPeer{clock: newClock(), key: newECKey(t)}
	p.public = publicKey(t, p.key)
	cfg := WebPushConfig{Now: p.clock.now}
	if change != nil {
		change(&cfg)
	}
	fake, err := NewWebPush(cfg)
	if err != nil {
		t.Fatal(err)
	}
	closed(t, fake)
	p.WebPush = fake
	p.client = newClient(t, &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: fake.RootCAs()}})
	return p
}

func publicKey(t testing.TB, key *ecdsa.PrivateKey) string {
	t.Helper()
	raw, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func (p *pushPeer) jwt(t testing.TB, claims object) string {
	t.Helper()
	return signES256(t, p.key, object{"typ": "JWT", "alg": "ES256"},
		with(object{"aud": p.URL(), "exp": p.clock.in(12 * time.Hour), "sub": "mailto:ops@example.org"}, claims))
}

func (p *pushPeer) headers(t testing.TB) http.Header {
	t.Helper()
	h := http.Header{}
	h.Set("Authorization", "vapid t="+p.jwt(t, nil)+", k="+p.public)
	h.Set("TTL", "86400")
	h.Set("Urgency", "high")
	h.Set("Topic", "3-INBOX")
	h.Set("Content-Encoding", "aes128gcm")
	return h
}

// subscription is what a page would post to its application server.
type subscription struct {
	Endpoint       string `json:"endpoint"`
	ExpirationTime *int64 `json:"expirationTime"`
	Keys           struct {
		P256dh string `json:"p256dh"`
		Auth   string `json:"auth"`
	} `json:"keys"`
}

func (p *pushPeer) subscribe(t testing.TB, pinned string) (*Receiver, func(plain string) []byte) {
	t.Helper()
	r, err := p.Subscribe(pinned)
	if err != nil {
		t.Fatal(err)
	}
	var s subscription
	if err := json.Unmarshal(r.JSON(), &s); err != nil {
		t.Fatal(err)
	}
	if s.Endpoint != r.Endpoint || !strings.HasPrefix(s.Endpoint, p.URL()+"/push/") || len(s.Endpoint) > 1000 ||
		s.ExpirationTime != nil || !bytes.Contains(r.JSON(), []byte(`"expirationTime":null`)) {
		t.Fatalf("subscription %s", r.JSON())
	}
	to, err := ecdh.P256().NewPublicKey(unb64(t, s.Keys.P256dh))
	if err != nil {
		t.Fatal(err)
	}
	auth := unb64(t, s.Keys.Auth)
	if len(auth) != 16 {
		t.Fatalf("auth has %d bytes", len(auth))
	}
	return r, func(plain string) []byte { return sealed{}.seal(t, to, auth, []byte(plain)) }
}

func TestWebPushAccepts(t *testing.T) {
	for _, secure := range []bool{false, true} {
		p := newWebPush(t, func(c *WebPushConfig) { c.TLS = secure })
		r, seal := p.subscribe(t, p.public)
		a := mustDo(t, p.client, http.MethodPost, r.Endpoint, p.headers(t), seal(`{"web_push":8030}`))
		if a.status != 201 || a.body != "" || a.header.Get("TTL") != "86400" || !strings.HasPrefix(a.header.Get("Location"), p.URL()+"/message/") {
			t.Fatalf("answer %+v", a)
		}
		d, err := p.NextFor(soon(t), r.Endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if string(d.Payload) != `{"web_push":8030}` || d.ID != a.header.Get("Location") || d.Target != r.Endpoint ||
			d.Headers["ttl"] != "86400" || d.Headers["urgency"] != "high" || d.Headers["topic"] != "3-INBOX" {
			t.Errorf("delivery %+v", d)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		noServerGoroutines(t)
	}
}

func TestWebPushRequests(t *testing.T) {
	p := newWebPush(t, nil)
	r, seal := p.subscribe(t, "")
	pinned, sealPinned := p.subscribe(t, p.public)
	otherKey := newECKey(t)
	type request struct {
		method, url string
		header      http.Header
		body        []byte
	}
	set := func(name, value string) func(*request) {
		return func(q *request) { q.header.Set(name, value) }
	}
	del := func(name string) func(*request) {
		return func(q *request) { q.header.Del(name) }
	}
	claims := func(c object) func(*request) {
		return func(q *request) { q.header.Set("Authorization", "vapid t="+p.jwt(t, c)+", k="+p.public) }
	}
	vapid := func(s string) func(*request) {
		return func(q *request) {
			q.header.Set("Authorization", strings.NewReplacer("$t", p.jwt(t, nil), "$k", p.public, "$o", publicKey(t, otherKey)).Replace(s))
		}
	}
	signedByOther := func(q *request) {
		jwt := signES256(t, otherKey, object{"alg": "ES256"}, object{"aud": p.URL(), "exp": p.clock.in(time.Hour)})
		q.header.Set("Authorization", "vapid t="+jwt+",k="+publicKey(t, otherKey))
	}

	for name, c := range map[string]struct {
		change func(*request)
		status int
		reason string
	}{
		"as it should be": {func(*request) {}, 201, ""},
		"to the pinned":   {func(q *request) { q.url, q.body = pinned.Endpoint, sealPinned("x") }, 201, ""},
		"another server":  {signedByOther, 201, ""},
		"another server to the pinned": {func(q *request) {
			signedByOther(q)
			q.url, q.body = pinned.Endpoint, sealPinned("x")
		}, 403, "VapidPkHashMismatch"},

		"unknown endpoint": {func(q *request) { q.url += "x" }, 404, "NotFound"},
		"get":              {func(q *request) { q.method = http.MethodGet }, 405, "MethodNotAllowed"},
		"put":              {func(q *request) { q.method = http.MethodPut }, 405, "MethodNotAllowed"},

		"no TTL":          {del("TTL"), 400, "BadTtl"},
		"TTL 0":           {set("TTL", "0"), 201, ""},
		"TTL -1":          {set("TTL", "-1"), 400, "BadTtl"},
		"TTL +1":          {set("TTL", "+1"), 400, "BadTtl"},
		"TTL text":        {set("TTL", "1h"), 400, "BadTtl"},
		"TTL huge":        {set("TTL", "2147483648"), 400, "BadTtl"},
		"two TTLs":        {func(q *request) { q.header.Add("TTL", "1") }, 400, "DuplicateHeaders"},
		"no urgency":      {del("Urgency"), 201, ""},
		"odd urgency":     {set("Urgency", "urgent"), 400, "BadUrgency"},
		"very low":        {set("Urgency", "very-low"), 201, ""},
		"no topic":        {del("Topic"), 201, ""},
		"topic 32":        {set("Topic", strings.Repeat("a", 32)), 201, ""},
		"topic 33":        {set("Topic", strings.Repeat("a", 33)), 400, "BadWebPushTopic"},
		"topic empty":     {set("Topic", ""), 400, "BadWebPushTopic"},
		"topic with a .":  {set("Topic", "a.b"), 400, "BadWebPushTopic"},
		"old encoding":    {set("Content-Encoding", "aesgcm"), 400, "BadContentEncoding"},
		"no encoding":     {del("Content-Encoding"), 400, "BadContentEncoding"},
		"no body":         {func(q *request) { q.body = nil; q.header.Del("Content-Encoding") }, 201, ""},
		"empty encrypted": {func(q *request) { q.body = nil }, 400, "Undecryptable"},
		"clear text":      {func(q *request) { q.body = []byte("hello") }, 400, "Undecryptable"},
		"for another":     {func(q *request) { q.body = sealPinned("x") }, 400, "Undecryptable"},
		"4096":            {func(q *request) { q.body = seal(strings.Repeat("x", 3993)) }, 201, ""},
		"4097":            {func(q *request) { q.body = seal(strings.Repeat("x", 3994)) }, 413, "PayloadTooLarge"},
		"far too big":     {func(q *request) { q.body = make([]byte, 100_000) }, 413, "PayloadTooLarge"},

		"no VAPID":       {del("Authorization"), 401, "MissingAuthorization"},
		"other scheme":   {vapid("WebPush $t"), 403, "BadAuthorizationHeader"},
		"no k":           {vapid("vapid t=$t"), 403, "BadAuthorizationHeader"},
		"no t":           {vapid("vapid k=$k"), 403, "BadAuthorizationHeader"},
		"two k":          {vapid("vapid t=$t,k=$k,k=$k"), 403, "BadAuthorizationHeader"},
		"no parameter":   {vapid("vapid $t"), 403, "BadAuthorizationHeader"},
		"other order":    {vapid("Vapid  K=\"$k\" , T=$t"), 201, ""},
		"k padded":       {vapid("vapid t=$t, k=$k="), 403, "BadAuthorizationHeader"},
		"k no point":     {vapid("vapid t=$t, k=BAAA"), 403, "BadAuthorizationHeader"},
		"k of another":   {vapid("vapid t=$t, k=$o"), 403, "BadJwtToken"},
		"t garbage":      {vapid("vapid t=a.b.c, k=$k"), 403, "BadJwtToken"},
		"aud elsewhere":  {claims(object{"aud": "https://push.example.org"}), 403, "BadJwtToken"},
		"aud with path":  {claims(object{"aud": p.URL() + "/"}), 403, "BadJwtToken"},
		"no aud":         {claims(object{"aud": nil}), 403, "BadJwtToken"},
		"no exp":         {claims(object{"exp": nil}), 403, "BadJwtToken"},
		"exp now":        {claims(object{"exp": p.clock.in(0)}), 403, "ExpiredJwtToken"},
		"exp 24 h":       {claims(object{"exp": p.clock.in(24 * time.Hour)}), 201, ""},
		"exp over 24 h":  {claims(object{"exp": p.clock.in(24*time.Hour + time.Second)}), 403, "BadJwtToken"},
		"no sub":         {claims(object{"sub": nil}), 201, ""},
		"sub https":      {claims(object{"sub": "https://example.org/contact"}), 201, ""},
		"sub http":       {claims(object{"sub": "http://example.org"}), 403, "BadJwtToken"},
		"sub a number":   {claims(object{"sub": 7}), 403, "BadJwtToken"},
		"sub empty":      {claims(object{"sub": ""}), 403, "BadJwtToken"},
		"sub an address": {claims(object{"sub": "ops@example.org"}), 403, "BadJwtToken"},
		"sub localhost":  {claims(object{"sub": "mailto:root@localhost"}), 403, "BadJwtToken"},
		"sub .localhost": {claims(object{"sub": "https://mail.localhost./"}), 403, "BadJwtToken"},
		"sub 127.0.0.1":  {claims(object{"sub": "https://127.0.0.1:8025/"}), 403, "BadJwtToken"},
		"sub [::1]":      {claims(object{"sub": "mailto:root@[::1]"}), 403, "BadJwtToken"},
		"sub without @":  {claims(object{"sub": "mailto:root"}), 403, "BadJwtToken"},
	} {
		t.Run(name, func(t *testing.T) {
			before := p.Count(c.status, c.reason)
			q := request{http.MethodPost, r.Endpoint, p.headers(t), seal("hello")}
			c.change(&q)
			a := mustDo(t, p.client, q.method, q.url, q.header, q.body)
			if a.status != c.status || c.reason != "" && a.json(t)["reason"] != c.reason {
				t.Errorf("%d %s, want %d %s", a.status, a.body, c.status, c.reason)
			}
			if got := p.Count(c.status, c.reason); got != before+1 {
				t.Errorf("counted %d more, want 1", got-before)
			}
		})
	}
	h := p.headers(t)
	h.Set("TTL", "2592001")
	if a := mustDo(t, p.client, http.MethodPost, r.Endpoint, h, seal("x")); a.header.Get("TTL") != "2592000" {
		t.Errorf("TTL over 30 days: %+v", a)
	}
	for _, bad := range []string{"x", "BAAA", p.public + "="} {
		if _, err := p.Subscribe(bad); err == nil {
			t.Errorf("subscribed with the key %q", bad)
		}
	}
}

func TestWebPushGone(t *testing.T) {
	p := newWebPush(t, nil)
	r, seal := p.subscribe(t, "")
	other, _ := p.subscribe(t, "")
	r.Expire()
	if a := mustDo(t, p.client, http.MethodPost, r.Endpoint, p.headers(t), seal("x")); a.status != 410 {
		t.Errorf("expired: %+v", a)
	}
	if a := mustDo(t, p.client, http.MethodDelete, other.Endpoint, nil, nil); a.status != 204 {
		t.Errorf("DELETE: %+v", a)
	}
	if a := mustDo(t, p.client, http.MethodPost, other.Endpoint, p.headers(t), seal("x")); a.status != 410 {
		t.Errorf("deleted: %+v", a)
	}
}

func TestWebPushTopics(t *testing.T) {
	p := newWebPush(t, nil)
	r, seal := p.subscribe(t, "")
	other, sealOther := p.subscribe(t, "")
	post := func(to *Receiver, topic string, body []byte) string {
		t.Helper()
		h := p.headers(t)
		h.Set("Topic", topic)
		a := mustDo(t, p.client, http.MethodPost, to.Endpoint, h, body)
		if a.status != 201 {
			t.Fatalf("%+v", a)
		}
		return a.header.Get("Location")
	}
	first := post(r, "a", seal("1"))
	post(r, "b", seal("2"))
	post(other, "a", sealOther("3"))
	post(r, "a", seal("4"))
	for _, want := range []string{"", "", "", first} {
		d, err := p.Next(soon(t))
		if err != nil || d.Replaces != want {
			t.Errorf("%s replaces %q, want %q (%v)", d.Payload, d.Replaces, want, err)
		}
	}
	post(r, "a", seal("5"))
	if d, err := p.Next(soon(t)); err != nil || d.Replaces != "" {
		t.Errorf("replaces %q, although that was taken (%v)", d.Replaces, err)
	}
}

func TestWebPushScript(t *testing.T) {
	p := newWebPush(t, nil)
	r, seal := p.subscribe(t, "")
	p.Script(Queue(Answer{Status: 429, Reason: "TooManyRequests", Header: http.Header{"Retry-After": {"30"}}}, Answer{Close: true}))
	if a := mustDo(t, p.client, http.MethodPost, r.Endpoint, p.headers(t), seal("x")); a.status != 429 || a.header.Get("Retry-After") != "30" {
		t.Errorf("%+v", a)
	}
	if a, err := do(soon(t), p.client, http.MethodPost, r.Endpoint, p.headers(t), seal("x")); err == nil {
		t.Errorf("close: %+v", a)
	}
	if a := mustDo(t, p.client, http.MethodPost, r.Endpoint, p.headers(t), seal("x")); a.status != 201 {
		t.Errorf("%+v", a)
	}
}

func TestWebPushParallel(t *testing.T) {
	p := newWebPush(t, nil)
	h := p.headers(t)
	var wg sync.WaitGroup
	for range 8 {
		r, seal := p.subscribe(t, p.public)
		wg.Go(func() {
			for range 10 {
				if a, err := do(t.Context(), p.client, http.MethodPost, r.Endpoint, h, seal("x")); err != nil || a.status != 201 {
					t.Errorf("%v %+v", err, a)
				}
				if _, err := p.NextFor(t.Context(), r.Endpoint); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := p.Count(201, ""); n != 80 {
		t.Errorf("counted %d, want 80", n)
	}
}

func FuzzDecryptPush(f *testing.F) {
	key := newECDH(f)
	auth := []byte("0123456789abcdef")
	f.Add(sealed{}.seal(f, key.PublicKey(), auth, []byte("hello")), []byte("hello"))
	f.Add(sealed{suffix: "\x02\x00\x00"}.seal(f, key.PublicKey(), auth, nil), []byte{0})
	f.Add([]byte{}, []byte{2})
	f.Fuzz(func(t *testing.T, body, plain []byte) {
		if got, err := decryptPush(key, auth, body); err == nil && len(got) > len(body) {
			t.Fatalf("%d bytes out of %d", len(got), len(body))
		}
		if len(plain) > 4096-17-1 {
			return
		}
		got, err := decryptPush(key, auth, sealed{}.seal(t, key.PublicKey(), auth, plain))
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%q came back as %q, %v", plain, got, err)
		}
	})
}

func FuzzParseVAPIDHeader(f *testing.F) {
	f.Add("vapid t=a.b.c, k=BA")
	f.Add(`vapid k="x",t="`)
	f.Add("vapid ,=,")
	f.Fuzz(func(t *testing.T, s string) {
		params, err := parseVAPIDHeader(s)
		if err == nil && (params["t"] == "" || params["k"] == "") {
			t.Fatal("no error and no t or k")
		}
	})
}
