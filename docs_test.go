package posthorn_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// The documents are held to the code: what they name must exist. Everything is read in this process,
// so that the test cache sees it.

var (
	fence      = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	link       = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	symbolLink = regexp.MustCompile("\\[`([a-z]+)\\.([A-Za-z.]+)`\\]\\(([^)\\s]+\\.go)\\)")
	codeSpan   = regexp.MustCompile("`([^`\n]+)`")
	goSymbol   = regexp.MustCompile(`^([a-z]+)\.([A-Z]\w*(?:\.\w+)?)$`)
	configKey  = regexp.MustCompile(`^[a-z_]+(\.[a-z_]+(\[\])?)*$`)
)

// documents returns the Markdown files of the root and of docs by path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			docs[f] = read(t, f)
		}
	}
	if len(docs) < 15 {
		t.Fatalf("found only %d documents: the test looks in the wrong place", len(docs))
	}
	return docs
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file) //nolint:gosec // a file of this repository
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// production calls visit with every production file below root.
func production(t *testing.T, root string, visit func(file string, f *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
		if err == nil {
			visit(filepath.ToSlash(p), f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// text is the value of a string literal, or "".
func text(e ast.Node) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, _ := strconv.Unquote(lit.Value)
	return s
}

// declared lists what a file declares: "Name" and "Type.Method".
func declared(f *ast.File) []string {
	var names []string
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				recv := d.Recv.List[0].Type
				if star, ok := recv.(*ast.StarExpr); ok {
					recv = star.X
				}
				if id, ok := recv.(*ast.Ident); ok {
					name = id.Name + "." + name
				}
			}
			names = append(names, name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					names = append(names, s.Name.Name)
				case *ast.ValueSpec:
					for _, id := range s.Names {
						names = append(names, id.Name)
					}
				}
			}
		}
	}
	return names
}

func TestDocsLinks(t *testing.T) {
	docs := documents(t)
	for file, doc := range docs {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(doc, ""), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := file
			if target != "" {
				to = path.Join(path.Dir(file), target)
			}
			if _, err := os.Stat(to); err != nil || path.IsAbs(target) {
				t.Errorf("%s: nothing at %s", file, m[1])
			} else if anchor != "" && !slices.Contains(anchors(docs[to]), anchor) {
				t.Errorf("%s: %s has no such heading: %s", file, to, m[1])
			}
		}
	}
}

// anchors are the names that headings have on the repository host, and those given by hand.
func anchors(doc string) []string {
	var all []string
	for line := range strings.Lines(fence.ReplaceAllString(doc, "")) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && line[0] == '#' {
			all = append(all, strings.Map(func(r rune) rune {
				switch {
				case unicode.IsSpace(r):
					return '-'
				case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
					return unicode.ToLower(r)
				}
				return -1
			}, strings.TrimSpace(heading)))
		}
		if _, id, ok := strings.Cut(line, `<a id="`); ok {
			all = append(all, id[:strings.Index(id, `"`)])
		}
	}
	return all
}

// TestDocsSymbols looks for every function and type that a document names; one that is a link must be
// declared in the file that the link leads to.
func TestDocsSymbols(t *testing.T) {
	inFile, inPackage := map[string][]string{}, map[string][]string{}
	production(t, "internal", func(file string, f *ast.File) {
		inFile[file] = declared(f)
		inPackage[f.Name.Name] = append(inPackage[f.Name.Name], inFile[file]...)
	})
	links := 0
	for file, doc := range documents(t) {
		for _, m := range symbolLink.FindAllStringSubmatch(doc, -1) {
			links++
			to := path.Join(path.Dir(file), m[3])
			if path.Base(path.Dir(to)) != m[1] || !slices.Contains(inFile[to], m[2]) {
				t.Errorf("%s: %s declares no %s.%s", file, to, m[1], m[2])
			}
		}
		for _, m := range codeSpan.FindAllStringSubmatch(fence.ReplaceAllString(doc, ""), -1) {
			s := goSymbol.FindStringSubmatch(m[1])
			if s != nil && inPackage[s[1]] != nil && !slices.Contains(inPackage[s[1]], s[2]) {
				t.Errorf("%s: there is no %s", file, m[1])
			}
		}
	}
	if links < 20 {
		t.Errorf("only %d links to functions: the test looks in the wrong place", links)
	}
}

