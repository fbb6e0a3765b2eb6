package apns

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// rawPeer is the server's side of one connection, for a script to play. Requests that came whole are
// handed out by next, other frames of interest by the channels. PING and SETTINGS are answered unless
// it is mute.
type rawPeer struct {
	t    *testing.T
	nc   net.Conn
	mute atomic.Bool

	mu sync.Mutex // writing
	// greeted: SETTINGS were sent, before which nothing else may be; owesAck: the client's came earlier.
	greeted, owesAck bool
	fr               *http2.Framer
	block            bytes.Buffer
	enc              *hpack.Encoder

	requests chan arrival
	// heads gets a stream's number when its header fields came, resets when the client ended it.
	heads   chan arrival
	resets  chan http2.RSTStreamFrame
	acks    chan struct{}
	pings   chan struct{}
	pongs   chan struct{} // answers to ours
	goAways chan http2.GoAwayFrame
	// ended is closed when the client's side has come to its end.
	ended chan struct{}
}

// arrival is a request as it came.
type arrival struct {
	stream uint32
	id     string // apns-id
	fields []hpack.HeaderField
	body   []byte
	chunks []int // of the body
}

func newRawPeer(t *testing.T, nc net.Conn) *rawPeer {
	p := &rawPeer{
		t: t, nc: nc, fr: http2.NewFramer(nc, nc),
		requests: make(chan arrival, 5000), heads: make(chan arrival, 5000), resets: make(chan http2.RSTStreamFrame, 5000),
		acks: make(chan struct{}, 5000), pings: make(chan struct{}, 5000), pongs: make(chan struct{}, 5000), goAways: make(chan http2.GoAwayFrame, 10), ended: make(chan struct{}),
	}
	p.fr.AllowIllegalWrites = true
	p.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.enc = hpack.NewEncoder(&p.block)
	return p
}

// receive reads until the connection ends.
func (p *rawPeer) receive() {
	defer close(p.ended)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(p.nc, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	open := map[uint32]*arrival{}
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				p.acks <- struct{}{}
			} else if !p.mute.Load() {
				p.write(func() error {
					if !p.greeted {
						p.owesAck = true
						return nil
					}
					return p.fr.WriteSettingsAck()
				})
			}
		case *http2.PingFrame:
			if f.IsAck() {
				p.pongs <- struct{}{}
				continue
			}
			p.pings <- struct{}{}
			if !p.mute.Load() {
				p.write(func() error { return p.fr.WritePing(true, f.Data) })
			}
		case *http2.MetaHeadersFrame:
			a := &arrival{stream: f.StreamID, fields: f.Fields}
			for _, hf := range f.RegularFields() {
				if hf.Name == "apns-id" {
					a.id = hf.Value
				}
			}
			open[a.stream] = a
			p.heads <- *a
		case *http2.DataFrame:
			a := open[f.StreamID]
			if a == nil {
				continue
			}
			a.body = append(a.body, f.Data()...)
			a.chunks = append(a.chunks, len(f.Data()))
			if f.StreamEnded() {
				p.requests <- *a
				delete(open, f.StreamID)
			}
		case *http2.RSTStreamFrame:
			delete(open, f.StreamID)
			p.resets <- *f
		case *http2.GoAwayFrame:
			p.goAways <- *f
		}
	}
}

func (p *rawPeer) write(f func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = f() // the client may have gone; that is for the test to see by itself
}

func (p *rawPeer) settings(s ...http2.Setting) {
	p.write(func() error {
		p.greeted = true
		err := p.fr.WriteSettings(s...)
		if p.owesAck {
			p.owesAck = false
			err = p.fr.WriteSettingsAck()
		}
		return err
	})
}

func (p *rawPeer) window(stream, n uint32) {
	p.write(func() error { return p.fr.WriteWindowUpdate(stream, n) })
}

// headers writes a header block from names and values.
func (p *rawPeer) headers(stream uint32, end bool, fields ...string) {
	p.write(func() error {
		return p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.encode(fields...), EndHeaders: true, EndStream: end})
	})
}

func (p *rawPeer) encode(fields ...string) []byte {
	p.block.Reset()
	for pair := range slices.Chunk(fields, 2) {
		_ = p.enc.WriteField(hpack.HeaderField{Name: pair[0], Value: pair[1]})
	}
	return bytes.Clone(p.block.Bytes())
}

func (p *rawPeer) data(stream uint32, end bool, body string) {
	p.write(func() error { return p.fr.WriteData(stream, end, []byte(body)) })
}

func (p *rawPeer) accept(a arrival) { p.headers(a.stream, true, ":status", "200", "apns-id", a.id) }

func (p *rawPeer) refuse(a arrival, status, reason string) {
	p.headers(a.stream, false, ":status", status, "apns-id", a.id)
	p.data(a.stream, true, `{"reason":"`+reason+`"}`)
}

func (p *rawPeer) reset(stream uint32, code http2.ErrCode) {
	p.write(func() error { return p.fr.WriteRSTStream(stream, code) })
}

