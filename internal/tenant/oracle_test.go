package tenant_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// fact is one value that somebody has set, and whom it is for.
type fact struct {
	scope, subject, value, origin string
	stored                        bool
	rank                          []int // of its scope, its set, and its place
	holds                         func(person) bool
}

// person is who asks.
type person struct {
	tags                    []string
	reseller, context, user string
}

// oracle says what holds: of all that is for a person, what has the highest rank, else the default.
func oracle(facts []fact, who person, dflt string) (value, origin string) {
	best := fact{value: dflt, origin: "built in"}
	for _, f := range facts {
		if f.holds(who) && slices.Compare(f.rank, best.rank) > 0 {
			best = f
		}
	}
	return best.value, best.origin
}

// random is a random cascade of one property, with what the oracle knows of it.
type random struct {
	*rand.Rand
	name   string
	values []string
	facts  []fact
	sets   map[string]randomSet // by name, as they hold
	files  cascade.Files
	stored cascade.Stored
	above  []fact // of resellers, contexts and users
}

type randomSet struct {
	text     string
	matches  func(tags []string) bool
	priority int
}

var (
	randomTags      = []string{"a", "b", "c", "d"}
	randomResellers = []string{"north", "south"}
	randomContexts  = []string{"1", "2", "3"}
	randomUsers     = []string{"1@1", "2@1", "1@2", "1@3"}
)

// expression makes a text and, beside it, what it means.
func (r *random) expression(depth int) (string, func([]string) bool) {
	if depth == 0 || r.IntN(3) == 0 {
		tag := randomTags[r.IntN(len(randomTags))]
		return tag, func(tags []string) bool { return slices.Contains(tags, tag) }
	}
	left, l := r.expression(depth - 1)
	right, m := r.expression(depth - 1)
	switch r.IntN(4) {
	case 0:
		return "!(" + left + ")", func(tags []string) bool { return !l(tags) }
	case 1:
		return "(" + left + ") & (" + right + ")", func(tags []string) bool { return l(tags) && m(tags) }
	case 2:
		return "(" + left + ")|" + right, func(tags []string) bool { return l(tags) || m(tags) }
	default: // without parentheses: & binds more tightly
		tag := randomTags[r.IntN(len(randomTags))]
		return left + " || " + tag + " && !" + tag, l
	}
}

func newRandom(seed uint64) *random {
	r := &random{Rand: rand.New(rand.NewPCG(seed, 5)), sets: map[string]randomSet{}} //nolint:gosec // G404: a test repeats itself
	r.name, r.values = "push.privacy", []string{"full", "sender", "none", "sealed"}
	if r.IntN(2) == 0 {
		r.name, r.values = "capability.mobile_mail_app", []string{"true", "false"}
	}
	r.stored.Values = map[string][]cascade.Setting{}
	add := func(scope, subject string, stored bool, rank []int, holds func(person) bool) (fact, []cascade.Setting) {
		if r.IntN(2) == 0 {
			return fact{}, nil
		}
		f := fact{scope, subject, r.values[r.IntN(len(r.values))], fmt.Sprintf("f%d:1", len(r.facts)), stored, rank, holds}
		r.facts = append(r.facts, f)
		return f, []cascade.Setting{{Name: r.name, Value: f.value, Origin: f.origin}}
	}
	everybody := func(person) bool { return true }
	_, r.files.Server = add("server", "", false, []int{1, 0, 0, 0}, everybody)
	_, r.stored.Server = add("server", "", true, []int{1, 0, 0, 1}, everybody)
	names := []string{"s0", "s1", "s2", "s3"}
	for _, inFile := range []bool{true, false} { // what is stored of a set replaces what a file says of it
		for _, name := range names {
			if r.IntN(2) == 0 {
				continue
			}
			text, matches := r.expression(3)
			s := randomSet{text, matches, r.IntN(3) - 1}
			r.sets[name] = s
			set := cascade.Set{Name: name, WithTags: s.text, Priority: s.priority, Origin: "sets:1"}
			if inFile {
				r.files.Sets = append(r.files.Sets, set)
			} else {
				r.stored.Sets = append(r.stored.Sets, set)
			}
		}
	}
	for i, name := range names {
		s, ok := r.sets[name]
		if !ok {
			continue
		}
		holds := func(p person) bool { return s.matches(p.tags) }
		if at := slices.IndexFunc(r.files.Sets, func(f cascade.Set) bool { return f.Name == name }); at >= 0 {
			_, r.files.Sets[at].Values = add("contextset", name, false, []int{2, s.priority, i, 0}, holds)
		}
		_, r.stored.Values[name] = add("contextset", name, true, []int{2, s.priority, i, 1}, holds)
	}
	for _, name := range randomResellers {
		f, _ := add("reseller", name, true, []int{3, 0, 0, 0}, func(p person) bool { return p.reseller == name })
		r.above = append(r.above, f)
	}
	for _, name := range randomContexts {
		f, _ := add("context", name, true, []int{4, 0, 0, 0}, func(p person) bool { return p.context == name })
		r.above = append(r.above, f)
	}
	for _, name := range randomUsers {
		f, _ := add("user", name, true, []int{5, 0, 0, 0}, func(p person) bool { return p.user == name })
		r.above = append(r.above, f)
	}
	return r
}

