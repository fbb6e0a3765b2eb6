package apns

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// tape is a connection that brings what is on it and swallows what is written.
type tape struct {
	net.Conn // not used

	in io.Reader
}

func (c *tape) Read(p []byte) (int, error)     { return c.in.Read(p) }
func (*tape) Write(p []byte) (int, error)      { return len(p), nil }
func (*tape) Close() error                     { return nil }
func (*tape) SetDeadline(time.Time) error      { return nil }
func (*tape) SetReadDeadline(time.Time) error  { return nil }
func (*tape) SetWriteDeadline(time.Time) error { return nil }

// FuzzReader feeds a connection with requests under way whatever bytes come: as they are, or cut into
// well-formed frames, so that more than the framer is reached. Afterwards every request has exactly one
// result, nothing is left in any list, what we wrote is well-formed, and we kept to the windows.
func FuzzReader(f *testing.F) {
	for _, seed := range readerSeeds() {
		f.Add(false, seed)
		f.Add(true, seed)
	}
	f.Fuzz(func(t *testing.T, framed bool, data []byte) {
		if framed {
			data = frameUp(data)
		}
		readTape(t, data)
	})
}

const tapeRequests = 5

func readTape(t *testing.T, data []byte) {
	p := newPool("host", nil, 1, false)
	p.started, p.dialing = true, true // no keeper, and nobody dials
	p.dial = func(context.Context) (net.Conn, error) { return nil, errors.New("no") }
	p.mu.Lock()
	c := newConn(p, &tape{in: bytes.NewReader(data)})
	p.conns = []*conn{c}
	p.mu.Unlock()
	c.limitForTest(3)
	var all []*stream
	message := testMessage()
	message.Payload = bytes.Repeat([]byte("x"), MaxPayload)
	for range tapeRequests {
		st := p.newStream(&request{topic: testTopic, token: testDevice, jwt: "j", m: message}, time.Now())
		p.submit(st, false)
		all = append(all, st)
	}
	c.read()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.dead || len(p.conns) != 0 || len(c.streams) != 0 || c.blocked.n != 0 || c.blocked.first != nil {
		t.Fatalf("dead %v, %d connections, %d streams, %d blocked", c.dead, len(p.conns), len(c.streams), c.blocked.n)
	}
	p.mu.Unlock()
	p.close() // ends what is still queued, and waits for the attempt to connect
	p.mu.Lock()
	for i, st := range all {
		select {
		case <-st.done:
		default:
			t.Fatalf("request %d has no result", i)
		}
		if (st.status == 0) == (st.err == nil) || st.in != nil || len(st.body) > maxBody {
			t.Fatalf("request %d: status %d, error %v", i, st.status, st.err)
		}
	}
	if c.window > maxWindow || c.recvWindow > connWindow {
		t.Fatalf("windows of %d and %d", c.window, c.recvWindow)
	}
	checkWritten(t, c.out, data)
}

// checkWritten reads back what the connection wrote.
func checkWritten(t *testing.T, out, in []byte) {
	if !bytes.HasPrefix(out, []byte(http2.ClientPreface)) {
		t.Fatal("no preface")
	}
	if len(out) > 100_000+40*len(in) {
		t.Fatalf("%d bytes written for %d read", len(out), len(in))
	}
	fr := http2.NewFramer(nil, bytes.NewReader(out[len(http2.ClientPreface):]))
	dec := hpack.NewDecoder(1<<20, func(hpack.HeaderField) {})
	body := map[uint32]int{}
	for {
		f, err := fr.ReadFrame()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("wrote what does not parse: %v", err)
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			if _, err := dec.Write(f.HeaderBlockFragment()); err != nil || dec.Close() != nil {
				t.Fatalf("wrote a block that does not decode: %v", err)
			}
		case *http2.DataFrame:
			if body[f.StreamID] += len(f.Data()); body[f.StreamID] > MaxPayload || f.StreamEnded() != (body[f.StreamID] == MaxPayload) {
				t.Fatalf("%d bytes of body, ended %v", body[f.StreamID], f.StreamEnded())
			}
		}
	}
}

// limitForTest makes the connection take a few streams before the peer has spoken.
func (c *conn) limitForTest(n uint32) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.greeted, c.peerStreams = true, n
}

// frameUp makes frames of data: a type, flags, a stream and a length, each an octet, and a payload.
func frameUp(data []byte) []byte {
	var out bytes.Buffer
	fr := http2.NewFramer(&out, nil)
	fr.AllowIllegalWrites = true
	for len(data) >= 4 {
		kind, flags, stream, n := data[0], data[1], data[2], int(data[3])
		data = data[4:]
		n = min(n, len(data))
		_ = fr.WriteRawFrame(http2.FrameType(kind%12), http2.Flags(flags), uint32(stream%14), data[:n])
		data = data[n:]
	}
	return out.Bytes()
}

