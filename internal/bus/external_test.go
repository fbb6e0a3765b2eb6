package bus

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
)

// external describes a server with a TCP listener.
type external struct {
	address        string // "" for any
	user, password string
	permissions    *server.Permissions
}

type running struct {
	url, address string
	stop         func()
}

// startServerAt starts a server as an operator would run one, in this process.
func startServerAt(t testing.TB, e external) running {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true}
	if e.address != "" {
		_, port, err := net.SplitHostPort(e.address)
		if err != nil {
			t.Fatal(err)
		}
		if o.Port, err = strconv.Atoi(port); err != nil {
			t.Fatal(err)
		}
	}
	credentials := ""
	if e.user != "" {
		o.Users = []*server.User{{Username: e.user, Password: e.password, Permissions: e.permissions}}
		credentials = e.user + ":" + e.password + "@"
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	stop := sync.OnceFunc(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	t.Cleanup(stop)
	return running{url: "nats://" + credentials + s.Addr().String(), address: s.Addr().String(), stop: stop}
}

// startDebian starts the server that Debian packages, which is years older than ours.
func startDebian(t *testing.T, address string) running {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), lookDebian(t), "-a", host, "-p", port) //nolint:gosec // a test's own server
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, drained := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(drained)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.Contains(lines.Text(), "Server is ready") {
				close(ready)
			}
		}
	}()
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		<-drained
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	receive(t, "Debian's server is ready", ready)
	return running{url: "nats://" + address, address: address, stop: stop}
}

// freePort finds a port on which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestRestart: the server goes and comes back; everybody is told that messages may be missing.
func TestRestart(t *testing.T) {
	for name, start := range map[string]func(t *testing.T, address string) running{
		"external": func(t *testing.T, address string) running { return startServerAt(t, external{address: address}) },
		"debian":   startDebian,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := "127.0.0.1:" + freePort(t)
			srv := start(t, address)
			one, other := open(t, srv.url), open(t, srv.url)
			got, gaps := inbox(t, other, hello)
			publish(t, one, hello, "before")
			receive(t, "a message before", got)

			srv.stop()
			eventually(t, "the loss is seen", func() bool { return one.Ready() != nil && other.Ready() != nil })
			if err := one.Publish(hello, []byte("lost")); !errors.Is(err, ErrNotConnected) {
				t.Errorf("publish without a server: %v", err)
			}
			if _, err := one.Request(t.Context(), hello, nil); !errors.Is(err, ErrNotConnected) {
				t.Errorf("request without a server: %v", err)
			}
			later, laterGaps := inbox(t, other, NewSubject("test", "later"))
			if len(gaps) > 0 {
				t.Error("a gap is told before messages can arrive again")
			}
			if n := one.count("unsent"); n != 1 {
				t.Errorf("%d counted as unsent", n)
			}

			start(t, address)
			receive(t, "the gap", gaps)
			receive(t, "the gap of what was subscribed meanwhile", laterGaps)
			eventually(t, "the publisher is back", func() bool { return one.Ready() == nil })
			publish(t, one, hello, "after")
			publish(t, one, NewSubject("test", "later"), "after")
			if m := receive(t, "a message after", got); m != "after" {
				t.Errorf("got %s", m)
			}
			receive(t, "a message after", later)
			if n := other.count("connections"); n != 2 {
				t.Errorf("%d connections", n)
			}
			if n := strings.Count(other.log.String(), "bus not connected"); n == 0 || n > 2 {
				t.Errorf("the outage is logged %d times: %s", n, other.log)
			}
		})
	}
}

// TestRequestWhenServerStops: it does not wait for an answer that cannot come.
func TestRequestWhenServerStops(t *testing.T) {
	t.Parallel()
	srv := startServerAt(t, external{})
	b := open(t, srv.url)
	asked := make(chan struct{})
	subscribe(t, b, hello, func(context.Context, Message) { close(asked) }, nil)
	answered := make(chan error, 1)
	go func() { answered <- second(b.Request(t.Context(), hello, nil)) }()
	receive(t, "the question", asked)
	srv.stop()
	if err := receive(t, "the end of the request", answered); !errors.Is(err, ErrNotConnected) {
		t.Error(err)
	}
}

func TestStartsWithoutServer(t *testing.T) {
	t.Parallel()
	address := "127.0.0.1:" + freePort(t)
	b := open(t, "nats://posthorn:canary@"+address)
	if err := b.Ready(); !errors.Is(err, ErrNotConnected) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("ready: %v", err)
	}
	got, gaps := inbox(t, b, hello)
	startServerAt(t, external{address: address, user: "posthorn", password: "canary"})
	receive(t, "the gap", gaps)
	publish(t, b, hello, "x")
	receive(t, "a message", got)
	if strings.Contains(b.log.String(), "canary") {
		t.Errorf("the log shows the password: %s", b.log)
	}
}

// TestSeveralURLs: the first server that is there is taken.
func TestSeveralURLs(t *testing.T) {
	t.Parallel()
	b := open(t, "nats://127.0.0.1:"+freePort(t)+", "+startServerAt(t, external{}).url)
	if err := b.Ready(); err != nil {
		t.Error(err)
	}
}

