package mailnotify

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// cyrus is a datagram as Cyrus makes it, here with an option.
const cyrus = "log\x00MAIL\x00\x00anna\x00INBOX\x001\x00option\x00From: Bob\nSubject: Hello\x00"

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, give, user string
		want             result
	}{
		{"Cyrus", cyrus, "anna", accepted},
		{"full address", "m\x00c\x00p\x00anna@example.org\x00INBOX\x000\x00text\x00", "anna@example.org", accepted},
		{"cut behind the user", "m\x00c\x00p\x00anna\x00", "anna", accepted},
		{"cut at the user's end", "m\x00c\x00p\x00anna", "anna", accepted},
		{"no method, class, priority", "\x00\x00\x00anna\x00", "anna", accepted},
		{"69 bytes, as the original took", "mailnotify\x00MAIL\x00\x00anna\x00" + strings.Repeat("x", 47), "anna", accepted},
		{"longest", "m\x00c\x00p\x00anna\x00" + strings.Repeat("x", maxDatagram-11), "anna", accepted},

		{"empty", "", "", empty},
		{"too long", "m\x00c\x00p\x00anna\x00" + strings.Repeat("x", maxDatagram-10), "", oversized},
		{"one field", "anna", "", malformed},
		{"three fields", "m\x00c\x00p", "", malformed},
		{"no user", "m\x00c\x00p\x00\x00INBOX\x00", "", malformed},
		{"user is cut away", "m\x00c\x00p\x00", "", malformed},
		{"zeros", strings.Repeat("\x00", 69), "", malformed},
		{"control characters", "m\x00c\x00p\x00an\x1bna\x00", "", malformed},
		{"no UTF-8", "m\x00c\x00p\x00an\xffna\x00", "", malformed},
		{"long user", "m\x00c\x00p\x00" + strings.Repeat("a", 256) + "\x00", "", malformed},
	} {
		user, got := parse([]byte(tc.give))
		if user != tc.user || got != tc.want {
			t.Errorf("%s: %q, %s, want %q, %s", tc.name, user, got, tc.user, tc.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(cyrus))
	f.Add([]byte{})
	f.Add([]byte("m\x00c\x00p\x00"))
	f.Add(bytes.Repeat([]byte{0}, 69))
	f.Fuzz(func(t *testing.T, b []byte) {
		user, r := parse(b)
		if (r == accepted) != (user != "") {
			t.Fatalf("%q, %s", user, r)
		}
		if r != accepted {
			return
		}
		fields := strings.Split(string(b), "\x00")
		if len(fields) <= userField || fields[userField] != user || tenant.CheckLogin(user) != nil || len(b) > maxDatagram {
			t.Fatalf("%q is not the user of %q", user, b)
		}
	})
}

// hostile makes datagrams that nobody should send, and some that are nearly right.
type hostile struct{ *rand.Rand }

func newHostile(seed uint64) hostile { return hostile{rand.New(rand.NewPCG(seed, 4))} } //nolint:gosec // a test's data

func (h hostile) next() []byte {
	switch h.IntN(5) {
	case 0:
		return nil
	case 1: // cut anywhere
		return []byte(cyrus[:h.IntN(len(cyrus))])
	case 2: // too long
		return h.bytes(maxDatagram + 1 + h.IntN(2000))
	case 3: // right, with some bytes changed
		b := []byte(cyrus)
		for range 1 + h.IntN(8) {
			b[h.IntN(len(b))] = h.bytes(1)[0]
		}
		return b
	default:
		return h.bytes(h.IntN(300))
	}
}

func (h hostile) bytes(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 4 {
		r := h.Uint32()
		for j := i; j < min(n, i+4); j++ {
			b[j] = byte(r)
			r >>= 8
		}
	}
	return b
}

// TestHostile has 100,000 datagrams judged: whatever they are, the next one is judged as well.
func TestHostile(t *testing.T) {
	t.Parallel()
	s := newTestSource(t, Config{})
	h := newHostile(1)
	from := netip.MustParseAddr("127.0.0.1")
	seen := map[result]int{}
	for range 100_000 {
		seen[s.take(from, h.next())]++
		select {
		case <-s.arrived:
		default:
		}
	}
	for _, r := range []result{empty, malformed, oversized, accepted} {
		if seen[r] < 1000 {
			t.Errorf("only %d were %s: the test's datagrams are too much alike: %v", seen[r], r, seen)
		}
	}
	if got := s.take(from, []byte(cyrus)); got != accepted || <-s.arrived != "anna" {
		t.Errorf("afterwards a good one is %s", got)
	}
}

// newTestSource returns a Source on a free port. Nothing is limited unless c says so.
func newTestSource(t *testing.T, c Config) *Source {
	t.Helper()
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Rate == 0 {
		c.Rate, c.Burst = 1e9, 1e9
	}
	c.Log, c.Metrics, c.Now = testLog(t), prometheus.NewRegistry(), time.Now
	s, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // of one that never ran
	return s
}
