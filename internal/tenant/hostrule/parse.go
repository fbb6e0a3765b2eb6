package hostrule

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// MaxFile is the largest file that Parse takes, in bytes.
const MaxFile = 1 << 20

const maxRules = 10_000

// Problem is one thing wrong with a file.
type Problem struct {
	File    string
	Line    int // from 1; 0 when it is the file as a whole
	Message string
}

// String returns "FILE:LINE: MESSAGE".
func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
}

// Problems are all that is wrong with a file; an error when not empty.
type Problems []Problem

// Error returns one problem a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Parse reads mailapp-config.yml: a mapping of entries, each with a host and mail_app_enabled. file is its name,
// for messages. Errors are Problems.
func Parse(file string, data []byte) (*Rules, error) {
	p := parser{rules: &Rules{file: file, exact: map[string]int{}, below: map[string]int{}, rest: -1}}
	if len(data) > MaxFile {
		p.add(0, "larger than %d bytes", MaxFile)
		return nil, p.problems
	}
	if root := p.document(data); root != nil {
		p.entries(root)
	}
	if len(p.problems) > 0 {
		return nil, p.problems
	}
	return p.rules, nil
}

type parser struct {
	rules    *Rules
	problems Problems
}

func (p *parser) add(line int, format string, args ...any) {
	p.problems = append(p.problems, Problem{p.rules.file, line, fmt.Sprintf(format, args...)})
}

// document returns the root of the one YAML document in data, or adds a problem.
func (p *parser) document(data []byte) *yaml.Node {
	for i, line := range strings.SplitAfter(string(data), "\n") {
		if !utf8.ValidString(line) {
			p.add(i+1, "not valid UTF-8: save the file as UTF-8")
			return nil
		}
	}
	docs, err := yaml.NewLoader(strings.NewReader(string(data)))
	if err != nil {
		p.add(0, "not valid YAML: %v", err)
		return nil
	}
	var doc, more yaml.Node
	if err := docs.Load(&doc); err != nil && !errors.Is(err, io.EOF) {
		p.syntax(err)
		return nil
	}
	if err := docs.Load(&more); err == nil {
		p.add(more.Line, `a second YAML document begins here: remove the line "---"`)
		return nil
	} else if !errors.Is(err, io.EOF) {
		p.syntax(err)
		return nil
	}
	if len(doc.Content) == 0 || isNull(doc.Content[0]) || doc.Content[0].Kind == yaml.MappingNode && len(doc.Content[0].Content) == 0 {
		// Not "nobody" and not "everybody": such a file is one that is being written, or a mistake.
		p.add(0, "there is no rule in it: add an entry with \"host: all\", or remove the file to allow every host")
		return nil
	}
	return doc.Content[0]
}

func (p *parser) syntax(err error) {
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		p.add(0, "not valid YAML: it cannot be parsed")
		return
	}
	advice := "; all entries begin in the same column, and their members in another one further right"
	switch {
	case strings.Contains(le.Message, "anchor") || strings.Contains(le.Message, "alias"):
		advice = `; put a host that begins with * in quotes: "*.example.org"`
	case strings.Contains(le.Message, "cannot start any token"):
		advice = "; indent with spaces, not with tabs"
	}
	p.add(le.Mark.Line, "not valid YAML: %s%s", le.Message, advice)
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// entries reads the root mapping.
func (p *parser) entries(root *yaml.Node) {
	if root.Kind != yaml.MappingNode {
		p.add(root.Line, "expected entries as in \"default:\", found %s", found(root))
		return
	}
	if len(root.Content)/2 > maxRules {
		p.add(0, "more than %d entries", maxRules)
		return
	}
	lines := map[string]int{} // of the names seen
	for i := 0; i+1 < len(root.Content); i += 2 {
		name, value := root.Content[i], root.Content[i+1]
		if name.Kind != yaml.ScalarNode || name.ShortTag() == "!!merge" || name.Value == "" {
			p.add(name.Line, "expected the name of an entry as in \"myhost:\", found %s", found(name))
			continue
		}
		if first, twice := lines[name.Value]; twice {
			p.add(name.Line, "the entry %s is there twice, first in line %d: give each a name of its own", quoted(name.Value), first)
			continue
		}
		lines[name.Value] = name.Line
		p.entry(name, value)
	}
}

