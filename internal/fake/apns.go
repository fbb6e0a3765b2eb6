package fake

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// APNsConfig describes a fake APNs. At least one way to authenticate must be configured.
type APNsConfig struct {
	// Addr is a loopback host and port; "" is a free port of 127.0.0.1.
	Addr string
	// Certificate is served instead of one from the fake's own CA.
	Certificate *tls.Certificate
	// Keys are the token keys that may sign provider tokens.
	Keys []APNsKey
	// Topics are the bundle ids that the keys may push to. Suffixes (".voip") follow from the push type.
	Topics []string
	// ClientCAs, if set, lets clients authenticate by certificate; topics come from the certificate.
	ClientCAs *x509.CertPool
	// MaxConcurrentStreams of a connection; 0 is 1000.
	MaxConcurrentStreams int
	// FirstStream allows a connection without client certificate one stream at a time until its first
	// notification was accepted, as Apple does. Streams above that are refused (REFUSED_STREAM).
	FirstStream bool
	// MaxTokenAge is how old a provider token may be; 0 is an hour.
	MaxTokenAge time.Duration
	// MinTokenInterval is how long a key must use a provider token before a newer one; 0 is 20 minutes,
	// negative is no limit.
	MinTokenInterval time.Duration
	// Now is the fake's clock; nil is time.Now. Delays are real time regardless.
	Now func() time.Time
	// Keep bounds the log of deliveries; 0 is 4096, negative keeps none and only counts.
	Keep int
}

// APNsKey is the public half of a token key (.p8) with the names under which Apple knows it.
type APNsKey struct {
	KeyID  string
	TeamID string
	Public *ecdsa.PublicKey
}

// APNs is a fake Apple Push Notification service: HTTP/2 over TLS, the provider API.
//
// It is stricter than Apple in three ways. apns-push-type is required (Apple requires it for some
// platforms only). The body must be a JSON object with an object "aps": Apple answers 200 to much
// that no phone will show, this fake answers 400 BadPayload, which is not one of Apple's words. And
// apns-expiration must not be empty or signed. The order of the checks is a guess.
type APNs struct {
	service
	registry
	*authority
	cfg    APNsConfig
	tokens providerTokens
}

const (
	maxAPNsPayload = 4096
	maxVoIPPayload = 5120
)

// pushTypes maps the known push types to the suffix that their topic carries.
var pushTypes = map[string]string{
	"alert":        "",
	"background":   "",
	"mdm":          "",
	"voip":         ".voip",
	"complication": ".complication",
	"fileprovider": ".pushkit.fileprovider",
	"location":     ".location-query",
	"liveactivity": ".push-type.liveactivity",
	"pushtotalk":   ".voip-ptt",
	"widgets":      ".push-type.widgets",
	"controls":     ".push-type.controls",
}

// NewAPNs starts a fake APNs. The caller closes it.
func NewAPNs(cfg APNsConfig) (*APNs, error) {
	if len(cfg.Keys) == 0 && cfg.ClientCAs == nil {
		return nil, errors.New("fake: APNs needs a token key or client CAs")
	}
	if cfg.MaxConcurrentStreams == 0 {
		cfg.MaxConcurrentStreams = 1000
	}
	if cfg.MaxTokenAge == 0 {
		cfg.MaxTokenAge = time.Hour
	}
	if cfg.MinTokenInterval == 0 {
		cfg.MinTokenInterval = 20 * time.Minute
	}
	a := &APNs{cfg: cfg}
	a.tokens.init(cfg)
	leaf := cfg.Certificate
	if leaf == nil {
		own, err := newAuthority()
		if err != nil {
			return nil, err
		}
		a.authority = own
		leaf = &own.leaf
	}
	opt := options{
		addr: cfg.Addr, keep: cfg.Keep, now: cfg.Now,
		tls: serverTLS(*leaf),
		h2:  &http.HTTP2Config{MaxConcurrentStreams: cfg.MaxConcurrentStreams},
	}
	if cfg.ClientCAs != nil {
		opt.tls.ClientAuth = tls.VerifyClientCertIfGiven
		opt.tls.ClientCAs = cfg.ClientCAs
	}
	if cfg.FirstStream {
		opt.wrap = func(c *tls.Conn) net.Conn { return newFirstStream(c) }
	}
	if err := a.start(opt, a.serve); err != nil {
		return nil, err
	}
	return a, nil
}

// Register makes device tokens known, again if they were unregistered. From the first call on, tokens
// that were never registered are refused. Upper and lower case are the same token.
func (a *APNs) Register(tokens ...string) {
	lower := make([]string, len(tokens))
	for i, t := range tokens {
		lower[i] = strings.ToLower(t)
	}
	a.registry.Register(lower...)
}

