package cascade_test

import (
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

func TestExpressions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[string]bool{
		"webmail & (premium | trial)":    {"": false, "webmail": false, "webmail trial": true, "premium": false, "webmail premium trial": true},
		"!blocked":                       {"": true, "blocked": false, "x": true},
		"a | b & c":                      {"a": true, "b": false, "b c": true, "c": false},
		"a && b || !(c|d)":               {"": true, "c": false, "a b c": true, "d a": false},
		"!!A":                            {"a": true, "": false},
		"brand:north/1.2+x@y-z_0 & über": {"brand:north/1.2+x@y-z_0 über": true, "über": false},
	} {
		e, err := cascade.ParseExpression(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		for tags, want := range want {
			if got := e.Matches(strings.Fields(tags)); got != want {
				t.Errorf("%s for %q: %v", text, tags, got)
			}
		}
	}
}
