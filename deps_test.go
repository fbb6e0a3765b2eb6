package posthorn_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/posthorn-mail/posthorn/"

// policy is the import table of docs/architecture.md: package -> the packages of ours that it may
// import. A statement of policy, not a description: relaxing a line needs a decision record.
var policy = map[string]string{
	// ground
	"internal/config":   "",
	"internal/db":       "",
	"internal/seal":     "",
	"internal/outbound": "",
	"internal/bus":      "",
	"internal/outcome":  "", // decision 0002
	"internal/problem":  "", // decision 0002

	// wires
	"internal/imap":    "",
	"internal/apns":    "outbound outcome",
	"internal/fcm":     "outbound outcome",
	"internal/webpush": "outbound outcome",

	// people
	"internal/tenant":          "db seal bus tenant/cascade tenant/hostrule tenant/brand",
	"internal/tenant/cascade":  "", // decision 0025
	"internal/tenant/hostrule": "", // decision 0025
	"internal/tenant/brand":    "", // decision 0025
	"internal/account":         "db seal bus outbound tenant tenant/cascade imap",
	"internal/audit":           "db",      // decision 0026
	"internal/certificate":     "db seal", // decision 0033

	// events
	"internal/event":             "bus",
	"internal/subscription":      "db seal bus tenant tenant/cascade account",
	"internal/push":              "db bus subscription apns fcm webpush outcome",
	"internal/dispatch":          "db event account tenant tenant/cascade subscription push",
	"internal/notify":            "event account tenant dispatch problem",
	"internal/cluster":           "bus",
	"internal/listen":            "db bus account tenant cluster event dispatch imap subscription listen/dovecot listen/idle listen/mailnotify", // decision 0024
	"internal/listen/dovecot":    "account tenant event dispatch imap subscription",
	"internal/listen/idle":       "account tenant event dispatch imap subscription",
	"internal/listen/mailnotify": "account tenant event dispatch imap subscription",

	// mail
	"internal/mirror":    "db account imap event cluster",
	"internal/jmap":      "mirror account event problem",
	"internal/jmap/mail": "jmap mirror account event problem",
	"internal/submit":    "db account mirror",

	// faces
	"internal/onboard": "tenant tenant/brand tenant/cascade tenant/hostrule account push imap outbound",
	"internal/api":     "tenant tenant/brand tenant/cascade tenant/hostrule account audit event subscription push dispatch listen cluster onboard problem",
	"internal/server": "config db seal outbound certificate bus outcome problem imap apns fcm webpush tenant tenant/brand tenant/cascade tenant/hostrule account audit original event subscription push " +
		"dispatch notify cluster listen listen/dovecot listen/idle listen/mailnotify mirror jmap jmap/mail submit onboard api",

	// beside
	"internal/fake":  "apns fcm webpush",
	"internal/demo":  "server fake config",
	"internal/bench": "server fake config db seal push apns webpush outcome", // decision 0008

	"internal/original": "config apns tenant/cascade tenant/hostrule", // decision 0027

	// tests only
	"internal/testpeer": "fake",

	"cmd/posthorn": "config server demo bench api original",
}

// TestImports holds every production file to the table. Test files are free, save that only they may
// import testpeer. The files are parsed here, not by a subprocess: the test cache sees what we open.
func TestImports(t *testing.T) {
	seen := map[string]bool{}
	for _, root := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") {
				return err
			}
			dir := path.Dir(filepath.ToSlash(p))
			allowed, ok := policy[dir]
			if !ok {
				t.Errorf("%s: package %s has no line in the policy; give it one, and a decision record", p, dir)
				return nil
			}
			seen[dir] = true
			f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, spec := range f.Imports {
				imp, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				rel, ours := strings.CutPrefix(imp, module)
				if !ours || rel == dir {
					continue
				}
				if strings.HasSuffix(p, "_test.go") {
					continue
				}
				if rel == "internal/testpeer" || !slices.Contains(strings.Fields(allowed), strings.TrimPrefix(rel, "internal/")) {
					t.Errorf("%s: %s must not import %s", p, dir, rel)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !seen["cmd/posthorn"] || len(seen) < 10 {
		t.Fatalf("walked only %v: the test looks in the wrong place", slices.Sorted(maps.Keys(seen)))
	}
}

// TestPolicyIsAcyclic fails on a table that would allow a cycle, before any code makes one.
func TestPolicyIsAcyclic(t *testing.T) {
	const (
		open = 1
		done = 2
	)
	state := map[string]int{}
	var visit func(p string, trail []string)
	visit = func(p string, trail []string) {
		switch state[p] {
		case done:
			return
		case open:
			t.Errorf("cycle in the policy: %s", strings.Join(append(trail, p), " -> "))
			return
		}
		state[p] = open
		for imp := range strings.FieldsSeq(policy[p]) {
			if _, ok := policy["internal/"+imp]; !ok {
				t.Errorf("%s may import %q, which has no line of its own", p, imp)
			}
			visit("internal/"+imp, append(trail, p))
		}
		state[p] = done
	}
	for p := range policy {
		visit(p, nil)
	}
}
