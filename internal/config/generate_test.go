package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated files instead of comparing them")

const (
	samplePath = "../../deploy/posthorn.yml"
	pagePath   = "../../docs/configuration.md"
	width      = 100 // columns of generated text
)

const sampleHead = `# The configuration of Posthorn.
#
# Every key is here, commented out, with its default or with an example. To change one, remove the #
# directly before its name (for an entry of a list, in each of its lines) and leave the spaces before
# the # as they are. Without any change, and without any file at all, Posthorn works.
#
# "posthorn config check" finds mistakes, "posthorn config show" prints what is in force and where it
# came from. Relative paths start at this file. A secret, such as vapid_key_file, may also be written
# here as vapid_key, or be given in the environment: docs/configuration.md names the variables.
#
# Generated from internal/config/config.go by: go test ./internal/config -run Generate -update
`

const pageHead = `<!-- Generated from internal/config/config.go by: go test ./internal/config -run Generate -update -->

# Configuration

Posthorn reads one YAML file. Every key has a default, and no file at all works too. ` + "`deploy/posthorn.yml`" + `
is a sample with every key.

- ` + "`posthorn config check`" + ` names everything that is wrong, with file and line, and what to do.
- ` + "`posthorn config show`" + ` prints every key with the value in force and where it came from.
- A key that does not exist, or that is given twice, is an error, never ignored.
- A **secret** is given in exactly one of three ways: by its key, by a file that its ` + "`_file`" + ` key names
  (line ends at the end of the file are dropped), or by its environment variable (an empty one counts as
  not set). A secret's file should be readable by its owner only; otherwise Posthorn warns.
- A **duration** is written like ` + "`90d`, `24h`, `1h30m` or `500ms`" + `; a day has 24 hours.
- A **network** is written like ` + "`10.0.0.0/8`, `2001:db8::/32`" + ` or as a single address.
- Relative paths start at the directory of the configuration file.
- Entries of a list are counted from 0, in messages and in the names of environment variables.
`

// doc is what the comment on a field says.
type doc struct {
	effect               []string // paragraphs
	def, danger, example string
}

// readDocs parses the comments of config.go: struct name -> field name -> doc.
func readDocs(t *testing.T) map[string]map[string]doc {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]map[string]doc{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		st, ok := spec.Type.(*ast.StructType)
		if !ok {
			return false
		}
		docs[spec.Name.Name] = map[string]doc{}
		for _, field := range st.Fields.List {
			docs[spec.Name.Name][field.Names[0].Name] = parseDoc(field.Doc.Text())
		}
		return false
	})
	return docs
}

func parseDoc(comment string) doc {
	var d doc
	paragraph := "" // to which the next line belongs
	into := &paragraph
	flush := func() {
		if paragraph != "" {
			d.effect = append(d.effect, paragraph)
		}
		paragraph = ""
		into = &paragraph
	}
	labels := map[string]*string{"Default: ": &d.def, "Danger: ": &d.danger, "Example: ": &d.example}
	for line := range strings.Lines(comment) {
		line = strings.TrimSpace(line)
		if line == "" {
			flush()
			continue
		}
		for label, target := range labels {
			if rest, ok := strings.CutPrefix(line, label); ok {
				flush()
				into, line = target, rest
			}
		}
		*into = strings.TrimSpace(*into + " " + line)
	}
	flush()
	return d
}

// wrap breaks text into lines of at most width columns, each with the prefix.
func wrap(prefix, text string) string {
	var b strings.Builder
	line := prefix
	for word := range strings.FieldsSeq(text) {
		if line != prefix && len(line)+1+len(word) > width {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = prefix
		}
		if line != prefix {
			line += " "
		}
		line += word
	}
	return b.String() + strings.TrimRight(line, " ") + "\n"
}

// limits says which values a key may have.
func limits(f field, quote string) string {
	switch {
	case len(f.one) > 0:
		return "One of " + quote + strings.Join(f.one, quote+", "+quote) + quote + "."
	case f.max != "":
		return "At least " + f.min + ", at most " + f.max + "."
	default:
		return ""
	}
}

