package outcome_test

import (
	"testing"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// TestKinds: the names are labels of metrics and words of the trace.
func TestKinds(t *testing.T) {
	for kind, want := range map[outcome.Kind]string{
		outcome.Delivered: "delivered", outcome.Later: "later", outcome.Suspect: "suspect", outcome.Gone: "gone",
		outcome.Refused: "refused", outcome.Blocked: "blocked", -1: "kind(-1)", outcome.Blocked + 1: "kind(6)",
	} {
		if got := kind.String(); got != want {
			t.Errorf("kind %d is %q, want %q", kind, got, want)
		}
	}
}
