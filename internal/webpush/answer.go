package webpush

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outbound"
	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// ReasonTooLarge is the Reason of a message that is too long, by our own count or by the service's (413):
// the one refusal that a shorter form of the same message can mend.
const ReasonTooLarge = "too_large"

// ReasonKeyMismatch is the Reason when a subscription was made with another VAPID key than ours. It is the
// subscription's fault alone: other subscriptions of the same service are not affected.
const ReasonKeyMismatch = "key_mismatch"

const (
	maxAnswer     = 4 << 10 // bytes of a response body that are read
	maxExcerpt    = 200     // bytes of it, or of a transport error, that reach an Outcome's Err
	maxProviderID = 512     // bytes
	// maxRetryAfter bounds what a push service, any host on the Internet, can make us wait. A state of
	// a mailbox that is an hour old is overtaken anyway.
	maxRetryAfter = time.Hour
)

// answer says what a push service's response means. body may be cut.
func answer(status int, h http.Header, body []byte, now time.Time) outcome.Outcome {
	o := outcome.Outcome{Status: status}
	if status >= 200 && status <= 299 {
		// 201 by RFC 8030 section 5; some services send another 2xx, which UnifiedPush allows.
		o.ProviderID = providerID(h.Get("Location"))
		return o
	}
	// Errors of autopush and of Apple come as JSON; other bodies leave both empty.
	var detail struct {
		Errno  int    `json:"errno"`
		Reason string `json:"reason"`
	}
	_ = json.Unmarshal(body, &detail)
	o.Kind, o.Reason = byStatus(status)
	switch {
	case goneErrno[detail.Errno] && (o.Reason == "bad_request" || o.Reason == "client_error"):
		o.Kind = outcome.Gone
	case (o.Reason == "bad_request" || o.Kind == outcome.Blocked) && keyMismatch(detail.Reason, body):
		o.Kind, o.Reason = outcome.Refused, ReasonKeyMismatch
		return o
	}
	if o.Kind == outcome.Later {
		o.RetryAfter = retryAfter(h.Get("Retry-After"), now)
	}
	if o.Reason != ReasonTooLarge {
		o.Reason = word(o.Reason, detail.Errno, detail.Reason)
	}
	return o
}

func byStatus(status int) (outcome.Kind, string) {
	switch {
	case status >= 300 && status <= 399:
		return outcome.Refused, "redirect" // following would leave the origin that was checked and signed for
	case status == http.StatusBadRequest:
		return outcome.Refused, "bad_request"
	case status == http.StatusUnauthorized:
		return outcome.Blocked, "unauthorized"
	case status == http.StatusForbidden:
		return outcome.Blocked, "forbidden"
	case status == http.StatusNotFound:
		return outcome.Gone, "not_found"
	case status == http.StatusGone:
		return outcome.Gone, "gone"
	case status == http.StatusRequestEntityTooLarge:
		return outcome.Refused, ReasonTooLarge
	case status == http.StatusTooManyRequests:
		return outcome.Later, "too_many_requests"
	case status >= 400 && status <= 499:
		return outcome.Refused, "client_error"
	case status >= 500 && status <= 599:
		return outcome.Later, "server_error"
	}
	return outcome.Refused, "unexpected_status"
}

// goneErrno are autopush's words for an endpoint that will never work again: invalid URL, expired URL,
// endpoint unavailable, invalid subscription.
var goneErrno = map[int]bool{102: true, 103: true, 105: true, 106: true}

// errnos and appleReasons are the details that may become a Reason. Any host can send any, and a Reason is
// a metric label, so that the set has to be ours.
var errnos = map[int]bool{
	101: true, 102: true, 103: true, 104: true, 105: true, 106: true, 107: true, 108: true, 109: true, 110: true, 111: true,
	112: true, 113: true, 201: true, 202: true, 900: true, 901: true, 902: true, 903: true, 999: true,
}

var appleReasons = map[string]bool{
	"BadAuthorizationHeader": true, "BadJwtToken": true, "BadVapidPublicKey": true, "BadTtl": true, "BadUrgency": true,
	"BadWebPushTopic": true, "BadWebPushRequest": true, "ExpiredToken": true, "Unregistered": true, "TooManyRequests": true,
}

func word(plain string, errno int, reason string) string {
	switch {
	case errnos[errno]:
		return "errno_" + strconv.Itoa(errno)
	case appleReasons[reason]:
		return reason
	}
	return plain
}

// keyMismatch recognises the answer to a subscription made with another VAPID key, in the words of Apple,
// Google and Mozilla. Their status (400, 401 or 403) does not tell it from a refusal of our key itself. It
// matters, because anybody can subscribe such an endpoint, and must not block a service for everybody.
func keyMismatch(reason string, body []byte) bool {
	text := strings.ToLower(string(body))
	return reason == "VapidPkHashMismatch" ||
		strings.Contains(text, "do not correspond to the credentials used to create the subscription") ||
		strings.Contains(text, "vapid public key mismatch")
}

// retryAfter reads the header (RFC 9110 section 10.2.3): seconds, or a date. What cannot be read is 0.
func retryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(n) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

func providerID(location string) string {
	if len(location) > maxProviderID {
		return ""
	}
	for i := range len(location) {
		if location[i] <= ' ' || location[i] > '~' {
			return ""
		}
	}
	return location
}

// excerpt is the start of a text of the push service's making, for an error, without the endpoint's secret,
// should it be echoed.
func excerpt(text string, endpoint *url.URL) string {
	for _, secret := range []string{endpoint.RequestURI(), path.Base(endpoint.Path), endpoint.RawQuery} {
		if len(secret) >= 8 { // shorter ones guard nothing
			text = strings.ReplaceAll(text, secret, "...")
		}
	}
	return strings.ToValidUTF8(text[:min(len(text), maxExcerpt)], "?")
}

// failure says what it means that no answer came.
func failure(ctx context.Context, endpoint *url.URL, err error) outcome.Outcome {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // its own text holds the whole endpoint
	}
	o := outcome.Outcome{Kind: outcome.Later, Reason: failureReason(ctx, err)}
	// net/http quotes what it cannot parse: a header of the service's making, at any length.
	if text := excerpt(err.Error(), endpoint); text != err.Error() {
		err = errors.New(text)
	}
	o.Err = fmt.Errorf("post to %s: %w", originOf(endpoint), err)
	if o.Reason == "refused_address" {
		o.Kind = outcome.Refused
	}
	return o
}

func failureReason(ctx context.Context, err error) string {
	var (
		refused *outbound.RefusedError
		dns     *net.DNSError
		timeout net.Error
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		op      *net.OpError
	)
	switch {
	case errors.As(err, &refused):
		return "refused_address"
	case errors.Is(ctx.Err(), context.Canceled) || errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &dns):
		return "dns"
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() || ctx.Err() != nil:
		return "timeout"
	case errors.As(err, &cert), errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch), strings.HasPrefix(err.Error(), "tls: "):
		return "tls"
	case errors.As(err, &op):
		switch op.Op {
		case "dial":
			return "connect"
		case "remote error", "local error": // a TLS alert
			return "tls"
		}
	}
	return "connection" // it broke after it was made
}