// people is the users, with tags and a reseller for each context.
func (r *random) people() []person {
	contexts := map[string]person{}
	for _, c := range randomContexts {
		p := person{context: c}
		for _, tag := range randomTags {
			if r.IntN(2) == 0 {
				p.tags = append(p.tags, tag)
			}
		}
		if i := r.IntN(len(randomResellers) + 1); i < len(randomResellers) {
			p.reseller = randomResellers[i]
		}
		contexts[c] = p
	}
	var all []person
	for _, u := range randomUsers {
		_, inContext, _ := strings.Cut(u, "@")
		p := contexts[inContext]
		p.user = u
		all = append(all, p)
	}
	return all
}

func (r *random) dflt() string {
	d, _ := cascade.Standard.Find(r.name)
	return d.Default
}

// of reads the random property.
func (r *random) of(v *cascade.View) string {
	if r.name == cascade.PushPrivacy.Name() {
		return cascade.PushPrivacy.Of(v)
	}
	return fmt.Sprint(cascade.MobileMailApp.Of(v))
}

// judge holds an explanation and a view to the oracle: value, winner, and that everything set for him, and each set that
// does not match, is a step.
func (r *random) judge(t *testing.T, p person, v *cascade.View, e cascade.Explanation, originOf func(fact) string) {
	t.Helper()
	value, from := oracle(r.facts, p, r.dflt())
	if got := r.of(v); got != value || e.Value != value || e.Winner.Value != value {
		t.Errorf("%s of %+v: view %s, explained %s (%s), want %s", r.name, p, got, e.Value, e.Winner.Value, value)
	}
	for _, f := range r.facts {
		f.origin = cmp.Or(originOf(f), f.origin)
		want := cascade.PassedOver
		if !f.holds(p) {
			if f.scope != "contextset" {
				continue
			}
			want = cascade.DoesNotMatch
		}
		n := 0
		for _, s := range e.Steps {
			if s.Scope.String() == f.scope && s.Subject == f.subject && s.Value == f.value && s.Origin == f.origin && (s.State == want || want == cascade.PassedOver && s.State == cascade.Wins) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s of %+v: %d steps for %+v in %+v", r.name, p, n, f, e.Steps)
		}
	}
	wins := slices.DeleteFunc(slices.Clone(e.Steps), func(s cascade.Step) bool { return s.State != cascade.Wins })
	if len(wins) != 1 || wins[0] != e.Winner {
		t.Errorf("winners %+v, want %+v", wins, e.Winner)
	}
	if i := slices.IndexFunc(r.facts, func(f fact) bool { return f.origin == from }); i >= 0 {
		from = cmp.Or(originOf(r.facts[i]), from)
	}
	if e.Winner.Origin != from {
		t.Errorf("%s of %+v is from %s, want %s", r.name, p, e.Winner.Origin, from)
	}
	scopes := slices.Clone(e.Steps)
	slices.SortStableFunc(scopes, func(a, b cascade.Step) int { return int(b.Scope) - int(a.Scope) })
	if !slices.Equal(scopes, e.Steps) {
		t.Errorf("steps are not from the most to the least specific: %+v", e.Steps)
	}
}

