package mailnotify

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	l := newLimiter(2, 3)
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	take := func(from string) bool { return l.take(netip.MustParseAddr(from), now) }
	allowed := func(from string) (n int) {
		for take(from) {
			n++
		}
		return n
	}
	if n := allowed("10.0.0.1"); n != 3 {
		t.Errorf("%d at once, want the burst of 3", n)
	}
	if n := allowed("10.0.0.2"); n != 3 {
		t.Errorf("another sender has %d, want 3", n)
	}
	now = now.Add(time.Second)
	if n := allowed("10.0.0.1"); n != 2 {
		t.Errorf("%d after a second, want 2", n)
	}
	now = now.Add(time.Hour)
	if n := allowed("10.0.0.1"); n != 3 {
		t.Errorf("%d after an hour, want the burst of 3", n)
	}
	now = now.Add(-time.Hour)
	if take("10.0.0.1") {
		t.Error("a clock that was set back gives something")
	}
	now = now.Add(2 * time.Hour)
	if !take("10.0.0.3") {
		t.Error("not even one")
	}
	now = now.Add(-time.Hour)
	if !take("10.0.0.3") {
		t.Error("a clock that was set back takes something away")
	}
	now = now.Add(time.Hour)
	if n := allowed("2001:db8::1"); n != 3 {
		t.Error(n)
	}
	if take("2001:db8::2") || !take("2001:db8:0:1::1") || take("2001:db8::3%eth0") {
		t.Error("an IPv6 sender is not his /64")
	}
	if n := allowed("::ffff:10.0.0.9"); n != 3 || take("10.0.0.9") {
		t.Error("a mapped IPv4 address is another sender")
	}
}

// TestLimiterBound: made-up senders share one allowance, a known one keeps his, and all is forgotten in time.
func TestLimiterBound(t *testing.T) {
	t.Parallel()
	l := newLimiter(100, 10)
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	known := netip.MustParseAddr("192.0.2.1")
	if !l.take(known, now) {
		t.Fatal("not even one")
	}
	passed := 0
	for i := range uint32(maxSources + 1000) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24|i)
		if l.take(netip.AddrFrom4(a), now) {
			passed++
		}
	}
	if len(l.sources) != maxSources || passed != maxSources-1+10 {
		t.Errorf("%d senders known, %d datagrams passed, want %d and %d", len(l.sources), passed, maxSources, maxSources-1+10)
	}
	if !l.take(known, now) {
		t.Error("the known sender is limited with the others")
	}
	now = now.Add(2 * time.Second)
	if !l.take(netip.MustParseAddr("172.16.0.1"), now) || len(l.sources) != 1 {
		t.Errorf("%d senders are remembered for nothing", len(l.sources))
	}
}
