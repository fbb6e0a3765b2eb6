package fake

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// WebPushConfig describes a fake push service.
type WebPushConfig struct {
	// Addr is a loopback host and port; "" is a free port of 127.0.0.1.
	Addr string
	// TLS serves HTTPS, with a certificate of the fake's own CA, instead of plain HTTP.
	TLS bool
	// Now is the fake's clock; nil is time.Now. Delays are real time regardless.
	Now func() time.Time
	// Keep bounds the log of deliveries; 0 is 4096, negative keeps none and only counts.
	Keep int
}

// WebPush is a fake push service (RFC 8030) and, at once, the browsers that subscribed to it: messages
// are decrypted on arrival (RFC 8291).
//
// VAPID (RFC 8292) is required of everybody, as Apple does. A real service cannot see that a message
// does not decrypt; this one answers 400 Undecryptable. The reason words are Apple's where it has one,
// and ours otherwise: no two services agree on them. Delivery receipts (RFC 8030 section 6.3), and
// fetching and deleting of single messages are not offered.
type WebPush struct {
	service
	*authority

	subsMu sync.RWMutex
	subs   map[string]*Receiver // by path
}

// Receiver is one push subscription, held by what would be a browser.
type Receiver struct {
	// Endpoint is the push resource that messages are sent to.
	Endpoint string

	fake   *WebPush
	key    *ecdh.PrivateKey
	auth   []byte // 16 bytes
	pinned []byte // uncompressed VAPID key; nil: any
	gone   bool   // guarded by fake.subsMu
}

const (
	maxPushBody = 4096
	// maxPushTTL is where the TTL is cut, as Mozilla's service does; the answer tells.
	maxPushTTL = 30 * 24 * time.Hour
	maxVAPID   = 24 * time.Hour // RFC 8292 section 2
)

// NewWebPush starts a fake push service. The caller closes it.
func NewWebPush(cfg WebPushConfig) (*WebPush, error) {
	p := &WebPush{subs: map[string]*Receiver{}}
	opt := options{addr: cfg.Addr, keep: cfg.Keep, now: cfg.Now}
	if cfg.TLS {
		own, err := newAuthority()
		if err != nil {
			return nil, err
		}
		p.authority = own
		opt.tls = serverTLS(own.leaf)
	}
	if err := p.start(opt, p.serve); err != nil {
		return nil, err
	}
	return p, nil
}

// Subscribe makes a receiver. applicationServerKey is what a page gives to PushManager.subscribe, in
// base64url; then only that VAPID key may send. "" admits any.
func (p *WebPush) Subscribe(applicationServerKey string) (*Receiver, error) {
	var pinned []byte
	if applicationServerKey != "" {
		_, raw, err := parseVAPIDKey(applicationServerKey)
		if err != nil {
			return nil, fmt.Errorf("fake: parse applicationServerKey: %w", err)
		}
		pinned = raw
	}
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("fake: make subscription key: %w", err)
	}
	auth := make([]byte, 16)
	_, _ = rand.Read(auth)
	path := "/push/" + rand.Text() // 130 random bits: whoever knows it may send
	r := &Receiver{Endpoint: p.url + path, fake: p, key: key, auth: auth, pinned: pinned}
	p.subsMu.Lock()
	defer p.subsMu.Unlock()
	p.subs[path] = r
	return r, nil
}

// JSON is what the browser's PushSubscription.toJSON() gives to its page.
func (r *Receiver) JSON() []byte {
	type keys struct {
		P256dh string `json:"p256dh"`
		Auth   string `json:"auth"`
	}
	doc, err := json.Marshal(struct {
		Endpoint       string `json:"endpoint"`
		ExpirationTime *int64 `json:"expirationTime"`
		Keys           keys   `json:"keys"`
	}{r.Endpoint, nil, keys{
		base64.RawURLEncoding.EncodeToString(r.key.PublicKey().Bytes()),
		base64.RawURLEncoding.EncodeToString(r.auth),
	}})
	if err != nil { // strings always marshal
		return nil
	}
	return doc
}

