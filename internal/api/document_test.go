package api

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the list of operations into docs/admin-api.md")

// TestOperationsInDocs holds the list in docs/admin-api.md to the table.
func TestOperationsInDocs(t *testing.T) {
	t.Parallel()
	const page, from, to = "../../docs/admin-api.md", "<!-- operations -->\n", "<!-- /operations -->"
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), from)
	list, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the list", page)
	}
	want := "\n| operation | request | does | beside the operator |\n|---|---|---|---|\n"
	var a API
	for _, o := range a.operations() {
		who := strings.Join(o.who()[1:], ", ")
		if o.open {
			who = "everybody"
		}
		want += fmt.Sprintf("| %s | `%s %s` | %s | %s |\n", o.id, o.method, o.path, o.summary, who)
	}
	if want += "\n"; list == want {
		return
	}
	if !*update {
		t.Fatal("the list of operations is out of date: go test ./internal/api -run OperationsInDocs -update")
	}
	if err := os.WriteFile(page, []byte(before+from+want+to+after), 0o644); err != nil { //nolint:gosec // a page
		t.Fatal(err)
	}
}

// TestTable: each line is whole, and names the parameters of its path as they are described.
func TestTable(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	var a API
	for f, table := range map[*face][]operation{&adminFace: a.operations(), &deviceFace: a.deviceOperations()} {
		seen := map[string]bool{}
		for _, o := range table {
			where := o.method + " " + o.path
			if o.id == "" || o.tag == "" || o.summary == "" || o.status == 0 || seen[o.id] || seen[where] {
				t.Errorf("%s (%s) is not whole, or there twice", o.id, where)
			}
			ways := slices.DeleteFunc([]bool{o.do != nil, o.page != nil, o.raw != nil}, func(there bool) bool { return !there })
			if len(ways) != 1 || o.do == nil && o.media == nil {
				t.Errorf("%s needs one of do, page and raw, and media without do", o.id)
			}
			seen[o.id], seen[where] = true, true
			if strings.HasSuffix(o.summary, ".") {
				t.Errorf("%s: the summary ends with a full stop", o.id)
			}
			for _, name := range pathParameters(o.path) {
				if _, ok := f.params[name]; !ok {
					t.Errorf("%s: {%s} is not described", o.id, name)
				}
			}
			for _, status := range o.refuses {
				if f.refusals[status] == "" {
					t.Errorf("%s: status %d is not described", o.id, status)
				}
			}
			if o.do != nil && o.out == nil != (o.status == 204) {
				t.Errorf("%s: status %d with an answer %T", o.id, o.status, o.out)
			}
			if f == &deviceFace && !strings.Contains(string(raw), "`"+where) {
				t.Errorf("docs/api.md does not name %s", where)
			}
			if f == &adminFace && slices.Contains([]string{"server", "keys", "mail hosts", "context sets"}, o.tag) && o.roles != 0 {
				t.Errorf("%s is the operator's alone", o.id)
			}
		}
	}
}
