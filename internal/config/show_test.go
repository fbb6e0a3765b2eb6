package config

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func TestRedactedYAML(t *testing.T) {
	env := fakeEnv{"STATE_DIRECTORY": "/s", "POSTHORN_DATABASE_URL": "postgres://h/canary"}
	c, _, err := loadText(`push:
  allowed_clients: [com.*, "yes"]
  new_mail_ttl: 36h
public:
  trusted_proxies: [10.0.0.0/8]
internal:
  notify:
    password_file: pw
transports:
  fcm:
    enabled: true
    apps:
      - service_account: canary
`, env, map[string]string{"/etc/posthorn/pw": "canary"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.RedactedYAML()
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/show.golden"
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	settings, err := json.Marshal(c.Settings())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(got)+string(settings), "canary") {
		t.Error("a secret is shown")
	}
	for _, s := range c.Settings() {
		name := s.Key[strings.LastIndex(s.Key, ".")+1:]
		if !strings.Contains(string(got), name+": ") {
			t.Errorf("%s is not shown", s.Key)
		}
	}
}

// TestShownDefaultsLoad: without secrets, what show prints can be used as a configuration.
func TestShownDefaultsLoad(t *testing.T) {
	c, _, err := loadText("", fakeEnv{"STATE_DIRECTORY": "/s"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.RedactedYAML()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, ": null ") { // a secret that is not set
			lines = append(lines, line)
		}
	}
	if got := findings(strings.Join(lines, ""), nil, nil); got != "" {
		t.Errorf("%s\n%s", got, out)
	}
}
