package server_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/server"
)

func noEnv(string) (string, bool) { return "", false }

// zeroConfig is what serve has without a configuration file, on free ports and in a directory of its own.
func zeroConfig(t *testing.T) *config.Config {
	t.Helper()
	cfg, _, err := config.Load("", noEnv)
	must(t, err)
	cfg.StateDir = filepath.Join(t.TempDir(), "new", "state")
	cfg.Public.Listen, cfg.Internal.Listen = "127.0.0.1:0", "127.0.0.1:0"
	return cfg
}

func TestFirstStartMakesItsFiles(t *testing.T) {
	t.Parallel()
	cfg := zeroConfig(t)
	s, err := server.New(t.Context(), cfg, server.Options{})
	must(t, err)
	info, err := os.Stat(cfg.StateDir)
	must(t, err)
	if mode := info.Mode().Perm(); mode != 0o700 {
		t.Errorf("state directory has mode %o", mode)
	}
	entries, err := os.ReadDir(cfg.StateDir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %o", e.Name(), mode)
		}
	}
	for what, path := range s.Files() {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := server.New(t.Context(), cfg, server.Options{}); err == nil || !strings.Contains(err.Error(), "another posthorn") {
		t.Errorf("a second server on the directory: %v", err)
	}
	must(t, s.Close(t.Context()))
	node, err := os.ReadFile(filepath.Join(cfg.StateDir, server.NodeIDFile))
	must(t, err)
	s, err = server.New(t.Context(), cfg, server.Options{})
	must(t, err)
	must(t, s.Close(t.Context()))
	if again, err := os.ReadFile(filepath.Join(cfg.StateDir, server.NodeIDFile)); err != nil || string(again) != string(node) {
		t.Errorf("node-id %q became %q, %v", node, again, err)
	}
}

func TestWrongSealKeyDoesNotStart(t *testing.T) {
	t.Parallel()
	cfg := zeroConfig(t)
	s, err := server.New(t.Context(), cfg, server.Options{})
	must(t, err)
	must(t, s.Close(t.Context()))
	must(t, os.Remove(filepath.Join(cfg.StateDir, server.SealKeyFile)))
	if _, err := server.New(t.Context(), cfg, server.Options{}); !errors.Is(err, account.ErrWrongKey) {
		t.Errorf("started with another seal key: %v", err)
	}
}
