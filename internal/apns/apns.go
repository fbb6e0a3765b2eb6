// Package apns is the wire to Apple's push service: one notification in, one outcome out.
//
// A [Sender] holds one credential (token key or certificate) for one topic in one environment, and
// its HTTP/2 connections. The parts are kept apart: request.go holds the message to Apple's rules;
// answer.go translates status and reason; key.go and certificate.go hold the credentials; fault.go
// names what went wrong below HTTP.
//
// The bytes go over a connection of our own (pool.go and what it names), which costs a fraction of
// net/http's and accounts for every stream that the server gives up; net/http's (transport.go) can be
// selected instead and passes the same tests. Both implement wire.
//
// The package keeps no queue. It sends a request again only where that is certain to be safe: once
// with a new provider token after Apple called the old one expired, and a few times where the server
// never looked at the stream (GOAWAY below it, REFUSED_STREAM; RFC 9113 sections 6.8 and 8.7).
// Everything else is an [outcome.Outcome] for the caller, who retries with the same Message.ID.
//
// A Sender is safe for concurrent use. Its goroutines, two for a connection and one that keeps the
// time for all, start with the first Send, and Close waits for them. Device tokens and key material never appear in an error, an outcome or a log line.
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
	"strings"
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

// sendTimeout bounds one request, its waiting for a connection and a free stream included. Apple
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
	// Connections is how many may be open at once; 0 means 1. The second one opens when the first
	// has no free stream, and so on.
	Connections int
	// HTTP2Transport sends over net/http's HTTP/2 instead of our own connection, and over one
	// connection only. It costs many times as much and exists to check ours against it.
	HTTP2Transport bool
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

// wire moves requests. There are two: pool and transport.
type wire interface {
	// do makes one request. It returns when ctx ends, or sendTimeout after its call; the error is for
	// classify.
	do(ctx context.Context, r request) (answer, error)
	// streams says how many requests are under way, and how many the peer takes at present.
	streams() (inFlight, limit int)
	// close ends every connection; requests under way fail.
	close()
}

// Sender sends notifications of one topic with one credential.
type Sender struct {
	base  string // "https://host" or "https://host:port"
	topic string
	now   func() time.Time
	wire  wire
	// tokens is nil with certificate authentication.
	tokens *minter
	// certificateEnds is zero with token authentication.
	certificateEnds time.Time
}

// New checks the configuration. It does not connect. A certificate that has ended is taken: each Send then
// says so, and the other apps of a process go on.
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
	if c.Connections < 0 {
		return nil, errors.New("apns connections: must not be negative")
	}
	s := &Sender{base: base, topic: c.Topic, now: c.Now}
	if s.now == nil {
		s.now = time.Now
	}
	host := strings.TrimPrefix(base, "https://")
	conf := newTLS(host, c.RootCAs)
	if c.TokenKey != nil {
		s.tokens = &minter{key: c.TokenKey}
	} else {
		leaf, err := leafOf(c.Certificate)
		if err != nil {
			return nil, err
		}
		info := readCertificate(leaf)
		if err := info.check(leaf, c.Environment, c.Topic, s.now()); err != nil && !errors.Is(err, ErrExpired) {
			return nil, err
		}
		s.certificateEnds = leaf.NotAfter
		conf.Certificates = []tls.Certificate{*c.Certificate}
	}
	if c.HTTP2Transport {
		s.wire = newTransport(host, conf)
	} else {
		s.wire = newPool(host, conf, max(1, c.Connections), s.tokens != nil)
	}
	return s, nil
}

// LogValue keeps the credential out of logs.
func (s *Sender) LogValue() slog.Value {
	return slog.GroupValue(slog.String("url", s.base), slog.String("topic", s.topic))
}

// Close ends the connections and waits for everything the Sender started. A Send under way returns
// at once with an outcome for later.
func (s *Sender) Close() { s.wire.close() }

// Streams says how many notifications are under way at Apple, and how many Apple takes at once at
// present over all the connections that may be opened: the number to steer concurrency by. It is 1
// until the first notification was answered.
func (s *Sender) Streams() (inFlight, limit int) { return s.wire.streams() }

// TokenSince is when the provider token in use was made, by its own word: Apple takes it for an hour.
// It is zero with a certificate, and before the first Send.
func (s *Sender) TokenSince() time.Time {
	if s.tokens == nil {
		return time.Time{}
	}
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	return s.tokens.iat
}

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
	a, err := s.wire.do(ctx, request{topic: s.topic, token: token, jwt: jwt, m: m})
	if err != nil {
		return classify(err), nothing
	}
	o, then := judge(a, s.now())
	if then == reconnect {
		a.via.leave()
	}
	if o.Kind == outcome.Delivered && o.ProviderID == "" {
		o.ProviderID = m.ID
	}
	return o, then
}
