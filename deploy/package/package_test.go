// Package package_test builds the packages and lives their life on a Debian of its own.
package package_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// builder builds all packages for this machine, once, and the next version of those that are installed, which differs in
// its number only: a second build would find nothing that the first does not.
func builder(t *testing.T) func(*testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	must(t, err)
	out := t.TempDir()
	build := sync.OnceValue(func() error {
		const nfpm = ".tools/nfpm-v2.45.0"
		if said, err := run(t, root, nil, "make", "--silent", nfpm); err != nil {
			return fmt.Errorf("nfpm, which makes packages, cannot be built: %w\n%s", err, said)
		}
		twice := filepath.Join(out, "nfpm")
		script := "#!/bin/sh -e\n" + filepath.Join(root, nfpm) + ` "$@"; case "$*" in *rpm*) VERSION=0.1.0~2 ` + filepath.Join(root, nfpm) + ` "$@" ;; esac`
		if err := os.WriteFile(twice, []byte(script), 0o700); err != nil { //nolint:gosec // it is run
			return err
		}
		if said, err := run(t, root, []string{
			"ARCHES=" + runtime.GOARCH, "FORMATS=deb rpm container", "VERSION=0.1.0~1", "SOURCE_DATE_EPOCH=1790000000", "OUT=" + out, "NFPM=" + twice,
		}, "deploy/package/build.sh"); err != nil {
			return fmt.Errorf("build: %w\n%s", err, said)
		}
		if said, err := run(t, out, nil, "sh", "-ec", `mv *.deb 1.deb; mv *~1-*.rpm 1.rpm; mv *~2-*.rpm 2.rpm; dpkg-deb -R 1.deb next
sed -i 's/^Version: .*/Version: 0.1.0~2/' next/DEBIAN/control; dpkg-deb -Znone -b next 2.deb; rm -r next`); err != nil {
			return fmt.Errorf("the next version: %w\n%s", err, said)
		}
		return nil
	})
	return func(t *testing.T) string {
		t.Helper()
		must(t, build())
		return out
	}
}

func run(t *testing.T, dir string, env []string, command ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...) //nolint:gosec // the test's own
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestLifeOfAPackage installs, configures, runs, upgrades and removes what is built, each format in its own system.
func TestLifeOfAPackage(t *testing.T) {
	t.Parallel()
	build := builder(t)
	for name, test := range map[string]func(*testing.T, func(*testing.T) string){"deb": deb, "rpm": rpm, "container": container} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, build)
		})
	}
}

// system is a Debian that a package is installed in.
type system struct {
	t *testing.T
	*testpeer.Debian
}

