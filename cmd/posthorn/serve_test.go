package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
)

// TestDrain sends a signal while a request is under way: it is answered, and the server ends well.
func TestDrain(t *testing.T) {
	s := startServe(t)
	request := s.beginRequest(t)
	s.signal(t)
	s.waitForLog(t, "stopping")
	if _, err := io.WriteString(request, `{"name":"x"}`); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(request).ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 201") {
		t.Errorf("the request under way got %q, %v", line, err)
	}
	s.waitForLog(t, "stopped")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestHangUp: SIGHUP is a reload, and says what came of it.
func TestHangUp(t *testing.T) {
	s := startServe(t)
	hangUp := func(says string) {
		t.Helper()
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		s.waitForLog(t, says)
	}
	vapid := filepath.Join(filepath.Dir(s.socket), "vapid.pem")
	good, err := os.ReadFile(vapid) //nolint:gosec // the test's own
	if err != nil {
		t.Fatal(err)
	}
	hangUp("reloaded")
	if err := os.WriteFile(vapid, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	hangUp("cannot reload: what is in use stays")
	if err := os.WriteFile(vapid, good, 0o600); err != nil { //nolint:gosec // the test's own
		t.Fatal(err)
	}
	hangUp("reloaded")
	s.signal(t)
	s.waitForLog(t, "stopped")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestSecondSignal sends another signal while the server waits for a request that does not end.
func TestSecondSignal(t *testing.T) {
	s := startServe(t)
	s.beginRequest(t)
	s.signal(t)
	s.waitForLog(t, "stopping")
	ended := make(chan error)
	go func() { ended <- s.cmd.Wait() }()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	begin := time.Now()
	for {
		select {
		case <-again.C:
			// The first of these may come just before the handler of the first signal is gone.
			if err := s.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Error(err)
			}
			continue
		case err := <-ended:
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != -1 {
				t.Errorf("ended with %v, want by the signal", err)
			}
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("ended %s after the second signal", took)
			}
		}
		return
	}
}

// serving is a server in a process of its own.
type serving struct {
	cmd    *exec.Cmd
	stderr *bufio.Scanner
	socket string
}

func startServe(t *testing.T) *serving {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "posthorn.yml")
	conf := fmt.Sprintf("state_dir: %q\npublic: {listen: '127.0.0.1:0'}\ninternal: {listen: '127.0.0.1:0'}\n", filepath.Join(dir, "s"))
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cmd := exec.CommandContext(ctx, "posthorn", "--config", file, "serve") //nolint:gosec // our own program, from TestMain
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel() // kills what a failed test has left
		_ = cmd.Wait()
	})
	s := &serving{cmd: cmd, stderr: bufio.NewScanner(stderr), socket: filepath.Join(dir, "s", api.SocketName)}
	s.waitForLog(t, "serving")
	return s
}

func (s *serving) signal(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
}

// waitForLog reads the log up to a line with a message that begins like this.
func (s *serving) waitForLog(t *testing.T, msg string) {
	t.Helper()
	for s.stderr.Scan() {
		if strings.Contains(s.stderr.Text(), `"msg":"`+msg) {
			return
		}
	}
	t.Fatalf("the log ended without %q", msg)
}

// beginRequest returns a connection on which the server waits for the body of a request, 12 bytes.
func (s *serving) beginRequest(t *testing.T) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "POST /admin/v1/contexts HTTP/1.1\r\nHost: admin\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	// RFC 9110 section 10.1.1: the answer comes when somebody begins to read the body.
	const proceed = "HTTP/1.1 100 Continue\r\n\r\n"
	got := make([]byte, len(proceed))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != proceed {
		t.Fatalf("the server answered %q, %v", got, err)
	}
	return conn
}
