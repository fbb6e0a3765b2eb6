package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// TestMain looks for goroutines that outlive the tests, which close all that they open.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := leaked(); left != "" {
			fmt.Fprintln(os.Stderr, "goroutines left behind:\n"+left)
			code = 1
		}
	}
	os.Exit(code)
}

// leaked returns the stacks of NATS and of ours that do not end. Close of nats.go does not wait for its
// own goroutines to have left their last lines, so they get a moment.
func leaked() string {
	var left []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); runtime.Gosched() {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = slices.DeleteFunc(strings.Split(string(buf), "\n\n"), func(stack string) bool {
			return !strings.Contains(stack, "nats-io") && !strings.Contains(stack, "internal/bus.(")
		})
		if len(left) == 0 {
			break
		}
	}
	return strings.Join(left, "\n\n")
}

// opened is a Bus with what it said.
type opened struct {
	*Bus
	log *logBuffer
	reg *prometheus.Registry
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func open(t testing.TB, url string) opened {
	t.Helper()
	o := opened{log: &logBuffer{}, reg: prometheus.NewRegistry()}
	var err error
	o.Bus, err = Open(t.Context(), Options{URL: url, Log: slog.New(slog.NewTextHandler(o.log, nil)), Metrics: o.reg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		_ = o.Close(ctx) // the tests of Close look at its error
	})
	return o
}

// count reads one of our counters, as monitoring sees it, over all labels.
func (o opened) count(name string) int {
	families, err := o.reg.Gather()
	if err != nil {
		panic(err)
	}
	n := 0
	for _, f := range families {
		if f.GetName() == "posthorn_bus_"+name+"_total" {
			for _, m := range f.GetMetric() {
				n += int(m.GetCounter().GetValue())
			}
		}
	}
	return n
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func receive[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("not within %s: %s", patience, what)
		panic("unreachable")
	}
}

func subscribe(t testing.TB, b opened, s Subject, handle func(context.Context, Message), missed func(context.Context)) *Subscription {
	t.Helper()
	sub, err := b.Subscribe(t.Context(), s, handle, missed)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// inbox subscribes and returns what arrives, and a value for each gap.
func inbox(t testing.TB, b opened, s Subject) (<-chan string, <-chan struct{}) {
	t.Helper()
	got, gaps := make(chan string, 100), make(chan struct{}, 100)
	subscribe(t, b, s, func(_ context.Context, m Message) { got <- string(m.Data) }, func(context.Context) { gaps <- struct{}{} })
	return got, gaps
}

func publish(t testing.TB, b opened, s Subject, data string) {
	t.Helper()
	if err := b.Publish(s, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// onEachKind runs a test on every server that a Bus can be on, with two on the same server; the one inside
// the process has room for one, which is given twice.
func onEachKind(t *testing.T, test func(t *testing.T, one, other opened)) {
	t.Run("inside", func(t *testing.T) {
		b := open(t, "")
		test(t, b, b)
	})
	t.Run("external", func(t *testing.T) {
		url := startServerAt(t, external{}).url
		test(t, open(t, url), open(t, url))
	})
	t.Run("debian", func(t *testing.T) {
		url := startDebian(t, "127.0.0.1:"+freePort(t)).url
		test(t, open(t, url), open(t, url))
	})
}

var hello = NewSubject("test", "hello")

func TestPublish(t *testing.T) {
	onEachKind(t, func(t *testing.T, one, other opened) {
		got, gaps := inbox(t, other, hello)
		foreign, _ := inbox(t, other, NewSubject("test", "other"))
		for i := range 50 {
			publish(t, one, hello, strconv.Itoa(i))
		}
		for i := range 50 {
			if m := receive(t, "a message", got); m != strconv.Itoa(i) {
				t.Fatalf("got %s in place %d", m, i)
			}
		}
		if len(foreign) > 0 || len(gaps) > 0 {
			t.Errorf("%d messages of another subject, %d gaps", len(foreign), len(gaps))
		}
		if err := one.Ready(); err != nil {
			t.Error(err)
		}
		if n := one.count("connections"); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestPublisherHearsItself(t *testing.T) {
	onEachKind(t, func(t *testing.T, one, _ opened) {
		got, _ := inbox(t, one, hello)
		publish(t, one, hello, "echo")
		receive(t, "our own message", got)
	})
}

func TestRequest(t *testing.T) {
	onEachKind(t, func(t *testing.T, one, other opened) {
		ctx := t.Context()
		if _, err := one.Request(ctx, hello, nil); !errors.Is(err, ErrNoResponder) {
			t.Errorf("nobody there: %v", err)
		}
		subscribe(t, other, hello, func(_ context.Context, m Message) {
			if err := m.Reply(append([]byte("re: "), m.Data...)); err != nil {
				t.Error(err)
			}
		}, nil)
		answer, err := one.Request(ctx, hello, []byte("you"))
		if err != nil || string(answer) != "re: you" {
			t.Errorf("%q, %v", answer, err)
		}
		publish(t, one, hello, "nobody waits for a reply to this")

		silent := NewSubject("test", "silent")
		subscribe(t, other, silent, func(context.Context, Message) {}, nil)
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if _, err := one.Request(ctx, silent, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no answer: %v", err)
		}
	})
}

func TestRefused(t *testing.T) {
	onEachKind(t, func(t *testing.T, one, _ opened) {
		ctx := t.Context()
		long := NewSubject("test", strings.Repeat("x", maxSubject))
		nothing := func(context.Context, Message) {}
		for name, tc := range map[string]struct {
			err, want error
		}{
			"large publish":       {one.Publish(hello, make([]byte, 1<<20+1)), ErrTooLarge},
			"large request":       {second(one.Request(ctx, hello, make([]byte, 1<<20+1))), ErrTooLarge},
			"no subject":          {one.Publish(Subject{}, nil), ErrSubject},
			"long publish":        {one.Publish(long, nil), ErrSubject},
			"long request":        {second(one.Request(ctx, long, nil)), ErrSubject},
			"long subscribe":      {second(one.Subscribe(ctx, long, nothing, nil)), ErrSubject},
			"largest":             {one.Publish(hello, make([]byte, 1<<20)), nil},
			"longest":             {one.Publish(NewSubject("test", strings.Repeat("x", maxSubject-len("posthorn.test."))), nil), nil},
			"context has ended":   {second(one.Request(ended(t), hello, nil)), context.Canceled},
			"subscribe too late":  {second(one.Subscribe(ended(t), hello, nothing, nil)), context.Canceled},
			"a foreign reply":     {Message{bus: one.Bus, subject: hello, reply: "a b"}.Reply(nil), ErrSubject},
			"no reply wanted":     {Message{bus: one.Bus, subject: hello}.Reply(nil), nil},
			"still connected now": {one.Ready(), nil},
		} {
			if !errors.Is(tc.err, tc.want) || tc.want == nil && tc.err != nil {
				t.Errorf("%s: %v, want %v", name, tc.err, tc.want)
			}
		}
		if n := one.count("unsent"); n != 4 {
			t.Errorf("%d counted as unsent", n)
		}
		got, _ := inbox(t, one, hello)
		publish(t, one, hello, "goes on")
		receive(t, "a message after the refusals", got)
		if n := one.count("connections"); n != 1 {
			t.Errorf("a refusal has cost a connection: %d", n)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func ended(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// TestSlowSubscriber: it loses messages, is told, and stops nobody else.
func TestSlowSubscriber(t *testing.T) {
	onEachKind(t, func(t *testing.T, one, other opened) {
		const sent = 3 * queueLength
		release, started := make(chan struct{}), make(chan struct{})
		var handled, gaps atomic.Int64
		subscribe(t, other, hello, func(context.Context, Message) {
			if handled.Add(1) == 1 {
				close(started)
				<-release
			}
		}, func(context.Context) { gaps.Add(1) })
		var quick atomic.Int64
		subscribe(t, other, hello, func(context.Context, Message) { quick.Add(1) }, nil)

		publish(t, one, hello, "the first")
		receive(t, "the handler", started)
		for n := range int64(sent) {
			publish(t, one, hello, "more")
			if n%100 == 0 {
				eventually(t, "the quick one keeps up", func() bool { return quick.Load() >= n })
			}
		}
		eventually(t, "the quick one has all", func() bool { return quick.Load() == sent+1 })
		other.state.Load().link.flush(t.Context()) // the slow one's copy of the last message has arrived too
		close(release)
		dropped := func() int { return other.count("dropped") }
		eventually(t, "all are handled or counted", func() bool { return int(handled.Load())+dropped() == sent+1 })
		if handled.Load() != queueLength+1 {
			t.Errorf("%d handled, %d dropped", handled.Load(), dropped())
		}
		eventually(t, "the gap is told", func() bool { return gaps.Load() > 0 })
		if !strings.Contains(other.log.String(), "drops messages") {
			t.Errorf("log: %s", other.log)
		}
	})
}

func TestSubscriptionClose(t *testing.T) {
	onEachKind(t, func(t *testing.T, one, other opened) {
		started := make(chan struct{})
		var handled atomic.Int64
		var returned atomic.Bool
		sub := subscribe(t, other, hello, func(ctx context.Context, _ Message) {
			if handled.Add(1) == 1 {
				close(started)
			}
			<-ctx.Done()
			returned.Store(true)
		}, nil)
		for range 10 {
			publish(t, one, hello, "x")
		}
		receive(t, "the handler", started)
		sub.Close()
		if !returned.Load() || handled.Load() != 1 {
			t.Errorf("returned %t, handled %d", returned.Load(), handled.Load())
		}
		sub.Close()
		eventually(t, "the server knows that nobody is there", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := one.Request(ctx, hello, nil)
			return errors.Is(err, ErrNoResponder)
		})
	})
}

// TestCloseDrains: what was published before is handled, also what comes out of that.
func TestCloseDrains(t *testing.T) {
	onEachKind(t, func(t *testing.T, one, other opened) {
		const n = queueLength / 2
		again := NewSubject("test", "again")
		var first, then atomic.Int64
		subscribe(t, other, again, func(context.Context, Message) { then.Add(1) }, nil)
		subscribe(t, one, hello, func(context.Context, Message) {
			first.Add(1)
			publish(t, one, again, "from a handler")
		}, nil)
		for range n {
			publish(t, one, hello, "x")
		}
		if err := one.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if first.Load() != n {
			t.Errorf("%d of %d handled", first.Load(), n)
		}
		if one.Bus != other.Bus {
			eventually(t, "messages sent while closing arrive", func() bool { return then.Load() == n })
		}
		for name, err := range map[string]error{
			"ready": one.Ready(), "publish": one.Publish(hello, nil), "request": second(one.Request(t.Context(), hello, nil)),
			"subscribe": second(one.Subscribe(t.Context(), hello, nil, nil)),
		} {
			if !errors.Is(err, ErrNotConnected) || !strings.Contains(err.Error(), "closed") {
				t.Errorf("%s after Close: %v", name, err)
			}
		}
	})
}

// TestCloseWhileBusy: handlers that take too long are told to stop, and waited for.
func TestCloseWhileBusy(t *testing.T) {
	onEachKind(t, func(t *testing.T, one, other opened) {
		stop := make(chan struct{})
		var publishers sync.WaitGroup
		for range 4 {
			publishers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						_ = other.Publish(hello, []byte("noise"))
					}
				}
			})
		}
		defer publishers.Wait()
		defer close(stop)
		var running atomic.Int64
		started := make(chan struct{}, 1)
		for range 3 {
			subscribe(t, one, hello, func(ctx context.Context, _ Message) {
				running.Add(1)
				select {
				case started <- struct{}{}:
				default:
				}
				<-ctx.Done()
				running.Add(-1)
			}, nil)
		}
		receive(t, "a handler", started)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if err := one.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("close: %v", err)
				}
				if n := running.Load(); n != 0 {
					t.Errorf("%d handlers after Close", n)
				}
			})
		}
		both.Wait()
	})
}

func TestOpenRefusesURL(t *testing.T) {
	for _, url := range []string{
		"http://h", "127.0.0.1:4222", "nats://", "nats://u:canary@h:port", "nats://u:canary%@h", "nats://h,", "ws://h", "nats:h",
	} {
		_, err := Open(t.Context(), Options{URL: url, Metrics: prometheus.NewRegistry()})
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// lookDebian finds the packaged server, also for users whose PATH has no sbin.
func lookDebian(t *testing.T) string {
	for _, name := range []string{"nats-server", "/usr/sbin/nats-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("SKIPPED: Debian's nats-server is not installed (apt-get install nats-server)")
	return ""
}