// TestWrongPassword: nats.go would give up after two refusals.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	srv := startServerAt(t, external{user: "posthorn", password: "right"})
	b := open(t, "nats://posthorn:canary@"+srv.address)
	eventually(t, "several attempts", func() bool {
		return b.Ready() != nil && strings.Contains(b.Ready().Error(), "Authorization Violation")
	})
	srv.stop()
	eventually(t, "another reason", func() bool { return strings.Contains(b.Ready().Error(), "refused") })
	srv = startServerAt(t, external{address: srv.address, user: "posthorn", password: "right"})
	eventually(t, "the refusal", func() bool { return strings.Contains(b.Ready().Error(), "Authorization Violation") })
	srv.stop()
	startServerAt(t, external{address: srv.address, user: "posthorn", password: "canary"})
	eventually(t, "the connection", func() bool { return b.Ready() == nil })
	if strings.Contains(b.log.String(), "canary") {
		t.Errorf("the log shows the password: %s", b.log)
	}
}

// TestPermissions: posthorn.> is enough, and less is a reason that shows.
func TestPermissions(t *testing.T) {
	t.Parallel()
	allow := func(subject string) *server.Permissions {
		p := &server.SubjectPermission{Allow: []string{subject}}
		return &server.Permissions{Publish: p, Subscribe: p}
	}
	srv := startServerAt(t, external{user: "posthorn", password: "p", permissions: allow("other.>")})
	b := open(t, srv.url)
	got, gaps := inbox(t, b, hello)
	eventually(t, "the refusal", func() bool {
		return b.Ready() != nil && strings.Contains(strings.ToLower(b.Ready().Error()), "permissions violation")
	})
	srv.stop()
	startServerAt(t, external{address: srv.address, user: "posthorn", password: "p", permissions: allow("posthorn.>")})
	receive(t, "the gap", gaps)
	eventually(t, "the connection", func() bool { return b.Publish(hello, nil) == nil })
	receive(t, "a message", got)
	ask := NewSubject("test", "ask")
	subscribe(t, b, ask, func(_ context.Context, m Message) {
		if err := m.Reply(nil); err != nil {
			t.Error(err)
		}
	}, nil)
	if _, err := b.Request(t.Context(), ask, nil); err != nil {
		t.Error(err)
	}
}

// TestBlackHole: the network swallows everything. The loss shows by the pings, or sooner by a write that
// does not end; no Publish waits longer than that.
func TestBlackHole(t *testing.T) {
	for name, tc := range map[string]struct {
		every time.Duration // between two messages of 64 KiB
		limit time.Duration
	}{
		"idle": {time.Hour, silenceTimeout},
		"busy": {time.Millisecond, writeTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hole := newHole(t, startServerAt(t, external{}).address)
			b := open(t, "nats://"+hole.address)
			_, gaps := inbox(t, b, hello)

			hole.swallow.Store(true)
			fell := time.Now()
			var slowest time.Duration
			last, data := fell, make([]byte, 64<<10)
			eventually(t, "the loss is seen", func() bool {
				if start := time.Now(); start.Sub(last) >= tc.every {
					_ = b.Publish(hello, data)
					last = time.Now()
					slowest = max(slowest, last.Sub(start))
				}
				return b.Ready() != nil
			})
			took := time.Since(fell)
			t.Logf("noticed after %s, slowest publish %s", took, slowest)
			const grace = time.Second // for a busy machine
			if slowest > writeTimeout+grace || took > tc.limit+2*grace {
				t.Error("too slow")
			}
			hole.swallow.Store(false)
			receive(t, "the gap", gaps)
		})
	}
}

// hole is a TCP relay that can stop relaying without closing.
type hole struct {
	address string
	swallow atomic.Bool
}

func newHole(t *testing.T, to string) *hole {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{address: l.Addr().String()}
	ctx, cancel := context.WithCancel(t.Context())
	var relays sync.WaitGroup
	relay := func(dst, src net.Conn) {
		defer dst.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			if err != nil {
				return
			}
			if h.swallow.Load() {
				<-ctx.Done() // reads no more, so that the sender's buffers fill up
				return
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	relays.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := new(net.Dialer).DialContext(ctx, "tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _ = in.Close(); _ = out.Close() })
			relays.Go(func() { relay(out, in) })
			relays.Go(func() { relay(in, out) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		relays.Wait()
	})
	return h
}

// TestOddErrors: on an error it does not know, nats.go closes its connection for good.
func TestOddErrors(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var greeted atomic.Int64
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			greet(c)
			if greeted.Add(1) < 3 {
				_, _ = io.WriteString(c, "-ERR 'Failed Account Registration'\r\n")
			}
			served.Go(func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() })
		}
	})
	b := open(t, "nats://"+l.Addr().String())
	eventually(t, "the third connection", func() bool { return greeted.Load() == 3 && b.Ready() == nil })
	if !strings.Contains(b.log.String(), "Failed Account Registration") {
		t.Errorf("log: %s", b.log)
	}
	_ = l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Error(err)
	}
	served.Wait()
}

// greet does the server's part of a NATS handshake.
func greet(c net.Conn) {
	_, _ = io.WriteString(c, `INFO {"max_payload":1048576,"proto":1,"headers":true}`+"\r\n")
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "PING") {
			_, _ = io.WriteString(c, "PONG\r\n")
			return
		}
	}
}

// TestOpenGivesUp: its context bounds the first attempt, here at a server that says nothing.
func TestOpenGivesUp(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	_, err = Open(ctx, Options{URL: "nats://" + l.Addr().String(), Log: log, Metrics: prometheus.NewRegistry()})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
