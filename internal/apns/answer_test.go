package apns

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

var answerNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestEveryAnswer holds the table to Apple's, written out a second time from the fact page.
func TestEveryAnswer(t *testing.T) {
	classes := []struct {
		kind       outcome.Kind
		retryAfter time.Duration
		then       action
		answers    string
	}{
		{outcome.Suspect, 0, nothing, "400 BadDeviceToken, 400 DeviceTokenNotForTopic"},
		{outcome.Refused, 0, nothing, "400 BadCollapseId, 400 BadExpirationDate, 400 BadMessageId, 400 BadPriority, 400 BadTopic, 400 DuplicateHeaders, " +
			"400 InvalidPushType, 400 MissingDeviceToken, 400 MissingTopic, 400 PayloadEmpty, 400 TopicDisallowed, 404 BadPath, 405 MethodNotAllowed, 413 PayloadTooLarge"},
		{outcome.Later, 0, reconnect, "400 IdleTimeout, 503 ServiceUnavailable, 503 Shutdown"},
		{outcome.Blocked, 0, remint, "403 ExpiredProviderToken"},
		{outcome.Blocked, 0, nothing, "403 InvalidProviderToken, 403 MissingProviderToken, 403 BadCertificate, 403 BadCertificateEnvironment, 403 Forbidden, " +
			"403 UnrelatedKeyIdInToken, 403 BadEnvironmentKeyIdInToken, 403 BadEnvironmentKeyInToken"},
		{outcome.Gone, 0, nothing, "410 Unregistered, 410 ExpiredToken"},
		{outcome.Later, 0, nothing, "429 TooManyRequests, 500 InternalServerError"},
		{outcome.Later, 20 * time.Minute, keepToken, "429 TooManyProviderTokenUpdates"},
	}
	seen := 0
	for _, class := range classes {
		for line := range strings.SplitSeq(class.answers, ", ") {
			seen++
			t.Run(line, func(t *testing.T) {
				var a answer
				var reason string
				if _, err := fmt.Sscanf(line, "%d %s", &a.status, &reason); err != nil {
					t.Fatal(err)
				}
				a.body = fmt.Appendf(nil, `{"reason":%q,"timestamp":1795348800123}`, reason)
				o, then := judge(a, answerNow)
				if o.Kind != class.kind || o.RetryAfter != class.retryAfter || then != class.then {
					t.Errorf("%v, retry after %v, action %d; want %v, %v, %d", o.Kind, o.RetryAfter, then, class.kind, class.retryAfter, class.then)
				}
				if o.Status != a.status || o.Reason != reason || o.Err != nil {
					t.Errorf("status %d, reason %q, error %v", o.Status, o.Reason, o.Err)
				}
				if gone := class.kind == outcome.Gone; gone != o.GoneSince.Equal(time.UnixMilli(1795348800123)) {
					t.Errorf("gone since %v", o.GoneSince)
				}
			})
		}
	}
	if seen != len(rows) {
		t.Errorf("%d rows tested, the table has %d", seen, len(rows))
	}
}

