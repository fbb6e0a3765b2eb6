package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// What a try does to the slot, the token and the lane. Each word is one column of the tables below.
const (
	slotDone  = "done"  // the slot is clean: nothing is tried again
	slotAgain = "again" // the slot stays dirty and is tried again

	tokenStays  = "stays"   // nothing is held against the token
	tokenStruck = "struck"  // one of three strikes: see TestSuspect
	tokenGone   = "removed" // the subscription is gone, a tombstone remembers why

	laneRuns  = "runs"  // the provider works
	laneLess  = "less"  // the lane's limit is halved
	laneFails = "fails" // less, and one failure of those that open the breaker
	laneRests = "rests" // the breaker is open
)

// answerRow is answers of one provider that lead to the same.
type answerRow struct {
	// list is "status word, …". A word is the provider's reason, or, in braces, the body of the answer.
	list string
	// answer has what else it bears.
	answer fake.Answer
	once   bool // only the first request gets it

	outcome  string // kind/reason as the trace has them; "" for the reason is the provider's word
	requests int
	slot     string
	wait     time.Duration // the least until the next try
	token    string
	lane     string
}

func header(name, value string) http.Header { return http.Header{name: {value}} }

// The answer tables. The left side is the provider's documentation: for APNs "Handling notification responses
// from APNs", for FCM the ErrorCode reference with Google's guidance on retries, for Web Push RFC 8030
// sections 5, 7.2 and 8.4 with autopush's error numbers and Apple's words.
var answerTables = map[string][]answerRow{
	"apns": {
		{list: "200", outcome: "delivered/", requests: 1, slot: slotDone, token: tokenStays, lane: laneRuns},
		{
			list:    "400 BadDeviceToken, 400 DeviceTokenNotForTopic",
			outcome: "suspect", requests: 1, slot: slotDone, token: tokenStruck, lane: laneRuns,
		},
		{
			list: "400 BadCollapseId, 400 BadExpirationDate, 400 BadMessageId, 400 BadPriority, 400 BadTopic, 400 DuplicateHeaders, " +
				"400 InvalidPushType, 400 MissingDeviceToken, 400 MissingTopic, 400 PayloadEmpty, 400 TopicDisallowed, 404 BadPath, 405 MethodNotAllowed",
			outcome: "refused", requests: 1, slot: slotDone, token: tokenStays, lane: laneRuns,
		},
		{list: "400 IdleTimeout", outcome: "later", requests: 1, slot: slotAgain, token: tokenStays, lane: laneRuns},
		{list: "403 ExpiredProviderToken", once: true, outcome: "delivered/", requests: 2, slot: slotDone, token: tokenStays, lane: laneRuns},
		// Still, with the token just made: no third one so soon.
		{list: "403 ExpiredProviderToken", outcome: "blocked", requests: 1, slot: slotAgain, wait: time.Minute, token: tokenStays, lane: laneRests},
		{
			list: "403 InvalidProviderToken, 403 MissingProviderToken, 403 BadCertificate, 403 BadCertificateEnvironment, 403 Forbidden, " +
				"403 UnrelatedKeyIdInToken, 403 BadEnvironmentKeyIdInToken, 403 BadEnvironmentKeyInToken",
			outcome: "blocked", requests: 1, slot: slotAgain, wait: time.Minute, token: tokenStays, lane: laneRests,
		},
		{
			list: "410 Unregistered, 410 ExpiredToken", answer: fake.Answer{GoneSince: time.Now().Add(time.Hour)}, // after the registration
			outcome: "gone", requests: 1, slot: slotDone, token: tokenGone, lane: laneRuns,
		},
		{
			list: "410 Unregistered, 410 ExpiredToken", answer: fake.Answer{GoneSince: time.Now().Add(-time.Hour)}, // before it
			outcome: "gone", requests: 1, slot: slotAgain, token: tokenStays, lane: laneRuns,
		},
		{list: "410 Unregistered, 410 ExpiredToken", outcome: "gone", requests: 1, slot: slotDone, token: tokenGone, lane: laneRuns}, // without a time
		{list: "410 MadeUp", outcome: "suspect/unknown_4xx", requests: 1, slot: slotDone, token: tokenStruck, lane: laneRuns},
		{list: "413 PayloadTooLarge", once: true, outcome: "delivered/", requests: 2, slot: slotDone, token: tokenStays, lane: laneRuns}, // the short form
		{list: "413 PayloadTooLarge", outcome: "refused", requests: 2, slot: slotDone, token: tokenStays, lane: laneRuns},
		{list: "429 TooManyRequests", outcome: "later", requests: 1, slot: slotAgain, token: tokenStays, lane: laneRuns}, // of this device
		{
			list: "429 TooManyRequests", answer: fake.Answer{Header: header("Retry-After", "90")},
			outcome: "later", requests: 1, slot: slotAgain, wait: 90 * time.Second, token: tokenStays, lane: laneRuns,
		},
		{list: "429 TooManyProviderTokenUpdates", outcome: "later", requests: 1, slot: slotAgain, wait: 20 * time.Minute, token: tokenStays, lane: laneLess},
		{list: "500 InternalServerError, 503 ServiceUnavailable, 503 Shutdown", outcome: "later", requests: 1, slot: slotAgain, token: tokenStays, lane: laneFails},
		{
			list: "500 <html>, 502 <html>, 504 ", answer: fake.Answer{Body: []byte("<html>\x00\xff{")},
			outcome: "later/unknown_5xx", requests: 1, slot: slotAgain, token: tokenStays, lane: laneFails,
		},
	},
	"fcm": {
		{list: "200", outcome: "delivered/", requests: 1, slot: slotDone, token: tokenStays, lane: laneRuns},
		{list: "404 UNREGISTERED", outcome: "gone", requests: 1, slot: slotDone, token: tokenGone, lane: laneRuns},
		{list: "404 NOT_FOUND", outcome: "refused", requests: 1, slot: slotDone, token: tokenStays, lane: laneRuns}, // our project or path
		{list: "400 INVALID_ARGUMENT", outcome: "refused", requests: 1, slot: slotDone, token: tokenStays, lane: laneRuns},
		{
			list: "400 INVALID_ARGUMENT", answer: fake.Answer{Body: fcmNamesToken}, // and no other field
			outcome: "suspect", requests: 1, slot: slotDone, token: tokenStruck, lane: laneRuns,
		},
		{list: "403 SENDER_ID_MISMATCH", outcome: "suspect", requests: 1, slot: slotDone, token: tokenStruck, lane: laneRuns},
		{
			list:    "401 THIRD_PARTY_AUTH_ERROR, 403 PERMISSION_DENIED",
			outcome: "blocked", requests: 1, slot: slotAgain, wait: time.Minute, token: tokenStays, lane: laneRests,
		},
		{list: "401 UNAUTHENTICATED", once: true, outcome: "delivered/", requests: 2, slot: slotDone, token: tokenStays, lane: laneRuns}, // a fresh access token
		{list: "401 UNAUTHENTICATED", outcome: "blocked", requests: 2, slot: slotAgain, wait: time.Minute, token: tokenStays, lane: laneRests},
		{list: "429 QUOTA_EXCEEDED, 429 RESOURCE_EXHAUSTED", outcome: "later", requests: 1, slot: slotAgain, wait: time.Minute, token: tokenStays, lane: laneLess},
		{
			list: "429 QUOTA_EXCEEDED", answer: fake.Answer{Header: header("Retry-After", "300")},
			outcome: "later", requests: 1, slot: slotAgain, wait: 5 * time.Minute, token: tokenStays, lane: laneLess,
		},
		{
			list:    "500 INTERNAL, 503 UNAVAILABLE, 504 DEADLINE_EXCEEDED",
			outcome: "later", requests: 1, slot: slotAgain, wait: 10 * time.Second, token: tokenStays, lane: laneFails,
		},
		{
			list: "503 UNAVAILABLE", answer: fake.Answer{Header: header("Retry-After", "120")},
			outcome: "later", requests: 1, slot: slotAgain, wait: 2 * time.Minute, token: tokenStays, lane: laneFails,
		},
		{
			list: "500 <html>, 502 <html>", answer: fake.Answer{Body: []byte("<html>\x00\xff{")},
			outcome: "later/unknown_5xx", requests: 1, slot: slotAgain, wait: 10 * time.Second, token: tokenStays, lane: laneFails,
		},
	},
	"webpush": {
		{list: "200, 201, 202", outcome: "delivered/", requests: 1, slot: slotDone, token: tokenStays, lane: laneRuns},
		{list: "301, 307", outcome: "refused/redirect", requests: 1, slot: slotDone, token: tokenStays, lane: laneRuns},
		{list: "400", outcome: "refused/bad_request", requests: 1, slot: slotDone, token: tokenStays, lane: laneRuns},
		{
			list:    `400 {"errno":101}, 400 {"errno":109}, 400 {"errno":110}, 400 {"errno":111}, 400 {"errno":112}, 400 {"errno":113}`,
			outcome: "refused", requests: 1, slot: slotDone, token: tokenStays, lane: laneRuns,
		},
		{
			list:    `400 {"errno":102}, 400 {"errno":103}, 400 {"errno":105}, 400 {"errno":106}`,
			outcome: "gone", requests: 1, slot: slotDone, token: tokenGone, lane: laneRuns,
		},
		// Of one device: it chose the endpoint, and blocks nobody else's.
		{list: "401", outcome: "blocked/unauthorized", requests: 1, slot: slotAgain, wait: time.Minute, token: tokenStays, lane: laneRuns},
		{list: "403", outcome: "blocked/forbidden", requests: 1, slot: slotAgain, wait: time.Minute, token: tokenStays, lane: laneRuns},
		{list: `403 {"reason":"BadJwtToken"}`, outcome: "blocked", requests: 1, slot: slotAgain, wait: time.Minute, token: tokenStays, lane: laneRuns},
		{
			list:    `400 {"reason":"VapidPkHashMismatch"}, 403 {"reason":"VapidPkHashMismatch"}`, // subscribed with another key of ours
			outcome: "refused/key_mismatch", requests: 1, slot: slotDone, token: tokenStays, lane: laneRuns,
		},
		{list: "404", outcome: "gone/not_found", requests: 1, slot: slotDone, token: tokenGone, lane: laneRuns},
		{list: "410", outcome: "gone/gone", requests: 1, slot: slotDone, token: tokenGone, lane: laneRuns},
		{list: `404 {"errno":102}, 410 {"errno":106}`, outcome: "gone", requests: 1, slot: slotDone, token: tokenGone, lane: laneRuns},
		{list: "413", once: true, outcome: "delivered/", requests: 2, slot: slotDone, token: tokenStays, lane: laneRuns}, // the short form
		{list: "413", outcome: "refused/too_large", requests: 2, slot: slotDone, token: tokenStays, lane: laneRuns},
		{list: "405, 422", outcome: "refused/client_error", requests: 1, slot: slotDone, token: tokenStays, lane: laneRuns},
		{list: "429", outcome: "later/too_many_requests", requests: 1, slot: slotAgain, token: tokenStays, lane: laneRuns}, // of this endpoint
		{
			list: "429", answer: fake.Answer{Header: header("Retry-After", "90")},
			outcome: "later/too_many_requests", requests: 1, slot: slotAgain, wait: 90 * time.Second, token: tokenStays, lane: laneRuns,
		},
		{list: "500, 502, 503, 504", outcome: "later/server_error", requests: 1, slot: slotAgain, token: tokenStays, lane: laneFails},
		{
			list: "503", answer: fake.Answer{Header: header("Retry-After", "120"), Body: []byte("<html>\x00\xff{")},
			outcome: "later/server_error", requests: 1, slot: slotAgain, wait: 2 * time.Minute, token: tokenStays, lane: laneFails,
		},
	},
}

