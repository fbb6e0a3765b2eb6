package apns

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// silent is for servers whose failures the test provokes.
var silent = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)

// script plays one connection frame by frame; it is called for every request with its stream and
// apns-id, and returns false to cut the connection.
type script func(fr *http2.Framer, stream uint32, id string) bool

// scripted is an HTTP/2 server on the bare frames, for what net/http's server does not do on demand.
// The n-th connection is played by the n-th script, the last one again and again.
func scripted(t *testing.T, m mode, scripts ...script) *Sender {
	t.Helper()
	// Only for its certificate.
	helper := startApple(t, func(http.ResponseWriter, *http.Request) {}, nil)
	conf := helper.TLS.Clone()
	conf.NextProtos = []string{http2.NextProtoTLS}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			play := scripts[min(n, len(scripts)-1)]
			wg.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				defer stop()
				defer func() { _ = c.Close() }()
				serveFrames(c, play)
			})
		}
	})
	key, _ := newTokenKey(t)
	s, err := New(Config{URL: "https://" + listener.Addr().String(), Environment: Sandbox, Topic: testTopic, TokenKey: key, RootCAs: helper.roots(), HTTP2Transport: bool(m)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func serveFrames(c net.Conn, play script) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil {
		return
	}
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if fr.WriteSettings() != nil {
		return
	}
	ids := map[uint32]string{}
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		ended := false
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() && fr.WriteSettingsAck() != nil {
				return
			}
		case *http2.PingFrame:
			if !f.IsAck() && fr.WritePing(true, f.Data) != nil {
				return
			}
		case *http2.MetaHeadersFrame:
			for _, hf := range f.RegularFields() {
				if hf.Name == "apns-id" {
					ids[f.StreamID] = hf.Value
				}
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			ended = f.StreamEnded()
		}
		if ended && !play(fr, f.Header().StreamID, ids[f.Header().StreamID]) {
			return
		}
	}
}

func accept(fr *http2.Framer, stream uint32, id string) bool {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	_ = enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	_ = enc.WriteField(hpack.HeaderField{Name: "apns-id", Value: id})
	return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}) == nil
}

// TestConnectionFaults: what the server certainly did not process is sent again with the same
// apns-id; what it may have processed comes back as Later, for the caller to send again so.
func TestConnectionFaults(t *testing.T) { overBoth(t, testConnectionFaults) }

func testConnectionFaults(t *testing.T, m mode) {
	goAway := func(last uint32, code http2.ErrCode) script {
		return func(fr *http2.Framer, _ uint32, _ string) bool {
			_ = fr.WriteGoAway(last, code, []byte(`{"reason":"Shutdown"}`))
			return false
		}
	}
	tests := []struct {
		name    string
		scripts func(seen *[]string) []script
		kind    outcome.Kind
		reason  string
		ids     int // requests that arrived
	}{
		{"GOAWAY below the stream", func(*[]string) []script { return []script{goAway(0, http2.ErrCodeNo), accept} }, outcome.Delivered, "", 2},
		{"GOAWAY above the stream", func(*[]string) []script { return []script{goAway(1, http2.ErrCodeNo), accept} }, outcome.Later, "http2_goaway", 1},
		{"GOAWAY with an error", func(*[]string) []script { return []script{goAway(1, http2.ErrCodeEnhanceYourCalm), accept} }, outcome.Later, "http2_goaway", 1},
		{"connection cut", func(*[]string) []script {
			return []script{func(*http2.Framer, uint32, string) bool { return false }, accept}
		}, outcome.Later, "connection", 1},
		{"refused stream", func(*[]string) []script {
			first := true
			return []script{func(fr *http2.Framer, stream uint32, id string) bool {
				if first {
					first = false
					return fr.WriteRSTStream(stream, http2.ErrCodeRefusedStream) == nil
				}
				return accept(fr, stream, id)
			}}
		}, outcome.Delivered, "", 2},
		{"broken stream", func(*[]string) []script {
			return []script{func(fr *http2.Framer, stream uint32, _ string) bool {
				return fr.WriteRSTStream(stream, http2.ErrCodeInternal) == nil
			}}
		}, outcome.Later, "http2_stream", 1},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var mu sync.Mutex
			var ids []string
			var scripts []script
			for _, sc := range tc.scripts(&ids) {
				scripts = append(scripts, func(fr *http2.Framer, stream uint32, id string) bool {
					mu.Lock()
					ids = append(ids, id)
					mu.Unlock()
					return sc(fr, stream, id)
				})
			}
			s := scripted(t, m, scripts...)
			o := s.Send(t.Context(), testDevice, testMessage())
			if o.Kind != tc.kind || o.Reason != tc.reason || (o.Kind == outcome.Later) != (o.Err != nil) {
				t.Errorf("outcome %+v", o)
			}
			mu.Lock()
			if len(ids) != tc.ids {
				t.Errorf("%d requests arrived, want %d", len(ids), tc.ids)
			}
			for _, id := range ids {
				if id != testMessage().ID {
					t.Errorf("apns-id %q", id)
				}
			}
			mu.Unlock()
			if o.Kind == outcome.Later && tc.name != "broken stream" { // the next one goes over a new connection
				if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Delivered {
					t.Errorf("the next: %+v", o)
				}
			}
		})
	}
}

