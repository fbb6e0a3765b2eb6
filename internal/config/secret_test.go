package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

func TestSecretNeverPrints(t *testing.T) {
	s := NewSecret("canary")
	type holder struct {
		S  Secret
		P  *Secret
		M  map[string]Secret
		in Secret
	}
	h := holder{s, &s, map[string]Secret{"k": s}, s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%c", "%10.3s"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", &s)
		fmt.Fprintf(&out, verb+"\n", h)
		fmt.Fprintf(&out, verb+"\n", &h)
	}
	fmt.Fprintln(&out, s, fmt.Errorf("wrapped %v", s))
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", slog.Any("s", s), slog.Any("h", h.S), slog.Any("p", h.P))
	slog.New(slog.NewJSONHandler(&out, nil)).Info("json", slog.Any("s", s), slog.Any("h", h))
	asJSON, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Dump(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(asJSON)
	out.Write(asYAML)
	if text := out.String(); strings.Contains(text, "canary") || strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", "canary")) {
		t.Errorf("the secret is printed:\n%s", text)
	}
	if got := s.String() + NewSecret("").String() + (Secret{}).String(); got != redacted {
		t.Errorf("String: %q", got)
	}
	if s.Reveal() != "canary" || !NewSecret("").IsSet() || (Secret{}).IsSet() {
		t.Error("Reveal or IsSet")
	}
}

func TestSecretSources(t *testing.T) {
	files := map[string]string{ //nolint:gosec // not credentials
		"/etc/posthorn/pw": "from file\r\n\n", "/run/pw": "absolute", "/etc/posthorn/empty": "\n", "/etc/posthorn/bin": "\xff\xfe",
	}
	const text = "internal:\n  notify:\n    "
	variable := fakeEnv{"POSTHORN_INTERNAL_NOTIFY_PASSWORD": "from environment", "HOME": "/home/p"}
	none := fakeEnv{"POSTHORN_INTERNAL_NOTIFY_PASSWORD": "", "HOME": "/home/p"}
	for _, tc := range []struct {
		name, text   string
		env          fakeEnv
		want, origin string
	}{
		{"key", text + "password: here", none, "here", "posthorn.yml:3"},
		{"file", text + "password_file: pw", none, "from file", "file /etc/posthorn/pw (posthorn.yml:3)"},
		{"absolute file", text + "password_file: /run/pw", none, "absolute", "file /run/pw (posthorn.yml:3)"},
		{"environment", "", variable, "from environment", "environment POSTHORN_INTERNAL_NOTIFY_PASSWORD"},
		{"none", "", none, "", "default"},
	} {
		c, _, err := loadText(tc.text, tc.env, files)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if got := c.Internal.Notify.Password.Reveal(); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		if got := c.Origin("internal.notify.password"); got != tc.origin {
			t.Errorf("%s: origin %q, want %q", tc.name, got, tc.origin)
		}
	}

	for _, tc := range []struct {
		name, text string
		env        fakeEnv
		want       string
	}{
		{
			"key and file", text + "password: canary\n    password_file: pw", none,
			`posthorn.yml:4: internal.notify.password: set in line 3 and in line 4 (internal.notify.password_file): keep only one`,
		},
		{
			"key and environment", text + "password: canary", variable,
			`posthorn.yml:3: internal.notify.password: set in line 3 and in the environment (POSTHORN_INTERNAL_NOTIFY_PASSWORD): keep only one`,
		},
		{
			"empty key and environment", text + "password: ''", variable,
			`posthorn.yml:3: internal.notify.password: set in line 3 and in the environment (POSTHORN_INTERNAL_NOTIFY_PASSWORD): keep only one`,
		},
		{"missing file", text + "password_file: x", none, `posthorn.yml:3: internal.notify.password_file: open /etc/posthorn/x: file does not exist`},
		{"empty file", text + "password_file: empty", none, `posthorn.yml:3: internal.notify.password_file: /etc/posthorn/empty is empty`},
		{"binary file", text + "password_file: bin", none, `posthorn.yml:3: internal.notify.password_file: /etc/posthorn/bin is not a text in UTF-8`},
		{"no path", text + "password_file:", none, `posthorn.yml:3: internal.notify.password_file: expected the path of a file, found nothing`},
		{
			"no value", text + "password:", none,
			`posthorn.yml:3: internal.notify.password: expected a text; if it begins with a special character, put it in quotes. For none, remove the key`,
		},
		{
			"a list", text + "password: [canary]", none,
			`posthorn.yml:3: internal.notify.password: expected a text; if it begins with a special character, put it in quotes. For none, remove the key`,
		},
		{
			"a tag", text + "password: !canary x", none,
			`posthorn.yml:3: internal.notify.password: expected a text; if it begins with a special character, put it in quotes. For none, remove the key`,
		},
		{"an alias", text + "password: *canary", none, `posthorn.yml:3: not valid YAML: a value that begins with * or & must be put in quotes`},
		{
			"copied from show", text + "password: '[redacted]'", none,
			`posthorn.yml:3: internal.notify.password: "[redacted]" is what "posthorn config show" prints instead of a secret: put the secret itself here`,
		},
		{
			"bad in the environment", "",
			fakeEnv{"POSTHORN_DATABASE_URL": "canary", "HOME": "/home/p"},
			`environment POSTHORN_DATABASE_URL: database.url: it must begin with postgres:// or sqlite:`,
		},
		{
			"bad in a file", "database:\n  url_file: pw\n", none,
			`posthorn.yml:2: database.url: it must begin with postgres:// or sqlite:`,
		},
	} {
		if got := findings(tc.text, tc.env, files); got != tc.want {
			t.Errorf("%s\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

func TestSecretsOfEntries(t *testing.T) {
	env := fakeEnv{"POSTHORN_TRANSPORTS_FCM_APPS_1_SERVICE_ACCOUNT": "{}", "STATE_DIRECTORY": "/s"}
	c, _, err := loadText("transports: {fcm: {apps: [{client: a, service_account: x}, {client: b}]}}", env, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Transports.FCM.Apps[1].ServiceAccount.Reveal(); got != "{}" {
		t.Errorf("got %q", got)
	}
}

func TestWarnings(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // the umask does not count
			t.Fatal(err)
		}
		return path
	}
	write("tight", "x", 0o600)
	write("group", "x", 0o640)
	write("all", "postgres://h/n", 0o644)
	file := write("posthorn.yml", "database:\n  url_file: all\ninternal:\n  notify:\n    password_file: group\n"+
		"transports:\n  webpush:\n    vapid_key: x\n  fcm:\n    apps:\n    - service_account_file: tight\n", 0o644)
	_, warnings, err := Load(file, fakeEnv{"STATE_DIRECTORY": "/s"}.get)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		file + ":2: database.url_file: " + dir + "/all can be read by everybody (mode 0644): chmod 600 it",
		file + ":5: internal.notify.password_file: " + dir + "/group can be read by its group (mode 0640): chmod 600 it",
		file + ":8: transports.webpush.vapid_key: the configuration file can be read by everybody (mode 0644): chmod 640 it, or use transports.webpush.vapid_key_file",
	}
	for i := range max(len(want), len(warnings)) {
		got, expected := "", ""
		if i < len(warnings) {
			got = warnings[i].String()
		}
		if i < len(want) {
			expected = want[i]
		}
		if got != expected {
			t.Errorf("warning %d\n got %s\nwant %s", i, got, expected)
		}
	}
}
