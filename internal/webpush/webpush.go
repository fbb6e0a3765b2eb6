// Package webpush sends one message to one Web Push subscription: RFC 8030 (the request), RFC 8291 (the
// encryption) and RFC 8292 (who we are), and tells what the answer means. UnifiedPush endpoints are Web
// Push endpoints (SERV_1.2.0).
//
// It knows nothing of mail, slots or retries: the body is opaque bytes, and whoever calls decides what an
// [outcome.Outcome] leads to. It makes one attempt for each Send, follows no redirect, and keeps nothing
// but the signed VAPID tokens, in a bounded cache. It does not judge where an endpoint leads; the HTTP
// client it is given does, and in production that is outbound's.
//
// A Sender is safe for concurrent use. An endpoint is a capability (whoever has it can send to the
// device), so neither logs nor errors of this package show more of it than its origin.
package webpush

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outbound"
	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// maxTTL is the longest time push services keep a message; they clamp what is longer.
const maxTTL = 30 * 24 * time.Hour

// Message is what is sent to a subscription.
type Message struct {
	// Body is the plaintext, at most MaxBody bytes. Send encrypts it as it is.
	Body []byte
	// TTL is how long the push service keeps the message for a device that is away. It is rounded up to
	// seconds and kept within 0 (deliver now or never) and 30 days (RFC 8030 section 5.2).
	TTL time.Duration
	// Urgency is "very-low", "low", "normal", "high", or "" for the service's default (section 5.3).
	Urgency string
	// Topic, when set, replaces an undelivered message of the same topic (section 5.4). It must be what
	// CheckTopic accepts.
	Topic string
}

// LogValue hides the body.
func (m Message) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("bytes", len(m.Body)), slog.Duration("ttl", m.TTL),
		slog.String("urgency", m.Urgency), slog.String("topic", m.Topic))
}

// CheckTopic says whether topic can be sent: at most 32 characters of the base64url alphabet (RFC 8030
// section 5.4). Apple also decodes it, so that a length of 4n+1, which no encoding has, is refused there
// with BadWebPushTopic; it is refused here for all, rather than found out one service at a time.
func CheckTopic(topic string) error {
	if len(topic) > 32 || len(topic)%4 == 1 {
		return errors.New("a topic has at most 32 characters, and not 4n+1")
	}
	for i := range len(topic) {
		switch c := topic[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return errors.New("a topic consists of base64url characters")
		}
	}
	return nil
}

