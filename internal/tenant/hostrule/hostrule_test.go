package hostrule_test

import (
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

// reference is the file as the documentation of the system before prints it, leading spaces and all.
const reference = ` default:
     host: all
     mail_app_enabled: true
 
 # Override mail_app_enabled setting for certain hosts
 #myhost:
 #    host: myexchange.myhost.mytld
 #    mail_app_enabled: true 
`

func parse(t *testing.T, text string) *hostrule.Rules {
	t.Helper()
	r, err := hostrule.Parse("mailapp-config.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReference(t *testing.T) {
	r := parse(t, reference)
	want := hostrule.Verdict{
		Allowed: true, Rule: "default", Pattern: "all", Line: 1, Host: "gold.ox.io",
		Why: "the rule for all hosts, since none is more specific",
	}
	if got := r.Judge("gold.ox.io"); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// The commented entry, switched on the way an operator would: remove each "#" and a space.
	r = parse(t, strings.NewReplacer(" #myhost:", " myhost:", " #    ", "     ", "host: all\n     mail_app_enabled: true", "host: all\n     mail_app_enabled: false").Replace(reference))
	if v := r.Judge("myexchange.myhost.mytld"); !v.Allowed || v.Line != 6 || v.Rule != "myhost" {
		t.Errorf("the entry that was switched on: %+v", v)
	}
	if v := r.Judge("gold.ox.io"); v.Allowed || v.Line != 1 {
		t.Errorf("the default that was switched off: %+v", v)
	}
}

func TestPrecedence(t *testing.T) {
	r := parse(t, `
default: {host: all, mail_app_enabled: true}
brand:
  host: "*.example.org"
  mail_app_enabled: no
south:
  host: "*.south.example.org"
  mail_app_enabled: yes
one:
  host: mail.example.org
  mail_app_enabled: true
blocked:
  host: Bad.South.Example.ORG.
  mail_app_enabled: off
idn:
  host: "*.bücher.example"
  mail_app_enabled: false
six:
  host: "[2001:DB8::1]"
  mail_app_enabled: false
four:
  host: 192.0.2.7
  mail_app_enabled: false
`)
	for _, tt := range []struct {
		host, rule, as string
		allowed        bool
	}{
		{"other.example.net", "default", "other.example.net", true},
		{"example.org", "default", "example.org", true}, // a wildcard is for what is below
		{"x.example.org", "brand", "x.example.org", false},
		{"x.y.example.org", "brand", "x.y.example.org", false},
		{"notexample.org", "default", "notexample.org", true},
		{"south.example.org", "brand", "south.example.org", false},
		{"a.south.example.org", "south", "a.south.example.org", true},
		{"a.b.south.example.org", "south", "a.b.south.example.org", true},
		{"mail.example.org", "one", "mail.example.org", true},
		{"MAIL.Example.Org.:8443", "one", "mail.example.org", true},
		{"a.mail.example.org", "brand", "a.mail.example.org", false},
		{"bad.south.example.org", "blocked", "bad.south.example.org", false},
		{"www.BÜCHER.example", "idn", "www.xn--bcher-kva.example", false},
		{"www.xn--bcher-kva.example:443", "idn", "www.xn--bcher-kva.example", false},
		{"[2001:db8:0::1]:443", "six", "2001:db8::1", false},
		{"2001:db8::1", "six", "2001:db8::1", false},
		{"[2001:db8::2]", "default", "2001:db8::2", true},
		{"192.0.2.7:80", "four", "192.0.2.7", false},
		{"[::ffff:192.0.2.7]", "four", "192.0.2.7", false},
		// What is no host is refused, whatever the default: it could be a blocked one in disguise.
		{"", "", "", false},
		{"mail.example.org:abc", "", "mail.example.org:abc", false},
		{"mail..example.org", "", "mail..example.org", false},
		{"mail.example.org/x", "", "mail.example.org/x", false},
		{"[mail.example.org]", "", "[mail.example.org]", false},
		{"[fe80::1%eth0]", "", "[fe80::1%eth0]", false},
		{"a b", "", "a b", false},
	} {
		v := r.Judge(tt.host)
		if v.Allowed != tt.allowed || v.Rule != tt.rule || v.Host != tt.as || v.Why == "" {
			t.Errorf("%q: got %+v, want %v by %q as %q", tt.host, v, tt.allowed, tt.rule, tt.as)
		}
	}
	if n := len(r.List()); n != 8 {
		t.Errorf("%d rules", n)
	}
}

func TestNoRuleMatches(t *testing.T) {
	r := parse(t, "one: {host: mail.example.org, mail_app_enabled: true}")
	if v := r.Judge("other.example.org"); v.Allowed || v.Rule != "" || v.Line != 0 {
		t.Errorf("without a default: %+v", v)
	}
	var none *hostrule.Rules
	if v := none.Judge("Other.example.org:1"); !v.Allowed || v.Host != "other.example.org" {
		t.Errorf("without a file: %+v", v)
	}
	if none.List() != nil || none.File() != "" {
		t.Error("no file has rules")
	}
}

func TestProblems(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"empty":          {"", "h.yml: there is no rule in it"},
		"no entry":       {"{}\n", "h.yml: there is no rule in it"},
		"merged":         {"a: &a {host: x, mail_app_enabled: true}\nb:\n  <<: *a\n  host: y\n", "h.yml:3: merging with << is not supported"},
		"comments":       {"# nothing\n", "h.yml: there is no rule in it"},
		"list":           {"- host: all\n", "h.yml:1: expected entries"},
		"text":           {"yes\n", "h.yml:1: expected entries"},
		"no members":     {"default: true\n", `h.yml:1: the entry "default" needs`},
		"no host":        {"a:\n  mail_app_enabled: true\n", `h.yml:1: the entry "a" has no host`},
		"null host":      {"a:\n  host:\n  mail_app_enabled: true\n", `h.yml:1: the entry "a" has no host`},
		"no flag":        {"\na:\n  host: all\n", `h.yml:2: the entry "a" has no mail_app_enabled`},
		"quoted flag":    {"a:\n  host: all\n  mail_app_enabled: \"true\"\n", `h.yml:3: mail_app_enabled must be true or false, without quotes; found the text "true"`},
		"number":         {"a:\n  host: all\n  mail_app_enabled: 1\n", `h.yml:3: mail_app_enabled must be true or false, without quotes; found "1"`},
		"y":              {"a: {host: all, mail_app_enabled: y}", `h.yml:1: mail_app_enabled must be true or false`},
		"unknown":        {"a:\n  host: all\n  mail_app_enable: true\n  mail_app_enabled: true\n", `h.yml:3: unknown member "mail_app_enable"`},
		"member twice":   {"a:\n  host: all\n  host: b.example\n  mail_app_enabled: true\n", "h.yml:3: host is given twice, first in line 2"},
		"entry twice":    {"a: {host: all, mail_app_enabled: true}\na: {host: b.example, mail_app_enabled: true}\n", `h.yml:2: the entry "a" is there twice, first in line 1`},
		"host twice":     {"a: {host: b.example, mail_app_enabled: true}\n\nb: {host: B.example., mail_app_enabled: false}\n", "h.yml:3: the host b.example has a rule already, in line 1 (a)"},
		"wildcard twice": {"a: {host: '*.b.example', mail_app_enabled: true}\nb: {host: '*.B.example', mail_app_enabled: true}\n", "h.yml:2: the host *.b.example has a rule already, in line 1"},
		"all twice":      {"a: {host: all, mail_app_enabled: true}\nb: {host: ALL, mail_app_enabled: true}\n", "h.yml:2: the host all has a rule already, in line 1"},
		"port":           {"a: {host: 'b.example:8443', mail_app_enabled: true}", `h.yml:1: "b.example:8443" names a port: write the host alone`},
		"url":            {"a: {host: 'https://b.example', mail_app_enabled: true}", `h.yml:1: "https://b.example" is a URL: write the host alone`},
		"star":           {"a: {host: '*', mail_app_enabled: true}", `h.yml:1: write "host: all"`},
		"inner star":     {"a: {host: 'a.*.example', mail_app_enabled: true}", `h.yml:1: "a.*.example": the only wildcard`},
		"star of addr":   {"a: {host: '*.192.0.2.1', mail_app_enabled: true}", "an address has no hosts below it"},
		"plain star":     {"a:\n  host: *.b.example\n  mail_app_enabled: true\n", `put a host that begins with * in quotes`},
		"space":          {"a: {host: 'b example', mail_app_enabled: true}", `h.yml:1: "b example" is no host name: write a name`},
		"host list":      {"a: {host: [b.example], mail_app_enabled: true}", "h.yml:1: expected a host, found a list; several hosts are several entries"},
		"tab":            {"a:\n\thost: all\n", "h.yml:2: not valid YAML"},
		"columns":        {" a:\n    host: all\n    mail_app_enabled: true\nb:\n    host: b.example\n    mail_app_enabled: true\n", "all entries begin in the same column"},
		"two documents":  {"a: {host: all, mail_app_enabled: true}\n---\nb: 1\n", "a second YAML document begins"},
		"alias":          {"a: &x {host: all, mail_app_enabled: true}\nb: *x\n", `h.yml:2: the entry "b" needs "host" and "mail_app_enabled", indented below it; found an alias`},
		"utf-8":          {"a:\n  host: \xff\n", "h.yml:2: not valid UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := hostrule.Parse("h.yml", []byte(tt.text))
			if err == nil || r != nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, want %q in it", err, tt.want)
			}
		})
	}
	// Everything that is wrong is said at once.
	_, err := hostrule.Parse("h.yml", []byte("a: {host: 'x:1', mail_app_enabled: 7}\nb: 3\n"))
	if n := strings.Count(err.Error(), "\n"); n != 2 {
		t.Errorf("want three problems: %v", err)
	}
}

