// Package cascade decides which value of a property holds for whom, and says why.
//
// A property has a name, a type and a default, and may be set at scopes from the least to the most specific: server,
// context set, reseller, context, user. The most specific value wins; what is not set anywhere has its default, so
// "not set" is not "false". The properties are in properties.go, each with a handle that reads it from a [View].
//
// The package is pure: it keeps nothing, reads no files and asks no database. Whoever has values makes a [Layer] of
// those of one subject, and lays layers over each other, the least specific first.
//
// All its types may be used from any goroutine; a View and what is read from it must not be changed.
package cascade

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Scope is where a value is set.
type Scope uint8

// From the least to the most specific.
const (
	Default Scope = iota
	Server
	ContextSet
	Reseller
	Context
	User
)

var scopeNames = []string{"default", "server", "contextset", "reseller", "context", "user"}

func (s Scope) String() string {
	if int(s) >= len(scopeNames) {
		return "unknown"
	}
	return scopeNames[s]
}

// MarshalText writes the scope as String does.
func (s Scope) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what String writes.
func (s *Scope) UnmarshalText(text []byte) (err error) {
	if i := slices.Index(scopeNames, string(text)); i >= 0 {
		*s = Scope(i) //nolint:gosec // G115: one of six
		return nil
	}
	return fmt.Errorf("%q is no scope: it is one of %s", text, strings.Join(scopeNames, ", "))
}

// Setting is a value as somebody wrote it, and where: "/etc/posthorn/posthorn.yml:12".
type Setting struct {
	Name, Value, Origin string
}

// Problem is what is wrong with a value or a context set, and what to do about it. It never holds a value that may
// be a secret.
type Problem struct {
	Origin  string // as in Setting
	Name    string // of the property, or of what else is at fault
	Message string
}

func (p Problem) String() string {
	s := p.Message
	if p.Name != "" {
		s = p.Name + ": " + s
	}
	if p.Origin != "" {
		s = p.Origin + ": " + s
	}
	return s
}

// Problems is an error when it is not empty.
type Problems []Problem

// Error returns one problem a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// View is what holds for one subject. Users without values of their own share that of their context.
type View struct {
	values []any   // by the index of the definition
	scopes []Scope // where they were set
}

// Property reads one property.
type Property[T any] struct {
	index int
}

// Of returns the value that holds in a view; in a nil one, the default.
func (p Property[T]) Of(v *View) T {
	if v == nil {
		v = Standard.defaults()
	}
	return v.values[p.index].(T)
}

// Scope says where the value that holds was set.
func (p Property[T]) Scope(v *View) Scope {
	if v == nil {
		return Default
	}
	return v.scopes[p.index]
}

// Name is the property's name.
func (p Property[T]) Name() string { return Standard.all[p.index].Name }

// Layer is the values that one subject has at one scope, from one place.
type Layer struct {
	Scope   Scope
	Subject string // "" for the server, else a name, "1" or "3@1"
	// Without says why the values do not hold for whom the layers are laid, as for a context set whose tags he has
	// not; "" when they do.
	Without  string
	priority int     // of a context set
	values   []value // by index
}

type value struct {
	index  int
	value  any
	text   string
	origin string
}

// Layer makes a layer of settings. Those with a problem are left out, and so is one of two with the same name.
func (r *Registry) Layer(scope Scope, subject string, settings []Setting) (Layer, Problems) {
	l := Layer{Scope: scope, Subject: subject}
	var problems Problems
	for _, s := range settings {
		add := func(message string) {
			problems = append(problems, Problem{Origin: s.Origin, Name: s.Name, Message: message})
		}
		d, err := r.Find(s.Name)
		if err != nil {
			add(err.Error())
			continue
		}
		if err := d.CheckScope(scope); err != nil {
			add(err.Error())
			continue
		}
		parsed, text, err := d.parse(s.Value)
		if err != nil {
			add(err.Error())
			continue
		}
		if i := slices.IndexFunc(l.values, func(v value) bool { return v.index == d.index }); i >= 0 {
			add("is set twice, first at " + l.values[i].origin + ": remove one")
			continue
		}
		l.values = append(l.values, value{d.index, parsed, text, s.Origin})
	}
	slices.SortFunc(l.values, func(a, b value) int { return cmp.Compare(a.index, b.index) })
	return l, problems
}

