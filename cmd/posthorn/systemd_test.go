package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestTellSystemd: the server says that it is ready once it listens, and that it stops.
func TestTellSystemd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var lc net.ListenConfig
	l, err := lc.ListenPacket(t.Context(), "unixgram", filepath.Join(dir, "notify"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // only read from
	if err := l.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	file := filepath.Join(dir, "posthorn.yml")
	if err := os.WriteFile(file, []byte("state_dir: "+filepath.Join(dir, "state")+"\npublic: {listen: '127.0.0.1:0'}\ninternal: {listen: '127.0.0.1:0'}\ntransports: {webpush: {subject: 'mailto:p@example.org'}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan int)
	var stdout, stderr bytes.Buffer
	go func() {
		done <- run(ctx, []string{"--config", file, "serve"}, nil, &stdout, &stderr, []string{"NOTIFY_SOCKET=" + l.LocalAddr().String()})
	}()
	raw := make([]byte, 100)
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		n, _, err := l.ReadFrom(raw)
		if err != nil || string(raw[:n]) != want {
			t.Fatalf("%q, %v; want %q", raw[:n], err, want)
		}
		stop()
	}
	<-done // it was told to stop while it started, so its exit code is not the point
}
