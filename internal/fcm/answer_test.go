package fcm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

var answerNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// apiBody is an error as Google writes it; code empty leaves the FcmError out.
func apiBody(http int, status, message, code string) []byte {
	details := ""
	if code != "" {
		details = fmt.Sprintf(`,"details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":%q}]`, code)
	}
	return fmt.Appendf(nil, `{"error":{"code":%d,"message":%q,"status":%q%s}}`, http, message, status, details)
}

// badRequest is the other detail that Google sends, alone or beside FcmError.
func badRequest(message string, fields ...string) []byte {
	var violations []string
	for _, f := range fields {
		violations = append(violations, fmt.Sprintf(`{"field":%q,"description":"Invalid"}`, f))
	}
	return fmt.Appendf(nil, `{"error":{"code":400,"message":%q,"status":"INVALID_ARGUMENT","details":[`+
		`{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"INVALID_ARGUMENT"},`+
		`{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[%s]}]}}`, message, strings.Join(violations, ","))
}

// TestEveryAnswer holds the table to Google's, written out a second time from the fact page.
func TestEveryAnswer(t *testing.T) {
	const html = "<!DOCTYPE html><title>Error</title>"
	const notValid = "The registration token is not a valid FCM registration token"
	tests := []struct {
		name       string
		status     int
		retryAfter string
		body       []byte
		kind       outcome.Kind
		reason     string
		after      time.Duration
		stale      bool
	}{
		{"accepted", 200, "", []byte(`{"name":"projects/p/messages/1"}`), outcome.Delivered, "", 0, false},
		{"accepted, no name", 200, "", []byte(html), outcome.Delivered, "", 0, false},

		{"unregistered", 404, "", apiBody(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED"), outcome.Gone, "UNREGISTERED", 0, false},
		{"not found", 404, "", apiBody(404, "NOT_FOUND", "Requested entity was not found.", ""), outcome.Refused, "NOT_FOUND", 0, false},
		{"not found, unspecified", 404, "", apiBody(404, "NOT_FOUND", "Requested entity was not found.", "UNSPECIFIED_ERROR"), outcome.Refused, "NOT_FOUND", 0, false},
		{"404 of a front end", 404, "", []byte(html), outcome.Blocked, "unknown_4xx", 0, false},
		{"404, empty", 404, "", nil, outcome.Blocked, "unknown_4xx", 0, false},
		{"404, word in the wrong detail", 404, "", []byte(`{"error":{"details":[{"@type":"x","errorCode":"UNREGISTERED"}]}}`), outcome.Blocked, "unknown_4xx", 0, false},
		{"unregistered with another status", 400, "", apiBody(400, "NOT_FOUND", "", "UNREGISTERED"), outcome.Refused, "unknown_4xx", 0, false},

		{"token by message", 400, "", apiBody(400, "INVALID_ARGUMENT", notValid, "INVALID_ARGUMENT"), outcome.Suspect, "INVALID_ARGUMENT", 0, false},
		{"token by field", 400, "", badRequest("Request contains an invalid argument.", "message.token"), outcome.Suspect, "INVALID_ARGUMENT", 0, false},
		{"token and another field", 400, "", badRequest("Request contains an invalid argument.", "message.token", "message.data"), outcome.Refused, "INVALID_ARGUMENT", 0, false},
		{"another field", 400, "", badRequest(notValid, "message.android.ttl"), outcome.Refused, "INVALID_ARGUMENT", 0, false},
		{"too big", 400, "", apiBody(400, "INVALID_ARGUMENT", "Android message is too big", "INVALID_ARGUMENT"), outcome.Refused, "INVALID_ARGUMENT", 0, false},
		{"invalid without a detail", 400, "", apiBody(400, "INVALID_ARGUMENT", "Invalid JSON payload received.", ""), outcome.Refused, "INVALID_ARGUMENT", 0, false},
		{"400 of a front end", 400, "", []byte(html), outcome.Refused, "unknown_4xx", 0, false},

		{"other sender", 403, "", apiBody(403, "PERMISSION_DENIED", "SenderId mismatch", "SENDER_ID_MISMATCH"), outcome.Suspect, "SENDER_ID_MISMATCH", 0, false},
		{"permission", 403, "", apiBody(403, "PERMISSION_DENIED", "Firebase Cloud Messaging API has not been used in project", ""), outcome.Blocked, "PERMISSION_DENIED", 0, false},
		{"403 of a front end", 403, "", []byte(html), outcome.Blocked, "unknown_4xx", 0, false},

		{"third party", 401, "", apiBody(401, "UNAUTHENTICATED", "Auth error", "THIRD_PARTY_AUTH_ERROR"), outcome.Blocked, "THIRD_PARTY_AUTH_ERROR", 0, false},
		{"unauthenticated", 401, "", apiBody(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", ""), outcome.Blocked, "UNAUTHENTICATED", 0, true},
		{"401 of a front end", 401, "", []byte(html), outcome.Blocked, "UNAUTHENTICATED", 0, true},

		{"quota", 429, "", apiBody(429, "RESOURCE_EXHAUSTED", "Quota exceeded", "QUOTA_EXCEEDED"), outcome.Later, "QUOTA_EXCEEDED", time.Minute, false},
		{"quota, 5 s", 429, "5", apiBody(429, "RESOURCE_EXHAUSTED", "Quota exceeded", "QUOTA_EXCEEDED"), outcome.Later, "QUOTA_EXCEEDED", 5 * time.Second, false},
		{"quota, 300 s", 429, "300", apiBody(429, "RESOURCE_EXHAUSTED", "Quota exceeded", "QUOTA_EXCEEDED"), outcome.Later, "QUOTA_EXCEEDED", 300 * time.Second, false},
		{"quota without a detail", 429, "", apiBody(429, "RESOURCE_EXHAUSTED", "Quota exceeded", ""), outcome.Later, "RESOURCE_EXHAUSTED", time.Minute, false},
		{"429 of a front end", 429, "", []byte(html), outcome.Later, "QUOTA_EXCEEDED", time.Minute, false},

		{"internal", 500, "", apiBody(500, "INTERNAL", "Internal error encountered.", "INTERNAL"), outcome.Later, "INTERNAL", 10 * time.Second, false},
		{"unavailable", 503, "", apiBody(503, "UNAVAILABLE", "The service is currently unavailable.", "UNAVAILABLE"), outcome.Later, "UNAVAILABLE", 10 * time.Second, false},
		{"unavailable until", 503, "Sun, 22 Nov 2026 12:02:00 GMT", apiBody(503, "UNAVAILABLE", "", ""), outcome.Later, "UNAVAILABLE", 2 * time.Minute, false},
		{"unavailable for a year", 503, "31536000", apiBody(503, "UNAVAILABLE", "", ""), outcome.Later, "UNAVAILABLE", 24 * time.Hour, false},
		{"unavailable, nonsense", 503, "soon", apiBody(503, "UNAVAILABLE", "", ""), outcome.Later, "UNAVAILABLE", 10 * time.Second, false},
		{"deadline", 504, "", apiBody(504, "DEADLINE_EXCEEDED", "", ""), outcome.Later, "DEADLINE_EXCEEDED", 10 * time.Second, false},
		{"502 of a front end", 502, "", []byte(html), outcome.Later, "unknown_5xx", 10 * time.Second, false},
		{"500 with a new word", 500, "", apiBody(500, "MELTED", "", "MELTED"), outcome.Later, "unknown_5xx", 10 * time.Second, false},

		{"408", 408, "", nil, outcome.Later, "unknown_4xx", 10 * time.Second, false},
		{"413", 413, "", []byte(html), outcome.Refused, "PayloadTooLarge", 0, false},
		{"302", 302, "", nil, outcome.Refused, "unknown_status", 0, false},
		{"shapes", 400, "", []byte(`{"error":{"message":[],"status":{},"details":[1,"x",{"@type":7},{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"INVALID_ARGUMENT"}]}}`), outcome.Refused, "INVALID_ARGUMENT", 0, false},
		{"error is a text", 400, "", []byte(`{"error":"INVALID_ARGUMENT"}`), outcome.Refused, "unknown_4xx", 0, false},
		{"details is an object", 404, "", []byte(`{"error":{"details":{},"status":"NOT_FOUND"}}`), outcome.Refused, "NOT_FOUND", 0, false},
	}
	used := map[string]bool{}
	for _, tc := range tests {
		used[fmt.Sprint(tc.status, tc.reason)] = true
		t.Run(tc.name, func(t *testing.T) {
			o, stale := judge(tc.status, tc.retryAfter, tc.body, testToken, answerNow)
			if o.Kind != tc.kind || o.Reason != tc.reason || o.RetryAfter != tc.after || stale != tc.stale || o.Status != tc.status {
				t.Errorf("stale %v, %+v", stale, o)
			}
			if (o.Err == nil) != (o.Kind == outcome.Delivered) {
				t.Errorf("error %v", o.Err)
			}
		})
	}
	for _, r := range rows {
		if !used[fmt.Sprint(r.status, r.code)] {
			t.Errorf("row %d %s is not tested", r.status, r.code)
		}
	}
}

// TestErrorsDoNotQuoteTheToken: Google repeats the value that it finds invalid.
func TestErrorsDoNotQuoteTheToken(t *testing.T) {
	body := apiBody(400, "INVALID_ARGUMENT", `Invalid value at 'message.token', "`+testToken+`" `+strings.Repeat("x", 500), "")
	o, _ := judge(400, "", body, testToken, answerNow)
	if o.Err == nil || strings.Contains(o.Err.Error(), testToken) || !strings.Contains(o.Err.Error(), "[token]") || len(o.Err.Error()) > 250 {
		t.Errorf("error %v", o.Err)
	}
}

func FuzzJudge(f *testing.F) {
	vocabulary := map[string]bool{"": true, "unknown_4xx": true, "unknown_5xx": true, "unknown_status": true, "PayloadTooLarge": true}
	for _, r := range rows {
		vocabulary[r.code] = true
		f.Add(r.status, "", apiBody(r.status, r.code, "text", r.code))
	}
	f.Add(400, "3", badRequest("Request contains an invalid argument.", "message.token"))
	f.Add(200, "", []byte(`{"name":"projects/p/messages/1"}`))
	f.Fuzz(func(t *testing.T, status int, retryAfter string, body []byte) {
		o, _ := judge(status, retryAfter, body, testToken, answerNow)
		if !vocabulary[o.Reason] {
			t.Errorf("reason %q is not of the vocabulary", o.Reason)
		}
		if o.Kind == outcome.Gone && (status != 404 || !strings.Contains(string(body), "ErrorCode") && !strings.Contains(strings.ToLower(string(body)), "errorcode")) {
			t.Errorf("gone by %d %q", status, body)
		}
		if o.RetryAfter < 0 || o.RetryAfter > maxRetryAfter || len(o.ProviderID) > 256 {
			t.Errorf("outcome %+v", o)
		}
		if o.Err != nil && (len(o.Err.Error()) > 250 || strings.Contains(o.Err.Error(), testToken)) {
			t.Errorf("error %v", o.Err)
		}
	})
}

func FuzzAccount(f *testing.F) {
	f.Add([]byte(`{"type":"service_account","project_id":"p","client_email":"a@b","private_key":"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n","token_uri":"https://x/"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseAccount(b); err != nil && (!strings.HasPrefix(err.Error(), "fcm service account: ") || len(err.Error()) > 300) {
			t.Errorf("error %v", err)
		}
	})
}
