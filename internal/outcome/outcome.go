// Package outcome is the vocabulary in which a push provider's answer reaches the rest of Posthorn.
//
// The wires (apns, fcm, webpush) translate status codes and reason words into an [Outcome]; push
// decides what becomes of the slot and the subscription. The package holds no logic of either side,
// so that a wire needs to know nothing of slots, and push nothing of status codes.
package outcome

import (
	"fmt"
	"time"
)

// Kind is what an answer means for the slot and for the subscription.
type Kind int

const (
	// Delivered means that the provider took responsibility for the notification.
	Delivered Kind = iota
	// Later means that nothing is wrong with the message; try again after a while.
	Later
	// Suspect means that the token may be wrong, and so may our environment or topic. Never removes by itself.
	Suspect
	// Gone means that the provider says explicitly that this token will never work again.
	Gone
	// Refused means that this message is at fault (our bug or configuration). Not retried, never removes.
	Refused
	// Blocked means that the credential is refused, and so would be every message of it. Slots are kept.
	Blocked
)

var kindNames = [...]string{"delivered", "later", "suspect", "gone", "refused", "blocked"}

// String returns the lower-case name used in metrics, traces and logs.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("kind(%d)", int(k))
	}
	return kindNames[k]
}

// Outcome is one provider answer, or the lack of one.
type Outcome struct {
	Kind Kind
	// Status is the HTTP status; 0 when no answer came.
	Status int
	// Reason is the provider's reason word ("BadDeviceToken") or one of ours ("timeout"). The set is
	// bounded, so that it can be a metric label: free text goes to Err.
	Reason string
	// RetryAfter is a floor for the next try; 0 when the provider gave none.
	RetryAfter time.Duration
	// GoneSince is when the token became invalid (APNs 410 timestamp); zero when not given.
	GoneSince time.Time
	// ProviderID is the provider's name for the accepted notification.
	ProviderID string
	// Environment is the APNs environment that took it, when that is another than the token's so far.
	Environment string
	// Err is what went wrong below HTTP, or detail that is not fit for a label. Only for logs and traces.
	Err error
}
