package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

const (
	maxFile   = 1 << 20 // bytes of a configuration file; far more than any real one
	maxSecret = 1 << 16 // bytes of a secret's file; the largest real one, a service account, has 2.5 KiB
)

// Load reads the configuration file at path, or takes the defaults when path is "", and then the
// secrets from their files and from the environment, which env looks up (os.LookupEnv). An empty
// environment variable counts as not set.
//
// A file that cannot be read is an error that wraps the cause. Everything else is [Problems]: all
// that is wrong at once, including what [Config.Check] finds in the rest; when the file is YAML, the configuration
// comes with them, with what could be read, for who has more to say of it or needs one key only. When Load succeeds,
// Check is still to be called.
func Load(path string, env func(string) (string, bool)) (*Config, Warnings, error) {
	l := loader{env: env, read: readFile, c: &Config{file: path, origins: map[string]origin{}}}
	var data []byte
	if path != "" {
		var err error
		if data, l.mode, err = readFile(path, maxFile); err != nil {
			return nil, nil, fmt.Errorf("read the configuration: %w", err)
		}
		l.dir = filepath.Dir(path)
		if abs, err := filepath.Abs(l.dir); err == nil {
			l.dir = abs
		}
	}
	return l.load(data)
}

// readFile reads a file of at most limit bytes, and its mode.
func readFile(path string, limit int64) ([]byte, fs.FileMode, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file, in his own configuration
	if err != nil {
		return nil, 0, err
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, 0, err
	}
	if int64(len(data)) > limit {
		return nil, 0, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, info.Mode(), nil
}

// loader is one call of Load.
type loader struct {
	env  func(string) (string, bool)
	read func(path string, limit int64) ([]byte, fs.FileMode, error)
	dir  string      // relative paths start here
	mode fs.FileMode // of the configuration file

	c        *Config
	problems Problems
	warnings Warnings
	failed   []string // keys that have a problem; Check's findings about them would only be echoes
	keys     []string // allKeys, made when first needed
}

func (l *loader) load(data []byte) (*Config, Warnings, error) {
	root, problem := parse(data)
	if problem != nil {
		problem.Source = l.c.file
		return nil, nil, Problems{*problem}
	}
	l.section("", reflect.ValueOf(l.c).Elem(), root)
	if l.c.StateDir == "" && !slices.Contains(l.failed, "state_dir") {
		l.defaultStateDir()
	}
	if len(l.problems) == 0 {
		return l.c, l.warnings, nil
	}
	for _, p := range l.c.Check() {
		if !slices.ContainsFunc(l.failed, func(key string) bool { return within(key, p.Key) || within(p.Key, key) }) {
			l.problems = append(l.problems, p)
		}
	}
	l.problems.sort()
	return l.c, l.warnings, l.problems
}

// within reports whether key is at, or a key below it.
func within(key, at string) bool {
	rest, ok := strings.CutPrefix(key, at)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// parse returns the root of the one YAML document in data; nil when there is none.
func parse(data []byte) (*yaml.Node, *Problem) {
	for i, line := range strings.SplitAfter(string(data), "\n") {
		if !utf8.ValidString(line) {
			return nil, &Problem{Line: i + 1, Message: "not valid UTF-8: save the file as UTF-8"}
		}
	}
	docs, err := yaml.NewLoader(strings.NewReader(string(data)))
	if err != nil {
		return nil, &Problem{Message: "not valid YAML: " + err.Error()}
	}
	var doc, more yaml.Node
	if err := docs.Load(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, syntax(err)
	}
	if err := docs.Load(&more); err == nil {
		return nil, &Problem{Line: more.Line, Message: `a second YAML document begins here: remove the line "---"`}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntax(err)
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// syntax turns an error of the YAML library into a Problem. The library's messages name no values,
// save those about anchors: there, what looks like a name may be a password that was not quoted.
func syntax(err error) *Problem {
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		return &Problem{Message: "not valid YAML: it cannot be parsed"}
	}
	p := &Problem{Line: le.Mark.Line, Message: "not valid YAML: " + le.Message}
	switch {
	case strings.Contains(le.Message, "anchor") || strings.Contains(le.Message, "alias"):
		p.Message = "not valid YAML: a value that begins with * or & must be put in quotes"
	case strings.Contains(le.Message, "cannot start any token"):
		p.Message += "; indent with spaces, and put a value that begins with @, ` or % in quotes"
	case strings.HasPrefix(le.ContextMsg, "while scanning a quoted scalar"):
		p.Message += fmt.Sprintf("; the quote of line %d is never closed", le.ContextMark.Line)
	}
	return p
}

// add records a problem with a key of the file.
func (l *loader) add(line int, key, format string, args ...any) {
	l.failed = append(l.failed, key)
	l.problems = append(l.problems, Problem{Key: key, Source: l.c.file, Line: line, Message: fmt.Sprintf(format, args...)})
}

// given is what the file has for one key of a section.
type given struct {
	line  int
	value *yaml.Node
}

// section fills the struct v, whose path is at, from its defaults, from node (which may be nil) and,
// for secrets, from files and the environment.
func (l *loader) section(at string, v reflect.Value, node *yaml.Node) {
	fs := fields(v.Type())
	have := l.pairs(at, fs, node)
	for _, f := range fs {
		key, fv := join(at, f.name), v.Field(f.index)
		g, ok := have[f.name]
		if ok {
			l.c.origins[key] = origin{line: g.line, from: fmt.Sprintf("%s:%d", l.c.file, g.line)}
		}
		switch f.kind {
		case kindSection:
			l.section(key, fv, g.value)
		case kindSecret:
			l.secret(key, fv, have[f.name], have[f.name+"_file"])
		default:
			if f.def != "" {
				l.preset(key, f, fv)
			}
			if ok {
				l.value(key, g.line, f, fv, g.value)
			}
		}
	}
}

// preset applies the default of a key.
func (l *loader) preset(key string, f field, v reflect.Value) {
	var doc yaml.Node
	if err := yaml.Load([]byte(f.def), &doc); err != nil || len(doc.Content) == 0 {
		l.add(0, key, "the built-in default %q is not YAML", f.def)
		return
	}
	l.value(key, 0, f, v, doc.Content[0])
}

// pairs collects the keys of a section, and reports those that are unknown or given twice.
func (l *loader) pairs(at string, fs []field, node *yaml.Node) map[string]given {
	node = resolve(node)
	if node == nil || node.ShortTag() == "!!null" {
		return nil
	}
	if node.Kind != yaml.MappingNode {
		l.add(node.Line, at, "expected %s, found %s", want[kindSection], found(node))
		return nil
	}
	var known []string
	for _, f := range fs {
		known = append(known, f.name)
		if f.kind == kindSecret {
			known = append(known, f.name+"_file")
		}
	}
	have := map[string]given{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i]
		switch first, twice := have[name.Value]; {
		case name.ShortTag() == "!!merge":
			l.add(name.Line, at, "merging with << is not supported: write the keys out")
		case name.Kind != yaml.ScalarNode || !slices.Contains(known, name.Value):
			l.unknown(at, name, known)
		case twice:
			l.add(name.Line, join(at, name.Value), "given twice, first in line %d: remove one", first.line)
		default:
			have[name.Value] = given{line: name.Line, value: node.Content[i+1]}
		}
	}
	return have
}

// unknown reports a key that does not exist, and the one that was probably meant.
func (l *loader) unknown(at string, name *yaml.Node, known []string) {
	if name.Kind != yaml.ScalarNode {
		l.add(name.Line, at, "expected the name of a key, found %s", found(name))
		return
	}
	key := join(at, printable(name.Value))
	if meant := nearest(name.Value, known); meant != "" {
		l.failed = append(l.failed, join(at, meant), join(at, strings.TrimSuffix(meant, "_file")))
		l.add(name.Line, key, "unknown key; did you mean %s?", join(at, meant))
		return
	}
	if l.keys == nil {
		l.keys = allKeys("", reflect.TypeFor[Config]())
	}
	for _, elsewhere := range l.keys {
		if plain(elsewhere[strings.LastIndex(elsewhere, ".")+1:]) == plain(name.Value) {
			l.add(name.Line, key, "unknown key here; did you mean %s?", elsewhere)
			return
		}
	}
	l.add(name.Line, key, "unknown key; the keys here are %s", strings.Join(known, ", "))
}

// secret fills a Secret from the one source that is given: the file, a file of its own, or the
// environment.
func (l *loader) secret(key string, v reflect.Value, inline, file given) {
	variable := envName(key)
	fromEnv := ""
	if l.env != nil {
		fromEnv, _ = l.env(variable)
	}
	var sources []string
	line := 0
	if inline.value != nil {
		line = inline.line
		sources = append(sources, fmt.Sprintf("line %d", line))
	}
	if file.value != nil {
		line = file.line
		sources = append(sources, fmt.Sprintf("line %d (%s_file)", line, key))
	}
	if fromEnv != "" {
		sources = append(sources, "the environment ("+variable+")")
	}
	if len(sources) > 1 {
		l.add(line, key, "set in %s: keep only one", strings.Join(sources, " and in "))
		return
	}
	var s string
	var ok bool
	switch {
	case inline.value != nil:
		if s, ok = scalar(inline.value); !ok {
			// The value itself is not shown: it may be a secret in spite of its form.
			l.add(line, key, "expected a text; if it begins with a special character, put it in quotes. For none, remove the key")
			return
		}
		if s != "" && l.mode&0o004 != 0 {
			l.warnings = append(l.warnings, Problem{Key: key, Source: l.c.file, Line: line, Message: fmt.Sprintf(
				"the configuration file can be read by everybody (mode %04o): chmod 640 it, or use %s_file", l.mode.Perm(), key)})
		}
	case file.value != nil:
		if s, ok = l.secretFile(key, line, file.value); !ok {
			return
		}
	case fromEnv != "":
		s = fromEnv
		l.c.origins[key] = origin{from: "environment " + variable}
	default:
		return
	}
	if s == redacted {
		l.add(line, key, "%q is what \"posthorn config show\" prints instead of a secret: put the secret itself here", redacted)
		return
	}
	v.Set(reflect.ValueOf(NewSecret(s)))
}

// secretFile reads the file that node, the value of a _file key, names. Line ends at its end do not
// belong to the secret.
func (l *loader) secretFile(key string, line int, node *yaml.Node) (string, bool) {
	fileKey := key + "_file"
	path, ok := scalar(node)
	if !ok || path == "" {
		l.failed = append(l.failed, key)
		l.add(line, fileKey, "expected the path of a file, found %s", found(node))
		return "", false
	}
	path = l.abs(path)
	data, mode, err := l.read(path, maxSecret)
	s := strings.TrimRight(string(data), "\r\n")
	switch {
	case err != nil:
		l.add(line, fileKey, "%v", err)
		l.problems[len(l.problems)-1].Denied = errors.Is(err, fs.ErrPermission)
	case s == "":
		l.add(line, fileKey, "%s is empty", path)
	case !utf8.ValidString(s):
		l.add(line, fileKey, "%s is not a text in UTF-8", path)
	default:
		if mode&0o044 != 0 {
			who := "its group"
			if mode&0o004 != 0 {
				who = "everybody"
			}
			l.warnings = append(l.warnings, Problem{Key: fileKey, Source: l.c.file, Line: line, Message: fmt.Sprintf(
				"%s can be read by %s (mode %04o): chmod 600 it", path, who, mode.Perm())})
		}
		l.c.origins[key] = origin{line: line, from: fmt.Sprintf("file %s (%s:%d)", path, l.c.file, line)}
		return s, true
	}
	l.failed = append(l.failed, key)
	return "", false
}

// abs makes a path relative to the configuration file absolute.
func (l *loader) abs(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(l.dir, path)
}