// TestWayOfAMessage holds the page to its promise: fewer than ten hops, each with a function to read.
func TestWayOfAMessage(t *testing.T) {
	hops := strings.Split(read(t, "docs/way-of-a-message.md"), "\n### ")[1:]
	if len(hops) >= 10 {
		t.Errorf("%d hops", len(hops))
	}
	for i, hop := range hops {
		hop, _, _ = strings.Cut(hop, "\n## ")
		if !strings.HasPrefix(hop, strconv.Itoa(i+1)+". ") || !symbolLink.MatchString(hop) {
			t.Errorf("hop %d is misnumbered or names no function: %.40q", i+1, hop)
		}
	}
}

// TestArchitectureTable compares the import table for people with the one that deps_test.go enforces.
func TestArchitectureTable(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| `((?:internal|cmd)/[^`]+)` \\| (.*) \\| (.*) \\|$")
	listed := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(read(t, "docs/architecture.md"), -1) {
		pkg := m[1]
		listed[pkg] = true
		allowed, ok := policy[pkg]
		var may []string
		for _, w := range codeSpan.FindAllStringSubmatch(m[3], -1) {
			may = append(may, w[1])
		}
		want := strings.Fields(allowed)
		slices.Sort(may)
		slices.Sort(want)
		if !ok || !slices.Equal(may, want) {
			t.Errorf("%s: the page says it may import %q, the policy %q", pkg, may, want)
		}
		files, err := filepath.Glob(pkg + "/*.go")
		if built := err == nil && len(files) > 0; built == strings.Contains(m[2], "*(not built)*") {
			t.Errorf("%s: built is %v, the page says otherwise", pkg, built)
		}
	}
	for pkg := range policy {
		if !listed[pkg] {
			t.Errorf("%s is missing in docs/architecture.md", pkg)
		}
	}
}

// TestDependenciesPage compares docs/dependencies.md with the direct requirements of go.mod.
func TestDependenciesPage(t *testing.T) {
	mod, _, _ := strings.Cut(read(t, "go.mod"), "\n)\n\nrequire (") // the second block is indirect
	page := read(t, "docs/dependencies.md")
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (v[^ ]+) \\|").FindAllStringSubmatch(page, -1)
	var want, have []string
	for _, m := range regexp.MustCompile(`(?m)^\t([^ ]+) (v[^ ]+)$`).FindAllStringSubmatch(mod, -1) {
		want = append(want, m[1]+" "+m[2])
	}
	for _, m := range rows {
		have = append(have, m[1]+" "+m[2])
	}
	slices.Sort(want)
	slices.Sort(have)
	if len(want) < 10 || !slices.Equal(want, have) {
		t.Errorf("go.mod requires\n%s\nand the page lists\n%s", strings.Join(want, "\n"), strings.Join(have, "\n"))
	}
}

// TestDocsConfigurationKeys looks for every configuration key that a document names.
func TestDocsConfigurationKeys(t *testing.T) {
	docs := documents(t)
	keys := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^###? `([^`]+)`$").FindAllStringSubmatch(docs["docs/configuration.md"], -1) {
		keys[m[1]] = true
	}
	for _, m := range regexp.MustCompile("(?m)^## `([^`]+)`$").FindAllStringSubmatch(docs["docs/properties.md"], -1) {
		keys[m[1]] = true // a property may be named like a key
	}
	named := 0
	for file, doc := range docs {
		doc = symbolLink.ReplaceAllString(fence.ReplaceAllString(doc, ""), "")
		for _, m := range codeSpan.FindAllStringSubmatch(doc, -1) {
			section, _, dotted := strings.Cut(m[1], ".")
			if !dotted || !keys[section] || !configKey.MatchString(m[1]) {
				continue
			}
			named++
			if !keys[m[1]] && !keys[strings.TrimSuffix(m[1], "_file")] {
				t.Errorf("%s: there is no key %s", file, m[1])
			}
		}
	}
	if len(keys) < 30 || named < 30 {
		t.Fatalf("%d keys, %d named: the test looks in the wrong place", len(keys), named)
	}
}

// command is one subcommand of posthorn, as its source declares it.
type command struct {
	name  string
	subs  []string // the functions that make its subcommands
	flags []string
	calls []string // the methods it calls
}

