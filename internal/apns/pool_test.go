package apns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// wait is a pause in the time of a synctest bubble.
func wait(d time.Duration) { <-time.After(d) }

// TestReconnectRate: whatever the server does to its connections, and however many callers there are,
// attempts become rare.
func TestReconnectRate(t *testing.T) {
	tests := map[string]play{
		"cut at once":     func(*rawPeer) {},
		"cut after hello": func(p *rawPeer) { p.settings() },
		"go away": func(p *rawPeer) {
			p.settings()
			p.goAway(0, http2.ErrCodeNo)
			<-p.ended
		},
		"cut after one answer": func(p *rawPeer) { proved(p, nil) },
	}
	for name, script := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := piped(t, nil, script)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				var wg sync.WaitGroup
				for i := range 50 {
					wg.Go(func() {
						for ctx.Err() == nil {
							if o := s.Send(ctx, testDevice, numbered(i)); o.Kind == outcome.Later {
								wait(100 * time.Millisecond)
							}
						}
					})
				}
				wg.Wait()
				times := d.times()
				if len(times) > 40 || len(times) < 10 {
					t.Errorf("%d attempts in two minutes", len(times))
				}
				for i := range times[1:] {
					if pause := times[i+1].Sub(times[i]); pause < firstPause/2 || (i > 10 && pause < maxPause/2) {
						t.Errorf("attempt %d came %v after the one before", i+1, pause)
					}
				}
			})
		})
	}
}

// TestDialFails: all who wait are told why, and the next attempt waits its time.
func TestDialFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		s, _ := piped(t, func(p *pool) {
			p.dial = func(context.Context) (net.Conn, error) {
				attempts++
				wait(time.Second)
				return nil, &net.OpError{Op: "dial", Err: errors.New("no route")}
			}
		}, (*rawPeer).serve)
		for round := range 3 {
			for _, o := range sendMany(t.Context(), s, 20) {
				if o.Kind != outcome.Later || o.Reason != "connect" {
					t.Errorf("outcome %+v", o)
				}
			}
			if attempts != round+1 {
				t.Errorf("%d attempts in %d rounds", attempts, round+1)
			}
		}
		// A caller without the time to wait for the next attempt hears of the last.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if o := s.Send(ctx, testDevice, testMessage()); o.Kind != outcome.Later || o.Reason != "connect" {
			t.Errorf("outcome %+v", o)
		}
	})
}

// TestNobodyWaitsForTheNextAttempt: while it is not due, a request comes back at once, because what it says may
// be old by then; and the attempt is made when it is due.
func TestNobodyWaitsForTheNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		s, _ := piped(t, func(p *pool) {
			p.dial = func(context.Context) (net.Conn, error) {
				attempts++
				return nil, &net.OpError{Op: "dial", Err: errors.New("no route")}
			}
		}, (*rawPeer).serve)
		for range 600 { // a minute
			began := time.Now()
			if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Later || o.Reason != "connect" || time.Since(began) > 0 {
				t.Fatalf("outcome %+v after %v", o, time.Since(began))
			}
			wait(100 * time.Millisecond)
		}
		if attempts < 8 || attempts > 20 {
			t.Errorf("%d attempts in a minute", attempts)
		}
	})
}

// TestOneStreamUntilAccepted: a connection with a token carries one request at a time while the server
// refuses the credential, whatever limit it sets, and no more than it sets afterwards.
func TestOneStreamUntilAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := piped(t, nil, func(p *rawPeer) {
			p.settings(streamLimit(10))
			for n := 0; ; n++ {
				a, ok := p.next()
				if !ok {
					return
				}
				synctest.Wait()
				if len(p.heads) != n+1 {
					t.Errorf("%d requests at once", len(p.heads)-n)
				}
				if n < 5 {
					p.refuse(a, "403", "InvalidProviderToken")
					continue
				}
				p.accept(a)
				break
			}
			for range 10 {
				if _, ok := p.next(); !ok {
					return
				}
			}
			synctest.Wait()
			if len(p.heads) != 16 {
				t.Errorf("%d requests at once, the limit is 10", len(p.heads)-6)
			}
		}, (*rawPeer).serve)
		if n, limit := s.Streams(); n != 0 || limit != 1 {
			t.Errorf("%d of %d streams before the first", n, limit)
		}
		outcomes := sendMany(t.Context(), s, 20)
		// Five refused, one accepted, ten cut off, and four over the next connection.
		if b, d, l := count(outcomes, outcome.Blocked), count(outcomes, outcome.Delivered), count(outcomes, outcome.Later); b != 5 || d != 5 || l != 10 {
			t.Errorf("%d blocked, %d delivered, %d for later", b, d, l)
		}
	})
}

