package cascade

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Set is a context set: values for the contexts with some tags.
type Set struct {
	Name string
	// WithTags is the text of an Expression.
	WithTags string
	// Priority decides between sets that match: the higher one wins, then the name that sorts last.
	Priority int
	// Origin is the file and line of a set that is from a file, else who made it.
	Origin string
	Values []Setting
}

// maxPriority bounds a priority either way.
const maxPriority = 1_000_000

// Check checks all but the values.
func (s Set) Check() error {
	if err := checkSetName(s.Name); err != nil {
		return err
	}
	if s.Priority < -maxPriority || s.Priority > maxPriority {
		return fmt.Errorf("priority must be from %d to %d", -maxPriority, maxPriority)
	}
	if _, err := ParseExpression(s.WithTags); err != nil {
		return fmt.Errorf("withTags %w", err)
	}
	return nil
}

func checkSetName(name string) error {
	if name == "" || len(name) > maxTag || strings.ContainsFunc(name, notOfTag) || !utf8.ValidString(name) {
		return fmt.Errorf("the name of a context set has 1 to %d bytes of letters, digits and - _ . : / @ +", maxTag)
	}
	return nil
}

// Files is what files say: values of the server scope, and context sets with theirs.
type Files struct {
	Server []Setting
	Sets   []Set
}

// Stored is what commands and the API have set at the scopes that all contexts share.
type Stored struct {
	Server []Setting
	Sets   []Set
	// Values is those of context sets by their names, also of sets that are from files.
	Values map[string][]Setting
}

// Base is the scopes that all contexts share: server and context sets.
type Base struct {
	server []Layer // that of files, then that of what is stored
	view   *View
	sets   []set // the one that wins last
}

type set struct {
	name     string
	priority int
	with     Expression
	layers   []Layer // likewise two
}

// Compile lays files and what is stored together. At one scope, what is stored wins. What has a problem is left out.
func (r *Registry) Compile(f Files, s Stored) (*Base, Problems) {
	b := &Base{}
	problems := r.secretsIn(f.Server)
	for _, s := range f.Sets {
		problems = append(problems, r.secretsIn(s.Values)...)
	}
	layer := func(scope Scope, subject string, settings []Setting) Layer {
		l, ps := r.Layer(scope, subject, settings)
		problems = append(problems, ps...)
		return l
	}
	b.server = []Layer{layer(Server, "", f.Server), layer(Server, "", s.Server)}
	b.view = r.Over(nil, b.server...)
	origins := map[string]string{}
	for i, from := range [][]Set{f.Sets, s.Sets} {
		for _, given := range from {
			if err := given.Check(); err != nil {
				problems = append(problems, Problem{given.Origin, given.Name, err.Error()})
				continue
			}
			with, _ := ParseExpression(given.WithTags)
			if first, twice := origins[given.Name]; twice && i == 0 {
				problems = append(problems, Problem{given.Origin, given.Name, "this context set is there twice, first at " + first + ": remove one, or rename it"})
				continue
			}
			origins[given.Name] = given.Origin
			at := slices.IndexFunc(b.sets, func(s set) bool { return s.name == given.Name })
			if at < 0 {
				at = len(b.sets)
				b.sets = append(b.sets, set{name: given.Name})
			}
			b.sets[at].with, b.sets[at].priority = with, given.Priority
			b.sets[at].layers = append(b.sets[at].layers, layer(ContextSet, given.Name, given.Values))
		}
	}
	for i := range b.sets {
		b.sets[i].layers = append(b.sets[i].layers, layer(ContextSet, b.sets[i].name, s.Values[b.sets[i].name]))
	}
	slices.SortFunc(b.sets, func(x, y set) int {
		return cmp.Or(cmp.Compare(x.priority, y.priority), cmp.Compare(x.name, y.name))
	})
	return b, problems
}

// secretsIn finds secrets in a file, which would be shown with it.
func (r *Registry) secretsIn(settings []Setting) (problems Problems) {
	for _, s := range settings {
		if d, err := r.Find(s.Name); err == nil && d.Secret {
			problems = append(problems, Problem{s.Origin, s.Name, `is a secret, which files do not keep: set it with "posthorn property set"`})
		}
	}
	return problems
}

// View is what holds at the server scope.
func (b *Base) View() *View { return b.view }

// Server is the layers of the server scope.
func (b *Base) Server() []Layer { return b.server }

// Sets is the layers of all context sets, for a context with tags.
func (b *Base) Sets(tags []string) []Layer {
	var all []Layer
	for _, s := range b.sets {
		for _, l := range s.layers {
			l.priority = s.priority
			if !s.with.Matches(tags) {
				l.Without = "needs the tags " + s.with.String()
			}
			all = append(all, l)
		}
	}
	return all
}