// entry reads one rule.
func (p *parser) entry(name, value *yaml.Node) {
	if value.Kind != yaml.MappingNode {
		p.add(name.Line, "the entry %s needs \"host\" and \"mail_app_enabled\", indented below it; found %s", quoted(name.Value), found(value))
		return
	}
	members := map[string]*yaml.Node{}
	lines := map[string]int{}
	sound := true
	for i := 0; i+1 < len(value.Content); i += 2 {
		key, v := value.Content[i], value.Content[i+1]
		first, twice := lines[key.Value]
		switch {
		case key.ShortTag() == "!!merge":
			p.add(key.Line, "merging with << is not supported: write \"host\" and \"mail_app_enabled\" out in the entry %s", quoted(name.Value))
			return
		case key.Kind != yaml.ScalarNode || key.Value != "host" && key.Value != "mail_app_enabled":
			what := found(key)
			if key.Kind == yaml.ScalarNode {
				what = quoted(key.Value)
			}
			p.add(key.Line, "unknown member %s: an entry has \"host\" and \"mail_app_enabled\"", what)
			sound = false
		case twice:
			p.add(key.Line, "%s is given twice, first in line %d: remove one", key.Value, first)
			sound = false
		default:
			members[key.Value], lines[key.Value] = v, key.Line
		}
	}
	host, okHost := p.host(name, members["host"])
	allowed, okFlag := p.flag(name, members["mail_app_enabled"])
	if sound && okHost && okFlag {
		p.take(Rule{Name: name.Value, Host: host, Allowed: allowed, Line: name.Line})
	}
}

// take adds a rule, unless its host has one.
func (p *parser) take(rule Rule) {
	r := p.rules
	index, key := r.exact, rule.Host
	if domain, ok := strings.CutPrefix(rule.Host, "*."); ok {
		index, key = r.below, domain
	}
	first, twice := index[key]
	if rule.Host == All {
		first, twice = r.rest, r.rest >= 0
	}
	if twice {
		p.add(rule.Line, "the host %s has a rule already, in line %d (%s): remove one of them", rule.Host, r.all[first].Line, r.all[first].Name)
		return
	}
	if rule.Host == All {
		r.rest = len(r.all)
	} else {
		index[key] = len(r.all)
	}
	r.all = append(r.all, rule)
}

// host reads the host of an entry.
func (p *parser) host(entry, v *yaml.Node) (string, bool) {
	if v == nil || isNull(v) {
		p.add(entry.Line, "the entry %s has no host: give one, or \"host: all\"", quoted(entry.Value))
		return "", false
	}
	if v.Kind != yaml.ScalarNode {
		p.add(v.Line, "expected a host, found %s; several hosts are several entries", found(v))
		return "", false
	}
	host, why := patternOf(v.Value)
	if why != "" {
		p.add(v.Line, "%s", why)
		return "", false
	}
	return host, true
}

// patternOf normalises the host of a rule, or says what is wrong with it.
func patternOf(s string) (host, why string) {
	if strings.EqualFold(s, All) {
		return All, ""
	}
	name, wildcard := strings.CutPrefix(s, "*.")
	switch {
	case s == "*":
		return "", "write \"host: all\" for every host"
	case strings.Contains(s, "://") || strings.Contains(s, "/"):
		return "", fmt.Sprintf("%s is a URL: write the host alone, as in myexchange.example.org", quoted(s))
	case strings.Contains(name, "*"):
		return "", fmt.Sprintf("%s: the only wildcard is one \"*.\" at the beginning, as in \"*.example.org\"", quoted(s))
	}
	bare, err := withoutPort(name)
	if err == nil && bare != name && name[0] != '[' {
		return "", fmt.Sprintf("%s names a port: write the host alone, a rule holds for all its ports", quoted(s))
	}
	host, err = Normalise(name)
	switch {
	case err != nil:
		return "", err.Error() + ": write a name as in myexchange.example.org, or an address"
	case wildcard && isAddr(host):
		return "", fmt.Sprintf("%s: an address has no hosts below it", quoted(s))
	case wildcard:
		return "*." + host, ""
	}
	return host, ""
}

// flag reads mail_app_enabled. The system before read YAML 1.1, where a plain yes is true as well.
func (p *parser) flag(entry, v *yaml.Node) (allowed, ok bool) {
	if v == nil || isNull(v) {
		p.add(entry.Line, "the entry %s has no mail_app_enabled: write true or false", quoted(entry.Value))
		return false, false
	}
	const plainStyles = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle | yaml.TaggedStyle
	if v.Kind == yaml.ScalarNode && v.Style&plainStyles == 0 {
		switch v.Value {
		case "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON":
			return true, true
		case "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF":
			return false, true
		}
	}
	p.add(v.Line, "mail_app_enabled must be true or false, without quotes; found %s", found(v))
	return false, false
}

// found says what stands where something else should.
func found(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias: write it out"
	case isNull(n):
		return "nothing"
	case n.ShortTag() == "!!str":
		return "the text " + quoted(n.Value)
	}
	return quoted(n.Value)
}
