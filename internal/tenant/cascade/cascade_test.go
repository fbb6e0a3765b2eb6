package cascade_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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
	if (cascade.Expression{}).Matches([]string{"a"}) {
		t.Error("the zero expression matches")
	}
}

func TestWrongExpressions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                               "is empty",
		"a b":                            `expected & or | at character 3, found 'b'`,
		"a &":                            "expected a tag, ! or ( at character 4, found the end",
		"(a | b":                         "expected ) at character 7, found the end",
		"a)":                             `expected & or | at character 2, found ')'`,
		"a & é*":                         `expected & or | at character 7, found '*'`,
		"a and b":                        `found 'a'`,
		strings.Repeat("!", 40) + "a":    "deeper than 32",
		strings.Repeat("(", 400) + "a":   "deeper than 32",
		strings.Repeat("a|", 600) + "a":  "longer than 1024 bytes",
		strings.Repeat("a", 65) + " | b": "is no tag",
		"a &&& b":                        `expected a tag, ! or ( at character 5, found '&'`,
		"\xff":                           "expected a tag",
	} {
		if _, err := cascade.ParseExpression(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzExpression(f *testing.F) {
	for _, s := range []string{"webmail & (premium | trial)", "!a||b&&c", "((a))", "!(a|!b)&c", "a b", "\x00", "é|É"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := cascade.ParseExpression(text)
		if err != nil {
			return
		}
		// What is read is read again from its own text, and its opposite is the opposite.
		again, err := cascade.ParseExpression(e.String())
		if err != nil {
			t.Fatalf("%q: %v", e, err)
		}
		not, err := cascade.ParseExpression("!(" + e.String() + ")")
		for _, tags := range [][]string{nil, {"a"}, {"a", "b", "premium"}, {"é"}} {
			if again.Matches(tags) != e.Matches(tags) || err == nil && not.Matches(tags) == e.Matches(tags) {
				t.Fatalf("%q for %q", text, tags)
			}
		}
	})
}

func TestParse(t *testing.T) {
	t.Parallel()
	const zones = "Europe/Berlin mon,tue,wed,thu,sun 22:00-07:00; fri,sat 23:30-24:00"
	for _, c := range []struct{ name, give, want, problem string }{
		{"mobile_mail_app", " TRUE ", "true", ""},
		{"capability.push", "1", "", "must be true or false"},
		{"capability.push", "", "", "must be true or false"},
		{"push.privacy", "Full", "", "did you mean full?"},
		{"push.privacy.apns", "inherit", "inherit", ""},
		{"push.privacy", "inherit", "", "must be one of full, sender, none, sealed"},
		{"push.max_subscriptions", "007", "7", ""},
		{"push.max_subscriptions", "0", "", "at least 1, at most 100"},
		{"push.max_subscriptions", "many", "", "whole number"},
		{"sessions.lifetime", "24h", "1d", ""},
		{"sessions.lifetime", "1d12h30m", "1d12h30m", ""},
		{"sessions.lifetime", "90m", "1h30m", ""},
		{"sessions.lifetime", "59s", "", "at least 1m, at most 3650d"},
		{"sessions.lifetime", "3651d", "", "at most 3650d"},
		{"sessions.lifetime", "-1h", "", "duration such as"},
		{"sessions.lifetime", "999999999999d", "", "duration such as"},
		{"com.openexchange.push.allowedClient", `"USM-EAS*", "open-xchange-mailapp" ,x,x`, "USM-EAS*, open-xchange-mailapp, x", ""},
		{"push.allowed_clients", "", "", ""},
		{"push.allowed_clients", "a,,b", "", "must be a list"},
		{"push.allowed_clients", `"a`, "", "must be a list"},
		{"push.quiet_hours", "Europe/Berlin 22:00-07:00", "Europe/Berlin 22:00-07:00", ""},
		{"push.quiet_hours", zones, zones, ""},
		{"push.quiet_hours", "Europe/Nowhere 22:00-07:00", "", "is no time zone"},
		{"push.quiet_hours", "22:00-07:00", "", "must be a time zone and times"},
		{"push.quiet_hours", "UTC 24:00-07:00", "", "must be a time zone and times"},
		{"push.quiet_hours", "UTC 22:00-7:00", "", "must be a time zone and times"},
		{"push.quiet_hours", "UTC 22:00-07:00;", "", "must be a time zone and times"},
		{"push.quiet_hours", "UTC monday 22:00-07:00", "", "is no day"},
		{"push.quiet_hours", "UTC " + strings.Repeat("01:00-02:00;", 21) + "01:00-02:00", "", "at most 21"},
		{"provider", strings.Repeat("x", 256), "", "provider"},
		{"push.quiet_hours", "a\nb", "", "one line"},
		{"provider", strings.Repeat("x", 5000), "", "at most 4096 bytes"},
	} {
		d, err := cascade.Standard.Find(c.name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Parse(c.give)
		if c.problem == "" && (err != nil || got != c.want) || c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("%s = %q: %q, %v; want %q %q", c.name, c.give, got, err, c.want, c.problem)
		}
	}
}

// TestDefinitions: each can be found by all its names, has a doc line, a scope, and says of a slip what was meant.
func TestDefinitions(t *testing.T) {
	t.Parallel()
	all := cascade.Standard.Definitions()
	for _, d := range all {
		if d.Doc == "" || len(d.Scopes) == 0 || slices.Contains(d.Scopes, cascade.Default) {
			t.Errorf("%+v", d)
		}
		for _, name := range append(d.Aliases, d.Name) {
			if got, err := cascade.Standard.Find(name); err != nil || got.Name != d.Name {
				t.Errorf("%s: %v, %v", name, got.Name, err)
			}
		}
	}
	for name, want := range map[string]string{
		"push.privacyy": "push.privacy?", "capability.mobile-mail-app": "capability.mobile_mail_app?", "session.lifetime": "sessions.lifetime?",
		"nothing like it at all": `"posthorn property types"`, strings.Repeat("x", 1000): `"posthorn property types"`,
	} {
		if _, err := cascade.Standard.Find(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if cascade.SessionLifetime.Of(nil) != 90*24*time.Hour || cascade.MobileMailApp.Of(nil) || !cascade.CapabilityPush.Of(nil) ||
		len(cascade.AppClients.Of(nil)) != 3 || cascade.QuietHours.Of(nil).TimeZone != "" {
		t.Error("defaults without a view")
	}
}

// TestQuietHours: what was written is what the handle gives.
func TestQuietHours(t *testing.T) {
	t.Parallel()
	l, problems := cascade.Standard.Layer(cascade.User, "1@1", []cascade.Setting{{"push.quiet_hours", "Europe/Berlin mon,fri 22:00-07:00; 12:00-13:00", ""}})
	q := cascade.QuietHours.Of(cascade.Standard.Over(nil, l))
	if len(problems) > 0 || fmt.Sprint(q) != "{Europe/Berlin [{[mon fri] 22:00 07:00} {[] 12:00 13:00}]}" {
		t.Errorf("%v, %v", q, problems)
	}
}

// TestSecrets: a secret is neither explained nor taken from a file.
func TestSecrets(t *testing.T) {
	t.Parallel()
	r := cascade.Standard.With(cascade.Definition{Name: "test.secret", Type: cascade.Int, Min: "1", Max: "9", Default: "1", Secret: true, Scopes: []cascade.Scope{cascade.Server, cascade.User}})
	l, problems := r.Layer(cascade.User, "1@1", []cascade.Setting{{"test.secret", "7", "x:1"}})
	e, err := r.Explain("test.secret", []cascade.Layer{l})
	if err != nil || len(problems) > 0 || strings.Contains(fmt.Sprint(e), "7") || e.Value != cascade.Redacted {
		t.Errorf("%+v, %v, %v", e, problems, err)
	}
	if _, problems := r.Layer(cascade.User, "1@1", []cascade.Setting{{"test.secret", "4242", "x:1"}}); len(problems) != 1 || strings.Contains(problems.Error(), "4242") {
		t.Errorf("a wrong one: %v", problems)
	}
	if _, problems := r.Compile(cascade.Files{Server: []cascade.Setting{{"test.secret", "7", "x:1"}}}, cascade.Stored{}); len(problems) != 1 || !strings.Contains(problems.Error(), "posthorn property set") {
		t.Errorf("in a file: %v", problems)
	}
	if _, err := cascade.Standard.Find("test.secret"); err == nil {
		t.Error("the standard registry has it too")
	}
}

func TestParseSets(t *testing.T) {
	t.Parallel()
	const good = `# paying customers
premium:
  withTags: webmail & (premium | trial)
  priority: 10
  capability.mobile_mail_app: true
  push.allowed_clients: [a*, b]
trial: {with_tags: trial, push.quiet_hours: ''}
`
	sets, problems := cascade.ParseSets("x.yml", []byte(good))
	const want = `[{premium webmail & (premium | trial) 10 x.yml:2 [{capability.mobile_mail_app true x.yml:5} {push.allowed_clients a*, b x.yml:6}]} ` +
		`{trial trial 0 x.yml:7 [{push.quiet_hours  x.yml:7}]}]`
	if got := fmt.Sprint(sets); len(problems) > 0 || got != want {
		t.Errorf("%s\nwant %s\n%v", got, want, problems)
	}
	for text, want := range map[string]string{
		"- a":                                          `x.yml:1: expected names with values`,
		"a: b":                                         `x.yml:1: a: expected names with values`,
		"a:\n  withTags: b\na:\n  withTags: c\n":       `x.yml:3: "a" is there twice, first in line 1: remove one`,
		"a:\n  withTags: b\n  withTags: c\n":           `x.yml:3: a: "withTags" is there twice`,
		"a:\n  withTags: b\n  with_tags: c\n":          `x.yml:3: a: withTags is there twice`,
		"a:\n  withTags:\n":                            `x.yml:2: withTags: has no value`,
		"a:\n  withTags: b\n  x: {y: z}\n":             `x.yml:3: x: must be one value or a list of texts`,
		"a:\n  withTags: b\n  x: [[y]]\n":              `x.yml:3: x: must be a list of texts`,
		"a:\n  withTags: b\n  priority: high\n":        `x.yml:3: a: priority must be a whole number`,
		"a:\n  withTags: b\n  priority: 1e9\n":         `priority must be a whole number`,
		"a b:\n  withTags: b\n":                        `x.yml:1: a b: the name of a context set has`,
		"a:\n  priority: 1\n":                          `x.yml:1: a: withTags is empty`,
		"a: {withTags: b}\n---\nb: {}\n":               `x.yml:2: a second YAML document`,
		"a: [":                                         `x.yml:2: not valid YAML`,
		"\xff":                                         `x.yml:1: not valid UTF-8`,
		"<<: {a: b}":                                   `expected a name`,
		"a:\n  withTags: !blocked webmail\n":           `x.yml:2: withTags: begins with !blocked: put it in quotes`,
		"a:\n  withTags: !blocked & webmail\n":         `put a text that begins with !, & or * in quotes`,
		"a:\n  withTags: b\n  push: {privacy: none}\n": `x.yml:3: push: must be one value or a list of texts; write a name in one piece, as push.privacy`,
	} {
		if _, problems := cascade.ParseSets("x.yml", []byte(text)); len(problems) == 0 || !strings.Contains(problems.Error(), want) {
			t.Errorf("%q: %v, want %q", text, problems, want)
		}
	}
	// A mistake with the tags is told once, and aliases are followed.
	if _, problems := cascade.ParseSets("x.yml", []byte("a:\n  withTags: !b c\n")); len(problems) != 1 {
		t.Error(problems)
	}
	sets, problems = cascade.ParseSets("x.yml", []byte("a: &a\n  withTags: &t b\n  push.privacy: none\nc: *a\nd:\n  withTags: *t\n"))
	if len(problems) > 0 || len(sets) != 3 || sets[1].WithTags != "b" || len(sets[1].Values) != 1 || sets[2].WithTags != "b" {
		t.Errorf("%+v, %v", sets, problems)
	}
	for _, empty := range []string{"", "# nothing\n", "---\n", "null\n"} {
		if sets, problems := cascade.ParseSets("x.yml", []byte(empty)); len(sets)+len(problems) > 0 {
			t.Errorf("%q: %v, %v", empty, sets, problems)
		}
	}
}

func FuzzParseSets(f *testing.F) {
	for _, s := range []string{
		"premium:\n  withTags: webmail & (premium | trial)\n  priority: 10\n  push.privacy: none\n", "a: &x {withTags: b, c: *x}", "? [a]\n: b", "{", "a: [b, [c]]", "<<: *x", "a: !!binary aGk=",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sets, problems := cascade.ParseSets("x.yml", data)
		for _, p := range problems {
			if !strings.HasPrefix(p.Origin, "x.yml:") || p.Message == "" {
				t.Fatalf("%+v", p)
			}
		}
		if len(problems) > 0 {
			return
		}
		// What has no problem by itself can be compiled, whatever its values are.
		base, problems := cascade.Standard.Compile(cascade.Files{Sets: sets}, cascade.Stored{})
		for _, p := range problems {
			if p.Origin == "" {
				t.Fatalf("%+v", p)
			}
		}
		layers := base.Sets([]string{"a", "b"})
		v := cascade.Standard.Over(base.View(), layers...)
		e, err := cascade.Standard.Explain("push.privacy", append(base.Server(), layers...))
		if err != nil || e.Value != cascade.PushPrivacy.Of(v) {
			t.Fatalf("%+v, %v", e, err)
		}
	})
}

// Of two context sets that match, it is said why the other one wins.
func TestExplainSets(t *testing.T) {
	t.Parallel()
	value := []cascade.Setting{{Name: "push.privacy", Value: "none"}}
	base, problems := cascade.Standard.Compile(cascade.Files{Sets: []cascade.Set{
		{Name: "a", WithTags: "x", Values: value}, {Name: "b", WithTags: "x", Priority: 7, Values: value}, {Name: "c", WithTags: "x", Priority: 7, Values: value},
	}}, cascade.Stored{})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	e, err := cascade.Standard.Explain("push.privacy", append(base.Server(), base.Sets([]string{"x"})...))
	if err != nil || e.Winner.Subject != "c" || e.Winner.Reason != "" ||
		e.Steps[1].Reason != "of sets with the same priority (7) the one whose name sorts last wins" || e.Steps[2].Reason != "its priority is 0, that of the one that wins 7" {
		t.Errorf("%+v, %v", e, err)
	}
}