// commands reads the functions of cmd/posthorn that make a command, by their names. Flags that several commands
// have come from a method that they call.
func commands(t *testing.T) map[string]command {
	t.Helper()
	all, shared := map[string]command{}, map[string][]string{}
	production(t, "cmd/posthorn", func(_ string, f *ast.File) {
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			var c command
			ast.Inspect(fn, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Use" && c.name == "" {
						c.name, _, _ = strings.Cut(text(n.Value), " ")
					}
				case *ast.CallExpr:
					c.call(n)
				}
				return true
			})
			if c.name != "" {
				all[fn.Name.Name] = c
			} else {
				shared[fn.Name.Name] = c.flags
			}
		}
	})
	for name, c := range all {
		for _, called := range c.calls {
			c.flags = append(c.flags, shared[called]...)
		}
		all[name] = c
	}
	return all
}

// call takes in what one call adds to a command.
func (c *command) call(n *ast.CallExpr) {
	sel, ok := n.Fun.(*ast.SelectorExpr)
	if !ok {
		return
	}
	switch name := sel.Sel.Name; {
	case name == "AddCommand":
		for _, arg := range n.Args {
			if made, ok := arg.(*ast.CallExpr); ok {
				if sel, ok := made.Fun.(*ast.SelectorExpr); ok {
					c.subs = append(c.subs, sel.Sel.Name)
				}
			}
		}
	case name == "jsonFlag" || name == "listFlag":
		c.flags = append(c.flags, "json")
	case strings.HasSuffix(name, "Var") && len(n.Args) > 1:
		c.flags = append(c.flags, text(n.Args[1]))
	default:
		c.calls = append(c.calls, name)
	}
}

// TestDocsCommands looks for every command and flag of posthorn that a document shows.
func TestDocsCommands(t *testing.T) {
	all := commands(t)
	root, shown := all["root"], 0
	find := func(parent command, name string) (command, bool) {
		for _, sub := range parent.subs {
			if all[sub].name == name {
				return all[sub], true
			}
		}
		return command{}, false
	}
	check := func(file, line string) {
		_, rest, ok := strings.Cut(" "+line, "posthorn ")
		if !ok {
			return
		}
		rest = regexp.MustCompile(`"[^"]*"`).ReplaceAllString(rest, "QUOTED")
		rest = regexp.MustCompile(` [#|&>;].*`).ReplaceAllString(rest, "")
		at, flags, skip := root, root.flags, false
		for w := range strings.FieldsSeq(rest) {
			switch flag, isFlag := strings.CutPrefix(w, "--"); {
			case skip:
				skip = false
			case isFlag:
				if !slices.Contains(flags, flag) {
					t.Errorf("%s: posthorn %s: there is no flag %s", file, rest, w)
				}
				skip = len(at.subs) > 0 // the flags before a command have a value
			case len(at.subs) > 0:
				if at, ok = find(at, w); !ok {
					t.Errorf("%s: posthorn %s: there is no command %s", file, rest, w)
					return
				}
				shown++
				flags = append(slices.Clone(root.flags), at.flags...)
			}
		}
	}
	for file, doc := range documents(t) {
		for _, m := range fence.FindAllStringSubmatch(doc, -1) {
			for line := range strings.Lines(m[2]) {
				if line = strings.TrimPrefix(line, "./bin/"); m[1] == "sh" && strings.HasPrefix(line, "posthorn ") {
					check(file, line)
				}
			}
		}
		for _, m := range codeSpan.FindAllStringSubmatch(fence.ReplaceAllString(doc, ""), -1) {
			if strings.HasPrefix(m[1], "posthorn ") {
				check(file, m[1])
			}
		}
	}
	if shown < 30 {
		t.Errorf("only %d commands shown: the test looks in the wrong place", shown)
	}
}