// TestExplainOracle: what is explained, and what a view says, is right for 10,000 random cascades.
func TestExplainOracle(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10_000) {
		r := newRandom(seed)
		base, problems := cascade.Standard.Compile(r.files, r.stored)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		for _, p := range r.people() {
			layers := append(slices.Clone(base.Server()), base.Sets(p.tags)...)
			for _, of := range []struct {
				scope cascade.Scope
				name  string
			}{{cascade.Reseller, p.reseller}, {cascade.Context, p.context}, {cascade.User, p.user}} {
				var settings []cascade.Setting
				for _, f := range r.above {
					if f.scope == of.scope.String() && f.subject == of.name {
						settings = append(settings, cascade.Setting{Name: r.name, Value: f.value, Origin: f.origin})
					}
				}
				l, problems := cascade.Standard.Layer(of.scope, of.name, settings)
				if len(problems) > 0 {
					t.Fatal(problems)
				}
				layers = append(layers, l)
			}
			e, err := cascade.Standard.Explain(r.name, layers)
			if err != nil {
				t.Fatal(err)
			}
			r.judge(t, p, cascade.Standard.Over(nil, layers...), e, func(fact) string { return "" })
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestExplainOracleStored: the same through files, tables and caches, with values changing under way.
func TestExplainOracleStored(t *testing.T) {
	t.Parallel()
	const set = "set by cli 2026-11-22 12:00:00"
	for seed := range uint64(20) {
		r := newRandom(seed)
		s := newStore(t, "sqlite:"+filepath.Join(t.TempDir(), "x.db"), installation)
		ctx := t.Context()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range randomResellers {
			_, err := s.AddReseller(ctx, tenant.Reseller{Name: name})
			must(err)
		}
		people := r.people()
		for range randomContexts {
			addContext(t, s, tenant.Context{})
		}
		addHost(t, s, tenant.MailHost{Name: "h"}, "")
		for _, p := range people {
			id, err := tenant.ParseUserID(p.user)
			must(err)
			_, err = s.AddUser(ctx, tenant.User{ID: id, Login: p.user, MailHost: "h"})
			must(err)
		}
		warm := func() { // what is cached must not stay
			for _, p := range people {
				id, err := tenant.ParseUserID(p.user)
				must(err)
				_, err = s.View(ctx, id)
				must(err)
			}
		}
		for _, stored := range r.stored.Sets {
			_, err := s.AddContextSet(ctx, tenant.ContextSet{Name: stored.Name, WithTags: stored.WithTags, Priority: stored.Priority})
			must(err)
		}
		for _, p := range people {
			id, err := tenant.ParseUserID(p.user)
			must(err)
			warm()
			_, err = s.ChangeContext(ctx, id.Context, func(c *tenant.Context) error { c.Tags, c.Reseller = p.tags, p.reseller; return nil })
			must(err)
		}
		must(s.SetFiles(r.files))
		for _, f := range r.facts {
			if f.stored {
				of := tenant.Subject{Name: f.subject}
				must(of.Scope.UnmarshalText([]byte(f.scope)))
				warm()
				must(s.SetProperty(ctx, of, r.name, f.value, "cli"))
			}
		}
		warm()
		must(s.SetFiles(cascade.Files{}))
		warm()
		must(s.SetFiles(r.files))
		for _, p := range people {
			id, err := tenant.ParseUserID(p.user)
			must(err)
			for range 2 { // from the rows, and from the cache
				v, err := s.View(ctx, id)
				must(err)
				e, err := s.Explain(ctx, r.name, id)
				must(err)
				r.judge(t, p, v, e, func(f fact) string {
					if f.stored {
						return set
					}
					return ""
				})
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
