package posthorn_test

import (
	"encoding/json"
	"go/ast"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// metricNames are the names of all metrics, as the source has them.
func metricNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	production(t, "internal", func(_ string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			if s := text(n); strings.HasPrefix(s, "posthorn_") {
				names[s] = true
			}
			return true
		})
	})
	return names
}

// metricLabels are the labels of each metric, as docs/operating.md lists them.
func metricLabels(t *testing.T) map[string][]string {
	t.Helper()
	labels := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(posthorn_[a-z_]+)` \\|([^|]*)\\|").FindAllStringSubmatch(read(t, "docs/operating.md"), -1) {
		labels[m[1]] = []string{"instance", "job"}
		for _, l := range codeSpan.FindAllStringSubmatch(m[2], -1) {
			labels[m[1]] = append(labels[m[1]], l[1])
		}
	}
	return labels
}

var (
	metricName = regexp.MustCompile(`posthorn_[a-z_]+`)
	matcher    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping   = regexp.MustCompile(`\bby \(([^)]*)\)`)
	legend     = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}`)
)

// vocabulary is the metrics that there are, with their labels, and those that were used.
type vocabulary struct {
	names  map[string]bool
	labels map[string][]string
	used   map[string]bool
}

func newVocabulary(t *testing.T) vocabulary {
	return vocabulary{metricNames(t), metricLabels(t), map[string]bool{}}
}

// check holds an expression, and the labels that a text beside it shows, to what there is.
func (v vocabulary) check(t *testing.T, where, expr, shown string) {
	t.Helper()
	var labels []string
	found := metricName.FindAllString(expr, -1)
	for _, name := range found {
		base := name
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if b, cut := strings.CutSuffix(name, suffix); cut && v.names[b] {
				base = b
				labels = append(labels, "le")
			}
		}
		if !v.names[base] {
			t.Errorf("%s: there is no metric %s", where, name)
		}
		v.used[base] = true
		labels = append(labels, v.labels[base]...)
	}
	if len(found) == 0 {
		t.Errorf("%s: no metric of ours in %q", where, expr)
	}
	var grouped []string
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			grouped = append(grouped, strings.TrimSpace(l))
		}
	}
	for _, m := range matcher.FindAllStringSubmatch(expr, -1) {
		if !slices.Contains(labels, m[1]) {
			t.Errorf("%s: %q matches the label %s, which is not there", where, expr, m[1])
		}
	}
	for _, l := range grouped {
		if !slices.Contains(labels, l) {
			t.Errorf("%s: %q groups by %s, which is not there", where, expr, l)
		}
	}
	for _, m := range legend.FindAllStringSubmatch(shown, -1) {
		if !slices.Contains(grouped, m[1]) {
			t.Errorf("%s: %q shows the label %s, which %q does not keep", where, shown, m[1], expr)
		}
	}
	if strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "{") != strings.Count(expr, "}") {
		t.Errorf("%s: %q is not balanced", where, expr)
	}
}

// TestDashboard: deploy/grafana.json can be imported anywhere, names metrics that there are, and all of them.
func TestDashboard(t *testing.T) {
	type target struct {
		Expr, LegendFormat string
		Datasource         struct{ UID string }
	}
	var board struct {
		Title      string
		UID        string
		Templating struct {
			List []struct{ Name, Type string }
		}
		Panels []struct {
			ID          int
			Type, Title string
			GridPos     struct{ H, W, X, Y int }
			Datasource  struct{ UID string }
			Targets     []target
		}
	}
	if err := json.Unmarshal([]byte(read(t, "deploy/grafana.json")), &board); err != nil {
		t.Fatal(err)
	}
	if v := board.Templating.List; board.Title == "" || board.UID == "" || len(v) == 0 || v[0].Name != "datasource" || v[0].Type != "datasource" {
		t.Errorf("the board is %q (%s), its variables %v", board.Title, board.UID, v)
	}
	ids, words := map[int]bool{}, newVocabulary(t)
	for i, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.H == 0 {
			t.Errorf("panel %d %q: id %d, place %v", i, p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		for _, other := range board.Panels[:i] {
			a, b := p.GridPos, other.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%q lies on %q", p.Title, other.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("%q: data source %q, %d targets", p.Title, p.Datasource.UID, len(p.Targets))
		}
		for _, q := range p.Targets {
			if q.Datasource.UID != "${datasource}" {
				t.Errorf("%q: data source %q", p.Title, q.Datasource.UID)
			}
			words.check(t, p.Title, q.Expr, q.LegendFormat)
		}
	}
	for name := range words.names {
		if !words.used[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// TestAlertRules: deploy/prometheus-alerts.yml has the form of a rule file, and names metrics that there are.
func TestAlertRules(t *testing.T) {
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	d := yaml.NewDecoder(strings.NewReader(read(t, "deploy/prometheus-alerts.yml")))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		t.Fatal(err)
	}
	seen, words := map[string]bool{}, newVocabulary(t)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if seen[r.Alert] || r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" || r.For == "" {
				t.Errorf("%+v", r)
			}
			seen[r.Alert] = true
			words.check(t, r.Alert, r.Expr, r.Annotations["summary"])
		}
	}
	if len(seen) < 5 {
		t.Errorf("%d rules: the test looks in the wrong place", len(seen))
	}
}