// Unregister makes the fake answer 410 for a token, with the given time as timestamp.
func (a *APNs) Unregister(token string, since time.Time) {
	a.registry.Unregister(strings.ToLower(token), since)
}

// Revoke makes a token key unknown, as when it is revoked at the developer site.
func (a *APNs) Revoke(keyID string) { a.tokens.revoke(keyID) }

// bodies holds the read buffers of requests under way: the largest payload and one byte.
var bodies = sync.Pool{New: func() any { return new([maxVoIPPayload + 1]byte) }}

func (a *APNs) serve(w http.ResponseWriter, r *http.Request) {
	p := peerOf(r.Context())
	if r.ProtoMajor != 2 || p.tls.ConnectionState().NegotiatedProtocol != "h2" {
		a.count(Result{http.StatusHTTPVersionNotSupported, "HTTP2Required"}, nil)
		http.Error(w, "APNs speaks HTTP/2 only, negotiated by ALPN", http.StatusHTTPVersionNotSupported)
		return
	}
	first, _ := p.Conn.(*firstStream)
	if first != nil {
		if !first.enter() {
			a.count(Result{0, "REFUSED_STREAM"}, nil)
			panic(http.ErrAbortHandler) // resets the stream; firstStream gives it the right code
		}
		defer first.leave()
	}
	d, ans, ok := a.read(r, p)
	if !ok {
		return // the client left in the middle
	}
	w.Header()["Apns-Id"] = []string{d.ID}
	a.conclude(w, r, &d, ans, func(w http.ResponseWriter, ans Answer) {
		if ans.Status == http.StatusOK && first != nil {
			first.unlock()
		}
		writeAPNs(w, ans)
	})
}

// read takes the request in; it is not ok when the body never came to its end.
func (a *APNs) read(r *http.Request, p *peer) (d Delivery, ans Answer, ok bool) {
	buf := bodies.Get().(*[maxVoIPPayload + 1]byte)
	defer bodies.Put(buf)
	n, err := io.ReadFull(r.Body, buf[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return d, ans, false
	}
	d.ID = r.Header.Get("apns-id")
	ans = a.check(r, p, buf[:n], &d)
	if d.ID == "" {
		d.ID = newUUID()
	}
	if ans.Status == http.StatusOK {
		if a.wanted() {
			d.Payload = bytes.Clone(buf[:n])
			d.Headers = apnsHeaders(r.Header)
		}
		ans = a.decide(&d, http.StatusOK)
	}
	return d, ans, true
}

// check judges a request and fills in d.Target. The answer is 200 when nothing is wrong.
func (a *APNs) check(r *http.Request, p *peer, body []byte, d *Delivery) Answer {
	refuse := func(status int, reason string) Answer { return Answer{Status: status, Reason: reason} }
	device, ok := strings.CutPrefix(r.URL.Path+"/", "/3/device/")
	device = strings.TrimSuffix(device, "/")
	switch {
	case !ok:
		return refuse(http.StatusNotFound, "BadPath")
	case r.Method != http.MethodPost:
		return refuse(http.StatusMethodNotAllowed, "MethodNotAllowed")
	}
	h := r.Header
	for name, values := range h {
		if len(values) > 1 && (strings.HasPrefix(name, "Apns-") || name == "Authorization") {
			return refuse(http.StatusBadRequest, "DuplicateHeaders")
		}
	}

	var certTopics []string
	if auth := h.Get("authorization"); auth != "" {
		if status, reason := a.tokens.check(auth, a.now()); reason != "" {
			return refuse(status, reason)
		}
	} else if certs := p.tls.ConnectionState().PeerCertificates; len(certs) > 0 {
		certTopics = topicsOf(certs[0])
		if len(certTopics) == 0 {
			return refuse(http.StatusForbidden, "BadCertificate")
		}
	} else {
		return refuse(http.StatusForbidden, "MissingProviderToken")
	}

	if reason := a.checkHeaders(h, certTopics, d); reason != "" {
		return refuse(http.StatusBadRequest, reason)
	}

	d.Target = strings.ToLower(device)
	if device == "" {
		return refuse(http.StatusBadRequest, "MissingDeviceToken")
	}
	if !wellFormedDevice(device) {
		return refuse(http.StatusBadRequest, "BadDeviceToken")
	}
	if len(body) == 0 {
		return refuse(http.StatusBadRequest, "PayloadEmpty")
	}
	limit := maxAPNsPayload
	if h.Get("apns-push-type") == "voip" {
		limit = maxVoIPPayload
	}
	if len(body) > limit {
		return refuse(http.StatusRequestEntityTooLarge, "PayloadTooLarge")
	}
	if !hasAps(body) {
		return refuse(http.StatusBadRequest, "BadPayload")
	}

	known, gone := a.lookup(d.Target)
	if !known {
		return refuse(http.StatusBadRequest, "BadDeviceToken")
	}
	if !gone.IsZero() {
		return Answer{Status: http.StatusGone, Reason: "Unregistered", GoneSince: gone}
	}
	return Answer{Status: http.StatusOK}
}

// checkHeaders returns Apple's word for what is wrong with the apns-* headers, or "".
func (a *APNs) checkHeaders(h http.Header, certTopics []string, d *Delivery) string {
	if d.ID != "" && !isUUID(d.ID) {
		d.ID = ""
		return "BadMessageId"
	}
	kind := h.Get("apns-push-type")
	suffix, ok := pushTypes[kind]
	if !ok {
		return "InvalidPushType"
	}
	if reason := a.checkTopic(h.Get("apns-topic"), suffix, certTopics); reason != "" {
		return reason
	}
	switch h.Get("apns-priority") {
	case "", "10", "1": // none is 10
		if kind == "background" {
			return "BadPriority"
		}
	case "5":
	default:
		return "BadPriority"
	}
	if e := h["Apns-Expiration"]; e != nil && !isDigits(e[0]) {
		return "BadExpirationDate"
	}
	if len(h.Get("apns-collapse-id")) > 64 {
		return "BadCollapseId"
	}
	return ""
}

func (a *APNs) checkTopic(topic, suffix string, certTopics []string) string {
	if topic == "" {
		if len(certTopics) == 1 { // Apple takes the topic from a certificate that has only one
			return ""
		}
		return "MissingTopic"
	}
	for _, c := range topic {
		if c != '.' && c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return "BadTopic"
		}
	}
	base, ok := strings.CutSuffix(topic, suffix)
	if !ok {
		return "TopicDisallowed"
	}
	// A certificate lists its topics in full; a key may push to every topic of a bundle id.
	if slices.Contains(certTopics, topic) || certTopics == nil && slices.Contains(a.cfg.Topics, base) {
		return ""
	}
	return "TopicDisallowed"
}