// sample writes the keys of a section; indent stands before each line. In the entries of a list, indent
// holds a # of its own, so that removing it brings the entry to life; first then begins the first key.
func sample(docs map[string]map[string]doc, st reflect.Type, indent, first string) string {
	var b strings.Builder
	entry := first != ""
	for _, f := range fields(st) {
		d := docs[st.Name()][st.Field(f.index).Name]
		ft := st.Field(f.index).Type
		name, value := f.name, f.def
		if f.kind == kindSecret {
			name += "_file"
		}
		if d.example != "" {
			value = d.example
		}
		blank := ""
		if !entry && (indent == "" || f.index > 0) {
			blank = "\n"
		}
		effect := d.effect
		if entry && value == "" && len(effect) > 0 {
			// Nothing to show: the key is only told of.
			effect = append([]string{name + ": " + effect[0]}, effect[1:]...)
		}
		b.WriteString(blank)
		for _, p := range effect {
			b.WriteString(wrap(indent+"# ", p))
		}
		if l := limits(f, ""); l != "" {
			b.WriteString(wrap(indent+"# ", l))
		}
		if d.def != "" {
			b.WriteString(wrap(indent+"# ", "Default: "+d.def))
		}
		if d.danger != "" {
			b.WriteString(wrap(indent+"# ", "Danger: "+d.danger))
		}
		switch {
		case entry || d.example == "":
		case d.def != "":
			b.WriteString(indent + "# An example:\n")
		default:
			b.WriteString(indent + "# Default: none. An example:\n")
		}
		switch {
		case f.kind == kindSection:
			b.WriteString(indent + name + ":\n" + sample(docs, ft, indent+"  ", ""))
		case f.kind == kindEntries:
			b.WriteString(indent + "#" + name + ":\n" + sample(docs, ft.Elem(), indent+"#    ", indent+"#  - "))
		case entry && value != "" && f.index == 0:
			b.WriteString(first + name + ": " + value + "\n")
		case entry && value != "":
			b.WriteString(indent + name + ": " + value + "\n")
		case !entry:
			b.WriteString(indent + "#" + name + ": " + value + "\n")
		}
	}
	return b.String()
}

// page writes the documentation of the keys of a section.
func page(docs map[string]map[string]doc, st reflect.Type, at string) string {
	var keys, sections strings.Builder
	for _, f := range fields(st) {
		d := docs[st.Name()][st.Field(f.index).Name]
		ft := st.Field(f.index).Type
		key := join(at, f.name)
		b := &keys
		level := "### "
		if f.kind == kindSection {
			b, level = &sections, "## "
		} else if at == "" {
			level = "## "
		}
		fmt.Fprintf(b, "\n%s`%s`\n\n", level, key)
		if f.kind != kindSection {
			b.WriteString(wrap("", kindLine(f, d, key)) + "\n")
		}
		for i, p := range d.effect {
			if i > 0 {
				b.WriteString("\n")
			}
			b.WriteString(wrap("", p))
		}
		if d.danger != "" {
			b.WriteString("\n" + wrap("", "**Danger:** "+d.danger))
		}
		if d.example != "" && f.kind != kindSecret {
			b.WriteString("\n" + wrap("", "Example: `"+d.example+"`"))
		}
		switch f.kind {
		case kindSection:
			b.WriteString(page(docs, ft, key))
		case kindEntries:
			b.WriteString(page(docs, ft.Elem(), key+"[]"))
		default:
		}
	}
	return keys.String() + sections.String()
}

// kindLine says what a key's value looks like, and its default.
func kindLine(f field, d doc, key string) string {
	names := map[kind]string{
		kindEntries: "A list of entries with the keys below.", kindText: "A text.", kindFlag: "`true` or `false`.", kindNumber: "A whole number.",
		kindDuration: "A duration.", kindTexts: "A list of texts.", kindNetworks: "A list of networks.",
		kindProperties: "[Properties](properties.md) with their values.",
	}
	line := names[f.kind]
	switch {
	case f.kind == kindSecret:
		line = fmt.Sprintf("A secret: `%s`, `%s_file` or `%s`.", key, key, envName(strings.ReplaceAll(key, "[]", "[0]")))
	case f.path:
		line = "A path."
	case len(f.one) > 0:
		line = ""
	}
	line += " " + limits(f, "`")
	def := d.def
	switch {
	case def == "" && f.def != "":
		def = "`" + f.def + "`."
	case def == "" && (f.kind == kindTexts || f.kind == kindNetworks || f.kind == kindEntries):
		def = "an empty list."
	case def == "":
		def = "none."
	}
	return strings.TrimSpace(line) + " Default: " + def
}