// TestDocsVocabulary looks for the words that leave the program (metrics, reasons, log messages) in the
// page that explains them, and for those of the page in the program.
func TestDocsVocabulary(t *testing.T) {
	literals := map[string]bool{}
	metrics, reasons := metricNames(t), map[string]string{} // reason -> page
	production(t, "internal", func(file string, f *ast.File) {
		dir := path.Base(path.Dir(file))
		ast.Inspect(f, func(n ast.Node) bool {
			if s := text(n); s != "" {
				literals[s] = true
			}
			switch n := n.(type) {
			case *ast.ValueSpec:
				known := strings.HasPrefix(n.Names[0].Name, "reason") || strings.HasPrefix(n.Names[0].Name, "Reason") || dir == "dispatch"
				if known && len(n.Values) == 1 && (dir == "notify" || dir == "tenant" || dir == "dispatch") {
					if s := text(n.Values[0]); regexp.MustCompile(`^[a-z_]+$`).MatchString(s) {
						reasons[s] = "docs/notify.md"
					}
				}
			case *ast.CallExpr:
				sel, ok := n.Fun.(*ast.SelectorExpr)
				if ok && sel.Sel.Name == "New" && len(n.Args) == 3 && (dir == "notify" || path.Base(file) == "api.go") {
					if s := text(n.Args[1]); s != "" {
						reasons[s] = map[string]string{"notify": "docs/notify.md", "api": "docs/api.md"}[dir]
					}
				}
			}
			return true
		})
	})
	for _, admin := range []string{"exists", "in_use"} { // of the admin socket, whose client is the command line
		delete(reasons, admin)
	}
	for reason, page := range reasons {
		if !strings.Contains(read(t, page), "`"+reason+"`") {
			t.Errorf("%s does not explain %s", page, reason)
		}
	}
	manual := read(t, "docs/operating.md")
	for name := range metrics {
		if !strings.Contains(manual, "| `"+name+"` |") {
			t.Errorf("docs/operating.md does not list the metric %s", name)
		}
	}
	for _, name := range regexp.MustCompile("`(posthorn_[a-z_]+)").FindAllStringSubmatch(manual, -1) {
		if !metrics[name[1]] {
			t.Errorf("docs/operating.md: there is no metric %s", name[1])
		}
	}
	_, messages, _ := strings.Cut(manual, "| message | level |")
	messages, _, _ = strings.Cut(messages, "\n\n")
	found := 0
	for line := range strings.Lines(messages) {
		cells := strings.Split(line, "|")
		for _, m := range codeSpan.FindAllStringSubmatch(cells[min(1, len(cells)-1)], -1) {
			if found++; !literals[m[1]] {
				t.Errorf("docs/operating.md: nothing logs %q", m[1])
			}
		}
	}
	if len(reasons) < 15 || len(metrics) < 4 || found < 5 {
		t.Errorf("%v, %v, %d messages: the test looks in the wrong place", slices.Sorted(maps.Keys(reasons)), metrics, found)
	}
}

// TestDovecotSnippets holds what README shows to the files in deploy.
func TestDovecotSnippets(t *testing.T) {
	blocks := fence.FindAllStringSubmatch(read(t, "README.md"), -1)
	shown := 0
	for _, m := range blocks {
		file := "deploy/dovecot-2.3.conf"
		if strings.Contains(m[2], "push_notification_ox_url") {
			file = "deploy/dovecot-2.4.conf"
		}
		if m[1] != "" || !strings.Contains(m[2], "push_notification") {
			continue
		}
		shown++
		snippet := read(t, file)
		for line := range strings.Lines(m[2]) {
			if !strings.Contains(snippet, "\n"+line) {
				t.Errorf("%s lacks the line of README.md %q", file, line)
			}
		}
	}
	if shown != 2 {
		t.Errorf("README.md shows %d snippets for Dovecot, want 2.3 and 2.4", shown)
	}
}

// TestListenerFlow holds the picture of the listeners' flow, and the table below it, to the questions that the
// code asks.
func TestListenerFlow(t *testing.T) {
	page, err := os.ReadFile("docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	picture, err := os.ReadFile("docs/img/listener-flow.svg")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile("internal/listen/flow.go")
	if err != nil {
		t.Fatal(err)
	}
	questions := regexp.MustCompile(`\tAsk\w+ = "(\w+)"`).FindAllStringSubmatch(string(code), -1)
	if len(questions) != 4 {
		t.Fatalf("flow.go has %d questions: the test looks in the wrong place", len(questions))
	}
	drawn := regexp.MustCompile(`font-weight="600"[^>]*>(\w+)<`).FindAllStringSubmatch(string(picture), -1)
	for i, q := range questions {
		if !strings.Contains(string(page), "| `"+q[1]+"` | ") || !strings.Contains(string(page), "`listener."+q[1]+"`") {
			t.Errorf("docs/operating.md does not explain %q", q[1])
		}
		if i >= len(drawn) || drawn[i][1] != q[1] {
			t.Errorf("docs/img/listener-flow.svg draws %q, want %q as question %d", drawn, q[1], i+1)
		}
	}
}
