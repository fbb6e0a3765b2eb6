// Package fake holds strict stand-ins for the push providers: APNs, FCM and a Web Push service.
//
// They serve `posthorn demo`, `posthorn bench` and the tests: each listens on a loopback address,
// checks a request the way its provider does (and more strictly where a provider is lenient but the
// RFC or the vendor's page is not), remembers what it accepted, and gives the answers a script asks
// for. Decoding is done here from the specifications, sharing no code with Posthorn's encoders, so
// that a mistake made there is not repeated here.
//
// A fake proves form and state machines only. It does not throttle, does not show anything on a
// phone, stores nothing and forgets everything when it is closed. What no provider publishes (the
// order of its checks, some bounds) is a guess; the comments say where.
//
// Every exported method is safe for concurrent use. Close ends every connection and waits for every
// goroutine of the fake.
package fake

import (
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// Delivery is one notification that passed every check of a fake.
type Delivery struct {
	// At is when the fake took the notification, by the fake's clock.
	At time.Time
	// ID is the provider's name for it: the apns-id, the FCM message name, or the Web Push Location.
	ID string
	// Target is the device token, the registration token or the endpoint URL.
	Target string
	// Headers are the delivery options that were sent, by lower-case name. For APNs and Web Push they
	// are request headers, for FCM the strings of the message's android block (collapse_key,
	// priority, ttl, restricted_package_name).
	Headers map[string]string
	// Payload is the APNs body, the FCM message object, or the decrypted Web Push body.
	Payload []byte
	// Replaces is the ID of a message with the same Web Push Topic that nobody had taken with Next
	// when this one arrived (RFC 8030 section 5.4). Both stay in the log.
	Replaces string
}

// LogValue keeps tokens and mail content out of logs.
func (d Delivery) LogValue() slog.Value {
	return slog.GroupValue(slog.Time("at", d.At), slog.String("id", d.ID), slog.Int("payload_bytes", len(d.Payload)))
}

// Answer is a scripted answer. The zero Answer is the ordinary one: the notification is accepted.
type Answer struct {
	// Status is the HTTP status; 0 leaves the ordinary one. A 2xx counts as accepted.
	Status int
	// Reason is the provider's word ("BadDeviceToken", "UNREGISTERED").
	Reason string
	// Header is added to the answer (Retry-After). "Connection: close" makes an HTTP/2 connection
	// end gracefully with GOAWAY.
	Header http.Header
	// Body is sent instead of the provider's error document, unless it is nil.
	Body []byte
	// GoneSince is the timestamp of an APNs 410.
	GoneSince time.Time
	// Delay passes before anything else happens. A client that leaves meanwhile gets nothing recorded.
	Delay time.Duration
	// Hang never answers: the request ends when the client gives up or the fake is closed.
	Hang bool
	// Close cuts the TCP connection instead of answering. With Hang and Close, a 2xx status still
	// records the delivery: taken, but the sender was not told.
	Close bool

	detail     string      // for the person who reads the error document
	violations []violation // FCM only
}

// Queue returns a script that gives answers in turn, one per request, and then the ordinary ones.
func Queue(answers ...Answer) func(Delivery) *Answer {
	var next atomic.Int64
	return func(Delivery) *Answer {
		i := next.Add(1) - 1
		if i >= int64(len(answers)) {
			return nil
		}
		return &answers[i]
	}
}

// Result is one kind of answer, as counted. Reason is empty for accepted notifications. Requests that
// hang or are cut off count under the status they would have had, with the reason "hang" or "close".
type Result struct {
	Status int
	Reason string
}
