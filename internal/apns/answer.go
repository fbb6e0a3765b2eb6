package apns

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// answer is what came back, whichever connection brought it. All of it is foreign.
type answer struct {
	status     int
	apnsID     string
	retryAfter string
	// body is at most maxBody bytes; the rest was not read.
	body []byte
	// via is the connection that brought the answer.
	via carrier
}

// carrier is a connection that can be asked to take no more requests.
type carrier interface {
	// leave makes the next request open another connection, but not in quick succession: a storm of
	// 503 must not become one of handshakes. Requests under way finish where they are.
	leave()
}

// maxBody bounds what is read of an answer, in bytes. Apple's longest is about 60.
const maxBody = 4 << 10

// maxRetryAfter bounds how long an answer can silence us.
const maxRetryAfter = 24 * time.Hour

// action is what the sender has to do about an answer, beside reporting it.
type action int

const (
	nothing   action = iota
	remint           // the provider token is too old: sign a new one, try once more
	keepToken        // provider tokens changed too often: sign none for a while
	reconnect        // this connection is on its way out: let the next request open another
)

// row is one line of Apple's table "Handling notification responses from APNs".
type row struct {
	status     int
	reason     string
	kind       outcome.Kind
	retryAfter time.Duration
	then       action
}

// rows is the whole table. Only its two 410 lines may ever end a subscription.
var rows = []row{
	{400, "BadDeviceToken", outcome.Suspect, 0, nothing},
	{400, "DeviceTokenNotForTopic", outcome.Suspect, 0, nothing},

	{400, "BadCollapseId", outcome.Refused, 0, nothing},
	{400, "BadExpirationDate", outcome.Refused, 0, nothing},
	{400, "BadMessageId", outcome.Refused, 0, nothing},
	{400, "BadPriority", outcome.Refused, 0, nothing},
	{400, "BadTopic", outcome.Refused, 0, nothing},
	{400, "DuplicateHeaders", outcome.Refused, 0, nothing},
	{400, "InvalidPushType", outcome.Refused, 0, nothing},
	{400, "MissingDeviceToken", outcome.Refused, 0, nothing},
	{400, "MissingTopic", outcome.Refused, 0, nothing},
	{400, "PayloadEmpty", outcome.Refused, 0, nothing},
	{400, "TopicDisallowed", outcome.Refused, 0, nothing},
	{400, "IdleTimeout", outcome.Later, 0, reconnect},

	{403, "ExpiredProviderToken", outcome.Blocked, 0, remint},
	{403, "InvalidProviderToken", outcome.Blocked, 0, nothing},
	{403, "MissingProviderToken", outcome.Blocked, 0, nothing},
	{403, "BadCertificate", outcome.Blocked, 0, nothing},
	{403, "BadCertificateEnvironment", outcome.Blocked, 0, nothing},
	{403, "Forbidden", outcome.Blocked, 0, nothing},
	{403, "UnrelatedKeyIdInToken", outcome.Blocked, 0, nothing},
	// Apple documents the first spelling; the second has been seen in answers.
	{403, "BadEnvironmentKeyIdInToken", outcome.Blocked, 0, nothing},
	{403, "BadEnvironmentKeyInToken", outcome.Blocked, 0, nothing},

	{404, "BadPath", outcome.Refused, 0, nothing},
	{405, "MethodNotAllowed", outcome.Refused, 0, nothing},

	{410, "Unregistered", outcome.Gone, 0, nothing},
	{410, "ExpiredToken", outcome.Gone, 0, nothing},

	{413, "PayloadTooLarge", outcome.Refused, 0, nothing},

	{429, "TooManyRequests", outcome.Later, 0, nothing},
	{429, "TooManyProviderTokenUpdates", outcome.Later, remintPause, keepToken},

	{500, "InternalServerError", outcome.Later, 0, nothing},
	{503, "ServiceUnavailable", outcome.Later, 0, reconnect},
	{503, "Shutdown", outcome.Later, 0, reconnect},
}

// byStatus judges an answer whose reason is missing, garbled or new. The words are ours, one per
// status class, for the reason becomes a metric label and the answer is foreign.
func byStatus(status int) row {
	switch {
	case status/100 == 2:
		return row{kind: outcome.Delivered}
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return row{reason: "unknown_4xx", kind: outcome.Blocked}
	case status == http.StatusGone:
		// Without Apple's own word it is not explicit, so it does not remove.
		return row{reason: "unknown_4xx", kind: outcome.Suspect}
	case status == http.StatusRequestEntityTooLarge:
		return row{reason: "PayloadTooLarge", kind: outcome.Refused}
	case status == http.StatusTooManyRequests:
		return row{reason: "TooManyRequests", kind: outcome.Later}
	case status == http.StatusRequestTimeout:
		return row{reason: "unknown_4xx", kind: outcome.Later}
	case status/100 == 4:
		return row{reason: "unknown_4xx", kind: outcome.Refused}
	case status/100 == 5:
		return row{reason: "unknown_5xx", kind: outcome.Later}
	default: // redirects, which Apple does not send and we do not follow
		return row{reason: "unknown_status", kind: outcome.Refused}
	}
}

// judge translates an answer.
func judge(a answer, now time.Time) (outcome.Outcome, action) {
	r := byStatus(a.status)
	known := r.kind == outcome.Delivered
	var reason string
	var since time.Time
	if !known {
		reason, since = parseBody(a.body)
		for _, line := range rows {
			if line.status == a.status && line.reason == reason {
				r, known = line, true
				break
			}
		}
	}
	o := outcome.Outcome{Kind: r.kind, Status: a.status, Reason: r.reason}
	if r.kind == outcome.Later || r.kind == outcome.Blocked {
		o.RetryAfter = max(r.retryAfter, parseRetryAfter(a.retryAfter, now))
	}
	if r.kind == outcome.Gone {
		o.GoneSince = since
	}
	if isUUID(a.apnsID) || isUUID(strings.ToLower(a.apnsID)) {
		o.ProviderID = a.apnsID
	}
	if !known {
		o.Err = fmt.Errorf("apns answered %d with the reason %q", a.status, printable(reason))
	}
	return o, r.then
}

// parseBody reads {"reason":"...","timestamp":ms}. A member that does not fit is as good as absent.
func parseBody(body []byte) (reason string, since time.Time) {
	var doc struct {
		Reason    json.RawMessage `json:"reason"`
		Timestamp json.RawMessage `json:"timestamp"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return "", time.Time{}
	}
	if json.Unmarshal(doc.Reason, &reason) != nil {
		reason = ""
	}
	// Milliseconds since 1970. The bound, in the year 2286, keeps later arithmetic in range.
	if ms, err := strconv.ParseInt(string(doc.Timestamp), 10, 64); err == nil && ms > 0 && ms < 1e13 {
		since = time.UnixMilli(ms)
	}
	return reason, since
}

// printable lets a reason word through to a log line, and nothing that could be a device token.
func printable(reason string) string {
	if len(reason) > 40 {
		return "[not a word]"
	}
	for i := range len(reason) {
		if c := reason[i] | 0x20; c < 'a' || c > 'z' {
			return "[not a word]"
		}
	}
	return reason
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