func TestOddAnswers(t *testing.T) {
	const id = "0f3b7d6e-1111-4222-8333-abcdefabcdef"
	tests := []struct {
		name   string
		answer answer
		want   outcome.Outcome // Err is compared by presence
		err    string
	}{
		{"accepted", answer{status: 200, apnsID: id}, outcome.Outcome{Kind: outcome.Delivered, Status: 200, ProviderID: id}, ""},
		{"accepted, id in capitals", answer{status: 200, apnsID: strings.ToUpper(id)}, outcome.Outcome{Kind: outcome.Delivered, Status: 200, ProviderID: strings.ToUpper(id)}, ""},
		{"accepted, foreign id", answer{status: 200, apnsID: "x\x00y"}, outcome.Outcome{Kind: outcome.Delivered, Status: 200}, ""},
		{"gone without a time", answer{status: 410, body: []byte(`{"reason":"Unregistered"}`)}, outcome.Outcome{Kind: outcome.Gone, Status: 410, Reason: "Unregistered"}, ""},
		{"gone with a text for time", answer{status: 410, body: []byte(`{"timestamp":"soon","reason":"Unregistered"}`)}, outcome.Outcome{Kind: outcome.Gone, Status: 410, Reason: "Unregistered"}, ""},
		{"gone with an absurd time", answer{status: 410, body: []byte(`{"timestamp":9223372036854775807,"reason":"ExpiredToken"}`)}, outcome.Outcome{Kind: outcome.Gone, Status: 410, Reason: "ExpiredToken"}, ""},
		{"410 without a word", answer{status: 410}, outcome.Outcome{Kind: outcome.Suspect, Status: 410, Reason: "unknown_4xx"}, `410 with the reason ""`},
		{"410 with HTML", answer{status: 410, body: []byte("<html>Unregistered</html>")}, outcome.Outcome{Kind: outcome.Suspect, Status: 410, Reason: "unknown_4xx"}, `410`},
		{"gone word, other status", answer{status: 400, body: []byte(`{"reason":"Unregistered"}`)}, outcome.Outcome{Kind: outcome.Refused, Status: 400, Reason: "unknown_4xx"}, `400 with the reason "Unregistered"`},
		{"new 400", answer{status: 400, body: []byte(`{"reason":"BadMoon"}`)}, outcome.Outcome{Kind: outcome.Refused, Status: 400, Reason: "unknown_4xx"}, `"BadMoon"`},
		{"new 403", answer{status: 403, body: []byte(`{"reason":"BadMoon"}`)}, outcome.Outcome{Kind: outcome.Blocked, Status: 403, Reason: "unknown_4xx"}, `"BadMoon"`},
		{"413 without a word", answer{status: 413}, outcome.Outcome{Kind: outcome.Refused, Status: 413, Reason: "PayloadTooLarge"}, "413"},
		{"429 without a word", answer{status: 429, retryAfter: "30"}, outcome.Outcome{Kind: outcome.Later, Status: 429, Reason: "TooManyRequests", RetryAfter: 30 * time.Second}, "429"},
		{"408", answer{status: 408}, outcome.Outcome{Kind: outcome.Later, Status: 408, Reason: "unknown_4xx"}, "408"},
		{"401", answer{status: 401}, outcome.Outcome{Kind: outcome.Blocked, Status: 401, Reason: "unknown_4xx"}, "401"},
		{"502 with HTML", answer{status: 502, body: []byte("<h1>Bad Gateway</h1>")}, outcome.Outcome{Kind: outcome.Later, Status: 502, Reason: "unknown_5xx"}, "502"},
		{"redirect", answer{status: 302}, outcome.Outcome{Kind: outcome.Refused, Status: 302, Reason: "unknown_status"}, "302"},
		{"503, date", answer{status: 503, body: []byte(`{"reason":"ServiceUnavailable"}`), retryAfter: "Sun, 22 Nov 2026 12:02:00 GMT"}, outcome.Outcome{Kind: outcome.Later, Status: 503, Reason: "ServiceUnavailable", RetryAfter: 2 * time.Minute}, ""},
		{"503, past date", answer{status: 503, retryAfter: "Sun, 22 Nov 2020 12:02:00 GMT"}, outcome.Outcome{Kind: outcome.Later, Status: 503, Reason: "unknown_5xx"}, "503"},
		{"503, a year", answer{status: 503, retryAfter: "31536000"}, outcome.Outcome{Kind: outcome.Later, Status: 503, Reason: "unknown_5xx", RetryAfter: 24 * time.Hour}, "503"},
		{"503, nonsense", answer{status: 503, retryAfter: "-1"}, outcome.Outcome{Kind: outcome.Later, Status: 503, Reason: "unknown_5xx"}, "503"},
		{"token updates, longer", answer{status: 429, body: []byte(`{"reason":"TooManyProviderTokenUpdates"}`), retryAfter: "3600"}, outcome.Outcome{Kind: outcome.Later, Status: 429, Reason: "TooManyProviderTokenUpdates", RetryAfter: time.Hour}, ""},
		{"reason is a list", answer{status: 400, body: []byte(`{"reason":["BadDeviceToken"]}`)}, outcome.Outcome{Kind: outcome.Refused, Status: 400, Reason: "unknown_4xx"}, "400"},
		{"reason quotes a token", answer{status: 400, body: []byte(`{"reason":"` + testDevice + `"}`)}, outcome.Outcome{Kind: outcome.Refused, Status: 400, Reason: "unknown_4xx"}, "not a word"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, _ := judge(tc.answer, answerNow)
			if err := got.Err; (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			got.Err = nil
			if got != tc.want {
				t.Errorf("\n got %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func FuzzJudge(f *testing.F) {
	vocabulary := map[string]bool{"": true, "unknown_4xx": true, "unknown_5xx": true, "unknown_status": true}
	for _, r := range rows {
		vocabulary[r.reason] = true
		f.Add(r.status, "", "", fmt.Appendf(nil, `{"reason":%q,"timestamp":1795348800123}`, r.reason))
	}
	f.Add(200, "0f3b7d6e-1111-4222-8333-abcdefabcdef", "120", []byte(nil))
	f.Add(503, "x", "Sun, 22 Nov 2026 12:02:00 GMT", []byte("<html>"))
	f.Fuzz(func(t *testing.T, status int, id, retryAfter string, body []byte) {
		o, _ := judge(answer{status: status, apnsID: id, retryAfter: retryAfter, body: body}, answerNow)
		if !vocabulary[o.Reason] {
			t.Errorf("reason %q is not of the vocabulary", o.Reason)
		}
		if o.Kind == outcome.Gone && (status != 410 || (o.Reason != "Unregistered" && o.Reason != "ExpiredToken")) {
			t.Errorf("gone by %d %q", status, o.Reason)
		}
		if o.RetryAfter < 0 || o.RetryAfter > maxRetryAfter || (o.ProviderID != "" && len(o.ProviderID) != 36) {
			t.Errorf("outcome %+v", o)
		}
		if o.Err != nil && len(o.Err.Error()) > 120 {
			t.Errorf("error of %d bytes", len(o.Err.Error()))
		}
	})
}

func TestPrecheck(t *testing.T) {
	good := testMessage()
	with := func(change func(*Message)) Message {
		m := good
		change(&m)
		return m
	}
	tests := []struct {
		name, token string
		m           Message
		kind        outcome.Kind
		reason      string
	}{
		{"token empty", "", good, outcome.Suspect, "BadDeviceToken"},
		{"token short", testDevice[2:], good, outcome.Suspect, "BadDeviceToken"},
		{"token odd", testDevice + "0", good, outcome.Suspect, "BadDeviceToken"},
		{"token long", strings.Repeat("ab", 257), good, outcome.Suspect, "BadDeviceToken"},
		{"token not hexadecimal", strings.Repeat("g", 64), good, outcome.Suspect, "BadDeviceToken"},
		{"token with path", "../" + testDevice[3:], good, outcome.Suspect, "BadDeviceToken"},
		{"no id", testDevice, with(func(m *Message) { m.ID = "" }), outcome.Refused, "BadMessageId"},
		{"id in capitals", testDevice, with(func(m *Message) { m.ID = strings.ToUpper(m.ID) }), outcome.Refused, "BadMessageId"},
		{"no payload", testDevice, with(func(m *Message) { m.Payload = nil }), outcome.Refused, "PayloadEmpty"},
		{"large payload", testDevice, with(func(m *Message) { m.Payload = make([]byte, MaxPayload+1) }), outcome.Refused, "PayloadTooLarge"},
		{"push type", testDevice, with(func(m *Message) { m.PushType = "voip" }), outcome.Refused, "InvalidPushType"},
		{"priority", testDevice, with(func(m *Message) { m.Priority = 7 }), outcome.Refused, "BadPriority"},
		{"background now", testDevice, with(func(m *Message) { m.PushType = Background }), outcome.Refused, "BadPriority"},
		{"collapse id long", testDevice, with(func(m *Message) { m.CollapseID = strings.Repeat("x", 65) }), outcome.Refused, "BadCollapseId"},
		{"collapse id odd", testDevice, with(func(m *Message) { m.CollapseID = "a\r\nb" }), outcome.Refused, "BadCollapseId"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			o, ok := precheck(tc.token, tc.m)
			if ok || o.Kind != tc.kind || o.Reason != tc.reason || o.Err == nil {
				t.Errorf("passed %v: %+v", ok, o)
			}
			if tc.token != "" && strings.Contains(o.Err.Error(), tc.token) {
				t.Error("the error quotes the device token")
			}
		})
	}
	full := with(func(m *Message) {
		m.Payload, m.CollapseID = make([]byte, MaxPayload), strings.Repeat("x", 64)
	})
	if o, ok := precheck(strings.ToUpper(testDevice), full); !ok {
		t.Errorf("at the limits: %+v", o)
	}
}