// Expire ends the subscription: from now on the endpoint answers 410. A DELETE of the endpoint does the same.
func (r *Receiver) Expire() {
	r.fake.subsMu.Lock()
	defer r.fake.subsMu.Unlock()
	r.gone = true
}

func (p *WebPush) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxPushBody+1))
	if err != nil {
		return // the client left in the middle
	}
	p.subsMu.RLock()
	rec := p.subs[r.URL.Path]
	gone := rec != nil && rec.gone
	p.subsMu.RUnlock()
	d := Delivery{}
	var ans Answer
	switch {
	case rec == nil:
		ans = Answer{Status: http.StatusNotFound, Reason: "NotFound"}
	case gone:
		ans = Answer{Status: http.StatusGone, Reason: "Unregistered"}
	case r.Method == http.MethodDelete:
		rec.Expire()
		w.WriteHeader(http.StatusNoContent)
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", "POST, DELETE")
		ans = Answer{Status: http.StatusMethodNotAllowed, Reason: "MethodNotAllowed"}
	default:
		d.Target = rec.Endpoint
		ans = p.check(r, rec, body, &d)
	}
	if ans.Status == http.StatusCreated {
		d.ID = p.url + "/message/" + rand.Text()
		ans = p.decide(&d, http.StatusCreated)
	}
	p.conclude(w, r, &d, ans, func(w http.ResponseWriter, ans Answer) {
		if ans.Status/100 == 2 {
			w.Header().Set("Location", d.ID)
			w.Header().Set("TTL", d.Headers["ttl"])
			w.WriteHeader(ans.Status)
			return
		}
		writeJSON(w, ans.Status, map[string]string{"reason": ans.Reason, "message": ans.detail})
	})
}

// check judges a message and decrypts it into d. The answer is 201 when nothing is wrong.
func (p *WebPush) check(r *http.Request, rec *Receiver, body []byte, d *Delivery) Answer {
	refuse := func(status int, reason, detail string) Answer {
		return Answer{Status: status, Reason: reason, detail: detail}
	}
	h := r.Header
	for _, name := range [...]string{"Authorization", "Ttl", "Urgency", "Topic", "Content-Encoding"} {
		if len(h[name]) > 1 {
			return refuse(http.StatusBadRequest, "DuplicateHeaders", name+" is given twice")
		}
	}
	if h.Get("Authorization") == "" { // RFC 8292 section 4.2: 401 when absent, 403 when wrong
		w := refuse(http.StatusUnauthorized, "MissingAuthorization", "VAPID is required")
		w.Header = http.Header{"WWW-Authenticate": {"vapid"}}
		return w
	}
	if reason, err := p.checkVAPID(h.Get("Authorization"), rec.pinned); err != nil {
		return refuse(http.StatusForbidden, reason, err.Error())
	}
	if len(body) > maxPushBody {
		return refuse(http.StatusRequestEntityTooLarge, "PayloadTooLarge", "the body is over 4096 bytes")
	}
	ttl, err := strconv.ParseUint(h.Get("TTL"), 10, 31)
	if err != nil { // RFC 8030 section 5.2: required, digits, below 2^31
		return refuse(http.StatusBadRequest, "BadTtl", "TTL must be given, in seconds")
	}
	d.Headers = map[string]string{"ttl": strconv.FormatUint(min(ttl, uint64(maxPushTTL/time.Second)), 10)}
	switch urgency := h.Get("Urgency"); urgency {
	case "very-low", "low", "normal", "high":
		d.Headers["urgency"] = urgency
	case "":
	default:
		return refuse(http.StatusBadRequest, "BadUrgency", "RFC 8030 section 5.3 knows very-low, low, normal and high")
	}
	if topic, ok := h["Topic"]; ok {
		if !isTopic(topic[0]) {
			return refuse(http.StatusBadRequest, "BadWebPushTopic", "a topic is 1 to 32 base64url characters")
		}
		d.Headers["topic"] = topic[0]
	}
	encoding := h.Get("Content-Encoding")
	if len(body) == 0 && encoding == "" { // a message may have no body (RFC 8030 section 5)
		return Answer{Status: http.StatusCreated}
	}
	if encoding != "aes128gcm" {
		return refuse(http.StatusBadRequest, "BadContentEncoding", "RFC 8291 knows aes128gcm only")
	}
	if d.Payload, err = decryptPush(rec.key, rec.auth, body); err != nil {
		return refuse(http.StatusBadRequest, "Undecryptable", err.Error())
	}
	return Answer{Status: http.StatusCreated}
}