func (p *rawPeer) goAway(last uint32, code http2.ErrCode) {
	p.write(func() error { return p.fr.WriteGoAway(last, code, []byte(`{"reason":"Shutdown"}`)) })
}

func (p *rawPeer) ping() {
	p.write(func() error { return p.fr.WritePing(false, [8]byte{}) })
}

func (p *rawPeer) raw(b []byte) {
	p.write(func() error {
		_, err := p.nc.Write(b)
		return err
	})
}

func (p *rawPeer) cut() { _ = p.nc.Close() }

// end says that nothing more will come, and waits for the client to go. After a cut, TCP may throw away what was
// written before and the client has not read.
func (p *rawPeer) end() {
	p.write(p.nc.(interface{ CloseWrite() error }).CloseWrite)
	<-p.ended
}

// next waits for a request; it is not ok when the connection ends instead.
func (p *rawPeer) next() (arrival, bool) { return receiveFrom(p, p.requests) }

func receiveFrom[T any](p *rawPeer, from chan T) (v T, ok bool) {
	select {
	case v = <-from:
		return v, true
	case <-p.ended:
	}
	select { // both were ready
	case v = <-from:
		return v, true
	default:
		return v, false
	}
}

// acceptAll accepts until the connection ends.
func (p *rawPeer) acceptAll() {
	for {
		a, ok := p.next()
		if !ok {
			return
		}
		p.accept(a)
	}
}

// play is a script for one connection. When it returns, the connection is cut.
type play func(p *rawPeer)

// proved sends SETTINGS and accepts the first request, so that the client may open more streams. The
// later settings come just before the answer: the first request is not to meet them.
func proved(p *rawPeer, first []http2.Setting, later ...http2.Setting) bool {
	p.settings(first...)
	a, ok := p.next()
	if !ok {
		return false
	}
	if later != nil {
		p.settings(later...)
	}
	p.accept(a)
	return true
}

// plays runs scripts: the n-th connection is played by the n-th, the last one again and again.
func plays(t *testing.T, conns <-chan net.Conn, scripts []play) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for n := 0; ; n++ {
		nc, ok := <-conns
		if !ok {
			return
		}
		script := scripts[min(n, len(scripts)-1)]
		wg.Go(func() {
			p := newRawPeer(t, nc)
			wg.Go(p.receive)
			script(p)
			p.cut()
			<-p.ended
		})
	}
}

// rawServer is a server on TLS and loopback, and a sender to it.
func rawServer(t *testing.T, m mode, scripts ...play) *Sender {
	t.Helper()
	cert, certPEM, err := benchCertificate()
	if err != nil {
		t.Fatal(err)
	}
	l, err := listenTLS(cert)
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn)
	var mu sync.Mutex
	var all []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(conns)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, nc)
			mu.Unlock()
			conns <- nc
		}
	})
	wg.Go(func() { plays(t, conns, scripts) })
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, nc := range all {
			_ = nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	roots := poolOf(certPEM)
	return benchSender(t, m, l.Addr().String(), roots, 1)
}

// piped is a sender whose connections are pipes in memory: for synctest, where time is ours.
func piped(t *testing.T, change func(*pool), scripts ...play) (*Sender, *dials) {
	t.Helper()
	key, _ := newTokenKey(t)
	s, err := New(Config{Environment: Sandbox, Topic: testTopic, TokenKey: key})
	if err != nil {
		t.Fatal(err)
	}
	d := &dials{}
	conns := make(chan net.Conn)
	p := s.wire.(*pool)
	p.dial = func(context.Context) (net.Conn, error) {
		d.add()
		client, server := net.Pipe()
		select {
		case conns <- server:
			return client, nil
		case <-p.ctx.Done():
			return nil, errors.New("closed")
		}
	}
	if change != nil {
		change(p)
	}
	var wg sync.WaitGroup
	wg.Go(func() { plays(t, conns, scripts) })
	t.Cleanup(func() {
		s.Close()
		close(conns)
		wg.Wait()
	})
	return s, d
}

// dials counts attempts to connect.
type dials struct {
	mu sync.Mutex
	at []time.Time
}

func (d *dials) add() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = append(d.at, time.Now())
}

func (d *dials) times() []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]time.Time(nil), d.at...)
}

// numbered is the test message with an id of its own.
func numbered(n int) Message {
	_, messages := benchMessages()
	return messages[n]
}

// sendMany sends n messages at once and returns their outcomes.
func sendMany(ctx context.Context, s *Sender, n int) []outcome.Outcome {
	outcomes := make([]outcome.Outcome, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { outcomes[i] = s.Send(ctx, testDevice, numbered(i)) })
	}
	wg.Wait()
	return outcomes
}

func count(outcomes []outcome.Outcome, kind outcome.Kind) (n int) {
	for _, o := range outcomes {
		if o.Kind == kind {
			n++
		}
	}
	return n
}