// fcmNamesToken is how Google says that it is the token that is malformed.
var fcmNamesToken = []byte(`{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"Request contains an invalid argument.","details":[` +
	`{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"INVALID_ARGUMENT"},` +
	`{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"message.token"}]}]}}`)

// TestEveryAnswerHasItsAction sends one notification with the real sender to the strict fake for each row, and
// looks at what became of the slot, the token and the lane.
func TestEveryAnswerHasItsAction(t *testing.T) {
	b := newBench(t, PrivacyFull)
	b.fcm.Now, b.webpush.Now = time.Now, time.Now
	for _, tr := range b.transports() {
		t.Run(tr.Name(), func(t *testing.T) {
			r := newRig(t, sqliteURL(t), 1)
			seen := map[string]bool{}
			for _, row := range answerTables[tr.Name()] {
				for one := range strings.SplitSeq(row.list, ", ") {
					seen[one] = true
					answer := row.answer
					status, word, _ := strings.Cut(one, " ")
					_, err := fmt.Sscan(status, &answer.Status)
					must(t, err)
					switch {
					case strings.HasPrefix(word, "{"):
						answer.Body = []byte(word)
					case !strings.HasPrefix(word, "<"):
						answer.Reason = word
					}
					t.Run(one, func(t *testing.T) { b.try(t, r, tr, row, answer, word) })
				}
			}
			complete(t, tr.Name(), seen)
		})
	}
}