// isTopic follows RFC 8030 section 5.4.
func isTopic(s string) bool {
	if len(s) < 1 || len(s) > 32 {
		return false
	}
	for _, c := range []byte(s) {
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// checkVAPID judges an Authorization header (RFC 8292 section 3) and returns the reason word with the error.
func (p *WebPush) checkVAPID(header string, pinned []byte) (string, error) {
	params, err := parseVAPIDHeader(header)
	if err != nil {
		return "BadAuthorizationHeader", err
	}
	key, raw, err := parseVAPIDKey(params["k"])
	if err != nil {
		return "BadAuthorizationHeader", err
	}
	if pinned != nil && !bytes.Equal(raw, pinned) {
		return "VapidPkHashMismatch", errors.New("the subscription belongs to another application server key")
	}
	jwt, err := parseJWT(params["t"])
	if err != nil {
		return "BadJwtToken", err
	}
	if err := jwt.verifyES256(key); err != nil {
		return "BadJwtToken", err
	}
	if aud := text(jwt.claims, "aud"); aud != p.url {
		return "BadJwtToken", fmt.Errorf("aud is %q, not this origin", aud)
	}
	exp, ok := moment(jwt.claims, "exp")
	now := p.now()
	switch {
	case !ok:
		return "BadJwtToken", errors.New("exp is required, in whole seconds")
	case !now.Before(exp):
		return "ExpiredJwtToken", errors.New("exp is in the past")
	case exp.Sub(now) > maxVAPID:
		return "BadJwtToken", errors.New("exp is more than 24 hours away")
	}
	if sub, ok := jwt.claims["sub"]; ok {
		s, _ := sub.(string)
		if err := checkSubject(s); err != nil {
			return "BadJwtToken", err
		}
	}
	return "", nil
}

// parseVAPIDHeader reads "vapid t=..., k=..." (RFC 9110 section 11.4: parameters in any order, by
// names in any case, values as tokens or quoted).
func parseVAPIDHeader(header string) (map[string]string, error) {
	scheme, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "vapid") {
		return nil, errors.New("the scheme is not vapid")
	}
	params := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.Trim(part, " \t"), "=")
		if !ok {
			return nil, errors.New("a parameter has no value")
		}
		name = strings.ToLower(strings.TrimRight(name, " \t"))
		if _, twice := params[name]; twice {
			return nil, fmt.Errorf("parameter %q is given twice", name)
		}
		value = strings.TrimLeft(value, " \t")
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		params[name] = value
	}
	if params["t"] == "" || params["k"] == "" {
		return nil, errors.New("t and k are required")
	}
	return params, nil
}

// parseVAPIDKey reads an uncompressed P-256 point in base64url without padding (RFC 8292 section 3.2).
func parseVAPIDKey(s string) (*ecdsa.PublicKey, []byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, nil, fmt.Errorf("decode key: %w", err)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
	if err != nil {
		return nil, nil, fmt.Errorf("parse key: %w", err)
	}
	return key, raw, nil
}

// checkSubject refuses what is no contact (RFC 8292 section 2.1), and this machine as one: Apple does.
func checkSubject(sub string) error {
	u, err := url.Parse(sub)
	if err != nil {
		return errors.New("sub is not a URI")
	}
	var host string
	switch u.Scheme {
	case "mailto":
		_, host, _ = strings.Cut(u.Opaque, "@")
	case "https":
		host = u.Hostname()
	default:
		return errors.New("sub is neither a mailto nor an https URI")
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "" {
		return errors.New("sub names no host")
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		return errors.New("sub names this machine")
	}
	return nil
}
