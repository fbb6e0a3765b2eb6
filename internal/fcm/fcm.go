// Package fcm is the wire to Firebase Cloud Messaging, HTTP v1: one data message in, one outcome out.
//
// A [Sender] holds one service account and so one Firebase project. account.go reads the account's
// JSON; oauth.go exchanges it for access tokens; message.go makes the request body; answer.go
// translates what comes back.
//
// The package keeps no queue and does not retry, save once with a fresh access token after 401.
// Everything else is an [outcome.Outcome] for the caller. FCM knows no message id of ours: a message
// that is sent twice arrives twice, and only its collapse key makes the first disappear.
//
// A Sender is safe for concurrent use and starts no goroutine of its own. Device tokens, access
// tokens and the private key never appear in an error, an outcome or a log line.
package fcm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

const (
	google = "https://fcm.googleapis.com"
	// sendTimeout bounds one Send, its token exchange included. A caller's shorter deadline wins.
	sendTimeout = 20 * time.Second
	// maxBody bounds what is read of an answer, in bytes. Google's are below 2 KiB.
	maxBody = 64 << 10
)

// Config says as whom to send.
type Config struct {
	// ServiceAccount is the JSON key file of a Firebase service account.
	ServiceAccount []byte
	// Endpoint overrides Google's address, for a relay or a fake: "https://host:port", or "http://"
	// with a loopback address. Empty means Google.
	Endpoint string
	// HTTP makes all requests, those for access tokens too. Nil means a client without a proxy.
	HTTP *http.Client
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// LogValue keeps the service account out of logs.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(slog.String("endpoint", c.Endpoint), slog.String("service_account", "[redacted]"))
}

// Sender sends messages of one Firebase project.
type Sender struct {
	url    string
	http   *http.Client
	tokens *tokens
	now    func() time.Time
}

// New checks the configuration. It does not connect.
func New(c Config) (*Sender, error) {
	account, err := parseAccount(c.ServiceAccount)
	if err != nil {
		return nil, err
	}
	base := google
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || !safeURL(u) || u.RawQuery != "" || (u.Path != "" && u.Path != "/") {
			return nil, errors.New("fcm endpoint: must be https://host or https://host:port and nothing else (http:// for a loopback address)")
		}
		base = u.Scheme + "://" + u.Host
	}
	client := c.HTTP
	if client == nil {
		client = &http.Client{Transport: &http.Transport{
			Proxy:                 nil, // Google is reached directly or not at all
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ForceAttemptHTTP2:     true,
			IdleConnTimeout:       10 * time.Minute,
			MaxIdleConnsPerHost:   100, // should HTTP/2 not be had
			ResponseHeaderTimeout: sendTimeout,
		}}
	}
	// A redirect would carry the bearer token or the signed assertion to another place.
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	now := c.Now
	if now == nil {
		now = time.Now
	}
	return &Sender{
		url:    base + "/v1/projects/" + url.PathEscape(account.ProjectID) + "/messages:send",
		http:   &own,
		tokens: newTokens(account, &own, now),
		now:    now,
	}, nil
}

// safeURL allows https, and http where nobody can listen in.
func safeURL(u *url.URL) bool {
	if u.Host == "" || u.User != nil || u.Fragment != "" {
		return false
	}
	if u.Scheme == "https" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || (ip != nil && ip.IsLoopback()))
}

// LogValue keeps the credential out of logs.
func (s *Sender) LogValue() slog.Value {
	return slog.GroupValue(slog.String("url", s.url))
}

// TokenSince is when the access token in use was fetched; zero before the first Send.
func (s *Sender) TokenSince() time.Time {
	if ms := s.tokens.since.Load(); ms != 0 {
		return time.UnixMilli(ms)
	}
	return time.Time{}
}

// Close ends the connections that no request uses. A Send after it opens others.
func (s *Sender) Close() { s.http.CloseIdleConnections() }

// Send delivers m to the device and says what became of it. It returns at the latest when ctx ends.
func (s *Sender) Send(ctx context.Context, token string, m Message) outcome.Outcome {
	if err := CheckToken(token); err != nil {
		return outcome.Outcome{Kind: outcome.Suspect, Reason: "INVALID_ARGUMENT", Err: err}
	}
	if n := m.size(); n > MaxData {
		return outcome.Outcome{Kind: outcome.Refused, Reason: "PayloadTooLarge", Err: fmt.Errorf("data: %d bytes, the limit is %d", n, MaxData)}
	}
	body, err := m.encode(token)
	if err != nil {
		return outcome.Outcome{Kind: outcome.Refused, Reason: "INVALID_ARGUMENT", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()

	access, fault := s.tokens.get(ctx, "")
	if fault != nil {
		return *fault
	}
	o, stale := s.try(ctx, token, access, body)
	if stale {
		if access, fault = s.tokens.get(ctx, access); fault != nil {
			return *fault
		}
		o, _ = s.try(ctx, token, access, body)
	}
	return o
}

// try makes one request. stale reports that Google did not take the access token.
func (s *Sender) try(ctx context.Context, token, access string, body []byte) (o outcome.Outcome, stale bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return outcome.Outcome{Kind: outcome.Refused, Reason: "request", Err: fmt.Errorf("make request: %w", err)}, false
	}
	req.Header.Set("Authorization", "Bearer "+access)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Posthorn")
	resp, err := s.http.Do(req)
	if err != nil {
		return outcome.Outcome{Kind: outcome.Later, Reason: faultWord(ctx, err), Err: fmt.Errorf("send: %w", err)}, false
	}
	defer func() { _ = resp.Body.Close() }()
	// What came before an error still counts: the status is known, and judged by itself if need be.
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return judge(resp.StatusCode, resp.Header.Get("Retry-After"), answer, token, s.now())
}
