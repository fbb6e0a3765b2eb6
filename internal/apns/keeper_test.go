package apns

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// silence answers nothing more, not even a ping.
func silence(p *rawPeer) {
	p.mute.Store(true)
	p.settings(streamLimit(100))
	a, ok := p.next()
	if ok {
		p.accept(a)
		<-p.ended
	}
}

// TestBlackHoleByPing: requests on a connection that fell silent are given back once a ping has had no
// answer, long before their own time is over.
func TestBlackHoleByPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := piped(t, nil, silence, (*rawPeer).serve)
		warm(t, s)
		start := time.Now()
		outcomes := sendMany(t.Context(), s, 10)
		if d := time.Since(start); d < silenceAllowed+pongAllowed || d > silenceAllowed+pongAllowed+4*sweepEvery {
			t.Errorf("given up after %v", d)
		}
		for _, o := range outcomes {
			if o.Kind != outcome.Later || o.Reason != "connection" {
				t.Errorf("outcome %+v", o)
			}
		}
		warm(t, s) // over another
	})
}

// serve accepts everything.
func (p *rawPeer) serve() {
	p.settings(streamLimit(100))
	p.acceptAll()
}

// TestSlowDrip: octets that never become a frame are no sign of life, and frames that never become an
// answer do not extend a request's time.
func TestSlowDrip(t *testing.T) {
	tests := []struct {
		name string
		drip play
		kind outcome.Kind
		most time.Duration
	}{
		{"octets", func(p *rawPeer) {
			for range 1000 {
				p.raw([]byte{0})
				wait(time.Second)
			}
		}, outcome.Later, silenceAllowed + pongAllowed + 4*sweepEvery},
		{"body", func(p *rawPeer) {
			p.headers(3, false, ":status", "503")
			for range 1000 {
				p.data(3, false, "x")
				wait(time.Second)
			}
		}, outcome.Later, sendTimeout + 2*sweepEvery},
		{"pings", func(p *rawPeer) {
			for range 1000 {
				p.write(func() error { return p.fr.WritePing(false, [8]byte{}) })
				wait(time.Second)
			}
		}, outcome.Later, sendTimeout + 2*sweepEvery},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := piped(t, nil, func(p *rawPeer) {
					if proved(p, nil) {
						if _, ok := p.next(); ok {
							tc.drip(p)
						}
					}
				}, (*rawPeer).serve)
				warm(t, s)
				start := time.Now()
				o := s.Send(t.Context(), testDevice, numbered(1))
				if d := time.Since(start); o.Kind != tc.kind || d > tc.most {
					t.Errorf("after %v: %+v", d, o)
				}
			})
		})
	}
}

// TestIdle: an idle connection is pinged hourly, kept for as long as it answers, and gone when it does
// not. After a minute without use the next request brings a ping of its own.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pings, dead := make(chan struct{}, 100), make(chan struct{})
		s, d := piped(t, nil, func(p *rawPeer) {
			p.settings()
			for {
				select {
				case a := <-p.requests:
					wait(10 * time.Millisecond)
					p.accept(a)
				case <-p.pings:
					pings <- struct{}{}
				case <-dead:
					p.mute.Store(true)
					<-p.ended
					return
				}
			}
		}, (*rawPeer).serve)
		warm(t, s)
		wait(10 * time.Second)
		warm(t, s) // no ping for this
		wait(5*time.Hour + time.Minute)
		if n := len(pings); n != 5 {
			t.Errorf("%d pings in five hours", n)
		}
		wait(2 * time.Minute)
		warm(t, s)
		wait(time.Second)
		if n := len(pings); n != 6 || len(d.times()) != 1 {
			t.Errorf("%d pings, %d connections", n, len(d.times()))
		}
		close(dead)
		wait(2 * time.Hour)
		start := time.Now()
		warm(t, s)
		if took := time.Since(start); took > time.Second || len(d.times()) != 2 {
			t.Errorf("a dead connection was still there: %v, %d connections", took, len(d.times()))
		}
	})
}

// TestSendTimeout: without a free stream, and without a deadline of the caller's, Send ends anyway. A
// server that allows no streams at all is left.
func TestSendTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := piped(t, nil, func(p *rawPeer) {
			if proved(p, []http2.Setting{streamLimit(1)}, streamLimit(0)) {
				<-p.ended
			}
		}, (*rawPeer).serve)
		warm(t, s)
		start := time.Now()
		for _, o := range sendMany(t.Context(), s, 5) {
			if o.Kind != outcome.Later || o.Reason != "timeout" {
				t.Errorf("outcome %+v", o)
			}
		}
		if took := time.Since(start); took < sendTimeout || took > sendTimeout+2*sweepEvery {
			t.Errorf("ended after %v", took)
		}
		warm(t, s)
		if len(d.times()) != 2 {
			t.Errorf("%d connections", len(d.times()))
		}
	})
}

// TestLingering: an accepted request returns at once although its stream goes on; the stream keeps its
// place until it ends, which we see to.
func TestLingering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := piped(t, nil, func(p *rawPeer) {
			if !proved(p, []http2.Setting{streamLimit(1)}) {
				return
			}
			a, _ := p.next()
			p.headers(a.stream, false, ":status", "200", "apns-id", a.id)
			if r, ok := receiveFrom(p, p.resets); !ok || r.StreamID != a.stream || r.ErrCode != http2.ErrCodeCancel {
				t.Errorf("reset %v", r)
			}
			p.acceptAll()
		})
		warm(t, s)
		start := time.Now()
		warm(t, s)
		if took := time.Since(start); took != 0 {
			t.Errorf("accepted after %v", took)
		}
		if n, limit := s.Streams(); n != 1 || limit != 1 {
			t.Errorf("%d of %d streams", n, limit)
		}
		warm(t, s)
		if took := time.Since(start); took < lingerAllowed || took > lingerAllowed+3*sweepEvery {
			t.Errorf("the next after %v", took)
		}
	})
}
