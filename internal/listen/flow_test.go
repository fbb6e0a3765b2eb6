package listen

import (
	"strings"
	"testing"
	"time"
)

// TestWalk walks the flow for each combination of answers: three times yes is a permanent listener, after any
// no the session decides, and nothing is asked that no longer matters.
func TestWalk(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		subscribed, node, credential, session bool
		kind                                  Kind
		asked                                 string // with + for yes, - for no
	}{
		{true, true, true, false, Permanent, "subscription+ node+ credential+"},
		{true, true, true, true, Permanent, "subscription+ node+ credential+"},
		{true, true, false, false, None, "subscription+ node+ credential- session-"},
		{true, true, false, true, SessionBound, "subscription+ node+ credential- session+"},
		{true, false, true, false, None, "subscription+ node- session-"},
		{true, false, true, true, SessionBound, "subscription+ node- session+"},
		{false, true, true, false, None, "subscription- session-"},
		{false, true, true, true, SessionBound, "subscription- session+"},
	} {
		until := now
		if c.session {
			until = now.Add(time.Second)
		}
		flow := walk(facts{c.subscribed, c.node, c.credential, until}, now)
		var asked []string
		for _, s := range flow.Steps {
			sign := "-"
			if s.Yes {
				sign = "+"
			}
			asked = append(asked, s.Question+sign)
			if s.Detail == "" || s.Yes != (s.Do == "") {
				t.Errorf("%+v says nothing, or not what to do", s)
			}
		}
		if got := strings.Join(asked, " "); flow.Kind != c.kind || got != c.asked {
			t.Errorf("%+v: %s after %s", c, flow.Kind, got)
		}
	}
}