func (s system) in(script string) string {
	s.t.Helper()
	out, err := s.Run(s.t.Context(), script)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (s system) is(script, want string) {
	s.t.Helper()
	if got := s.in(script); got != want {
		s.t.Errorf("%s: %q, want %q", script, got, want)
	}
}

func (s system) fails(script, want string) {
	s.t.Helper()
	if got, err := s.Run(s.t.Context(), script); err == nil || !strings.Contains(got, want) {
		s.t.Errorf("%s: %q, %v; want an error with %q", script, got, err, want)
	}
}

const (
	state    = "stat -c '%a %U:%G' /var/lib/posthorn"
	own      = `internal: {listen: "127.0.0.1:0"}` // the operator's change
	ownStill = "tail -1 /etc/posthorn/posthorn.yml"
)

// installed looks at what the first version brings, and starts it as the unit would, where no systemd runs, as in a
// container or while a system is being made.
func (s system) installed() {
	s.t.Helper()
	s.is("posthorn --version | cut -d' ' -f2", "0.1.0~1")
	s.is("posthorn config check", "The configuration is good (/etc/posthorn/posthorn.yml).")
	s.is(`posthorn config show | sed -n 's/ *# .*//; /mobile_mail_app/p'`, "capability.mobile_mail_app: 'true'")
	s.is(state, "700 posthorn:posthorn")
	s.is("systemctl is-enabled posthorn", "enabled")
	s.is("test -s /usr/share/man/man1/posthorn-push-trace.1.gz && bash -n /usr/share/bash-completion/completions/posthorn && echo good", "good")
	if said := s.in("systemd-analyze verify posthorn.service 2>&1 | grep -v 'Command .man' | grep -i posthorn || true"); said != "" {
		s.t.Errorf("the unit: %s", said)
	}

	command := s.in("sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/posthorn.service")
	s.in(`sed -i 's/127.0.0.1:8008/127.0.0.1:0/' /etc/posthorn/posthorn.yml; echo '` + own + `' >> /etc/posthorn/posthorn.yml`)
	s.is(`export STATE_DIRECTORY=/var/lib/posthorn
setpriv --reuid=posthorn --regid=posthorn --init-groups --inh-caps=-all --no-new-privs `+command+` >/tmp/out 2>&1 & pid=$!
for i in $(seq 100); do posthorn context add --name Example >/dev/null 2>&1 && break; sleep 0.1; done
posthorn context list | grep -c Example; kill $pid; wait $pid; stat -c %U /var/lib/posthorn/seal.key`, "1\nposthorn")
}

// boot starts the system where it can be, and lives the life of the service there; elsewhere it just upgrades.
func (s system) boot(upgrade func()) {
	s.t.Helper()
	if s.Boot(s.t) {
		s.service(upgrade)
	} else {
		s.t.Log("SKIPPED PEER: systemd cannot be started here (systemd-nspawn): the unit was checked, but did not run")
		upgrade()
	}
	s.is(ownStill, own)
	s.in("systemctl disable posthorn 2>/dev/null")
	upgrade()
	s.is("systemctl is-enabled posthorn || true", "disabled")
}

// service is the part of the life that needs systemd.
func (s system) service(upgrade func()) {
	t := s.t
	t.Helper()
	show := func(what string) string { return s.in("systemctl show --value -p " + what + " posthorn") }
	// Installed before systemd ran, it was started with the machine.
	s.in("systemctl restart posthorn")
	first := show("MainPID")
	if got := s.in("posthorn context list | grep -c Example"); got != "1" {
		t.Errorf("%s contexts are left", got)
	}
	if got := s.in("ps -o user= -p " + first + " 2>/dev/null || stat -c %U /proc/" + first); got != "posthorn" {
		t.Errorf("it runs as %q", got)
	}
	status := s.in("cat /proc/" + first + "/status")
	for _, want := range []string{`NoNewPrivs:\t1`, `Seccomp:\t2`, `CapBnd:\t0000000000000400`, `CapEff:\t0000000000000400`} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(status) {
			t.Errorf("its status lacks %s", want)
		}
	}
	if got := s.in("posthorn doctor | grep -c ✗ || true"); got != "0" {
		t.Errorf("the doctor finds %s faults", got)
	}
	s.in("systemctl reload posthorn")
	if got := show("MainPID"); got != first {
		t.Error("a reload made a new process")
	}
	exposed := s.in("systemd-analyze security --no-pager posthorn | tail -1")
	m := regexp.MustCompile(`posthorn.service: ([0-9.]+) `).FindStringSubmatch(exposed)
	if m == nil {
		t.Fatalf("no level in %q", exposed)
	}
	if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > 2 {
		t.Errorf("the unit is exposed: %s", exposed)
	}
	upgrade()
	if got := show("MainPID"); got == first || got == "0" {
		t.Errorf("an upgrade leaves process %s for %s", got, first)
	}
	s.in("systemctl stop posthorn")
	if got := show("Result") + " " + show("ExecMainStatus"); got != "success 0" {
		t.Errorf("it ended with %s", got)
	}
	upgrade()
	if got := show("ActiveState"); got != "inactive" {
		t.Errorf("an upgrade started what was stopped: %s", got)
	}
}