// TestCertificateNeedsNoProof: with a certificate the server's limit holds as soon as it is known.
func TestCertificateNeedsNoProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *Sender
		s, _ = piped(t, func(p *pool) { p.single = false }, func(p *rawPeer) {
			p.settings(streamLimit(10))
			for range 10 {
				if _, ok := p.next(); !ok {
					t.Error("ended early")
				}
			}
			if n, limit := s.Streams(); n != 10 || limit != 10 {
				t.Errorf("%d of %d streams", n, limit)
			}
		})
		sendMany(t.Context(), s, 10)
	})
}

// TestStreamsLimit: without a limit, and with one that is none, we have our own.
func TestStreamsLimit(t *testing.T) {
	for want, settings := range map[int][]http2.Setting{defaultStreams: nil, maxStreams: {streamLimit(1<<32 - 1)}, 7: {streamLimit(7)}} {
		s := rawServer(t, own, func(p *rawPeer) {
			p.settings(settings...)
			p.acceptAll()
		})
		warm(t, s)
		if n, limit := s.Streams(); n != 0 || limit != want {
			t.Errorf("%d of %d streams, want %d", n, limit, want)
		}
	}
}

// TestStreamsRunOut: when the numbers of a connection are used up, another one takes over, and nothing
// is lost.
func TestStreamsRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := piped(t, func(p *pool) { p.firstID = maxStreamID - 2*19 }, func(p *rawPeer) {
			p.settings(streamLimit(10))
			for {
				a, ok := p.next()
				if !ok {
					break
				}
				if a.stream > maxStreamID {
					t.Errorf("stream %d", a.stream)
				}
				p.accept(a)
			}
			if len(p.goAways) != 1 || (<-p.goAways).ErrCode != http2.ErrCodeNo {
				t.Error("no farewell")
			}
		})
		if o := sendMany(t.Context(), s, 100); count(o, outcome.Delivered) != 100 {
			t.Errorf("%d of 100 delivered", count(o, outcome.Delivered))
		}
		if n := len(d.times()); n != 5 {
			t.Errorf("%d connections for 100 requests of 20 each", n)
		}
	})
}

// TestTwoConnections: the second opens when the first is full, not before, and takes over what the
// first gives up.
func TestTwoConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		script := func(p *rawPeer) {
			if !proved(p, []http2.Setting{streamLimit(10)}) {
				return
			}
			select {
			case <-release:
			case <-p.ended:
			}
			p.acceptAll()
		}
		s, d := piped(t, func(p *pool) { p.size = 2 }, script)
		warm(t, s)
		if n, limit := s.Streams(); n != 0 || limit != 20 || len(d.times()) != 1 {
			t.Errorf("%d of %d streams, %d connections", n, limit, len(d.times()))
		}
		var wg sync.WaitGroup
		var outcomes []outcome.Outcome
		wg.Go(func() { outcomes = sendMany(t.Context(), s, 10) })
		wait(time.Second)
		if n, _ := s.Streams(); n != 10 || len(d.times()) != 1 {
			t.Errorf("%d streams, %d connections", n, len(d.times()))
		}
		var more []outcome.Outcome
		wg.Go(func() { more = sendMany(t.Context(), s, 15) }) // ten places are left, and five wait
		wait(time.Second)
		if n, limit := s.Streams(); n != 20 || limit != 20 || len(d.times()) != 2 {
			t.Errorf("%d of %d streams, %d connections", n, limit, len(d.times()))
		}
		close(release)
		wg.Wait()
		if count(outcomes, outcome.Delivered) != 10 || count(more, outcome.Delivered) != 15 {
			t.Errorf("outcomes %+v %+v", outcomes, more)
		}
		wait(time.Hour)
		if n := len(d.times()); n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestFloods: a peer cannot make us answer without end, nor keep answers for a peer that does not read.
