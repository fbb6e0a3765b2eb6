package server

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// stateOnly is an environment without secrets.
func stateOnly(name string) (string, bool) {
	if name == "STATE_DIRECTORY" {
		return "/s", true
	}
	return "", false
}

// load reads a configuration, with files beside it.
func load(t *testing.T, text string, beside map[string]string) (*config.Config, string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "posthorn.yml")
	if beside == nil {
		beside = map[string]string{}
	}
	beside["posthorn.yml"] = text
	for name, text := range beside {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, _, err := config.Load(file, stateOnly)
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

// TestPropertiesOfFiles: old keys, properties and context sets come together, each with its line.
func TestPropertiesOfFiles(t *testing.T) {
	t.Parallel()
	c, dir := load(t, `push:
  privacy: sender
  allowed_clients: [a*, b]
sessions: {lifetime: 36h}
transports: {webpush: {privacy: none}}
properties:
  com.openexchange.capability.mobile_mail_app: true
  push.max_subscriptions: 5
`, map[string]string{
		"contextsets/b.yml":    "trial:\n  withTags: trial\n  priority: 1\n  push.privacy: none\n",
		"contextsets/a.yaml":   "paying:\n  with_tags: premium & !blocked\n",
		"contextsets/note.txt": "no set", "contextsets/.hidden.yml": "{", "contextsets/old.yml/x": "",
	})
	f, problems := readProperties(c, "")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	base, _ := cascade.Standard.Compile(f, cascade.Stored{})
	v := base.View()
	if cascade.PushPrivacy.Of(v) != "sender" || strings.Join(cascade.AllowedClients.Of(v), " ") != "a* b" || cascade.SessionLifetime.Of(v).Hours() != 36 ||
		cascade.PushPrivacyWebPush.Of(v) != "none" || !cascade.MobileMailApp.Of(v) || cascade.MaxSubscriptions.Of(v) != 5 || cascade.MaxSessions.Of(v) != 50 {
		t.Errorf("%+v", f.Server)
	}
	if len(f.Sets) != 2 || f.Sets[0].Name != "paying" || f.Sets[1].Priority != 1 || f.Sets[1].Values[0].Origin != filepath.Join(dir, "contextsets/b.yml")+":4" {
		t.Errorf("%+v", f.Sets)
	}
	e, err := cascade.Standard.Explain("push.privacy", base.Server())
	if err != nil || e.Winner.Origin != filepath.Join(dir, "posthorn.yml")+":2" {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestPropertyProblems: each is reported with its line, and what to do.
func TestPropertyProblems(t *testing.T) {
	t.Parallel()
	c, dir := load(t, `push:
  privacy: none
properties:
  push.privasy: none
  push.privacy: none
  capability.push: maybe
context_sets_dir: sets
`, map[string]string{
		"sets/a.yml": "a:\n  withTags: a & (b\n  app.clients: x\n",
		"sets/b.yml": "b:\n  withTags: b\n  app.clients: x\n  pushprivacy: none\n",
		"sets/c.yml": "c: [\n",
		"sets/d.yml": "b:\n  withTags: b\nd:\n  push.privacy: none\n",
		"sets/e.yml": "b:\n  withTags: x\n",
	})
	problems, _ := Check(c)
	got := strings.ReplaceAll(problems.Error(), dir+"/", "")
	for _, want := range []string{
		"sets/a.yml:1: a: withTags expected ) at character 7, found the end; the form is",
		"sets/b.yml:3: app.clients: may not be set at scope contextset: set it at server",
		"sets/b.yml:4: pushprivacy: there is no such property; did you mean push.privacy?",
		"sets/c.yml:", "sets/d.yml:3: d: withTags is empty: say which tags",
		"sets/e.yml:1: b: this context set is there twice, first at sets/b.yml:1",
		"posthorn.yml:4: properties.push.privasy: there is no such property; did you mean push.privacy?",
		"posthorn.yml:5: properties.push.privacy: is set twice, first at posthorn.yml:2: remove one",
		`posthorn.yml:6: properties.capability.push: "maybe" must be true or false`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s\nin\n%s", want, got)
		}
	}
	c, _ = load(t, "context_sets_dir: none\n", nil)
	if problems, _ := Check(c); len(problems) != 1 || problems[0].Key != "context_sets_dir" {
		t.Errorf("a directory that is not there: %v", problems)
	}
}

// TestBuiltIn: without a file the app is on, and says why.
func TestBuiltIn(t *testing.T) {
	t.Parallel()
	c, _, err := config.Load("", stateOnly)
	if err != nil {
		t.Fatal(err)
	}
	for builtIn, want := range map[string]string{"": noFile, "built in: demo": "built in: demo"} {
		f, problems := readProperties(c, builtIn)
		if len(problems) > 0 || len(f.Server) != 1 || f.Server[0].Origin != want {
			t.Errorf("%+v, %v", f, problems)
		}
	}
	c, _ = load(t, "log: {}\n", nil)
	if f, problems := readProperties(c, ""); len(problems) > 0 || len(f.Server) != 0 {
		t.Errorf("with a file: %+v, %v", f, problems)
	}
}

// TestReadAtMost: what has no end to wait for is refused, lest a reload never end.
func TestReadAtMost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir, "/dev/zero"} {
		if _, err := readAtMost(path, 10); err == nil || !strings.Contains(err.Error(), "no file that can be read") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
