package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestImportHandsOver imports as root for a server that runs as another user.
func TestImportHandsOver(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can give files away")
	}
	const user = 64911
	dir := t.TempDir()
	etc, state, out := filepath.Join(dir, "etc"), filepath.Join(dir, "state"), filepath.Join(dir, "out")
	for _, d := range []string{etc, state} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const properties = "com.openexchange.rest.services.basic-auth.login=a\ncom.openexchange.rest.services.basic-auth.password=secret of the push URL\n"
	if err := os.WriteFile(filepath.Join(etc, "server.properties"), []byte(properties), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(state, user, user); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	args := []string{"--state-dir", state, "config", "import", etc, "--user-form", "login", "--out", out, "--write"}
	if code := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr, nil); code != 0 {
		t.Fatalf("exit code %d: %s%s", code, stdout.String(), stderr.String())
	}
	n := 0
	for _, d := range []string{state, out} {
		entries, err := os.ReadDir(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			n++
			if of, err := owner(filepath.Join(d, e.Name())); err != nil || of.Uid != user || of.Gid != user {
				t.Errorf("%s belongs to %+v, %v", e.Name(), of, err)
			}
		}
	}
	if n < 6 {
		t.Errorf("only %d files", n)
	}
}
