package testpeer

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// guardScript obeys one word a line and answers each with one line. Its arguments are the server's
// directory, the signal for a polite end, the signal for the last end, and the server's command.
//
// The end of its input, whatever the reason, ends the server and removes the directory. setsid gives
// the server a process group of its own, so that children that outlive their master end too. The
// shell collects a dead child only while it runs something in the foreground: hence the sleep in "alive".
const guardScript = `
dir=$1 polite=$2 last=$3
shift 3
pid=
end() {
	[ -n "$pid" ] || return 0
	kill -s "$1" "$pid"
	n=0
	while sleep 0.02; kill -0 "$pid" && [ $n -lt 500 ]; do n=$((n + 1)); done
	kill -s KILL -- "-$pid"
	wait "$pid"
	pid=
}
while read -r word; do
	case $word in
	start) setsid "$@" </dev/null >>"$dir/server.log" 2>&1 & pid=$!; echo started ;;
	alive) sleep 0.02; if [ -n "$pid" ] && kill -0 "$pid"; then echo alive; else echo dead; fi ;;
	stop) end "$polite"; echo stopped ;;
	esac
done
end "$last"
rm -rf -- "$dir" || { sleep 0.5; rm -rf -- "$dir"; }
`

// A guard watches over one server and its directory. Its methods must not be called concurrently.
type guard struct {
	dir   string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

// newGuard starts the guard of a server, not the server. The last signal ends the server when its
// data no longer matter.
func newGuard(dir, polite, last string, server ...string) (*guard, error) {
	args := append([]string{"-c", guardScript, "guard", dir, polite, last}, server...)
	//nolint:gosec,noctx // G204: every word is ours. No context: the guard ends by its input, also after us
	cmd := exec.Command("/bin/sh", args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's interrupt must not reach it
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make guard's pipe: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("make guard's pipe: %w", err)
	}
	// The guard must not hold our stderr: "go test" waits for whoever does.
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	return &guard{dir: dir, cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}, nil
}

// say sends one word and returns the answer.
func (g *guard) say(word string) (string, error) {
	if _, err := io.WriteString(g.stdin, word+"\n"); err != nil {
		return "", fmt.Errorf("tell guard to %s: %w", word, err)
	}
	answer, err := g.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("wait for guard to %s: %w", word, err)
	}
	return strings.TrimSpace(answer), nil
}

// alive reports whether the server runs. It takes 20 ms, which paces those who wait for a server.
func (g *guard) alive() bool {
	answer, err := g.say("alive")
	return err == nil && answer == "alive"
}

// close ends the server, removes its directory and waits until both are done.
func (g *guard) close() error {
	if err := g.stdin.Close(); err != nil {
		return fmt.Errorf("close guard's pipe: %w", err)
	}
	if err := g.cmd.Wait(); err != nil {
		return fmt.Errorf("wait for guard: %w", err)
	}
	return nil
}

// log is the path of what the server wrote to its standard output and error.
func (g *guard) log() string { return filepath.Join(g.dir, "server.log") }
