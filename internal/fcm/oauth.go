package fcm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

const (
	scope = "https://www.googleapis.com/auth/firebase.messaging"
	// renewBefore is how long before its end an access token is replaced; Google's last an hour.
	renewBefore = 2 * time.Minute
	// assumedLife stands in when the answer does not say how long a token lasts.
	assumedLife = 30 * time.Minute
	// maxLife is the longest life that we believe; Google's longest is 12 hours.
	maxLife = 12 * time.Hour
	// failurePause is how long one failed exchange answers for the callers after it, so that a
	// thousand waiting messages do not become a thousand exchanges.
	failurePause = time.Second
)

// tokens holds the one access token in use and exchanges the service account for the next.
type tokens struct {
	conf *jwt.Config
	http *http.Client
	now  func() time.Time

	// turn admits one caller at a time; a channel, for waiting ends with the caller's context. It
	// guards the fields below.
	turn     chan struct{}
	access   string
	expires  time.Time
	failure  *outcome.Outcome
	failedAt time.Time

	// since is when the access token was fetched, for those who watch: Unix milliseconds, 0 without one.
	since atomic.Int64
}

func newTokens(a *account, client *http.Client, now func() time.Time) *tokens {
	return &tokens{
		conf: &jwt.Config{
			Email:        a.ClientEmail,
			PrivateKey:   []byte(a.PrivateKey),
			PrivateKeyID: a.PrivateKeyID,
			Scopes:       []string{scope},
			TokenURL:     a.TokenURI,
		},
		http: client,
		now:  now,
		turn: make(chan struct{}, 1),
	}
}

// get returns an access token other than refused, or what keeps us from having one.
func (t *tokens) get(ctx context.Context, refused string) (string, *outcome.Outcome) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return "", &outcome.Outcome{Kind: outcome.Later, Reason: faultWord(ctx, ctx.Err()), Err: fmt.Errorf("wait for access token: %w", ctx.Err())}
	}
	now := t.now()
	if t.access == refused { // both are empty at first
		t.access = ""
	}
	left := t.expires.Sub(now)
	if t.access != "" && left > renewBefore {
		return t.access, nil
	}
	fault := t.failure
	if fault == nil || now.Sub(t.failedAt) >= failurePause {
		var access string
		var life time.Duration
		if access, life, fault = t.exchange(ctx, now); fault == nil {
			t.access, t.expires, t.failure = access, now.Add(life), nil
			t.since.Store(now.UnixMilli())
			return t.access, nil
		}
		if ctx.Err() == nil { // else it was the caller's haste, which is nobody else's fault
			t.failure, t.failedAt = fault, now
		}
	}
	if t.access != "" && left > 0 {
		return t.access, nil // good for a little longer; the next caller tries again
	}
	return "", fault
}

// exchange makes the OAuth request (RFC 7523 section 2.1).
func (t *tokens) exchange(ctx context.Context, now time.Time) (string, time.Duration, *outcome.Outcome) {
	// The library takes its client from the context but makes its request without one, and wraps
	// what went wrong into text; this transport supplies the first and keeps the second.
	carrier := &carrier{ctx: ctx, base: t.http.Transport}
	client := *t.http
	client.Transport = carrier
	tok, err := t.conf.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, &client)).Token()
	var answered *oauth2.RetrieveError
	switch {
	case errors.As(err, &answered):
		return "", 0, judgeExchange(answered, now)
	case carrier.err != nil:
		return "", 0, &outcome.Outcome{Kind: outcome.Later, Reason: faultWord(ctx, carrier.err), Err: fmt.Errorf("fetch access token: %w", carrier.err)}
	case err != nil || tok.AccessToken == "":
		// 200 with something else than a token: a portal or a broken relay, not our credential.
		return "", 0, &outcome.Outcome{Kind: outcome.Later, Reason: "token_response", Err: errors.New("fetch access token: the answer holds none")}
	}
	life := assumedLife
	if !tok.Expiry.IsZero() {
		life = min(time.Until(tok.Expiry), maxLife) // counted on the library's clock, kept on ours
	}
	return tok.AccessToken, life, nil
}

type carrier struct {
	ctx  context.Context // of the one request that it carries
	base http.RoundTripper
	err  error
}

func (c *carrier) RoundTrip(req *http.Request) (*http.Response, error) {
	base := c.base
	if base == nil {
		base = http.DefaultTransport
	}
	resp, err := base.RoundTrip(req.WithContext(c.ctx))
	c.err = err
	return resp, err
}

// exchangeWords are the error codes that the token endpoint is known to use (RFC 6749 section 5.2,
// and Google's own); others are not repeated, for the word becomes a metric label.
var exchangeWords = map[string]bool{
	"invalid_request": true, "invalid_client": true, "invalid_grant": true, "invalid_scope": true,
	"unauthorized_client": true, "unsupported_grant_type": true, "access_denied": true,
	"disabled_client": true, "deleted_client": true, "admin_policy_enforced": true, "org_internal": true,
}

// judgeExchange: a refusal is about the credential, whatever its word; a fault of the server is not.
func judgeExchange(e *oauth2.RetrieveError, now time.Time) *outcome.Outcome {
	var doc struct {
		Error       json.RawMessage `json:"error"`
		Description json.RawMessage `json:"error_description"`
	}
	var word, description string
	if json.Unmarshal(e.Body, &doc) == nil {
		_ = json.Unmarshal(doc.Error, &word)
		_ = json.Unmarshal(doc.Description, &description)
	}
	status := e.Response.StatusCode
	o := &outcome.Outcome{
		Status:     status,
		Reason:     "token_refused",
		RetryAfter: parseRetryAfter(e.Response.Header.Get("Retry-After"), now),
		Err:        fmt.Errorf("fetch access token: answered %d %s", status, clip(description, 200)),
	}
	if exchangeWords[word] {
		o.Reason = word
	}
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		o.Kind, o.Reason = outcome.Later, "token_unavailable"
		if o.RetryAfter == 0 {
			o.RetryAfter = serverPause
		}
	default:
		o.Kind = outcome.Blocked
	}
	return o
}