// complete fails for a row of the wire's own table that the test does not have.
func complete(t *testing.T, wire string, seen map[string]bool) {
	t.Helper()
	if wire == "webpush" {
		return // it has rules for statuses, no table
	}
	source, err := os.ReadFile("../" + wire + "/answer.go") //nolint:gosec // a file of this repository
	must(t, err)
	rows := regexp.MustCompile(`(?m)^\t\{(\d{3}), "(\w+)", outcome\.`).FindAllStringSubmatch(string(source), -1)
	for _, m := range rows {
		if !seen[m[1]+" "+m[2]] {
			t.Errorf("the answer %s %s is missing in the table", m[1], m[2])
		}
	}
	if len(rows) < 10 {
		t.Errorf("%s has %d rows: the test looks in the wrong place", wire, len(rows))
	}
}

// oneTry is a transport whose service stops with the first answer.
type oneTry struct {
	Transport
	stop func()
}

func (o *oneTry) Send(ctx context.Context, n Notification) outcome.Outcome {
	defer o.stop()
	return o.Transport.Send(ctx, n)
}

// try makes one try with one answer, and holds what came of it to a row.
func (b *bench) try(t *testing.T, r *rig, tr Transport, row answerRow, answer fake.Answer, word string) {
	requests := 0 // a slot has one request at a time
	b.answer(tr, func(fake.Delivery) *fake.Answer {
		if requests++; row.once && requests > 1 {
			return nil
		}
		return &answer
	})
	sub := r.device(t, 1, b.tokens[tr.Name()])
	ctx, stop := context.WithCancel(t.Context())
	s := r.service(nil, &oneTry{tr, stop})
	s.Wake(r.mail(s, 1, Input{}, false))
	before := time.Now().Truncate(time.Millisecond) // as the table keeps it
	must(t, s.Run(ctx))

	want(t, "requests", requests, row.requests)
	line := r.trace(s, sub)[0]
	kind, reason, given := strings.Cut(row.outcome, "/")
	if !given {
		reason = reasonOf(word)
	}
	want(t, "outcome", line.Outcome+"/"+line.Reason, kind+"/"+reason)
	wantStatus := answer.Status
	if row.once {
		wantStatus = line.Status
	}
	want(t, "status", line.Status, wantStatus)

	v, err := s.loadSlot(t.Context(), slotID{sub.ID, collapseKeyMail})
	switch {
	case row.token == tokenGone:
		want(t, "removed", !r.subscribed(sub) && errors.Is(err, subscription.ErrNotFound), true)
	case err != nil:
		t.Error(err)
	default:
		want(t, "subscribed", r.subscribed(sub), true)
		want(t, "strikes", v.suspicion.strikes, map[string]int64{tokenStays: 0, tokenStruck: 1}[row.token])
		want(t, "dirty", v.version > v.sent, row.slot == slotAgain)
	}
	if row.slot == slotAgain {
		_, _, next, err := s.Pending(t.Context(), sub.ID)
		must(t, err)
		// The jitter of a first try is below 20 s.
		if wait := next.Sub(before); wait < row.wait || wait > row.wait+25*time.Second {
			t.Errorf("tried again after %v, want %v", wait, row.wait)
		}
	}
	want(t, "lane", laneWord(s, sub), row.lane)
	if row.token != tokenGone {
		must(t, r.subs.Unsubscribe(t.Context(), user(1), sub.ID))
	}
}

