package cascade_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

var update = flag.Bool("update", false, "write the generated files instead of comparing them")

const (
	pagePath = "../../../docs/properties.md"
	pageHead = `<!-- Generated from internal/tenant/cascade/properties.go by: go test ./internal/tenant/cascade -run Generate -update -->

# Properties

A property is a setting that may differ from one tenant to the next. It is set at scopes, from the least to the most
specific: ` + "`server`, `contextset`, `reseller`, `context`, `user`" + `. The most specific value holds; what is set nowhere has
its default. [Who may do what](operating.md#who-may-do-what-the-cascade) tells how to set them and how to find out why a
value holds; ` + "`posthorn property types`" + ` prints this page.

- A **list** is written with commas between its entries; in YAML a list will do as well.
- A **duration** is written like ` + "`90d`, `24h` or `1h30m`" + `; a day has 24 hours.
- A **protected** property is set by the operator only: in files, by the command line, or with an operator's key. Resellers and
  brands cannot change it.
- Each **alias** may be written instead of the name, everywhere.
`
)

func page() string {
	var b strings.Builder
	b.WriteString(pageHead)
	code := func(words []string) string { return "`" + strings.Join(words, "`, `") + "`" }
	for _, d := range cascade.Standard.Definitions() {
		fmt.Fprintf(&b, "\n## `%s`\n\n", d.Name)
		kind := "A " + d.Type
		switch {
		case d.One != nil:
			kind = "One of " + code(d.One)
		case d.Min != "":
			kind += ", at least " + d.Min + ", at most " + d.Max
		case d.Type == cascade.Int:
			kind = "An int"
		case d.Type == cascade.Bool:
			kind = "`true` or `false`"
		}
		value := "empty"
		if d.Default != "" {
			value = "`" + d.Default + "`"
		}
		var scopes []string
		for _, s := range d.Scopes {
			scopes = append(scopes, s.String())
		}
		fmt.Fprintf(&b, "%s. Default: %s. May be set at: %s.", kind, value, strings.Join(scopes, ", "))
		if d.Protected {
			b.WriteString(" Protected.")
		}
		b.WriteString("\n\n" + d.Doc + "\n")
		if len(d.Aliases) > 0 {
			b.WriteString("\nAliases: " + code(d.Aliases) + "\n")
		}
	}
	return b.String()
}

func TestGenerate(t *testing.T) {
	if *update {
		if err := os.WriteFile(pagePath, []byte(page()), 0o644); err != nil { //nolint:gosec // documentation is for everybody
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(pagePath)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != page() {
		t.Errorf("%s differs from properties.go; run: go test ./internal/tenant/cascade -run Generate -update", pagePath)
	}
}
