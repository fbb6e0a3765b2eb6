// Package testpeer starts the real servers that tests talk to: a disposable Dovecot 2.3 and a
// disposable PostgreSQL, both from the distribution's packages, both away from the system's own
// instances, both as root or as an ordinary user.
//
// It is imported by tests only. It does not imitate a peer, and does not install one: install.sh
// beside this file does, where it may. A test that asks for a peer this machine lacks is skipped
// with a message that begins "SKIPPED PEER: "; with POSTHORN_REQUIRE_PEERS=1 it fails instead.
//
// [Node] is beside these: it runs scripts with packages from npm, which judge what Posthorn sends and what its
// fakes answer. It never fails for want of them.
//
// # No process and no directory is left
//
// Every server runs under a guard: a small shell, in a session of its own, which holds the read end of
// a pipe whose only write end is in the test process (see guard.go). When that end is closed, by
// cleanup or because the test process ended in whatever way (panic, time-out, kill -9), the guard ends
// the server and removes its directory. Only a signal that kills the guard itself too, such as a
// container being torn down, can leave a directory behind.
//
// # Concurrency
//
// [PostgresURL] may be called by parallel tests. A [Dovecot] belongs to the test that started it;
// deliveries may run in parallel, Stop and Start may not run beside anything else.
package testpeer

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// requirePeers is the environment variable which turns a missing peer from a skip into a failure.
const requirePeers = "POSTHORN_REQUIRE_PEERS"

// missing ends the test because the machine lacks a peer.
func missing(tb testing.TB, format string, args ...any) {
	tb.Helper()
	text := "SKIPPED PEER: " + fmt.Sprintf(format, args...)
	if os.Getenv(requirePeers) == "1" {
		tb.Fatal(text)
	}
	tb.Skip(text)
}

// find returns the first program that exists: by the search path, then in the given directories
// (patterns), since an ordinary user's path often lacks the sbin directories.
func find(program string, dirs ...string) (string, bool) {
	if p, err := exec.LookPath(program); err == nil {
		return p, true
	}
	for _, dir := range dirs {
		found, err := filepath.Glob(filepath.Join(dir, program))
		if err == nil && len(found) > 0 {
			return found[len(found)-1], true
		}
	}
	return "", false
}

// Program finds a program that judges what we make, as openssl does.
func Program(tb testing.TB, name string) string {
	tb.Helper()
	path, ok := find(name)
	if !ok {
		missing(tb, "%s is not installed", name)
	}
	return path
}

// shortDir makes a directory fit for a server: the path of a UNIX socket inside must stay below 108
// bytes, and a server that gives up root must still be able to reach it.
func shortDir() (string, error) {
	parent := os.TempDir()
	if len(parent) > 40 || strings.ContainsAny(parent, " \t") || !open(parent) {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "posthorn-")
	if err != nil {
		return "", fmt.Errorf("make server directory: %w", err)
	}
	//nolint:gosec // G302: servers that gave up root traverse it; the secrets of a test are no secrets
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("open server directory: %w", err)
	}
	return dir, nil
}

// open reports whether everybody may traverse dir and its parents.
func open(dir string) bool {
	for {
		fi, err := os.Stat(dir)
		if err != nil || fi.Mode()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}
