package bus

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

func TestSubject(t *testing.T) {
	for _, tc := range []struct {
		tokens []string
		want   string
	}{
		{[]string{"cluster"}, "posthorn.cluster"},
		{[]string{"subscription", "3@1"}, "posthorn.subscription.3@1"},
		{[]string{"a", ""}, "posthorn.a.%"},
		{[]string{"a", "*"}, "posthorn.a.%2a"},
		{[]string{"a", ">"}, "posthorn.a.%3e"},
		{[]string{"a", "b.c"}, "posthorn.a.b%2ec"},
		{[]string{"a", "% \r\n"}, "posthorn.a.%25%20%0d%0a"},
		{[]string{"a", "é"}, "posthorn.a.%c3%a9"},
		{[]string{"$SYS"}, "posthorn.%24SYS"},
	} {
		if got := NewSubject(tc.tokens[0], tc.tokens[1:]...).String(); got != tc.want {
			t.Errorf("%q: %s, want %s", tc.tokens, got, tc.want)
		}
	}
	if err := (Subject{}).check(); !errors.Is(err, ErrSubject) {
		t.Errorf("zero value: %v", err)
	}
}

// FuzzSubject: no tokens can make a wildcard, another number of tokens, or the subject of other tokens.
func FuzzSubject(f *testing.F) {
	for _, s := range []string{"", "*", ">", ".", "%", "%2a", "a.b", "\x00\r\n ", "3@1", "ü", "\xff"} {
		f.Add(s, s, s)
	}
	f.Fuzz(func(t *testing.T, area, one, two string) {
		s := NewSubject(area, one, two)
		if !server.IsValidPublishSubject(s.name) || !server.IsValidLiteralSubject(s.name) || strings.ContainsAny(s.name, " \t\r\n\x00*>") {
			t.Fatalf("%q is not a literal subject", s.name)
		}
		tokens := strings.Split(s.name, ".")
		if len(tokens) != 4 || tokens[0]+"." != prefix || tokens[1] != s.area {
			t.Fatalf("%q, area %q", s.name, s.area)
		}
		for i, token := range tokens[1:] {
			if token == "%" {
				tokens[i+1] = ""
				continue
			}
			back, err := url.PathUnescape(token)
			if err != nil {
				t.Fatal(err)
			}
			tokens[i+1] = back
		}
		if !slices.Equal(tokens[1:], []string{area, one, two}) {
			t.Fatalf("%q reads back as %q", s.name, tokens[1:])
		}
	})
}
