// Package apns is the wire to Apple's push service: one notification in, one outcome out.
//
// A [Sender] holds one credential (token key or certificate) for one topic in one environment, and
// one HTTP/2 connection. The parts are kept apart so that each can be replaced alone: request.go
// makes path, header fields and body; answer.go translates status and reason; key.go and
// certificate.go hold the credentials; transport.go moves the bytes, and fault.go names what went
// wrong below HTTP.
//
// The package keeps no queue. It sends a request again only where that is certain to be safe: once
// with a new provider token after Apple called the old one expired, and a few times where the server
// never looked at the stream (GOAWAY below it, REFUSED_STREAM; RFC 9113 sections 6.8 and 8.7).
// Everything else is an [outcome.Outcome] for the caller, who retries with the same Message.ID.
//
// A Sender is safe for concurrent use and starts no goroutine of its own; those of net/http end with
// the connection. Device tokens and key material never appear in an error, an outcome or a log line.
package apns

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// The two environments. A device token belongs to one of them.
const (
	Production = "production"
	Sandbox    = "sandbox"
)

// MaxPayload is the most bytes a payload may have (VoIP, which we do not send, has 5120).
const MaxPayload = 4096

// sendTimeout bounds one Send, its waiting for a free stream and its one retry included. Apple
// answers within a second; a caller's shorter deadline wins.
const sendTimeout = 20 * time.Second

var hosts = map[string]string{
	Production: "https://api.push.apple.com",
	Sandbox:    "https://api.sandbox.push.apple.com",
}

// topicForm is a bundle identifier, with or without a suffix such as ".voip".
var topicForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,254}$`)

// Config says for which app, where and as whom to send. Exactly one of TokenKey and Certificate is set.
type Config struct {
	// URL overrides Apple's address, for a relay or a fake: "https://host:port". Empty means Apple.
	URL string
	// Environment is [Production] or [Sandbox].
	Environment string
	// Topic is the app's bundle identifier.
	Topic       string
	TokenKey    *TokenKey
	Certificate *tls.Certificate
	// RootCAs replaces the system's roots when a fake has a certificate of its own.
	RootCAs *x509.CertPool
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// LogValue shows which credential is meant, and nothing of it.
func (c Config) LogValue() slog.Value {
	credential := slog.String("certificate", "[redacted]")
	if c.TokenKey != nil {
		credential = slog.Any("token_key", c.TokenKey)
	}
	return slog.GroupValue(slog.String("url", c.URL), slog.String("environment", c.Environment),
		slog.String("topic", c.Topic), credential)
}

// Sender sends notifications of one topic with one credential.
type Sender struct {
	topic string
	now   func() time.Time
	wire  *transport
	// tokens is nil with certificate authentication.
	tokens *minter
	// certificateEnds is zero with token authentication.
	certificateEnds time.Time
}

// New checks the configuration. It does not connect.
func New(c Config) (*Sender, error) {
	base, ok := hosts[c.Environment]
	if !ok {
		return nil, fmt.Errorf("apns environment: %q is neither %q nor %q", c.Environment, Production, Sandbox)
	}
	if !topicForm.MatchString(c.Topic) {
		return nil, fmt.Errorf("apns topic: %q is not a bundle identifier", c.Topic)
	}
	if (c.TokenKey == nil) == (c.Certificate == nil) {
		return nil, errors.New("apns credential: give a token key (.p8) or a certificate (.p12), and not both")
	}
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && u.Path != "/") {
			return nil, errors.New("apns url: must be https://host or https://host:port and nothing else")
		}
		base = "https://" + u.Host
	}
	s := &Sender{topic: c.Topic, now: c.Now}
	if s.now == nil {
		s.now = time.Now
	}
	// Apple asks for TLS 1.2 at least; RootCAs nil means the system's.
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.RootCAs}
	if c.TokenKey != nil {
		s.tokens = &minter{key: c.TokenKey}
	} else {
		leaf, err := leafOf(c.Certificate)
		if err != nil {
			return nil, err
		}
		info := readCertificate(leaf)
		if err := info.check(leaf, c.Environment, c.Topic, s.now()); err != nil {
			return nil, err
		}
		s.certificateEnds = leaf.NotAfter
		conf.Certificates = []tls.Certificate{*c.Certificate}
	}
	s.wire = newTransport(base, conf)
	return s, nil
}

// LogValue keeps the credential out of logs.
func (s *Sender) LogValue() slog.Value {
	return slog.GroupValue(slog.String("url", s.wire.base), slog.String("topic", s.topic))
}

// Close gives the idle connection back. Call it after the last Send has returned.
func (s *Sender) Close() { s.wire.close() }

// Send delivers m to the device and says what became of it. It waits while the connection has no
// free stream, and returns at the latest when ctx ends.
func (s *Sender) Send(ctx context.Context, token string, m Message) outcome.Outcome {
	if o, ok := precheck(token, m); !ok {
		return o
	}
	if !s.certificateEnds.IsZero() && s.now().After(s.certificateEnds) {
		// Apple would refuse the handshake, which is harder to tell from a network fault.
		return outcome.Outcome{Kind: outcome.Blocked, Reason: "certificate_expired", Err: fmt.Errorf("the certificate ended on %s", s.certificateEnds.UTC().Format(time.DateOnly))}
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()

	jwt := ""
	if s.tokens != nil {
		var err error
		if jwt, err = s.tokens.current(s.now()); err != nil {
			return outcome.Outcome{Kind: outcome.Blocked, Reason: "sign", Err: err}
		}
	}
	o, then := s.try(ctx, token, jwt, m)
	if then == remint && s.tokens != nil {
		fresh, err := s.tokens.remint(jwt, s.now())
		if err != nil {
			o.Err = err
			return o
		}
		o, then = s.try(ctx, token, fresh, m)
	}
	if then == keepToken && s.tokens != nil {
		s.tokens.rest(s.now())
	}
	return o
}

// try makes one request.
func (s *Sender) try(ctx context.Context, token, jwt string, m Message) (outcome.Outcome, action) {
	a, used, err := s.wire.do(ctx, build(s.topic, token, jwt, m))
	if err != nil {
		o := classify(ctx, err)
		if o.Reason == "timeout" {
			// A black hole keeps its connection "open" until a ping fails; do not wait for that.
			s.wire.reconnect(used, s.now())
		}
		return o, nothing
	}
	o, then := judge(a, s.now())
	if then == reconnect {
		s.wire.reconnect(used, s.now())
	}
	if o.Kind == outcome.Delivered && o.ProviderID == "" {
		o.ProviderID = m.ID
	}
	return o, then
}
