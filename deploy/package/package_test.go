// Package package_test builds the packages and lives their life on a Debian of its own.
package package_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// debs builds the package for this machine, and puts it where the system sees it: as 1.deb, and as the next version.
func debs(t *testing.T, d *testpeer.Debian) {
	t.Helper()
	root, err := filepath.Abs("../..")
	must(t, err)
	const nfpm = ".tools/nfpm-v2.45.0"
	if out, err := run(t, root, nil, "make", "--silent", nfpm); err != nil {
		t.Fatalf("nfpm, which makes packages, cannot be built: %v\n%s", err, out)
	}
	out := t.TempDir()
	if said, err := run(t, root, []string{
		"ARCHES=" + runtime.GOARCH, "FORMATS=deb", "VERSION=0.1.0~1", "SOURCE_DATE_EPOCH=1790000000", "OUT=" + out, "NFPM=" + filepath.Join(root, nfpm),
	}, "deploy/package/build.sh"); err != nil {
		t.Fatalf("build: %v\n%s", err, said)
	}
	made, err := filepath.Glob(out + "/*.deb")
	must(t, err)
	if len(made) != 1 {
		t.Fatalf("packages: %q", made)
	}
	must(t, os.Rename(made[0], filepath.Join(out, "1.deb")))
	// The next version differs in its number only: a second build would find nothing that the first does not.
	if said, err := run(t, out, nil, "sh", "-ec", "dpkg-deb -R 1.deb next; sed -i 's/^Version: .*/Version: 0.1.0~2/' next/DEBIAN/control; "+
		"dpkg-deb -Znone -b next 2.deb; cp 1.deb 2.deb "+filepath.Join(d.Root, "root")); err != nil {
		t.Fatalf("the next version: %v\n%s", err, said)
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

// TestLifeOfAPackage installs, configures, runs, upgrades, removes and purges, first where no systemd runs, as in a
// container or while a system is being made; then, where systemd can be started, with the service itself.
func TestLifeOfAPackage(t *testing.T) {
	t.Parallel()
	d := testpeer.NewDebian(t)
	debs(t, d)
	in := func(script string) string {
		t.Helper()
		out, err := d.Run(t.Context(), script)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	is := func(script, want string) {
		t.Helper()
		if got := in(script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	fails := func(script, want string) {
		t.Helper()
		if got, err := d.Run(t.Context(), script); err == nil || !strings.Contains(got, want) {
			t.Errorf("%s: %q, %v; want an error with %q", script, got, err, want)
		}
	}
	const state = "stat -c '%a %U:%G' /var/lib/posthorn"

	in("dpkg -i /root/1.deb")
	is("posthorn --version | cut -d' ' -f2", "0.1.0~1")
	is("posthorn config check", "The configuration is good (/etc/posthorn/posthorn.yml).")
	is(`posthorn config show | sed -n 's/ *# .*//; /mobile_mail_app/p'`, "capability.mobile_mail_app: 'true'")
	is(state, "700 posthorn:posthorn")
	is("systemctl is-enabled posthorn", "enabled")
	is("test -s /usr/share/man/man1/posthorn-push-trace.1.gz && bash -n /usr/share/bash-completion/completions/posthorn && echo good", "good")
	is("dpkg -V posthorn", "")
	if said := in("systemd-analyze verify posthorn.service 2>&1 | grep -v 'Command .man' | grep -i posthorn || true"); said != "" {
		t.Errorf("the unit: %s", said)
	}

	// As the unit would start it, without systemd.
	command := in("sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/posthorn.service")
	in(`sed -i 's/127.0.0.1:8008/127.0.0.1:0/' /etc/posthorn/posthorn.yml; echo 'internal: {listen: "127.0.0.1:0"}' >> /etc/posthorn/posthorn.yml`)
	is(`export STATE_DIRECTORY=/var/lib/posthorn
setpriv --reuid=posthorn --regid=posthorn --init-groups --inh-caps=-all --no-new-privs `+command+` >/tmp/out 2>&1 & pid=$!
for i in $(seq 100); do posthorn context add --name Example >/dev/null 2>&1 && break; sleep 0.1; done
posthorn context list | grep -c Example; kill $pid; wait $pid; stat -c %U /var/lib/posthorn/seal.key`, "1\nposthorn")

	if d.Boot(t) {
		service(t, in)
	} else {
		t.Log("SKIPPED PEER: systemd cannot be started here (systemd-nspawn): the unit was checked, but did not run")
		in("dpkg -i /root/2.deb")
	}
	is("dpkg-query -W -f '${Version}' posthorn", "0.1.0~2")
	is("tail -1 /etc/posthorn/posthorn.yml", `internal: {listen: "127.0.0.1:0"}`) // the operator's change
	in("systemctl disable posthorn 2>/dev/null; dpkg -i /root/2.deb")
	is("systemctl is-enabled posthorn || true", "disabled")

	in("touch /etc/posthorn/own.key; dpkg -r posthorn")
	is(state, "700 posthorn:posthorn")
	is("ls /etc/posthorn /var/lib/posthorn/posthorn.db", "/var/lib/posthorn/posthorn.db\n\n/etc/posthorn:\nown.key\nposthorn.yml")
	in("dpkg -i /root/2.deb") // and it goes on as before
	is("tail -1 /etc/posthorn/posthorn.yml", `internal: {listen: "127.0.0.1:0"}`)
	in("dpkg -P posthorn")
	fails("ls /var/lib/posthorn", "No such file")
	is("ls /etc/posthorn; getent passwd posthorn | cut -d: -f1", "own.key\nposthorn")
	is("find / -xdev -name '*posthorn*' -not -path '/proc/*' -not -path '/etc/posthorn' -not -path '/root/*'", "")
}

// service is the part of the life that needs systemd.
func service(t *testing.T, in func(string) string) {
	t.Helper()
	show := func(what string) string { return in("systemctl show --value -p " + what + " posthorn") }
	// Installed before systemd ran, it was started with the machine.
	in("systemctl restart posthorn")
	first := show("MainPID")
	if got := in("posthorn context list | grep -c Example"); got != "1" {
		t.Errorf("%s contexts are left", got)
	}
	if got := in("ps -o user= -p " + first + " 2>/dev/null || stat -c %U /proc/" + first); got != "posthorn" {
		t.Errorf("it runs as %q", got)
	}
	status := in("cat /proc/" + first + "/status")
	for _, want := range []string{`NoNewPrivs:\t1`, `Seccomp:\t2`, `CapBnd:\t0000000000000400`, `CapEff:\t0000000000000400`} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(status) {
			t.Errorf("its status lacks %s", want)
		}
	}
	if got := in("posthorn doctor | grep -c ✗ || true"); got != "0" {
		t.Errorf("the doctor finds %s faults", got)
	}
	in("systemctl reload posthorn")
	if got := show("MainPID"); got != first {
		t.Error("a reload made a new process")
	}
	exposed := in("systemd-analyze security --no-pager posthorn | tail -1")
	m := regexp.MustCompile(`posthorn.service: ([0-9.]+) `).FindStringSubmatch(exposed)
	if m == nil {
		t.Fatalf("no level in %q", exposed)
	}
	if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > 2 {
		t.Errorf("the unit is exposed: %s", exposed)
	}
	in("dpkg -i /root/2.deb")
	if got := show("MainPID"); got == first || got == "0" {
		t.Errorf("an upgrade leaves process %s for %s", got, first)
	}
	in("systemctl stop posthorn")
	if got := show("Result") + " " + show("ExecMainStatus"); got != "success 0" {
		t.Errorf("it ended with %s", got)
	}
	in("dpkg -i /root/2.deb")
	if got := show("ActiveState"); got != "inactive" {
		t.Errorf("an upgrade started what was stopped: %s", got)
	}
}
