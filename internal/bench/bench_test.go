package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/server"
)

// TestMain makes the test binary be what a run starts: "bench child KIND CONFIG" and "serve --config FILE".
func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 4 && args[0] == "bench":
		err = Child(ctx, args[2], args[3], os.Stdout)
	case len(args) == 3 && args[0] == "serve":
		err = serve(ctx, args[2])
	default:
		stop()
		os.Exit(m.Run())
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, file string) error {
	cfg, _, err := config.Load(file, func(string) (string, bool) { return "", false })
	if err != nil {
		return err
	}
	s, err := server.New(ctx, cfg, server.Options{})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(os.Stdout, "  for mail servers  http://%s%s\n", s.InternalAddr(), notifyPath); err != nil {
		return errors.Join(err, s.Close(ctx))
	}
	return s.Run(ctx)
}

func testRunner(t *testing.T) *runner {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &runner{Options: Options{Quick: true, Out: t.Output(), Progress: t.Output()}, exe: exe, dir: t.TempDir()}
}

// TestRoad has a seeded server deliver to every device of both providers: what is seeded is what sign-in
// and subscription would have left, and the provider counts right.
func TestRoad(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := testRunner(t)
	g, err := r.newRig(ctx, rigConfig{APNs: 20, FCM: 5})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	})
	if err := g.up(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.apns.mode(ctx, modeStall, 0); err != nil {
		t.Fatal(err)
	}
	res, err := g.load(ctx, loadConfig{Users: 25, FirstUID: 3, Events: 60})
	if err != nil || res.Done != 60 {
		t.Fatalf("load: %+v, %v", res, err)
	}
	if err := g.apns.mode(ctx, modeOK, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := g.drained(ctx, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	// Users 0 to 9 had three events (uids 3 to 5), the others two.
	apple, err := g.apns.stats(ctx, "newest=5")
	if err != nil || apple.Devices != 20 || apple.Newest != 10 || apple.Repeated != 0 || len(apple.LatencyMS) != 0 {
		t.Errorf("apns: %+v, %v", apple, err)
	}
	android, err := g.fcm.stats(ctx, "newest=4")
	if err != nil || android.Devices != 5 || android.Newest != 5 {
		t.Errorf("fcm: %+v, %v", android, err)
	}
	ms, err := g.stamped(ctx, loadConfig{Users: 20, FirstUID: 10, Events: 20, Rate: 200, Stamp: true})
	if err != nil || len(ms) != 20 || ms[0] <= 0 || ms[19] > 20_000 {
		t.Errorf("latency: %v, %v", ms, err)
	}
	if cpu, err := g.serve.cpu(); err != nil || cpu <= 0 {
		t.Errorf("CPU %v, %v", cpu, err)
	}
	if mb, err := g.serve.peakMB(); err != nil || mb < 5 {
		t.Errorf("memory %v MB, %v", mb, err)
	}
}

// TestCrashLosesNothing is the crash line, small.
func TestCrashLosesNothing(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g, err := testRunner(t).newRig(ctx, rigConfig{APNs: 200})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	})
	if err := g.up(ctx); err != nil {
		t.Fatal(err)
	}
	lost, repeated, err := g.crashRound(ctx, 200, 1)
	if err != nil || lost != 0 || repeated > 200 {
		t.Errorf("%d lost, %d twice, %v", lost, repeated, err)
	}
}

// TestWires runs the lines without a server.
func TestWires(t *testing.T) {
	t.Parallel()
	r := testRunner(t)
	id, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for _, plain := range []bool{false, true} {
		res, err := r.sends(t.Context(), id, 10*time.Millisecond, apnsConfig{Connections: 2, Count: 500, Plain: plain})
		if err != nil || res.CPU <= 0 || res.Rate <= 0 {
			t.Errorf("apns, plain %v: %+v, %v", plain, res, err)
		}
		var cpu float64
		err = r.run(t.Context(), "webpush", webpushConfig{Count: 20, Plain: plain}, &cpu)
		if err != nil || cpu <= 0 {
			t.Errorf("webpush, plain %v: %v us, %v", plain, cpu, err)
		}
	}
}