// Config is what a Sender is made of.
type Config struct {
	// Key signs the VAPID tokens (P-256). Subscriptions are bound to it by the browser: a new key makes
	// every existing one useless.
	Key *ecdsa.PrivateKey
	// Subject is how a push service can reach the operator, "mailto:..." or "https://...", or "". Apple
	// refuses tokens without one.
	Subject string
	// HTTP makes the requests; in production outbound's client. Whatever it does with redirects, the
	// Sender takes them as answers.
	HTTP *http.Client
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Sender sends messages under one VAPID key.
type Sender struct {
	http  http.Client
	vapid *vapid
	now   func() time.Time
}

// New returns a Sender, or an error when the key or the subject cannot be used.
func New(cfg Config) (*Sender, error) {
	if cfg.HTTP == nil {
		return nil, errors.New("web push sender without an HTTP client")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	v, err := newVAPID(cfg.Key, cfg.Subject)
	if err != nil {
		return nil, err
	}
	s := &Sender{http: *cfg.HTTP, vapid: v, now: cfg.Now}
	s.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return s, nil
}

// PublicKey returns the VAPID public key as browsers want it for applicationServerKey: the
// uncompressed point in base64url.
func (s *Sender) PublicKey() string { return s.vapid.public }

// TokenSince is when the oldest VAPID token in use was signed; zero when there is none.
func (s *Sender) TokenSince() time.Time { return s.vapid.oldest(s.now()) }

// Send encrypts m for sub, posts it once and says what came of it. It waits until the push service has
// answered, ctx ends or the HTTP client gives up.
func (s *Sender) Send(ctx context.Context, sub Subscription, m Message) outcome.Outcome {
	if reason, err := m.check(); err != nil {
		return outcome.Outcome{Kind: outcome.Refused, Reason: reason, Err: err}
	}
	u, err := outbound.ParseURL(sub.Endpoint)
	if err != nil {
		return outcome.Outcome{Kind: outcome.Refused, Reason: "bad_endpoint", Err: err}
	}
	body, err := Encrypt(sub.Keys, m.Body)
	if err != nil {
		return outcome.Outcome{Kind: outcome.Refused, Reason: "bad_keys", Err: err}
	}
	return s.post(ctx, u, body, m, http.Header{
		"Content-Type": {"application/octet-stream"}, "Content-Encoding": {"aes128gcm"},
	})
}

// SendPlain is Send without encryption: the push service and all between read m, whose body is JSON. It is for
// the push subscriptions of JMAP, which may come without keys (RFC 8620 section 7.2) and get a
// PushVerification before anything else. Posthorn's own subscriptions always have keys: for them it is Send.
func (s *Sender) SendPlain(ctx context.Context, endpoint string, m Message) outcome.Outcome {
	if reason, err := m.check(); err != nil {
		return outcome.Outcome{Kind: outcome.Refused, Reason: reason, Err: err}
	}
	if !json.Valid(m.Body) {
		return outcome.Outcome{Kind: outcome.Refused, Reason: "not_json", Err: errors.New("a body without encryption must be JSON")}
	}
	u, err := outbound.ParseURL(endpoint)
	if err != nil {
		return outcome.Outcome{Kind: outcome.Refused, Reason: "bad_endpoint", Err: err}
	}
	return s.post(ctx, u, m.Body, m, http.Header{"Content-Type": {"application/json"}})
}

// post makes the one request of a Send; header describes the body. u is endpoint, parsed.
func (s *Sender) post(ctx context.Context, u *url.URL, body []byte, m Message, header http.Header) outcome.Outcome {
	origin := originOf(u)
	authorization, err := s.vapid.authorization(origin, s.now())
	if err != nil {
		return outcome.Outcome{Kind: outcome.Blocked, Reason: "vapid_key", Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "", bytes.NewReader(body))
	if err != nil { // there is no URL to be wrong yet, so that only a nil context is left
		return outcome.Outcome{Kind: outcome.Refused, Reason: "bad_endpoint", Err: errors.New("make the request")}
	}
	req.URL, req.Host, req.Header = u, u.Host, header
	m.setHeader(req.Header)
	req.Header.Set("Authorization", authorization)
	resp, err := s.http.Do(req)
	if err != nil {
		return failure(ctx, u, err)
	}
	defer func() { _ = resp.Body.Close() }()
	// Reading to the end, for an answer of a sane size, lets net/http keep the connection. An answer that
	// breaks off has still been given: the status decides.
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	o := answer(resp.StatusCode, resp.Header, text, s.now())
	if o.Kind == outcome.Blocked {
		s.vapid.forget(origin) // the next try, after the clock or the service is mended, signs anew
	}
	if o.Kind != outcome.Delivered {
		o.Err = fmt.Errorf("%s answered %d: %q", origin, resp.StatusCode, excerpt(string(text), u))
	}
	return o
}

func (m Message) check() (reason string, err error) {
	if len(m.Body) > MaxBody {
		return ReasonTooLarge, fmt.Errorf("%d bytes of plaintext, at most %d fit", len(m.Body), MaxBody)
	}
	switch m.Urgency {
	case "", "very-low", "low", "normal", "high":
	default:
		return "bad_urgency", fmt.Errorf("urgency %q is not one of RFC 8030", m.Urgency)
	}
	if err := CheckTopic(m.Topic); err != nil {
		return "bad_topic", err
	}
	return "", nil
}

func (m Message) setHeader(h http.Header) {
	ttl := min(max(m.TTL, 0), maxTTL)
	h.Set("TTL", strconv.FormatInt(int64((ttl+time.Second-1)/time.Second), 10))
	if m.Urgency != "" {
		h.Set("Urgency", m.Urgency)
	}
	if m.Topic != "" {
		h.Set("Topic", m.Topic)
	}
}

// originOf returns the origin in its ASCII serialisation (RFC 6454 section 6.2), which has no default port.
func originOf(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return u.Scheme + "://" + host
}