// TestBlackHole: a connection that swallows requests is left at the first timeout, not at the ping's.
func TestBlackHole(t *testing.T) { overBoth(t, testBlackHole) }

func testBlackHole(t *testing.T, m mode) {
	s := scripted(t, m, func(*http2.Framer, uint32, string) bool { return true }, accept)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if o := s.Send(ctx, testDevice, testMessage()); o.Reason != "timeout" {
		t.Errorf("outcome %+v", o)
	}
	if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Delivered {
		t.Errorf("outcome %+v", o)
	}
}

// TestBurstAfterGoAway: many requests that lose their connection open one new one, and none is lost.
func TestBurstAfterGoAway(t *testing.T) { overBoth(t, testBurstAfterGoAway) }

func testBurstAfterGoAway(t *testing.T, m mode) {
	var farewell atomic.Bool
	a := startApple(t, func(w http.ResponseWriter, _ *http.Request) {
		if farewell.CompareAndSwap(true, false) {
			w.Header().Set("Connection", "close") // makes net/http's server say GOAWAY
		}
	}, nil)
	s, _ := a.sender(t, m, nil)
	for round := range 4 {
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() {
				if o := s.Send(t.Context(), testDevice, testMessage()); o.Kind != outcome.Delivered {
					t.Errorf("outcome %+v", o)
				}
			})
		}
		wg.Wait()
		if n := a.connections.Load(); n < int32(round) || n > int32(round+1) { // the GOAWAY is met in this round or in the next
			t.Errorf("round %d: %d connections", round, n)
		}
		farewell.Store(true)
	}
}

func TestNoAnswer(t *testing.T) { overBoth(t, testNoAnswer) }

func testNoAnswer(t *testing.T, m mode) {
	a := startApple(t, func(http.ResponseWriter, *http.Request) {}, func(s *httptest.Server) { s.Config.ErrorLog = silent })
	var lc net.ListenConfig
	closed, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	http1 := startApple(t, func(http.ResponseWriter, *http.Request) { t.Error("served over HTTP/1") }, func(s *httptest.Server) {
		s.EnableHTTP2 = false
		s.Config.ErrorLog = silent
	})
	noALPN := startApple(t, func(http.ResponseWriter, *http.Request) { t.Error("served over HTTP/1") }, func(s *httptest.Server) {
		s.EnableHTTP2 = false
		s.TLS = &tls.Config{NextProtos: []string{}, MinVersion: tls.VersionTLS12}
		s.Config.ErrorLog = silent
	})
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	tests := []struct {
		name   string
		change func(*Config)
		reason string
	}{
		{"nobody listens", func(c *Config) { c.URL = "https://" + closed.Addr().String() }, "connect"},
		{"no such host", func(c *Config) { c.URL = "https://apns.invalid" }, "dns"},
		{"unknown authority", func(c *Config) { c.RootCAs = nil }, "tls"},
		{"other name", func(c *Config) { c.URL = strings.Replace(c.URL, "127.0.0.1", "localhost", 1) }, "tls"},
		{"not TLS", func(c *Config) { c.URL = "https://" + plain.Listener.Addr().String() }, "tls"},
		{"HTTP/1 only", func(c *Config) { c.URL, c.RootCAs = http1.URL, http1.roots() }, "tls"},
		{"no ALPN", func(c *Config) { c.URL, c.RootCAs = noALPN.URL, noALPN.roots() }, "tls"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s, _ := a.sender(t, m, tc.change)
			o := s.Send(t.Context(), testDevice, testMessage())
			if o.Kind != outcome.Later || o.Reason != tc.reason || o.Err == nil || o.Status != 0 {
				t.Errorf("outcome %+v", o)
			}
			if o.Err != nil && strings.Contains(o.Err.Error(), testDevice) {
				t.Errorf("the error quotes the device token: %v", o.Err)
			}
		})
	}
}

// TestLongForeignText: what a server puts into GOAWAY does not fill our logs.
func TestLongForeignText(t *testing.T) {
	o := classify(errors.New("http2: server sent GOAWAY and closed the connection; debug=" + strings.Repeat("x", 16<<10)))
	if o.Reason != "http2_goaway" || len(o.Err.Error()) > 250 {
		t.Errorf("reason %q, error of %d bytes", o.Reason, len(o.Err.Error()))
	}
}
