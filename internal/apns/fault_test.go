package apns

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// warm sends the first message, which connects and proves the token.
func warm(t *testing.T, s *Sender) {
	t.Helper()
	if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Delivered {
		t.Fatalf("the first: %+v", o)
	}
}

func streamLimit(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n}
}

// TestKilledMidStream: thirty under way, ten answered, GOAWAY in the middle of the others, and a cut.
// What was answered is delivered, what Apple may have taken is for later, what it did not look at goes
// to the next connection with the same id.
func TestKilledMidStream(t *testing.T) { overBoth(t, testKilledMidStream) }

func testKilledMidStream(t *testing.T, m mode) {
	var mu sync.Mutex
	unknown, resent := map[string]bool{}, map[string]bool{}
	s := rawServer(t, m, func(p *rawPeer) {
		if !proved(p, []http2.Setting{streamLimit(100)}) {
			return
		}
		var open []arrival
		for range 30 {
			a, _ := p.next()
			open = append(open, a)
		}
		slices.SortFunc(open, func(a, b arrival) int { return int(a.stream) - int(b.stream) })
		for _, a := range open[:10] {
			p.accept(a)
		}
		mu.Lock()
		for _, a := range open[10:20] {
			unknown[a.id] = true
		}
		for _, a := range open[20:] {
			resent[a.id] = true
		}
		mu.Unlock()
		p.goAway(open[19].stream, http2.ErrCodeNo)
		p.end()
	}, func(p *rawPeer) {
		p.settings(streamLimit(100))
		for {
			a, ok := p.next()
			if !ok {
				return
			}
			mu.Lock()
			if !resent[a.id] {
				t.Errorf("apns-id %s on the second connection", a.id)
			}
			mu.Unlock()
			p.accept(a)
		}
	})
	warm(t, s)
	for i, o := range sendMany(t.Context(), s, 30) {
		id := numbered(i).ID
		switch {
		case unknown[id] && (o.Kind != outcome.Later || o.Reason != "http2_goaway"):
			t.Errorf("taken, but not answered: %+v", o)
		case !unknown[id] && o.Kind != outcome.Delivered:
			t.Errorf("answered or not looked at: %+v", o)
		}
	}
}

// TestGracefulGoAway: the server says in two steps that it will close, as RFC 9113 section 6.8 advises,
// and answers what it took: nothing is lost, and nothing sent twice.
func TestGracefulGoAway(t *testing.T) { overBoth(t, testGracefulGoAway) }

func testGracefulGoAway(t *testing.T, m mode) {
	var mu sync.Mutex
	seen := map[string]int{}
	note := func(a arrival) {
		mu.Lock()
		seen[a.id]++
		mu.Unlock()
	}
	s := rawServer(t, m, func(p *rawPeer) {
		if !proved(p, []http2.Setting{streamLimit(100)}) {
			return
		}
		var open []arrival
		for range 10 {
			a, ok := p.next()
			if !ok {
				return
			}
			note(a)
			open = append(open, a)
		}
		p.goAway(maxStreamID, http2.ErrCodeNo)
		// The answer to a PING comes after what the client had under way when it read the GOAWAY.
		p.ping()
		if _, ok := receiveFrom(p, p.pongs); !ok {
			return
		}
		for len(p.requests) > 0 {
			a := <-p.requests
			note(a)
			open = append(open, a)
		}
		last := uint32(0)
		for _, a := range open {
			last = max(last, a.stream)
		}
		p.goAway(last, http2.ErrCodeNo)
		for _, a := range open {
			p.accept(a)
		}
		for {
			a, ok := p.next()
			if !ok {
				return
			}
			if a.stream <= last { // its payload was still to come
				note(a)
				p.accept(a)
			}
		}
	}, func(p *rawPeer) {
		p.settings(streamLimit(100))
		for {
			a, ok := p.next()
			if !ok {
				return
			}
			note(a)
			p.accept(a)
		}
	})
	warm(t, s)
	if o := sendMany(t.Context(), s, 30); count(o, outcome.Delivered) != 30 {
		t.Errorf("outcomes %+v", o)
	}
	mu.Lock()
	defer mu.Unlock()
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s arrived %d times", id, n)
		}
	}
}