// wellFormedDevice takes hexadecimal of 32 to 100 bytes: Apple documents no length, only that 32
// bytes is not for ever.
func wellFormedDevice(s string) bool {
	if len(s) < 64 || len(s) > 200 || len(s)%2 != 0 {
		return false
	}
	for _, c := range []byte(s) {
		if !isHex(c) {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// isDigits takes a Unix time in seconds.
func isDigits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	_, err := strconv.ParseInt(s, 10, 64)
	return err == nil
}

// isUUID takes the canonical form, 8-4-4-4-12 (RFC 9562 section 4).
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !isHex(c) {
				return false
			}
		}
	}
	return true
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// hasAps looks for an object "aps" at the top of a JSON object. Decoding the body would be simpler, and
// a seventh of everything that the fake does for a request.
func hasAps(body []byte) bool {
	if !utf8.Valid(body) || !json.Valid(body) {
		return false
	}
	depth := 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			start := i + 1
			for i++; body[i] != '"'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
			if depth != 1 || string(body[start:i]) != "aps" {
				continue
			}
			// Only a name is followed by a colon.
			if value, ok := bytes.CutPrefix(trimSpace(body[i+1:]), []byte(":")); ok {
				return trimSpace(value)[0] == '{'
			}
		}
	}
	return false
}

// trimSpace takes off the white space that JSON knows (RFC 8259 section 2).
func trimSpace(b []byte) []byte { return bytes.TrimLeft(b, " \t\r\n") }

func apnsHeaders(h http.Header) map[string]string {
	m := make(map[string]string, 5)
	for _, name := range [...]string{"apns-topic", "apns-push-type", "apns-priority", "apns-expiration", "apns-collapse-id"} {
		if v := h.Get(name); v != "" {
			m[name] = v
		}
	}
	return m
}

func writeAPNs(w http.ResponseWriter, ans Answer) {
	if ans.Status == http.StatusOK {
		w.WriteHeader(http.StatusOK)
		return
	}
	doc := struct {
		Reason    string `json:"reason"`
		Timestamp int64  `json:"timestamp,omitempty"` // milliseconds
	}{Reason: ans.Reason}
	if !ans.GoneSince.IsZero() {
		doc.Timestamp = ans.GoneSince.UnixMilli()
	}
	writeJSON(w, ans.Status, doc)
}
