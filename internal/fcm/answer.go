package fcm

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

const (
	// quotaPause and serverPause are Google's guidance for answers without Retry-After.
	quotaPause  = time.Minute
	serverPause = 10 * time.Second
	// maxRetryAfter bounds how long an answer can silence us.
	maxRetryAfter = 24 * time.Hour
)

// row is one line of Google's table "ErrorCode". code is the FcmError's errorCode, or, where that is
// missing or "UNSPECIFIED_ERROR", the canonical status of the error.
type row struct {
	status     int
	code       string
	kind       outcome.Kind
	retryAfter time.Duration
}

// rows is the whole table. Only its first line may ever end a subscription.
var rows = []row{
	{404, "UNREGISTERED", outcome.Gone, 0},
	// Google's API answered and does not know the project or path: ours, not the device's fault.
	{404, "NOT_FOUND", outcome.Refused, 0},
	// Suspect instead when it is the token that is invalid; see judge.
	{400, "INVALID_ARGUMENT", outcome.Refused, 0},
	{403, "SENDER_ID_MISMATCH", outcome.Suspect, 0},
	{403, "PERMISSION_DENIED", outcome.Blocked, 0},
	{401, "THIRD_PARTY_AUTH_ERROR", outcome.Blocked, 0},
	{401, "UNAUTHENTICATED", outcome.Blocked, 0}, // after one try with a fresh access token
	{429, "QUOTA_EXCEEDED", outcome.Later, quotaPause},
	{429, "RESOURCE_EXHAUSTED", outcome.Later, quotaPause},
	{500, "INTERNAL", outcome.Later, serverPause},
	{503, "UNAVAILABLE", outcome.Later, serverPause},
	{504, "DEADLINE_EXCEEDED", outcome.Later, serverPause},
}

// byStatus judges an answer whose error is missing, garbled or new: HTML of a front end, mostly. The
// words are ours, one per status class, for the code becomes a metric label and the answer is foreign.
func byStatus(status int) row {
	switch {
	case status/100 == 2:
		return row{kind: outcome.Delivered}
	case status == http.StatusUnauthorized:
		return row{code: "UNAUTHENTICATED", kind: outcome.Blocked}
	case status == http.StatusForbidden, status == http.StatusNotFound:
		// 404 without Google's error: not the API that answered, so every message would get it. The
		// slots are kept, for Google's front ends have been seen to do this for an hour.
		return row{code: "unknown_4xx", kind: outcome.Blocked}
	case status == http.StatusRequestEntityTooLarge:
		return row{code: "PayloadTooLarge", kind: outcome.Refused}
	case status == http.StatusTooManyRequests:
		return row{code: "QUOTA_EXCEEDED", kind: outcome.Later, retryAfter: quotaPause}
	case status == http.StatusRequestTimeout:
		return row{code: "unknown_4xx", kind: outcome.Later, retryAfter: serverPause}
	case status/100 == 4:
		return row{code: "unknown_4xx", kind: outcome.Refused}
	case status/100 == 5:
		return row{code: "unknown_5xx", kind: outcome.Later, retryAfter: serverPause}
	default: // redirects, which Google does not send and we do not follow
		return row{code: "unknown_status", kind: outcome.Refused}
	}
}

// judge translates an answer. stale asks for a fresh access token. token is only to be kept out of
// the error text: Google quotes what it finds invalid.
func judge(status int, retryAfter string, body []byte, token string, now time.Time) (o outcome.Outcome, stale bool) {
	if status/100 == 2 {
		return outcome.Outcome{Kind: outcome.Delivered, Status: status, ProviderID: parseName(body)}, false
	}
	e := parseError(body)
	r := byStatus(status)
	known := false
	for i, code := range []string{e.code, e.status} {
		for _, line := range rows {
			// A token is gone by FCM's own word only, and that is the first.
			if !known && line.status == status && line.code == code && (i == 0 || line.kind != outcome.Gone) {
				r, known = line, true
			}
		}
	}
	o = outcome.Outcome{Kind: r.kind, Status: status, Reason: r.code}
	if r.code == "INVALID_ARGUMENT" && e.namesToken() {
		o.Kind = outcome.Suspect
	}
	if r.kind == outcome.Later || r.kind == outcome.Blocked {
		if o.RetryAfter = parseRetryAfter(retryAfter, now); o.RetryAfter == 0 {
			o.RetryAfter = r.retryAfter
		}
	}
	text := e.message
	if token != "" {
		text = strings.ReplaceAll(text, token, "[token]")
	}
	if text != "" {
		o.Err = fmt.Errorf("fcm answered %d: %s", status, clip(text, 200))
	} else {
		o.Err = fmt.Errorf("fcm answered %d without an error of the API", status)
	}
	return o, r.code == "UNAUTHENTICATED"
}

// apiError is google.rpc.Status as far as it matters.
type apiError struct {
	code       string // FcmError.errorCode
	status     string // canonical status
	message    string
	violations []string // fields that BadRequest names
}

// namesToken reports whether the invalid argument is the registration token and nothing else. The
// list of violated fields decides where there is one.
func (e apiError) namesToken() bool {
	for _, field := range e.violations {
		if field != "message.token" {
			return false
		}
	}
	return len(e.violations) > 0 || strings.Contains(strings.ToLower(e.message), "registration token")
}

// parseError reads as much as fits; a member of another shape is as good as absent.
func parseError(body []byte) apiError {
	var doc struct {
		Error struct {
			Message json.RawMessage   `json:"message"`
			Status  json.RawMessage   `json:"status"`
			Details []json.RawMessage `json:"details"`
		} `json:"error"`
	}
	var e apiError
	if err := json.Unmarshal(body, &doc); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok {
			return e
		}
	}
	_ = json.Unmarshal(doc.Error.Message, &e.message)
	_ = json.Unmarshal(doc.Error.Status, &e.status)
	for _, raw := range doc.Error.Details {
		var detail struct {
			Type       string `json:"@type"`
			ErrorCode  string `json:"errorCode"`
			Violations []struct {
				Field string `json:"field"`
			} `json:"fieldViolations"`
		}
		if json.Unmarshal(raw, &detail) != nil {
			continue
		}
		switch detail.Type {
		case "type.googleapis.com/google.firebase.fcm.v1.FcmError":
			e.code = detail.ErrorCode
		case "type.googleapis.com/google.rpc.BadRequest":
			for _, v := range detail.Violations {
				e.violations = append(e.violations, v.Field)
			}
		}
	}
	return e
}

// parseName reads {"name":"projects/p/messages/id"}, the accepted message's name.
func parseName(body []byte) string {
	var doc struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(body, &doc) != nil || len(doc.Name) > 256 || CheckToken(doc.Name) != nil {
		return ""
	}
	return doc.Name
}

// parseRetryAfter reads both forms of RFC 9110 section 10.2.3; what it cannot read is 0.
func parseRetryAfter(v string, now time.Time) time.Duration {
	if v == "" {
		return 0
	}
	if s, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(s)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(0, at.Sub(now)), maxRetryAfter)
}

// faultWord names what went wrong below HTTP, in a bounded vocabulary.
func faultWord(ctx context.Context, err error) string {
	var (
		dns     *net.DNSError
		op      *net.OpError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return "canceled"
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &dns):
		return "dns"
	case errors.As(err, &op) && op.Op == "dial":
		return "connect"
	case errors.As(err, &verify), errors.As(err, &record), op != nil && op.Op == "remote error":
		return "tls"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	default:
		return "connection"
	}
}
