package apns

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// TestUnusualAnswers: everything a server may do on one stream, in order or not, has its outcome, and
// the connection serves the next request.
func TestUnusualAnswers(t *testing.T) { overBoth(t, testUnusualAnswers) }

func testUnusualAnswers(t *testing.T, m mode) {
	tests := []struct {
		name   string
		play   func(p *rawPeer, a arrival)
		kind   outcome.Kind
		reason string // "": any for net/http; ours is given
	}{
		{"interim answers", func(p *rawPeer, a arrival) {
			p.headers(a.stream, false, ":status", "103", "link", "x")
			p.accept(a)
		}, outcome.Delivered, ""},
		{"body and trailers", func(p *rawPeer, a arrival) {
			p.headers(a.stream, false, ":status", "410")
			p.data(a.stream, false, `{"reason":`)
			p.data(a.stream, false, `"Unregistered"}`)
			p.headers(a.stream, true, "x", "y")
		}, outcome.Gone, "Unregistered"},
		{"padding", func(p *rawPeer, a arrival) {
			p.write(func() error {
				return p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: a.stream, BlockFragment: p.encode(":status", "400"), EndHeaders: true, PadLength: 200})
			})
			p.write(func() error {
				return p.fr.WriteDataPadded(a.stream, true, []byte(`{"reason":"BadTopic"}`), make([]byte, 200))
			})
		}, outcome.Refused, "BadTopic"},
		{"continuation", func(p *rawPeer, a arrival) {
			p.write(func() error {
				block := p.encode(":status", "200", "apns-id", a.id)
				_ = p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: a.stream, BlockFragment: block[:1], EndStream: true})
				_ = p.fr.WriteContinuation(a.stream, false, block[1:3])
				return p.fr.WriteContinuation(a.stream, true, block[3:])
			})
		}, outcome.Delivered, ""},
		{"frames that mean nothing", func(p *rawPeer, a arrival) {
			p.write(func() error { return p.fr.WriteRawFrame(0xfa, 0xff, a.stream, []byte("x")) })
			p.write(func() error { return p.fr.WritePriority(a.stream, http2.PriorityParam{StreamDep: 0, Weight: 9}) })
			p.window(a.stream, 1)
			p.settings(http2.Setting{ID: 0xfafa, Val: 1})
			p.accept(a)
			p.window(a.stream, 1) // of a closed stream
		}, outcome.Delivered, ""},
		{"accepted, stream left open", func(p *rawPeer, a arrival) {
			p.headers(a.stream, false, ":status", "200", "apns-id", a.id)
			p.data(a.stream, true, "")
		}, outcome.Delivered, ""},
		{"accepted, then reset", func(p *rawPeer, a arrival) {
			p.accept(a)
			p.reset(a.stream, http2.ErrCodeNo)
		}, outcome.Delivered, ""},
		{"status, then reset", func(p *rawPeer, a arrival) {
			p.headers(a.stream, false, ":status", "400")
			p.reset(a.stream, http2.ErrCodeInternal)
		}, outcome.Refused, "unknown_4xx"},
		{"reset", func(p *rawPeer, a arrival) { p.reset(a.stream, http2.ErrCodeInternal) }, outcome.Later, "http2_stream"},
		{"no status", func(p *rawPeer, a arrival) { p.headers(a.stream, true, "apns-id", a.id) }, outcome.Later, "http2_stream"},
		{"status in letters", func(p *rawPeer, a arrival) { p.headers(a.stream, true, ":status", "okay") }, outcome.Later, "http2_stream"},
		{"two statuses", func(p *rawPeer, a arrival) { p.headers(a.stream, true, ":status", "200", ":status", "400") }, outcome.Later, "http2_stream"},
		{"pseudo-header field of a request", func(p *rawPeer, a arrival) { p.headers(a.stream, true, ":status", "200", ":path", "/") }, outcome.Later, "http2_stream"},
		{"interim answer as the last", func(p *rawPeer, a arrival) { p.headers(a.stream, true, ":status", "103") }, outcome.Later, "http2_stream"},
		{"body first", func(p *rawPeer, a arrival) { p.data(a.stream, true, "{}") }, outcome.Later, "http2_stream"},
		{"header list too large", func(p *rawPeer, a arrival) {
			p.headers(a.stream, true, ":status", "200", "x", strings.Repeat("a", 8000), "y", strings.Repeat("a", 8000), "z", strings.Repeat("a", 8000))
		}, outcome.Later, "http2_stream"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := rawServer(t, m, func(p *rawPeer) {
				p.settings(streamLimit(1))
				if a, ok := p.next(); ok {
					tc.play(p, a)
				}
				p.acceptAll()
			}, (*rawPeer).acceptAll)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			o := s.Send(ctx, testDevice, testMessage())
			if o.Kind != tc.kind || (m == own && o.Reason != tc.reason) {
				t.Errorf("outcome %+v", o)
			}
			if m == own || o.Kind == outcome.Delivered {
				if o := s.Send(ctx, testDevice, testMessage()); o.Kind != outcome.Delivered {
					t.Errorf("the next: %+v", o)
				}
			}
		})
	}
}

// TestBreaches: what a server must not do ends the connection, says so in words, and the next request
// goes over another.
func TestBreaches(t *testing.T) { overBoth(t, testBreaches) }