// reasonOf is the word of an answer as it becomes a reason.
func reasonOf(word string) string {
	var doc struct {
		Errno  int
		Reason string
	}
	switch {
	case json.Unmarshal([]byte(word), &doc) != nil:
		return word
	case doc.Errno != 0:
		return fmt.Sprint("errno_", doc.Errno)
	}
	return doc.Reason
}

// laneWord says what the answers so far did to a subscription's lane.
func laneWord(s *Service, sub subscription.Subscription) string {
	l := s.sched.lanes[s.laneOf(sub)]
	switch {
	case l.breaker != breakerClosed:
		return laneRests
	case l.inARow > 0:
		return laneFails
	case l.steady:
		return laneLess
	}
	return laneRuns
}

// answer has a transport's fake answer by a script.
func (b *bench) answer(tr Transport, script func(fake.Delivery) *fake.Answer) {
	switch tr.Name() {
	case "apns":
		b.apnsFake.Script(script)
	case "fcm":
		b.fcmFake.Script(script)
	default:
		b.webpushFake.Script(script)
	}
}

// device subscribes a user's device with a token as its transport read it.
func (r *rig) device(tb testing.TB, id int64, token subscription.Token) subscription.Subscription {
	tb.Helper()
	sub, err := r.subs.Subscribe(tb.Context(), account.Session{User: user(id), Client: "app", Device: fmt.Sprint("d", id)}, subscription.Request{
		Client: "app", Topics: []string{subscription.TopicNewMail}, Token: token,
	})
	must(tb, err)
	return sub
}