// deb is the life of the package for Debian, to its purge.
func deb(t *testing.T, build func(*testing.T) string) {
	s := system{t, testpeer.NewDebian(t)}
	out, err := run(t, build(t), nil, "cp", "1.deb", "2.deb", filepath.Join(s.Root, "root"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.in("dpkg -i /root/1.deb")
	s.is("dpkg -V posthorn", "")
	s.installed()
	s.boot(func() { s.in("dpkg -i /root/2.deb") })
	s.is("dpkg-query -W -f '${Version}' posthorn", "0.1.0~2")

	s.in("touch /etc/posthorn/own.key; dpkg -r posthorn")
	s.is(state, "700 posthorn:posthorn")
	s.is("ls /etc/posthorn /var/lib/posthorn/posthorn.db", "/var/lib/posthorn/posthorn.db\n\n/etc/posthorn:\nown.key\nposthorn.yml")
	s.in("dpkg -i /root/2.deb") // and it goes on as before
	s.is(ownStill, own)
	s.in("dpkg -P posthorn")
	s.fails("ls /var/lib/posthorn", "No such file")
	s.is("ls /etc/posthorn; getent passwd posthorn | cut -d: -f1", "own.key\nposthorn")
	s.is("find / -xdev -name '*posthorn*' -not -path '/proc/*' -not -path '/etc/posthorn' -not -path '/root/*'", "")
}

// rpm is the life of the other package. The system is Debian's, so what the package depends on is not known to RPM. The
// program comes from this machine, with its libraries: it must run inside, where its scriptlets find systemd.
func rpm(t *testing.T, build func(*testing.T) string) {
	program := testpeer.Program(t, "rpm")
	s := system{t, testpeer.NewDebian(t)}
	if out, err := run(t, build(t), nil, "sh", "-ec", `cp 1.rpm 2.rpm "$0"; mkdir "$0/rpm"; cd "$0/rpm"
cp -L "$1" $(ldd "$1" | grep -o '/[^ ]*') .; cp -RL /usr/lib/rpm config`, filepath.Join(s.Root, "root"), program); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	do := func(args string) string {
		t.Helper()
		return s.in("cd /root; export RPM_CONFIGDIR=/root/rpm/config; rpm/ld-linux-* --library-path rpm rpm/rpm " + args)
	}
	const start = "\n  posthorn config check && systemctl "
	if out := do("-i --nodeps 1.rpm"); !strings.HasSuffix(out, start+"start posthorn") {
		t.Errorf("a first installation says %q", out)
	}
	do("-V --nodeps posthorn")
	s.installed()
	s.boot(func() {
		if out := do("-U --replacepkgs --nodeps 2.rpm"); strings.Contains(out, "not started") {
			t.Errorf("an upgrade says %q", out)
		}
	})
	if got := do("-q posthorn"); !strings.HasPrefix(got, "posthorn-0.1.0~2-1.") {
		t.Errorf("installed: %q", got)
	}

	s.in("systemctl enable posthorn 2>/dev/null; ! test -d /run/systemd/system || systemctl start posthorn; touch /etc/posthorn/own.key")
	do("-e posthorn")
	s.is("pidof posthorn || true", "")
	s.is(state, "700 posthorn:posthorn")
	s.is("ls /etc/posthorn /var/lib/posthorn/posthorn.db", "/var/lib/posthorn/posthorn.db\n\n/etc/posthorn:\nown.key\nposthorn.yml.rpmsave")
	s.is("find / -xdev -name '*posthorn*' -not -path '/proc/*' -not -path '/etc/posthorn*' -not -path '/var/lib/posthorn*' -not -path '/root/*'", "")

	// Where the distribution's preset is to start nothing, it is not enabled, and says so.
	s.in("mkdir -p /etc/systemd/system-preset; echo 'disable *' >/etc/systemd/system-preset/00-test.preset; mv /etc/posthorn/posthorn.yml.rpmsave /etc/posthorn/posthorn.yml")
	if out := do("-i --nodeps 2.rpm"); !strings.HasSuffix(out, start+"enable --now posthorn") {
		t.Errorf("an installation that the preset does not enable says %q", out)
	}
	s.is(ownStill, own) // and it goes on as before
	s.is("systemctl is-enabled posthorn || true", "disabled")
}

// container builds the image without the stage that needs a registry, and runs its files as a runtime would: with its
// user, variables and command, a read-only root, and the state directory as a volume that outlives the container.
func container(t *testing.T, build func(*testing.T) string) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PEER: only root can run a container's files with its user")
	}
	program := testpeer.Program(t, "buildah")
	dir := build(t)
	storage := t.TempDir()
	do := func(args ...string) string {
		t.Helper()
		out, err := run(t, dir, []string{"BUILDAH_FORMAT=docker"}, append([]string{
			program, "--storage-driver=vfs", "--root=" + storage + "/root", "--runroot=" + storage + "/run",
		}, args...)...)
		if err != nil {
			t.Fatalf("buildah %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(out)
	}
	do("build", "--isolation=chroot", "--tag=posthorn", "container-"+runtime.GOARCH)
	var image struct {
		Docker struct {
			Config struct {
				User, StopSignal     string
				Env, Entrypoint, Cmd []string
				ExposedPorts         map[string]any
				Volumes              map[string]any
				Healthcheck          struct{ Test []string }
			} `json:"config"`
		}
	}
	must(t, json.Unmarshal([]byte(do("inspect", "--type=image", "posthorn")), &image))
	c := image.Docker.Config
	health := c.Healthcheck.Test
	if c.User != "65532:65532" || c.StopSignal != "SIGTERM" || len(c.ExposedPorts) != 2 || len(c.Volumes) != 1 || len(health) < 2 || health[0] != "CMD" {
		t.Fatalf("the image: %+v", c)
	}
	mounted := do("mount", do("from", "--pull-never", "posthorn"))
	inside := "env -i " + strings.Join(c.Env, " ") + " chroot --userspec=" + c.User + " . "
	out, err := run(t, mounted, nil, "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-ec", `
mkdir proc dev; touch dev/null; cp -a var/lib/posthorn `+storage+`/volume
mount --bind . .; cd "$PWD"
mount --bind /dev/null dev/null; mount -t proc proc proc; mount --bind `+storage+`/volume var/lib/posthorn; mount -o remount,ro,bind .
! touch written 2>/dev/null
for name in One Two; do
	`+inside+strings.Join(append(c.Entrypoint, c.Cmd...), " ")+` >`+storage+`/log 2>&1 & pid=$!
	for i in $(seq 100); do `+inside+strings.Join(health[1:], " ")+` && break; sleep 0.1; done >/dev/null 2>&1
	`+inside+`/usr/bin/posthorn context add --name $name
	grep Uid: proc/$pid/status; kill -TERM $pid; wait $pid || { cat `+storage+`/log; exit 1; }
done
stat -c '%a %u:%g' `+storage+`/volume`)
	if want := "Context 1 (One) added.\nUid:\t65532\t65532\t65532\t65532\nContext 2 (Two) added.\nUid:\t65532\t65532\t65532\t65532\n700 65532:65532\n"; err != nil || out != want {
		t.Errorf("it ran: %v\n%s", err, out)
	}
	if log, err := os.ReadFile(storage + "/log"); err != nil || !strings.Contains(string(log), `"msg":"stopped"`) { //nolint:gosec // a path of ours
		t.Errorf("its log: %s (%v)", log, err)
	}
}