func testBreaches(t *testing.T, m mode) {
	raw := func(frame http2.FrameType, flags http2.Flags, stream uint32, payload string) play {
		return func(p *rawPeer) {
			p.write(func() error { return p.fr.WriteRawFrame(frame, flags, stream, []byte(payload)) })
		}
	}
	tests := []struct {
		name string
		play play
		says string // in our error
	}{
		{"garbage", func(p *rawPeer) { p.raw(bytes.Repeat([]byte("garbage!"), 100)) }, "FRAME_SIZE_ERROR"},
		{"HTTP/1", func(p *rawPeer) { p.raw([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")) }, "not HTTP/2"},
		{"push", func(p *rawPeer) {
			p.write(func() error {
				return p.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 3, PromiseID: 2, BlockFragment: p.encode(":status", "200"), EndHeaders: true})
			})
		}, "push"},
		{"a stream of the server", func(p *rawPeer) { p.headers(2, true, ":status", "200") }, "never opened"},
		{"a stream that is not open yet", func(p *rawPeer) { p.headers(99, true, ":status", "200") }, "never opened"},
		{"data on an idle stream", func(p *rawPeer) { p.data(99, true, "x") }, "never opened"},
		{"block that does not decode", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 3, "\xff\xff\xff\xff"), "COMPRESSION_ERROR"},
		{"block cut short", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 3, "\x40\x7f"), "COMPRESSION_ERROR"},
		{"block interrupted", func(p *rawPeer) {
			p.write(func() error {
				_ = p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.encode(":status", "200")})
				return p.fr.WritePing(false, [8]byte{})
			})
		}, "PROTOCOL_ERROR"},
		{"continuation of nothing", raw(http2.FrameContinuation, http2.FlagContinuationEndHeaders, 3, "x"), "PROTOCOL_ERROR"},
		{"window of nothing", func(p *rawPeer) { p.window(0, 0) }, "PROTOCOL_ERROR"},
		{"window overflow", func(p *rawPeer) { p.window(0, maxWindow) }, "FLOW_CONTROL_ERROR"},
		{"settings with a wrong window", func(p *rawPeer) { p.settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}) }, "FLOW_CONTROL_ERROR"},
		{"settings with a wrong frame size", func(p *rawPeer) { p.settings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1}) }, "PROTOCOL_ERROR"},
		{"settings with push", func(p *rawPeer) { p.settings(http2.Setting{ID: http2.SettingEnablePush, Val: 1}) }, "ENABLE_PUSH"},
		{"settings of odd length", raw(http2.FrameSettings, 0, 0, "x"), "FRAME_SIZE_ERROR"},
		{"ping of odd length", raw(http2.FramePing, 0, 0, "x"), "FRAME_SIZE_ERROR"},
		{"continuation flood", func(p *rawPeer) {
			p.write(func() error {
				_ = p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.encode(":status", "200")})
				for range 200_000 {
					if err := p.fr.WriteContinuation(3, false, nil); err != nil {
						return err
					}
				}
				return nil
			})
		}, "without end"},
		{"endless header list", func(p *rawPeer) {
			p.write(func() error {
				_ = p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.encode(":status", "200")})
				for range 1000 {
					if err := p.fr.WriteContinuation(3, false, p.encode("x", strings.Repeat("x", 5000))); err != nil {
						return err
					}
				}
				return nil
			})
		}, "without end"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := rawServer(t, m, func(p *rawPeer) {
				if !proved(p, nil) {
					return
				}
				if _, ok := p.next(); ok {
					tc.play(p)
					if m == own {
						<-p.ended
					}
				}
			}, func(p *rawPeer) {
				p.settings()
				p.acceptAll()
			})
			warm(t, s)
			o := s.Send(t.Context(), testDevice, numbered(1))
			if o.Kind != outcome.Later || o.Err == nil {
				t.Errorf("outcome %+v", o)
			}
			if m == own && (o.Reason != "http2_protocol" || !strings.Contains(o.Err.Error(), tc.says)) {
				t.Errorf("outcome %+v, want an error with %q", o, tc.says)
			}
			if o := s.Send(t.Context(), testDevice, numbered(2)); o.Kind != outcome.Delivered {
				t.Errorf("the next: %+v", o)
			}
		})
	}
}

// TestAnswerBeforeBody: a server may refuse by the header fields alone, with the payload still waiting
// for its window.
func TestAnswerBeforeBody(t *testing.T) { overBoth(t, testAnswerBeforeBody) }

func testAnswerBeforeBody(t *testing.T, m mode) {
	reset := make(chan struct{})
	s := rawServer(t, m, func(p *rawPeer) {
		if !proved(p, []http2.Setting{streamLimit(10)}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}) {
			return
		}
		<-p.heads
		a, ok := receiveFrom(p, p.heads)
		if !ok {
			return
		}
		p.refuse(a, "413", "PayloadTooLarge")
		if _, ok := receiveFrom(p, p.resets); ok {
			close(reset)
		}
		<-p.ended
	})
	warm(t, s)
	if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Refused || o.Reason != "PayloadTooLarge" {
		t.Errorf("outcome %+v", o)
	}
	select {
	case <-reset: // our half was closed too
	case <-time.After(30 * time.Second):
		t.Error("the stream was left open")
	}
}