func TestBaselines(t *testing.T) {
	t.Parallel()
	r := testRunner(t)
	for _, database := range []string{"", r.dir + "/rows.db"} {
		var ready handlerReady
		p, err := r.child(t.Context(), "handler", handlerConfig{database}, &ready)
		if err != nil {
			t.Fatal(err)
		}
		var res loadResult
		err = r.run(t.Context(), "load", loadConfig{URL: ready.URL, Connections: 8, Users: 10, Events: 100}, &res)
		if err != nil || res.Done != 100 {
			t.Errorf("with database %q: %+v, %v", database, res, err)
		}
		if err := p.kill(); err != nil {
			t.Error(err)
		}
	}
	var res fsyncResult
	if err := r.run(t.Context(), "fsync", fsyncConfig{r.dir + "/fsync", 5}, &res); err != nil || len(res.MS) != 5 || res.MS[0] <= 0 {
		t.Errorf("fsync: %v, %v", res, err)
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	if m := median([]float64{9, 1, 5, 3}); m != 4 {
		t.Errorf("median %v", m)
	}
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	if p := percentile(hundred, .99); p != 99 {
		t.Errorf("p99 of 1 to 100: %v", p)
	}
	for v, want := range map[float64]string{10000: "10000", 0: "0", 1.234: "1.23", 123.44: "123.4", 12345.6: "12346"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %s, want %s", v, got, want)
		}
	}
	var out bytes.Buffer
	r := &runner{Options: Options{Out: &out}}
	r.put("a.b_us", "us", 3, 1, 2)
	if out.String() != "a.b_us 2 us\n" {
		t.Errorf("line %q", out.String())
	}
	if err := Run(t.Context(), Options{Suite: Push, Only: "nothing", Out: &out, Progress: &out}); err == nil || !strings.Contains(err.Error(), "notify") {
		t.Errorf("unknown part: %v", err)
	}
}

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 2\r\n\r\nhi": "200 hi <nil>",
		"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n":              "503  <nil>",
		"HTTP/1.1 200 OK\r\n\r\nhi":                      "0  no Content-Length",
		"rubbish\r\n\r\n":                                "0  no status line",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi": "200  unexpected EOF",
	} {
		status, body, err := readAnswer(bufio.NewReader(strings.NewReader(in)))
		if err != nil {
			body = nil
		}
		if got := fmt.Sprintf("%d %s %v", status, body, err); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	if _, _, err := readAnswer(bufio.NewReader(strings.NewReader(""))); err != io.EOF { //nolint:errorlint // it is not wrapped
		t.Errorf("nothing: %v", err)
	}
}

// TestPage writes the page of a made-up run.
func TestPage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	raw, err := json.Marshal(Report{Machine: map[string]string{"cores": "2"}, Lines: []Line{
		{Name: "notify.cpu_us", Value: 100, Unit: "us", Runs: []float64{90, 100, 120}},
		{Name: "notify.baseline_commit_cpu_us", Value: 50, Unit: "us"},
		{Name: "memory.rss_mb", Value: 119, Unit: "MB"},
		{Name: "idle.tls_rss_kib", Value: 20.5, Unit: "KiB"},
		{Name: "idle.connections", Value: 15000, Unit: "connections"},
		{Name: "failover.seconds_3", Value: 5.25, Unit: "s"},
		{Name: "failover.seconds_2", Value: 11, Unit: "s"},
		{Name: "reconnect.refused", Value: 0, Unit: "logins"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "bench.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WritePage(dir, []string{file}); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "bench.md")) //nolint:gosec // our own directory
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| **missed** | 2.00 times: 100 and 50 us |", "| holds | 119 MB |", "| holds | 20.5 KiB, 15000 connections |",
		"| **missed** | 5.25 and 11 s |", "`reconnect.refused` is 0 | holds | 0 |", "| not measured |  |", "| notify.cpu_us | 100 | us | 90 100 120 |",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	for _, p := range plots {
		svg, err := os.ReadFile(filepath.Join(dir, "img", "bench-"+p.name+".svg")) //nolint:gosec // our own directory
		if err != nil {
			t.Fatal(err)
		}
		if err := xml.Unmarshal(svg, new(struct{})); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
	}
	if err := WritePage(dir, nil); err == nil {
		t.Error("a page without a report")
	}
}