// Over lays layers over a view, the least specific first, and returns what then holds: the same view when the layers
// have nothing to say. A nil view is the defaults.
func (r *Registry) Over(v *View, layers ...Layer) *View {
	if v == nil {
		v = r.defaults()
	}
	copied := false
	for _, l := range layers {
		if l.Without != "" {
			continue
		}
		for _, set := range l.values {
			if !copied {
				v, copied = &View{slices.Clone(v.values), slices.Clone(v.scopes)}, true
			}
			v.values[set.index], v.scopes[set.index] = set.value, l.Scope
		}
	}
	return v
}

// State is what became of a step.
type State string

// The states of a step.
const (
	Wins         State = "wins"
	PassedOver   State = "passed over"
	NotSet       State = "not set"
	DoesNotMatch State = "does not match"
)

// Step is one place where a value may be, or is.
type Step struct {
	Scope   Scope  `json:"scope"`
	Subject string `json:"subject,omitempty"`
	Value   string `json:"value,omitempty"`
	// Origin says where the value was written, and by whom.
	Origin string `json:"origin,omitempty"`
	State  State  `json:"state"`
	// Reason explains a State beside the obvious.
	Reason string `json:"reason,omitempty"`
}

// Explanation is what holds and why. Steps are from the most to the least specific.
type Explanation struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Winner Step   `json:"winner"`
	Steps  []Step `json:"steps"`
}

// Redacted is what stands for a secret value.
const Redacted = "[secret redacted]"

// Explain says which value of a property holds under layers, the least specific first, and each place passed over.
func (r *Registry) Explain(name string, layers []Layer) (Explanation, error) {
	d, err := r.Find(name)
	if err != nil {
		return Explanation{}, err
	}
	show := func(text string) string {
		if d.Secret && text != "" {
			return Redacted
		}
		return text
	}
	e := Explanation{Name: d.Name, Winner: Step{Scope: Default, Value: show(d.Default), Origin: "built in", State: Wins}}
	steps, priorities := []Step{e.Winner}, []int{0}
	won := 0
	for i, l := range layers {
		if l.Scope > ContextSet && !slices.ContainsFunc(steps, func(s Step) bool { return s.Scope >= ContextSet }) {
			steps, priorities = append(steps, Step{Scope: ContextSet, State: NotSet}), append(priorities, 0)
		}
		step := Step{Scope: l.Scope, Subject: l.Subject, State: NotSet, Reason: l.Without}
		at, ok := slices.BinarySearchFunc(l.values, d.index, func(v value, index int) int { return cmp.Compare(v.index, index) })
		switch {
		case ok:
			step.Value, step.Origin = show(l.values[at].text), l.values[at].origin
			if step.State = PassedOver; l.Without != "" {
				step.State = DoesNotMatch
			} else {
				won = len(steps)
			}
		case l.Scope == ContextSet, // there may be hundreds, which do not concern it
			l.twin(layers[:i], d.index), i+1 < len(layers) && layers[i+1].sameSubject(l):
			continue
		}
		steps, priorities = append(steps, step), append(priorities, l.priority)
	}
	for i := range steps {
		if i == won {
			steps[i].State = Wins
			e.Winner = steps[i]
		} else if steps[i].State == Wins {
			steps[i].State = PassedOver
		}
		if x := &steps[i]; i < won && x.State == PassedOver && x.Scope == ContextSet && steps[won].Scope == ContextSet && x.Subject != steps[won].Subject {
			x.Reason = beaten(priorities[i], priorities[won])
		}
	}
	e.Value = e.Winner.Value
	slices.Reverse(steps)
	e.Steps = steps
	return e, nil
}

// beaten says why of two context sets that match the second one wins.
func beaten(priority, winner int) string {
	if priority == winner {
		return fmt.Sprintf("of sets with the same priority (%d) the one whose name sorts last wins", winner)
	}
	return fmt.Sprintf("its priority is %d, that of the one that wins %d", priority, winner)
}

func (l Layer) sameSubject(other Layer) bool {
	return l.Scope == other.Scope && l.Subject == other.Subject
}

// twin reports whether an earlier layer of the same subject has the property: its "not set" says nothing then.
func (l Layer) twin(before []Layer, index int) bool {
	return slices.ContainsFunc(before, func(b Layer) bool {
		return b.sameSubject(l) && slices.ContainsFunc(b.values, func(v value) bool { return v.index == index })
	})
}

// origin joins a file and a line.
func origin(file string, line int) string { return file + ":" + strconv.Itoa(line) }