func TestFloods(t *testing.T) {
	tests := map[string]func(p *rawPeer) error{
		"ping":     func(p *rawPeer) error { return p.fr.WritePing(false, [8]byte{}) },
		"settings": func(p *rawPeer) error { return p.fr.WriteSettings(streamLimit(10)) },
	}
	for name, flood := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := piped(t, nil, func(p *rawPeer) {
					if !proved(p, nil) {
						return
					}
					if _, ok := p.next(); !ok {
						return
					}
					sent := 0
					p.write(func() error {
						for ; sent < 10*maxGreetings; sent++ {
							if err := flood(p); err != nil {
								return err
							}
						}
						return nil
					})
					if sent > 2*maxGreetings {
						t.Errorf("%d were taken", sent)
					}
				}, (*rawPeer).serve)
				warm(t, s)
				if o := s.Send(t.Context(), testDevice, numbered(1)); o.Kind != outcome.Later || o.Reason != "http2_protocol" {
					t.Errorf("outcome %+v", o)
				}
				warm(t, s)
			})
		})
	}
}

// TestClose: it ends what is under way, says goodbye, and a Send after it is refused.
func TestClose(t *testing.T) { overBoth(t, testClose) }

func testClose(t *testing.T, m mode) {
	under, over := make(chan struct{}), make(chan struct{})
	s := rawServer(t, m, func(p *rawPeer) {
		defer close(over)
		if !proved(p, []http2.Setting{streamLimit(10)}) {
			return
		}
		for range 10 {
			if _, ok := p.next(); !ok {
				return
			}
		}
		close(under)
		<-p.ended
		if m == own && len(p.goAways) != 1 {
			t.Errorf("%d GOAWAY frames", len(p.goAways))
		}
	})
	warm(t, s)
	if m == netHTTP { // closes when the last request has ended
		s.Close()
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, o := range sendMany(t.Context(), s, 30) {
			if o.Kind != outcome.Later || o.Reason != "canceled" {
				t.Errorf("outcome %+v", o)
			}
		}
	})
	<-under
	s.Close()
	wg.Wait()
	<-over
	if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Later || o.Reason != "canceled" {
		t.Errorf("outcome %+v", o)
	}
	s.Close()
}

// TestThousands: callers by the thousand, some with little patience, on connections that come and go:
// every Send returns, and nothing is left open.
func TestThousands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := piped(t, func(p *pool) { p.size = 3 }, func(p *rawPeer) {
			p.settings(streamLimit(50))
			for n := 0; ; n++ {
				a, ok := p.next()
				if !ok {
					return
				}
				switch {
				case n == 700:
					p.goAway(a.stream, http2.ErrCodeNo)
				case n == 900:
					return
				case n%17 == 5:
					p.reset(a.stream, http2.ErrCodeRefusedStream)
				case n%230 == 7: // never answered
				case n%29 == 3:
					p.refuse(a, "400", "BadTopic")
				default:
					p.accept(a)
				}
			}
		})
		var wg sync.WaitGroup
		kinds := make([]map[string]int, 2000)
		for i := range 2000 {
			kinds[i] = map[string]int{}
			wg.Go(func() {
				for n := range 3 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+(i+n)%300)*100*time.Millisecond)
					o := s.Send(ctx, testDevice, numbered(i))
					cancel()
					kinds[i][fmt.Sprint(o.Kind, " ", o.Reason)]++
				}
			})
		}
		wg.Wait()
		total := map[string]int{}
		for _, k := range kinds {
			for kind, n := range k {
				total[kind] += n
			}
		}
		// Here a connection lives for no time at all before it goes away, so much of the time is spent
		// in the pauses before the next one.
		if total["delivered "] < 2000 {
			t.Errorf("outcomes %v", total)
		}
		wait(time.Minute)
		if n, _ := s.Streams(); n != 0 {
			t.Errorf("%d streams are left", n)
		}
		p := s.wire.(*pool)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.queue.n != 0 || len(p.conns) > 3 {
			t.Errorf("%d requests and %d connections are left", p.queue.n, len(p.conns))
		}
	})
}
