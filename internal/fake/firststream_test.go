package fake

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frameClient speaks HTTP/2 frame by frame, so that it can break the rules.
type frameClient struct {
	t    *testing.T
	fr   *http2.Framer
	enc  *hpack.Encoder
	hbuf bytes.Buffer
}

func dialFrames(t *testing.T, p *apnsPeer) *frameClient {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{RootCAs: p.RootCAs(), NextProtos: []string{"h2"}}}
	c, err := d.DialContext(soon(t), "tcp", strings.TrimPrefix(p.URL(), "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	f := &frameClient{t: t, fr: http2.NewFramer(c, c)}
	f.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.enc = hpack.NewEncoder(&f.hbuf)
	if err := f.fr.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *frameClient) post(stream uint32, h http.Header, end bool) {
	f.t.Helper()
	f.hbuf.Reset()
	field := func(name, value string) {
		if err := f.enc.WriteField(hpack.HeaderField{Name: name, Value: value}); err != nil {
			f.t.Fatal(err)
		}
	}
	field(":method", "POST")
	field(":scheme", "https")
	field(":authority", "127.0.0.1")
	field(":path", "/3/device/"+testDevice)
	for name, values := range h {
		field(strings.ToLower(name), values[0])
	}
	if err := f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.hbuf.Bytes(), EndHeaders: true}); err != nil {
		f.t.Fatal(err)
	}
	if end {
		f.body(stream)
	}
}

func (f *frameClient) body(stream uint32) {
	f.t.Helper()
	if err := f.fr.WriteData(stream, true, []byte(testAlert)); err != nil {
		f.t.Fatal(err)
	}
}

// read returns the next frame that opens, ends or limits something, acknowledging SETTINGS. It leaves out
// the documents of answers, and the complaint about the body of a stream that was refused before it came.
func (f *frameClient) read() http2.Frame {
	f.t.Helper()
	for {
		frame, err := f.fr.ReadFrame()
		if err != nil {
			f.t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.WindowUpdateFrame, *http2.DataFrame:
		case *http2.RSTStreamFrame:
			if frame.ErrCode != http2.ErrCodeStreamClosed {
				return frame
			}
		case *http2.SettingsFrame:
			if frame.IsAck() {
				continue
			}
			if err := f.fr.WriteSettingsAck(); err != nil {
				f.t.Fatal(err)
			}
			return frame
		default:
			return frame
		}
	}
}

func (f *frameClient) wantLimit(want uint32) {
	f.t.Helper()
	s, ok := f.read().(*http2.SettingsFrame)
	if !ok {
		f.t.Fatalf("no SETTINGS")
	}
	if got, _ := s.Value(http2.SettingMaxConcurrentStreams); got != want {
		f.t.Fatalf("limit is %d, want %d", got, want)
	}
}

func (f *frameClient) wantStatus(stream uint32, status string) {
	f.t.Helper()
	frame := f.read()
	h, ok := frame.(*http2.MetaHeadersFrame)
	if !ok || h.StreamID != stream || h.PseudoValue("status") != status {
		f.t.Fatalf("%v, want HEADERS of stream %d with status %s", frame, stream, status)
	}
}

func TestFirstStream(t *testing.T) {
	p := newAPNs(t, func(c *APNsConfig) { c.FirstStream = true })
	f := dialFrames(t, p)
	f.wantLimit(1)

	// A second stream while the first is open is refused, and no reason to end the connection.
	entered, release := make(chan struct{}), make(chan struct{})
	p.Script(func(Delivery) *Answer {
		close(entered)
		<-release
		return &Answer{Status: 503, Reason: "ServiceUnavailable"}
	})
	f.post(1, p.headers(t), true)
	<-entered
	f.post(3, p.headers(t), true)
	rst, ok := f.read().(*http2.RSTStreamFrame)
	if !ok || rst.StreamID != 3 || rst.ErrCode != http2.ErrCodeRefusedStream {
		t.Fatalf("second stream: %v", rst)
	}
	close(release)
	f.wantStatus(1, "503")
	p.Script(nil)

	// A refusal is no success.
	bad := p.headers(t)
	bad.Del("authorization")
	f.post(5, bad, true)
	f.wantStatus(5, "403")

	f.post(7, p.headers(t), true)
	f.wantLimit(1000)
	f.wantStatus(7, "200")

	// Now several at once; the server has seen nothing odd of our acknowledgements.
	both := make(chan struct{}, 2)
	p.Script(func(Delivery) *Answer {
		both <- struct{}{}
		for len(both) < 2 && soon(t).Err() == nil {
			<-time.After(time.Millisecond)
		}
		return nil
	})
	f.post(9, p.headers(t), false)
	f.post(11, p.headers(t), false)
	f.body(11)
	f.body(9)
	for range 2 {
		frame := f.read()
		if h, ok := frame.(*http2.MetaHeadersFrame); !ok || h.PseudoValue("status") != "200" {
			t.Fatalf("%v, want HEADERS with status 200", frame)
		}
	}
	want := map[Result]int64{{0, "REFUSED_STREAM"}: 1, {503, "ServiceUnavailable"}: 1, {403, "MissingProviderToken"}: 1, {200, ""}: 3}
	for res, n := range want {
		if got := p.Count(res.Status, res.Reason); got != n {
			t.Errorf("%v: counted %d, want %d", res, got, n)
		}
	}
}

func TestFirstStreamWithGoClient(t *testing.T) {
	p := newAPNs(t, func(c *APNsConfig) { c.FirstStream = true })
	done := make(chan answerOf)
	const n = 50
	for range n {
		h := p.headers(t)
		go func() {
			a, err := do(t.Context(), p.client, http.MethodPost, p.URL()+"/3/device/"+testDevice, h, []byte(testAlert))
			if err != nil {
				t.Error(err)
			}
			done <- a
		}()
	}
	for range n {
		if a := <-done; a.status != 200 {
			t.Errorf("%+v", a)
		}
	}
	if got := p.Count(200, ""); got != n {
		t.Errorf("counted %d, want %d: %v", got, n, p.Counts())
	}
}
