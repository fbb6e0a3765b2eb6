package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/posthorn-mail/posthorn/internal/api"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"posthorn": main})
}

// TestScript runs the scripts of testdata/script, which read as a guide to the command line.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command ends a second late under -race
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "installed" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			_, err := os.Stat(defaultConfigFile) // a machine that runs a Posthorn of its own
			return err == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exitcode": exitcode,
			"running":  running,
			"admin":    admin,
			"leftover": leftover,
			"mode":     mode,
			"taken":    taken,
		},
	})
}

// exitcode runs a command that must end with a certain code: exitcode 3 posthorn user list.
func exitcode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode CODE COMMAND ARG…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// running waits until a server listens on the admin socket of a state directory.
func running(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: running STATEDIR")
	}
	const patience = 30 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(ts.MkAbs(args[0]), api.SocketName))
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("no server within %s: %v", patience, err)
		case <-tick.C:
		}
	}
}

// admin plays a server on the admin socket of a state directory: admin STATEDIR ANSWERS. Each line of
// the file ANSWERS is a request and its answer, "METHOD /path?query {body} -> STATUS {json}". It shows
// what the commands print of states that a real server is in only after much has happened.
func admin(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: admin STATEDIR ANSWERS")
	}
	answers := map[string]string{}
	in := bufio.NewScanner(strings.NewReader(ts.ReadFile(args[1])))
	for in.Scan() {
		request, answer, ok := strings.Cut(in.Text(), " -> ")
		if !ok {
			ts.Fatalf("%s: %q is not a request and its answer", args[1], in.Text())
		}
		answers[request] = answer
	}
	ts.Check(os.MkdirAll(ts.MkAbs(args[0]), 0o700))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(ts.MkAbs(args[0]), api.SocketName)})
	ts.Check(err)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		request := strings.TrimSpace(r.Method + " " + r.URL.RequestURI() + " " + string(body))
		answer, ok := answers[request]
		if !ok {
			answer = fmt.Sprintf(`404 {"status":404,"detail":%q}`, "the script has no answer to "+request)
		}
		status, document, _ := strings.Cut(answer, " ")
		code := 0
		_, _ = fmt.Sscan(status, &code)
		w.WriteHeader(code)
		_, _ = w.Write([]byte(document)) //nolint:gosec // JSON, to ourselves
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }()
	ts.Defer(func() {
		_ = srv.Close()
		<-served
	})
}

// leftover makes the socket that a killed server leaves behind: leftover STATEDIR.
func leftover(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: leftover STATEDIR")
	}
	ts.Check(os.MkdirAll(ts.MkAbs(args[0]), 0o700))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(ts.MkAbs(args[0]), api.SocketName)})
	ts.Check(err)
	l.SetUnlinkOnClose(false)
	ts.Check(l.Close())
}

// mode compares the permissions of files: mode 0600 FILE…
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mode MODE FILE…")
	}
	for _, file := range args[1:] {
		info, err := os.Stat(ts.MkAbs(file))
		ts.Check(err)
		if got := fmt.Sprintf("%#o", info.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", file, got, args[0])
		}
	}
}

// taken holds a port, and writes a configuration that wants it: taken FILE.
func taken(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: taken FILE")
	}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), fmt.Appendf(nil, "public: {listen: '%s'}\n", l.Addr()), 0o600))
}