// TestRefusedStreams: every stream is refused once, and every message delivered; refusals without end
// are for later.
func TestRefusedStreams(t *testing.T) { overBoth(t, testRefusedStreams) }

func testRefusedStreams(t *testing.T, m mode) {
	var always atomic.Bool
	s := rawServer(t, m, func(p *rawPeer) {
		p.settings(streamLimit(100))
		seen := map[string]int{}
		for {
			a, ok := p.next()
			if !ok {
				return
			}
			if seen[a.id]++; seen[a.id] == 1 || always.Load() {
				p.reset(a.stream, http2.ErrCodeRefusedStream)
			} else {
				p.accept(a)
			}
		}
	})
	if o := sendMany(t.Context(), s, 50); count(o, outcome.Delivered) != 50 {
		t.Errorf("outcomes %+v", o)
	}
	always.Store(true)
	if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Later || o.Reason != "http2_stream" {
		t.Errorf("refused for ever: %+v", o)
	}
}

// TestStreamLimitChanges: the limit is followed up and down while requests are under way. The server
// counts what is open once the client has acknowledged the limit.
func TestStreamLimitChanges(t *testing.T) { overBoth(t, testStreamLimitChanges) }

func testStreamLimitChanges(t *testing.T, m mode) {
	s := rawServer(t, m, func(p *rawPeer) {
		if !proved(p, []http2.Setting{streamLimit(20)}) {
			return
		}
		<-p.acks
		var open []arrival
		for limit := range slices.Values([]uint32{20, 5, 1, 50, 3}) {
			p.settings(streamLimit(limit))
			if _, ok := receiveFrom(p, p.acks); !ok {
				return
			}
			for {
				select { // what came before the acknowledgement
				case a := <-p.requests:
					open = append(open, a)
					continue
				default:
				}
				break
			}
			for len(open) >= int(limit) {
				p.accept(open[0])
				open = open[1:]
			}
			noticed := m == own // net/http notices a raised limit when a stream ends, and not before
			for range 40 {
				for len(open) < int(limit) {
					if !noticed && len(open) > 0 {
						noticed = true
						p.accept(open[0])
						open = open[1:]
						continue
					}
					a, ok := p.next()
					if !ok {
						return
					}
					open = append(open, a)
				}
				if len(p.requests) > 0 && m == own { // net/http may be late with what it had begun
					t.Errorf("a stream above the limit of %d", limit)
				}
				p.accept(open[0])
				open = open[1:]
			}
		}
		for _, a := range open {
			p.accept(a)
		}
		p.acceptAll()
	})
	warm(t, s)
	if o := sendMany(t.Context(), s, 300); count(o, outcome.Delivered) != 300 {
		t.Errorf("%d of 300 delivered", count(o, outcome.Delivered))
	}
}

// TestSmallWindows: payloads wait for the windows, at whatever size they come, and arrive whole.
func TestSmallWindows(t *testing.T) { overBoth(t, testSmallWindows) }

