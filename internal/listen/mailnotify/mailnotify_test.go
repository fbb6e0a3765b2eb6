package mailnotify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
)

func testLog(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// run runs s until the test ends, with hints for every name into the channel it returns.
func run(t *testing.T, s *Source) <-chan string {
	t.Helper()
	hints := make(chan string, 100)
	s.collect.hint = func(_ context.Context, name string) error {
		select {
		case hints <- name:
		default:
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return hints
}

// reach sends datagrams for a user until a hint for him comes.
func reach(t *testing.T, send func([]byte), hints <-chan string, user string) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	send([]byte("m\x00c\x00p\x00" + user + "\x00INBOX\x000\x00text\x00"))
	for {
		select {
		case got := <-hints:
			if got == user {
				return
			}
		case <-tick.C: // UDP may lose one
			send([]byte("m\x00c\x00p\x00" + user + "\x00INBOX\x000\x00text\x00"))
		case <-deadline:
			t.Fatalf("no hint for %s within 20 s", user)
		}
	}
}

func sender(t *testing.T, to netip.AddrPort) func([]byte) {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return func(b []byte) { _, _ = c.Write(b) } // what is lost is sent again
}

// TestHostileSocket sends random, empty, cut and oversized datagrams, and good ones between them: each good one
// is heard. With POSTHORN_DATAGRAMS=1000000 there are as many.
func TestHostileSocket(t *testing.T) {
	t.Parallel()
	n := 20_000
	if v, err := strconv.Atoi(os.Getenv("POSTHORN_DATAGRAMS")); err == nil {
		n = v
	}
	s := newTestSource(t, Config{})
	send := sender(t, s.Addr())
	var received atomic.Int64
	read := s.read
	s.read = func(b []byte) (int, netip.AddrPort, error) { received.Add(1); return read(b) }
	hints := run(t, s)
	h := newHostile(2)
	const batch = 50 // fits into the kernel's buffer, or most would be lost there
	start := time.Now()
	for sent := 0; sent < n; sent += batch {
		for range batch {
			send(h.next())
		}
		reach(t, send, hints, fmt.Sprintf("user%d@example.org", sent))
	}
	t.Logf("%d of %d datagrams arrived, in %s", received.Load(), n, time.Since(start).Round(time.Millisecond))
	if got := received.Load(); got < int64(n)*95/100 { // the kernel may lose some
		t.Errorf("only %d of %d datagrams arrived", got, n)
	}
}

// TestSocketErrors fails reads, and closes the socket under the reader: it goes on.
func TestSocketErrors(t *testing.T) {
	t.Parallel()
	free := newTestSource(t, Config{}) // finds a port that we can open again
	addr := free.Addr()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	s := newTestSource(t, Config{Listen: addr.String()})
	first, honest, left := s.conn, s.read, 2
	s.read = func(b []byte) (int, netip.AddrPort, error) {
		if left > 0 {
			left--
			return 0, netip.AddrPort{}, errors.New("no buffer space available")
		}
		return honest(b)
	}
	send := sender(t, addr)
	hints := run(t, s)
	reach(t, send, hints, "after-errors")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	reach(t, send, hints, "after-close")
}

// TestSocketReopens fails every read of a socket: another one takes its place, also when the first attempts at
// that fail.
func TestSocketReopens(t *testing.T) {
	t.Parallel()
	s := newTestSource(t, Config{})
	addr := s.Addr()
	s.Listen = addr.String()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	calls := 0
	s.read = func([]byte) (int, netip.AddrPort, error) {
		calls++
		return 0, netip.AddrPort{}, errors.New("the network is down")
	}
	send := sender(t, addr)
	time.AfterFunc(500*time.Millisecond, func() { once.Do(func() { _ = other.Close() }) })
	hints := run(t, s)
	reach(t, send, hints, "anna")
	if calls != reopenAfter {
		t.Errorf("%d reads of a socket that fails, want %d", calls, reopenAfter)
	}
}

// TestMulticast joins a group, and hears what is sent to it but not what is sent to the machine alone.
func TestMulticast(t *testing.T) {
	t.Parallel()
	lo := loopback(t)
	group := netip.MustParseAddr("239.192.23.42")
	s, err := func() (s *Source, err error) {
		s = newTestSource(t, Config{})
		_ = s.Close()
		s.Group, s.Interface = group, lo.Name
		return s, s.open(t.Context())
	}()
	if err != nil {
		t.Skipf("SKIPPED: this machine has no multicast: %v", err)
	}
	port := s.Addr().Port()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	p := ipv4.NewPacketConn(c)
	if err := errors.Join(p.SetMulticastInterface(lo), p.SetMulticastLoopback(true)); err != nil {
		t.Skipf("SKIPPED: this machine has no multicast: %v", err)
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, port))
	hints := run(t, s)
	sender(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))([]byte("m\x00c\x00p\x00unicast\x00"))
	reach(t, func(b []byte) {
		if _, err := c.WriteToUDP(b, to); err != nil {
			t.Fatal(err)
		}
	}, hints, "anna")
	reach(t, func(b []byte) { _, _ = c.WriteToUDP(b, to) }, hints, "bob")
}

func loopback(t *testing.T) *net.Interface {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(i net.Interface) bool { return i.Flags&net.FlagLoopback != 0 })
	if i < 0 {
		t.Skip("SKIPPED: there is no loopback interface")
	}
	return &all[i]
}

func TestAllowFrom(t *testing.T) {
	t.Parallel()
	s := newTestSource(t, Config{AllowFrom: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/32")}})
	for from, want := range map[string]result{
		"10.1.2.3": accepted, "::ffff:10.1.2.3": accepted, "2001:db8::1%eth0": accepted,
		"10.2.0.1": notAllowed, "127.0.0.1": notAllowed, "2001:db9::1": notAllowed,
	} {
		if got := s.take(netip.MustParseAddr(from), []byte(cyrus)); got != want {
			t.Errorf("from %s: %s, want %s", from, got, want)
		}
	}
	if len(s.limit.sources) != 2 {
		t.Errorf("%d senders are remembered, want the two that are heard", len(s.limit.sources))
	}
}

// TestBusy: nobody takes the names away. What is too much is dropped, and nothing waits.
func TestBusy(t *testing.T) {
	t.Parallel()
	s := newTestSource(t, Config{})
	from := netip.MustParseAddr("127.0.0.1")
	for range maxArrived {
		if got := s.take(from, []byte(cyrus)); got != accepted {
			t.Fatal(got)
		}
	}
	if got := s.take(from, []byte(cyrus)); got != tooMany {
		t.Errorf("%s, want %s", got, tooMany)
	}
}
