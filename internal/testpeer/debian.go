package testpeer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// debianRelease is the oldest release that the packages are for.
const debianRelease = "bookworm"

// Debian is a small system of its own in a directory, for packages to be installed in.
type Debian struct {
	Root   string
	booted bool
}

var debian struct {
	once sync.Once
	dir  string
	err  error
}

// NewDebian makes a fresh system, which ends with the test. It is made of packages once, which needs the network and
// half a minute, and copied from then on.
func NewDebian(tb testing.TB) *Debian {
	tb.Helper()
	if os.Geteuid() != 0 {
		missing(tb, "only root can install packages into a system of their own")
	}
	for _, program := range []string{"debootstrap", "unshare", "chroot"} {
		if _, ok := find(program, "/usr/sbin", "/sbin"); !ok {
			missing(tb, "%s is not installed (apt-get install debootstrap)", program)
		}
	}
	debian.once.Do(func() { debian.dir, debian.err = makeDebian(tb.Context()) })
	if debian.err != nil {
		missing(tb, "no Debian can be made: %v", debian.err)
	}
	dir, err := shortDir()
	if err != nil {
		tb.Fatalf("debian: %v", err)
	}
	d := &Debian{Root: filepath.Join(dir, "root")}
	tb.Cleanup(func() {
		// What ran inside ends a little later than what had started it, and may write until then.
		deadline := time.Now().Add(30 * time.Second)
		for {
			err := os.RemoveAll(dir)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				tb.Errorf("debian: %v", err)
				return
			}
			<-time.After(50 * time.Millisecond)
		}
	})
	if out, err := exec.CommandContext(tb.Context(), "cp", "-a", "--reflink=auto", debian.dir, d.Root).CombinedOutput(); err != nil { //nolint:gosec // paths of ours
		tb.Fatalf("copy debian: %v\n%s", err, out)
	}
	return d
}

// makeDebian builds the system that is copied into the user's cache.
func makeDebian(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "posthorn-tests")
	if err := os.MkdirAll(cache, 0o755); err != nil { //nolint:gosec // G301: other users' programs run in it
		return "", err
	}
	dir := filepath.Join(cache, "debian-"+debianRelease)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	own, err := os.MkdirTemp(cache, "debootstrap-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(own) //nolint:errcheck // it has another name by then, or is of no use
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	root := filepath.Join(own, "root")
	//nolint:gosec // every word is ours
	cmd := exec.CommandContext(ctx, "debootstrap", "--variant=minbase", "--include=ca-certificates,systemd,systemd-sysv,dbus", debianRelease, root)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("debootstrap: %w\n%s", err, tail(string(out)))
	}
	return dir, os.Rename(root, dir)
}

// tail is the last lines of a text.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// Boot starts systemd in it, as the machine would. It returns false where that cannot be, as in many containers.
func (d *Debian) Boot(tb testing.TB) bool {
	tb.Helper()
	nspawn, ok := find("systemd-nspawn")
	if !ok {
		return false
	}
	p := newPeer(tb, filepath.Join(filepath.Dir(d.Root), "systemd"), nspawn, "--register=no", "--keep-unit", "--quiet", "--private-network",
		"--console=pipe", "--kill-signal=SIGRTMIN+3", "--directory="+d.Root, "--boot")
	d.booted = true
	ctx, cancel := context.WithTimeout(tb.Context(), 40*time.Second)
	defer cancel()
	for p.guard.alive() && ctx.Err() == nil { // which takes 20 ms to say
		if out, err := d.Run(ctx, "systemctl is-system-running || true"); err == nil &&
			(strings.Contains(out, "running") || strings.Contains(out, "degraded")) {
			return true
		}
	}
	tb.Logf("systemd does not come up:\n%s", tail(p.logs()))
	return false
}

// Run runs a script inside, as root.
func (d *Debian) Run(ctx context.Context, script string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	inside := []string{"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "sh", "-ec", script}
	args := append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc=" + d.Root + "/proc", "chroot", d.Root}, inside...)
	program := "unshare"
	if d.booted {
		leader, err := d.leader()
		if err != nil {
			return "", err
		}
		program, args = "nsenter", append([]string{"--target", leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--"}, inside...)
	}
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput() //nolint:gosec // the test's own script
	if err != nil {
		return string(out), fmt.Errorf("%s: %w\n%s", script, err, tail(string(out)))
	}
	return string(out), nil
}

// leader finds the first process of the booted system: the child of who booted it.
func (d *Debian) leader() (string, error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return "", err
	}
	for _, p := range all {
		status, err := os.ReadFile(filepath.Join(p, "status")) //nolint:gosec // of the kernel
		if err != nil {
			continue // it has ended
		}
		parent, first := "", false
		for line := range strings.Lines(string(status)) {
			switch f := strings.Fields(line); {
			case len(f) > 2 && f[0] == "NSpid:":
				first = f[len(f)-1] == "1"
			case len(f) > 1 && f[0] == "PPid:":
				parent = f[1]
			}
		}
		command, err := os.ReadFile(filepath.Join("/proc", parent, "cmdline"))
		if err == nil && first && strings.Contains(string(command), "\x00--directory="+d.Root+"\x00") {
			return filepath.Base(p), nil
		}
	}
	return "", fmt.Errorf("no system runs in %s", d.Root)
}