// readerSeeds are conversations of every kind.
func readerSeeds() [][]byte {
	var out, block bytes.Buffer
	fr := http2.NewFramer(&out, nil)
	fr.AllowIllegalWrites = true
	enc := hpack.NewEncoder(&block)
	headers := func(stream uint32, end bool, fields ...string) {
		block.Reset()
		for pair := range slices.Chunk(fields, 2) {
			_ = enc.WriteField(hpack.HeaderField{Name: pair[0], Value: pair[1]})
		}
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
	}
	talks := []func(){
		func() { headers(1, true, ":status", "200", "apns-id", testMessage().ID) },
		func() {
			headers(1, false, ":status", "410", "apns-id", testMessage().ID)
			_ = fr.WriteData(1, false, []byte(`{"reason":"Unreg`))
			_ = fr.WriteDataPadded(1, true, []byte(`istered","timestamp":1795348800123}`), make([]byte, 9))
			headers(3, false, ":status", "503", "retry-after", "30")
			_ = fr.WriteData(3, false, make([]byte, 5000))
		},
		func() {
			_ = fr.WriteSettings(streamLimit(1), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 5}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
			_ = fr.WriteWindowUpdate(1, 100)
			_ = fr.WriteWindowUpdate(0, 100000)
			headers(1, true, ":status", "413")
			_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
			_ = fr.WritePing(false, [8]byte{1})
		},
		func() {
			_ = fr.WriteRSTStream(1, http2.ErrCodeRefusedStream)
			_ = fr.WriteRSTStream(3, http2.ErrCodeInternal)
			headers(5, false, ":status", "200")
			_ = fr.WriteGoAway(5, http2.ErrCodeNo, []byte(`{"reason":"Shutdown"}`))
			_ = fr.WriteData(5, true, nil)
		},
		func() {
			_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}})
			_ = fr.WriteContinuation(1, false, nil)
			_ = fr.WriteContinuation(1, true, []byte{0x40, 1, 'a', 1, 'b'})
			headers(1, true, "trailer", "x")
		},
		func() {
			headers(1, false, ":status", "103")
			headers(1, true, ":status", "400", "UPPER", "x")
			_ = fr.WritePriority(3, http2.PriorityParam{StreamDep: 1})
			_ = fr.WritePushPromise(http2.PushPromiseParam{StreamID: 3, PromiseID: 2, BlockFragment: []byte{0x88}, EndHeaders: true})
		},
	}
	var seeds [][]byte
	for _, talk := range talks {
		out.Reset()
		_ = fr.WriteSettings(streamLimit(1000))
		talk()
		seeds = append(seeds, bytes.Clone(out.Bytes()))
	}
	return seeds
}

// TestReceiveWindow: what the peer sends is paid back, also for streams nobody waits for any more.
func TestReceiveWindow(t *testing.T) {
	var out bytes.Buffer
	fr := http2.NewFramer(&out, nil)
	_ = fr.WriteSettings()
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x8d}, EndHeaders: true}) // 404
	for range 200 {
		_ = fr.WriteData(1, false, make([]byte, maxFrame))
	}
	p := newPool("host", nil, 1, false)
	p.started = true
	p.dial = func(context.Context) (net.Conn, error) { return nil, errors.New("no") }
	c := newConn(p, &tape{in: &out})
	p.conns = []*conn{c}
	st := p.newStream(&request{topic: testTopic, token: testDevice, m: testMessage()}, time.Now())
	p.submit(st, false)
	c.read()
	<-st.done
	if st.status != 404 || len(st.body) != maxBody {
		t.Errorf("status %d, %d bytes, error %v", st.status, len(st.body), st.err)
	}
	sent := http2.NewFramer(nil, bytes.NewReader(c.out[len(http2.ClientPreface):]))
	granted, resets := uint32(defaultWindow), 0
	for {
		f, err := sent.ReadFrame()
		if err != nil {
			break
		}
		switch f := f.(type) {
		case *http2.WindowUpdateFrame:
			if f.StreamID != 0 {
				t.Errorf("the window of stream %d was widened", f.StreamID)
			}
			granted += f.Increment
		case *http2.RSTStreamFrame:
			resets++
		}
	}
	if granted < 200*maxFrame || granted > 200*maxFrame+connWindow || resets != 1 {
		t.Errorf("%d bytes granted for %d, %d resets", granted, 200*maxFrame, resets)
	}
	p.close()
}
