package testpeer

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// judges names the packages from npm by version and checksum.
//
//go:embed node/package.json node/package-lock.json
var judges embed.FS

const (
	// leastNode is the oldest major version that the packages take.
	leastNode = 20
	// npmTimeout bounds an installation, and nodeTimeout a script.
	npmTimeout, nodeTimeout = 2 * time.Minute, 2 * time.Minute
)

// noJudge ends the test because the packages cannot be had. Not even POSTHORN_REQUIRE_PEERS=1 makes that a
// failure: no package of Debian's brings them, and the registry is not ours.
func noJudge(tb testing.TB, format string, args ...any) {
	tb.Helper()
	tb.Skip("SKIPPED PEER: " + fmt.Sprintf(format, args...))
}

// modules is where the packages are, once for this process.
var modules struct {
	once sync.Once
	dir  string
	err  error
}

// errOffline means that the registry does not answer.
var errOffline = errors.New("the npm registry cannot be reached")

// Node returns a command that runs a script of the test's with the packages of node/package.json at hand: see
// there for which. They are installed at the first call, outside the source tree, in the user's cache, where
// the next run finds them. The command ends with the test. Without Node 20 and npm, or without the registry
// at the first call, the test is skipped.
func Node(tb testing.TB, script string, args ...string) *exec.Cmd {
	tb.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		noJudge(tb, "Node is not installed: the judges from npm need version %d", leastNode)
	}
	out, err := exec.CommandContext(tb.Context(), node, "--version").Output() //nolint:gosec // found in the search path
	major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
	if n, nerr := strconv.Atoi(major); err != nil || nerr != nil || n < leastNode {
		noJudge(tb, "Node is %q: the judges from npm need version %d", strings.TrimSpace(string(out)), leastNode)
	}
	modules.once.Do(func() { modules.dir, modules.err = installJudges(tb.Context()) })
	switch {
	case errors.Is(modules.err, errOffline), errors.Is(modules.err, exec.ErrNotFound):
		noJudge(tb, "%v", modules.err)
	case modules.err != nil:
		tb.Fatalf("install the judges from npm: %v", modules.err)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), nodeTimeout)
	tb.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, node, append([]string{script}, args...)...) //nolint:gosec // the test's own script
	cmd.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(modules.dir, "node_modules"))
	return cmd
}

// installJudges returns the directory that holds node_modules. Several test processes may do this at a time:
// each installs for itself, and the first to be done has its directory kept.
func installJudges(ctx context.Context) (string, error) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "posthorn-tests")
	lock, err := judges.ReadFile("node/package-lock.json")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "node-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o750); err != nil {
		return "", err
	}
	own, err := os.MkdirTemp(cache, "install-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(own) //nolint:errcheck // it has another name by then, or is of no use
	for _, name := range []string{"package.json", "package-lock.json"} {
		text, err := judges.ReadFile("node/" + name)
		if err == nil {
			err = os.WriteFile(filepath.Join(own, name), text, 0o600)
		}
		if err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, npmTimeout)
	defer cancel()
	// ci takes the versions and checksums of the lock file; nothing of the packages is run by it.
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1") //nolint:gosec // found in the search path
	cmd.Dir = own
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil || offline(string(out)) {
			return "", errOffline
		}
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	if err := os.Rename(own, dir); err != nil {
		if _, there := os.Stat(dir); there != nil {
			return "", err
		}
	}
	return dir, nil
}

// offline tells a registry that cannot be reached from one that says no.
func offline(output string) bool {
	for _, code := range []string{"ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH", "ERR_SOCKET_TIMEOUT", "ENOTCACHED"} {
		if strings.Contains(output, code) {
			return true
		}
	}
	return false
}