// ParseSets reads the context sets of a file, in YAML:
//
//	premium:
//	  withTags: webmail & (premium | trial)
//	  priority: 10
//	  capability.mobile_mail_app: true
//
// All but withTags (or with_tags) and priority are values of properties. They are looked up when the sets are used.
func ParseSets(file string, data []byte) ([]Set, Problems) {
	var problems Problems
	add := func(n *yaml.Node, name, message string) {
		line := 1
		if n != nil && n.Line > 0 {
			line = n.Line
		}
		problems = append(problems, Problem{origin(file, line), name, message})
	}
	root, problem := parseYAML(file, data)
	if problem != nil {
		return nil, Problems{*problem}
	}
	if root == nil {
		return nil, nil
	}
	var sets []Set
	for name, body := range pairs(root, func(n *yaml.Node, message string) { add(n, "", message) }) {
		s, sound := Set{Name: name.Value, Origin: origin(file, name.Line)}, true
		for key, v := range pairs(body, func(n *yaml.Node, message string) { add(n, s.Name, message) }) {
			text, err := Scalar(v)
			switch {
			case err != nil:
				add(key, key.Value, err.Error())
				sound = false
			case key.Value == "withTags" || key.Value == "with_tags":
				if s.WithTags != "" {
					add(key, s.Name, "withTags is there twice: remove one")
				}
				s.WithTags = text
			case key.Value == "priority":
				if s.Priority, err = strconv.Atoi(text); err != nil {
					add(key, s.Name, "priority must be a whole number")
				}
			default:
				s.Values = append(s.Values, Setting{key.Value, text, origin(file, key.Line)})
			}
		}
		if err := s.Check(); err != nil && sound {
			add(name, s.Name, err.Error())
		}
		sets = append(sets, s)
	}
	return sets, problems
}

// parseYAML returns the root of the one document, nil when there is none.
func parseYAML(file string, data []byte) (*yaml.Node, *Problem) {
	if !utf8.Valid(data) {
		return nil, &Problem{Origin: origin(file, 1), Message: "not valid UTF-8: save the file as UTF-8"}
	}
	var doc, more yaml.Node
	docs, err := yaml.NewLoader(strings.NewReader(string(data)))
	if err == nil {
		err = docs.Load(&doc)
	}
	if errors.Is(err, io.EOF) {
		return nil, nil //nolint:nilnil // an empty file is fine
	}
	if err == nil {
		if err = docs.Load(&more); err == nil {
			return nil, &Problem{Origin: origin(file, more.Line), Message: `a second YAML document begins here: remove the line "---"`}
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		p := &Problem{Origin: origin(file, 1), Message: "not valid YAML: it cannot be parsed"}
		if le, ok := errors.AsType[*yaml.LoadError](err); ok {
			p.Origin, p.Message = origin(file, max(1, le.Mark.Line)), "not valid YAML: "+le.Message
			if strings.Contains(le.Message, "anchor") || strings.Contains(le.Message, "alphabetic") {
				p.Message += "; put a text that begins with !, & or * in quotes"
			}
		}
		return nil, p
	}
	if len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null" {
		return nil, nil //nolint:nilnil // likewise
	}
	return doc.Content[0], nil
}

// pairs yields the keys and values of a mapping, and reports what is none.
func pairs(n *yaml.Node, report func(n *yaml.Node, message string)) func(func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		if n = resolve(n); n.Kind != yaml.MappingNode {
			report(n, "expected names with values, as in \"premium:\" followed by indented lines")
			return
		}
		lines := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			switch first := lines[key.Value]; {
			case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge":
				report(key, "expected a name; merging and names in several parts are not supported")
				continue
			case first > 0:
				report(key, fmt.Sprintf("%q is there twice, first in line %d: remove one", key.Value, first))
				continue
			}
			lines[key.Value] = key.Line
			if !yield(key, n.Content[i+1]) {
				return
			}
		}
	}
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// Scalar returns the text of a value in YAML: a scalar's, or that of a list joined with commas.
func Scalar(n *yaml.Node) (string, error) {
	n = resolve(n)
	switch {
	case strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!"):
		// YAML takes it for the name of a type, and what it negates would be lost.
		return "", fmt.Errorf("begins with %s: put it in quotes, as in '!blocked & webmail'", n.Tag)
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		return "", errors.New("has no value: give one, or remove the line; an empty text is ''")
	case n.Kind == yaml.ScalarNode:
		return n.Value, nil
	case n.Kind == yaml.SequenceNode:
		parts := make([]string, len(n.Content))
		for i, e := range n.Content {
			if e = resolve(e); e.Kind != yaml.ScalarNode {
				return "", errors.New("must be a list of texts")
			}
			parts[i] = e.Value
		}
		return strings.Join(parts, ", "), nil
	}
	return "", errors.New("must be one value or a list of texts; write a name in one piece, as push.privacy")
}