func BenchmarkJudge(b *testing.B) {
	r, err := hostrule.Parse("h.yml", []byte(reference))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !r.Judge("mail.south.example.org:8443").Allowed {
			b.Fatal("refused")
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(reference), "gold.ox.io")
	f.Add([]byte("a: {host: '*.bücher.example', mail_app_enabled: no}\nb: {host: '[::1]', mail_app_enabled: on}"), "[::1]:80")
	f.Add([]byte("a: &x\n  host: *x\n"), "xn--a")
	f.Fuzz(func(t *testing.T, data []byte, host string) {
		r, err := hostrule.Parse("f.yml", data)
		if (err == nil) != (r != nil) {
			t.Fatal("rules and an error, or neither")
		}
		v := r.Judge(host)
		if name, err := hostrule.Normalise(host); err == nil {
			if again, err := hostrule.Normalise(name); err != nil || again != name {
				t.Errorf("%q is normalised to %q, and that to %q (%v)", host, name, again, err)
			}
			if again := r.Judge(name); again != v {
				t.Errorf("%q: %+v, but %q: %+v", host, v, name, again)
			}
		} else if r != nil && v.Allowed {
			t.Errorf("%q is no host and is allowed: %+v", host, v)
		}
		for _, rule := range r.List() {
			if rule.Host == hostrule.All || strings.HasPrefix(rule.Host, "*.") {
				continue
			}
			if v := r.Judge(rule.Host); v.Allowed != rule.Allowed || v.Line != rule.Line {
				t.Errorf("%+v does not decide for its own host: %+v", rule, v)
			}
		}
	})
}