// TestEveryGoneAnswerIsGuarded: when a provider says of a whole app that it is gone, a few are believed.
func TestEveryGoneAnswerIsGuarded(t *testing.T) {
	b := newBench(t, PrivacyFull)
	b.fcm.Now, b.webpush.Now = time.Now, time.Now
	const users = leastPruned + 6
	for _, tr := range b.transports() {
		t.Run(tr.Name(), func(t *testing.T) {
			r := newRig(t, sqliteURL(t), users)
			status := map[string]fake.Answer{
				"apns": {Status: 410, Reason: "Unregistered"}, "fcm": {Status: 404, Reason: "UNREGISTERED"}, "webpush": {Status: 410},
			}[tr.Name()]
			b.answer(tr, func(fake.Delivery) *fake.Answer { return &status })
			reg := prometheus.NewRegistry()
			s := r.service(func(c *Config) { c.Metrics = reg }, tr)
			stop := r.start(s)
			var subs []subscription.Subscription
			for id := range int64(users) {
				subs = append(subs, r.device(t, id+1, b.another(t, tr, int(id))))
				s.Wake(r.mail(s, id+1, Input{}, false))
			}
			comeToRest(t, s)
			stop()
			left := 0
			for _, sub := range subs {
				if r.subscribed(sub) {
					left++
					want(t, "trace", r.trace(s, sub)[0].Outcome, "gone")
				}
			}
			want(t, "left", left, users-leastPruned)
			_, frozen, _ := strings.Cut(gaugesOf(t, reg, "posthorn_push_prune_frozen"), "=")
			want(t, "frozen", frozen, "1")
		})
	}
}

// another is the token of one more device.
func (b *bench) another(tb testing.TB, tr Transport, n int) subscription.Token {
	tb.Helper()
	raw := map[string]string{
		"apns": fmt.Sprintf(`{"device_token":"%s%02x"}`, deviceToken[2:], n),
		"fcm":  fmt.Sprintf(`{"registration_token":"%s%02x"}`, registrationToken, n),
	}[tr.Name()]
	if raw == "" {
		receiver, err := b.webpushFake.Subscribe(b.webpush.PublicKey(""))
		must(tb, err)
		raw = string(receiver.JSON())
	}
	token, err := tr.ParseToken(json.RawMessage(raw))
	must(tb, err)
	return token
}

// comeToRest waits until nothing is dirty.
func comeToRest(t *testing.T, s *Service) {
	t.Helper()
	until(t, func() bool { return s.sched.dirty() == 0 })
}

// until waits for what has to come.
func until(t *testing.T, come func() bool) {
	t.Helper()
	for !come() {
		if !pause(t.Context(), 5*time.Millisecond) {
			t.Fatal("never came")
		}
	}
}