func testSmallWindows(t *testing.T, m mode) {
	message := testMessage()
	message.Payload = fmt.Appendf(nil, `{"aps":{"alert":%q}}`, strings.Repeat("0123456789", 20))
	size := uint32(len(message.Payload)) //nolint:gosec // a few hundred
	window := func(n uint32) http2.Setting { return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n} }
	tests := []struct {
		name string
		play func(p *rawPeer, stream uint32)
	}{
		{"octet by octet", func(p *rawPeer, stream uint32) {
			for range size {
				p.window(stream, 1)
			}
		}},
		{"by settings", func(p *rawPeer, _ uint32) {
			for n := range size + 1 {
				p.settings(window(n))
			}
		}},
		{"below zero and back", func(p *rawPeer, stream uint32) {
			p.settings(window(100)) // 100 octets come
			p.settings(window(0))   // and the window is at -100
			p.window(stream, 100)   // at 0
			p.window(stream, size-100)
		}},
		{"all at once", func(p *rawPeer, stream uint32) { p.window(stream, size) }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := rawServer(t, m, func(p *rawPeer) {
				if !proved(p, []http2.Setting{streamLimit(10)}, window(0)) {
					return
				}
				<-p.heads
				for {
					a, ok := receiveFrom(p, p.heads)
					if !ok {
						return
					}
					if len(p.requests) > 0 {
						t.Error("sent without a window")
					}
					tc.play(p, a.stream)
					if a, ok = p.next(); !ok {
						return
					}
					if !bytes.Equal(a.body, message.Payload) {
						t.Errorf("%d of %d bytes arrived", len(a.body), size)
					}
					p.settings(window(0))
					p.accept(a)
				}
			})
			warm(t, s)
			for range 2 {
				if o := s.Send(t.Context(), testDevice, message); o.Kind != outcome.Delivered {
					t.Errorf("outcome %+v", o)
				}
			}
		})
	}
}

// TestConnectionWindow: when the connection's window is used up, requests wait for it, not for each
// other, and one that is given up meanwhile leaves the line.
func TestConnectionWindow(t *testing.T) { overBoth(t, testConnectionWindow) }

func testConnectionWindow(t *testing.T, m mode) {
	const messages = 40
	blocked, ready := make(chan struct{}), make(chan struct{})
	s := rawServer(t, m, func(p *rawPeer) {
		if !proved(p, nil) {
			return
		}
		for range messages + 2 { // the header fields of all, the payloads of few
			if _, ok := receiveFrom(p, p.heads); !ok {
				return
			}
		}
		whole := len(p.requests)
		if whole > defaultWindow/MaxPayload {
			t.Errorf("%d payloads in a window of %d bytes", whole, defaultWindow)
		}
		close(blocked)
		if _, ok := receiveFrom(p, p.resets); !ok { // of the one that gives up
			return
		}
		<-ready
		for range 30 {
			p.window(0, 5000)
		}
		p.acceptAll()
	})
	warm(t, s)
	var wg sync.WaitGroup
	send := func(ctx context.Context, i int, want outcome.Kind) {
		message := numbered(i)
		message.Payload = slices.Concat([]byte(`{"aps":"`), bytes.Repeat([]byte("x"), MaxPayload-10), []byte(`"}`))
		if o := s.Send(ctx, testDevice, message); o.Kind != want {
			t.Errorf("%d: outcome %+v", i, o)
		}
	}
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	wg.Go(func() { send(ctx, messages, outcome.Later) })
	for i := range messages {
		wg.Go(func() { send(t.Context(), i, outcome.Delivered) })
	}
	<-blocked
	giveUp()
	close(ready)
	wg.Wait()
}

// TestGivingUpFreesTheStream: one that is canceled makes room for the next.
func TestGivingUpFreesTheStream(t *testing.T) { overBoth(t, testGivingUpFreesTheStream) }

func testGivingUpFreesTheStream(t *testing.T, m mode) {
	ctx, cancel := context.WithCancel(t.Context())
	s := rawServer(t, m, func(p *rawPeer) {
		if !proved(p, []http2.Setting{streamLimit(1)}) {
			return
		}
		if _, ok := p.next(); !ok {
			return
		}
		cancel()
		r, ok := receiveFrom(p, p.resets)
		if ok && r.ErrCode != http2.ErrCodeCancel {
			t.Errorf("reset with %s", r.ErrCode)
		}
		p.acceptAll()
	})
	warm(t, s)
	if o := s.Send(ctx, testDevice, numbered(1)); o.Kind != outcome.Later || o.Reason != "canceled" {
		t.Errorf("outcome %+v", o)
	}
	if o := s.Send(t.Context(), testDevice, numbered(2)); o.Kind != outcome.Delivered {
		t.Errorf("outcome %+v", o)
	}
}
