package cascade

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The types of properties.
const (
	Bool     = "bool"
	Int      = "int"
	Duration = "duration"
	String   = "string"
	Enum     = "enum"
	List     = "list"
)

// Definition is all there is to know of a property.
type Definition struct {
	Name string
	// Aliases are names that stand for it, such as those of the original system.
	Aliases []string
	Type    string
	Default string
	// One is the words of an enum.
	One []string
	// Min and Max bound an int or a duration.
	Min, Max string
	// Scopes is where it may be set.
	Scopes []Scope
	// Protected properties are set by the operator only, not by resellers or brands.
	Protected bool
	// Secret values are shown to nobody, and sealed where they are kept.
	Secret bool
	Doc    string
	// Check judges a value beside its type; nil accepts all.
	Check func(string) error

	index int
	// read makes what the handle returns of a normalised text; nil for those of the type itself.
	read func(string) (any, error)
}

// Registry is the properties that there are.
type Registry struct {
	all   []Definition
	names map[string]int // also aliases
	base  *View
}

func newRegistry() *Registry { return &Registry{names: map[string]int{}, base: &View{}} }

// With returns a registry that has one property more.
func (r *Registry) With(d Definition) *Registry {
	more := &Registry{all: slices.Clone(r.all), names: maps.Clone(r.names), base: &View{slices.Clone(r.base.values), slices.Clone(r.base.scopes)}}
	more.add(d)
	return more
}

// add panics about a definition that contradicts itself: it is our own source.
func (r *Registry) add(d Definition) int {
	d.index = len(r.all)
	for _, name := range append([]string{d.Name}, d.Aliases...) {
		if _, twice := r.names[name]; twice {
			panic("property " + name + " is there twice")
		}
		r.names[name] = d.index
	}
	v, text, err := d.parse(d.Default)
	if err != nil || text != d.Default {
		panic(fmt.Sprintf("property %s: its default %q is %q: %v", d.Name, d.Default, text, err))
	}
	r.all, r.base.values, r.base.scopes = append(r.all, d), append(r.base.values, v), append(r.base.scopes, Default)
	return d.index
}

func (r *Registry) defaults() *View { return r.base }

// Definitions lists all properties in the order of the documentation.
func (r *Registry) Definitions() []Definition { return slices.Clone(r.all) }

// Find finds a property by its name or an alias. The error says which one was probably meant.
func (r *Registry) Find(name string) (Definition, error) {
	if i, ok := r.names[name]; ok {
		return r.all[i], nil
	}
	known := slices.Sorted(maps.Keys(r.names))
	if meant := Nearest(name, known); meant != "" {
		return Definition{}, fmt.Errorf("%w; did you mean %s?", ErrUnknown, meant)
	}
	return Definition{}, fmt.Errorf(`%w; "posthorn property types" lists those that there are`, ErrUnknown)
}

// ErrUnknown is wrapped by the errors of Find.
var ErrUnknown = errors.New("there is no such property")

// CheckScope says where a property may be set instead.
func (d Definition) CheckScope(s Scope) error {
	if slices.Contains(d.Scopes, s) {
		return nil
	}
	names := make([]string, len(d.Scopes))
	for i, s := range d.Scopes {
		names[i] = s.String()
	}
	return fmt.Errorf("may not be set at scope %s: set it at %s", s, or(names))
}

// Parse checks a value and returns it in its normal form.
func (d Definition) Parse(text string) (string, error) {
	_, text, err := d.parse(text)
	return text, err
}

// maxValue bounds a value in bytes.
const maxValue = 4096

func (d Definition) parse(text string) (v any, normal string, err error) {
	text = strings.TrimSpace(text)
	if len(text) > maxValue || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return nil, "", fmt.Errorf("must be one line of at most %d bytes", maxValue)
	}
	v, normal, err = d.ofType(text)
	if err == nil && d.Check != nil {
		err = d.Check(normal)
	}
	if err == nil && d.read != nil {
		v, err = d.read(normal)
	}
	if err != nil {
		return nil, "", err
	}
	return v, normal, nil
}