func TestGenerate(t *testing.T) {
	docs := readDocs(t)
	for path, text := range map[string]string{
		samplePath: sampleHead + sample(docs, reflect.TypeFor[Config](), "", ""),
		pagePath:   pageHead + page(docs, reflect.TypeFor[Config](), ""),
	} {
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // documentation is for everybody
				t.Fatal(err)
			}
			continue
		}
		have, err := os.ReadFile(path) //nolint:gosec // one of the two constants above
		if err != nil {
			t.Fatal(err)
		}
		if string(have) != text {
			t.Errorf("%s differs from the comments in config.go; run: go test ./internal/config -run Generate -update", path)
		}
	}
}

func TestEveryKeyIsDocumented(t *testing.T) {
	docs := readDocs(t)
	var visit func(st reflect.Type)
	visit = func(st reflect.Type) {
		for _, f := range fields(st) {
			sf := st.Field(f.index)
			where := st.Name() + "." + sf.Name
			d := docs[st.Name()][sf.Name]
			if len(d.effect) == 0 {
				t.Errorf("%s has no comment", where)
			}
			if (f.kind == kindNumber || f.kind == kindDuration) && (f.min == "" || f.max == "" || f.def == "") {
				t.Errorf("%s: numbers and durations need default, min and max", where)
			}
			if f.kind == kindSecret && d.def == "" && !strings.HasSuffix(st.Name(), "App") {
				t.Errorf("%s: say what happens without the secret", where)
			}
			switch f.kind {
			case kindSection:
				visit(sf.Type)
			case kindEntries:
				visit(sf.Type.Elem())
			default:
			}
		}
	}
	visit(reflect.TypeFor[Config]())
}

// TestSampleIsTheDefault: the sample as delivered changes nothing, and every line of it that can be
// uncommented is a valid one.
func TestSampleIsTheDefault(t *testing.T) {
	env := fakeEnv{"HOME": "/home/p"}
	fromSample, _, err := Load(samplePath, env.get)
	if err != nil {
		t.Fatal(err)
	}
	fromNothing, _, err := Load("", env.get)
	if err != nil {
		t.Fatal(err)
	}
	fromSample.file, fromSample.origins = fromNothing.file, fromNothing.origins
	if !reflect.DeepEqual(fromSample, fromNothing) {
		t.Errorf("the sample changes a default:\n%+v\n%+v", fromSample, fromNothing)
	}

	text, err := os.ReadFile(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	live := regexp.MustCompile(`(?m)^( *)#( {2,}|[^ \n])`).ReplaceAllString(string(text), "$1$2")
	live = strings.ReplaceAll(live, "enabled: false", "enabled: true")
	live = strings.Replace(live, "url_file: /etc/posthorn/bus-url", "", 1)                   // either this or a mesh
	live = strings.Replace(live, "certificate_file: /etc/posthorn/tls/fullchain.pem", "", 1) // either this or acme
	live = strings.Replace(live, "key_file: /etc/posthorn/tls/privkey.pem", "", 1)
	live = strings.Replace(live, "agree_terms: false", "agree_terms: true", 1)
	c, _, err := loadText(live, env, map[string]string{
		"/etc/posthorn/database-url": "postgres://db/p", "/etc/posthorn/bus-url": "nats://n:4222", "/etc/posthorn/notify-password": "p", "/etc/posthorn/vapid.pem": "p",
		"/etc/posthorn/AuthKey_ABC123DEFG.p8": "p", "/etc/posthorn/firebase.json": "{}",
		"/etc/posthorn/bus/node1.key": "p",
		"/etc/posthorn/passphrase":    "correct horse battery", "/etc/posthorn/passphrase.old": "p",
	})
	if err != nil {
		t.Fatalf("uncommented:\n%v\n%s", err, live)
	}
	if problems := c.Check(); len(problems) > 0 {
		t.Errorf("uncommented:\n%v", problems)
	}
	for _, s := range c.Settings() {
		name := s.Key[strings.LastIndex(s.Key, ".")+1:]
		if s.Origin == "default" && s.Key != "public.tls.key" && !strings.Contains("certificate_file certificate_password url other_url ca_file package endpoint", name) {
			t.Errorf("%s is not in the sample", s.Key)
		}
	}
}
