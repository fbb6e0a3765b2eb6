package apns

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// The benchmarks send to a server on the bare frames: cheap, and the same for both wires. It runs
// either here or, so that the client's CPU time can be told from its own, as a child: this same test
// binary with an environment variable, which says what delay the answers have.
const (
	childServer  = "APNS_BENCH_SERVER"
	benchStreams = 1000
)

func TestMain(m *testing.M) {
	if v, ok := os.LookupEnv(childServer); ok {
		os.Exit(beServer(v))
	}
	os.Exit(m.Run())
}

// beServer serves until stdin ends. It writes its address and certificate to stdout.
func beServer(delay string) int {
	d, err := time.ParseDuration(delay)
	if err != nil {
		return 1
	}
	cert, certPEM, err := benchCertificate()
	if err != nil {
		return 1
	}
	s, err := newBenchServer(cert, d)
	if err != nil {
		return 1
	}
	_, _ = fmt.Fprintf(os.Stdout, "%s\n%s\n", s.listener.Addr(), certPEM)
	_ = os.Stdout.Close()
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.close()
	return 0
}

// startChild returns where the child listens, and its certificate.
func startChild(tb testing.TB, delay time.Duration) (string, *x509.CertPool) {
	tb.Helper()
	cmd := exec.CommandContext(context.Background(), os.Args[0]) //nolint:gosec // this test binary
	cmd.Env = append(os.Environ(), childServer+"="+delay.String())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	said, err := io.ReadAll(stdout)
	if err != nil {
		tb.Fatal(err)
	}
	addr, certPEM, _ := strings.Cut(string(said), "\n")
	return addr, poolOf([]byte(certPEM))
}

// benchMessages are of the size that mail makes, each for another device.
var benchMessages = sync.OnceValues(func() ([]string, []Message) {
	const n = 4096
	tokens, messages := make([]string, n), make([]Message, n)
	for i := range n {
		tokens[i] = fmt.Sprintf("%016x%016x%016x%016x", i*7919, i*104729, i*1299709, i)
		messages[i] = testMessage()
		messages[i].ID = fmt.Sprintf("%08x-1111-4222-8333-%012x", i, i*15485863)
		messages[i].CollapseID = fmt.Sprintf("acc-%d", i%1000)
		messages[i].Expiration = time.Unix(1795348800+int64(i%300), 0)
		messages[i].Payload = fmt.Appendf(nil, `{"aps":{"alert":{"title":"Alice Example","body":"Minutes of the meeting %d"},"badge":%d,"sound":"default"},"user":"3@1","folder":"INBOX","uidvalidity":1,"uid":%d,"unseen":%d}`, i, i%50, i, i%50)
	}
	return tokens, messages
})

// sendAll sends n messages with a given number in flight, and returns the CPU time of this process.
func sendAll(tb testing.TB, s *Sender, n, inFlight int) time.Duration {
	tb.Helper()
	if o := s.Send(tb.Context(), testDevice, testMessage()); o.Kind != outcome.Delivered { // connects and proves the token
		tb.Fatalf("outcome %+v", o)
	}
	tokens, messages := benchMessages()
	var next atomic.Int64
	var wg sync.WaitGroup
	ctx := tb.Context()
	start := make(chan struct{})
	for range inFlight {
		wg.Go(func() {
			<-start
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if o := s.Send(ctx, tokens[i%4096], messages[i%4096]); o.Kind != outcome.Delivered {
					tb.Errorf("outcome %+v", o)
					return
				}
			}
		})
	}
	before := cpuTime(tb)
	close(start)
	wg.Wait()
	return cpuTime(tb) - before
}

// cpuTime is of this process, user and system.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchSender(tb testing.TB, m mode, addr string, roots *x509.CertPool, connections int) *Sender {
	tb.Helper()
	key, _ := newTokenKey(tb)
	s, err := New(Config{URL: "https://" + addr, Environment: Sandbox, Topic: testTopic, TokenKey: key, RootCAs: roots, HTTP2Transport: bool(m), Connections: connections})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// BenchmarkSend has 1000 notifications in flight. With server=here the figures include the server's
// part; with server=child cpu_us/msg is the client's alone.
func BenchmarkSend(b *testing.B) {
	cert, certPEM, err := benchCertificate()
	if err != nil {
		b.Fatal(err)
	}
	here, err := newBenchServer(cert, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer here.close()
	childAddr, childRoots := startChild(b, 0)
	for _, server := range []struct {
		name, addr string
		roots      *x509.CertPool
	}{{"here", here.listener.Addr().String(), poolOf(certPEM)}, {"child", childAddr, childRoots}} {
		for _, m := range []mode{own, netHTTP} {
			b.Run("server="+server.name+"/wire="+m.String(), func(b *testing.B) {
				s := benchSender(b, m, server.addr, server.roots, 1)
				_, _ = benchMessages()
				b.ReportAllocs()
				b.ResetTimer()
				cpu := sendAll(b, s, b.N, benchStreams)
				b.ReportMetric(float64(cpu.Nanoseconds())/1000/float64(b.N), "cpu_us/msg")
			})
		}
	}
}

// BenchmarkClientCPU measures both wires in turn against the child, five rounds of 40,000 messages,
// and reports medians and their ratio: what apns.cpu_us is held to. Run it with -benchtime 1x.
func BenchmarkClientCPU(b *testing.B) {
	const rounds, messages = 5, 40_000
	addr, roots := startChild(b, 0)
	for range b.N {
		var us [2][]float64
		for range rounds {
			for i, m := range []mode{own, netHTTP} {
				s := benchSender(b, m, addr, roots, 1)
				cpu := sendAll(b, s, messages, benchStreams)
				us[i] = append(us[i], float64(cpu.Nanoseconds())/1000/messages)
				s.Close()
			}
		}
		for i := range us {
			slices.Sort(us[i])
		}
		a, z := us[0][rounds/2], us[1][rounds/2]
		b.ReportMetric(a, "own_cpu_us/msg")
		b.ReportMetric(z, "nethttp_cpu_us/msg")
		b.ReportMetric(z/a, "times")
	}
}

// BenchmarkRate is the rate of one connection, and of two, when the answers take 50 ms: a thousand
// streams allow 20,000 a second each.
func BenchmarkRate(b *testing.B) {
	addr, roots := startChild(b, 50*time.Millisecond)
	for _, connections := range []int{1, 2} {
		for _, m := range []mode{own, netHTTP} {
			if m == netHTTP && connections > 1 {
				continue
			}
			b.Run(fmt.Sprintf("connections=%d/wire=%s", connections, m), func(b *testing.B) {
				s := benchSender(b, m, addr, roots, connections)
				b.ResetTimer()
				start := time.Now()
				cpu := sendAll(b, s, b.N, connections*benchStreams)
				b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "msg/s")
				b.ReportMetric(float64(cpu.Nanoseconds())/1000/float64(b.N), "cpu_us/msg")
			})
		}
	}
}