func (d Definition) ofType(text string) (any, string, error) {
	switch d.Type {
	case Bool:
		switch strings.ToLower(text) {
		case "true":
			return true, "true", nil
		case "false":
			return false, "false", nil
		}
		return nil, "", fmt.Errorf("%smust be true or false", d.given(text))
	case Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, "", fmt.Errorf("%smust be a whole number", d.given(text))
		}
		if low, high := mustInt(d.Min), mustInt(d.Max); n < low || n > high {
			return nil, "", fmt.Errorf("%sis out of bounds: at least %d, at most %d", d.given(text), low, high)
		}
		return n, strconv.Itoa(n), nil
	case Duration:
		v, err := parseDuration(text)
		if err != nil {
			return nil, "", fmt.Errorf("%smust be a duration such as 90d, 24h or 1h30m", d.given(text))
		}
		low, _ := parseDuration(d.Min)
		high, _ := parseDuration(d.Max)
		if v < low || v > high {
			return nil, "", fmt.Errorf("%sis out of bounds: at least %s, at most %s", d.given(text), d.Min, d.Max)
		}
		return v, formatDuration(v), nil
	case Enum:
		if slices.Contains(d.One, text) {
			return text, text, nil
		}
		hint := ""
		if meant := Nearest(text, d.One); meant != "" {
			hint = "; did you mean " + meant + "?"
		}
		return nil, "", fmt.Errorf("%smust be one of %s%s", d.given(text), strings.Join(d.One, ", "), hint)
	case List:
		list, err := parseList(text)
		if err != nil {
			return nil, "", err
		}
		return list, strings.Join(list, ", "), nil
	default:
		return text, text, nil
	}
}

// given begins an error with the value, unless that is a secret.
func (d Definition) given(text string) string {
	if d.Secret || text == "" {
		return ""
	}
	return strconv.Quote(text) + " "
}

func mustInt(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic("bound of a property: " + err.Error())
	}
	return n
}

const (
	day = 24 * time.Hour
	// maxDays keeps a duration within 64 bits.
	maxDays = 100_000
)

// parseDuration reads "90d", "24h", "1d12h30m".
func parseDuration(s string) (time.Duration, error) {
	var sum time.Duration
	if days, rest, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil || n > maxDays {
			return 0, errors.New("not a number of days")
		}
		if sum, s = time.Duration(n)*day, rest; s == "" {
			return sum, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxDays*day {
		return 0, errors.New("not a duration")
	}
	return sum + d, nil
}

// formatDuration writes what parseDuration reads, without parts that are zero.
func formatDuration(d time.Duration) string {
	s := ""
	if days := d / day; days > 0 {
		s = strconv.FormatInt(int64(days), 10) + "d"
		if d %= day; d == 0 {
			return s
		}
	}
	rest := d.String() // "1h0m0s"
	if strings.HasSuffix(rest, "m0s") {
		rest = strings.TrimSuffix(rest, "0s")
	}
	if strings.HasSuffix(rest, "h0m") {
		rest = strings.TrimSuffix(rest, "0m")
	}
	return s + rest
}

// parseList reads "a, b", also with each in quotes as in files of the original system.
func parseList(text string) ([]string, error) {
	list := []string{}
	if text == "" {
		return list, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if len(part) >= 2 && part[0] == '"' && part[len(part)-1] == '"' {
			part = strings.TrimSpace(part[1 : len(part)-1])
		}
		if part == "" || strings.Contains(part, `"`) {
			return nil, errors.New("must be a list such as: mail-app*, web")
		}
		if !slices.Contains(list, part) {
			list = append(list, part)
		}
	}
	return list, nil
}

// or joins names for a sentence.
func or(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// Nearest returns the candidate that a person most likely meant, or "".
func Nearest(word string, candidates []string) string {
	if len(word) > 100 { // nobody's slip
		return ""
	}
	best, limit := "", max(1, (len(word)+1)/3)
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d <= limit {
			best, limit = c, d-1
		}
	}
	return best
}

// distance counts the bytes to insert, drop or change to make a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
