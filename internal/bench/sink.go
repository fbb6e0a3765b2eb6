package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/net/http2"
)

// streamLimit is the SETTINGS_MAX_CONCURRENT_STREAMS of a sink, as Apple's servers have been seen to send.
const streamLimit = 1000

// sinkConfig makes a provider for the apns lines: it looks at frames only, never into them, and says 200
// to every request after Delay. The strict fake would take more CPU than a good sender, and so be what is
// measured.
type sinkConfig struct {
	Certificate, CertificateKey []byte
	Delay                       time.Duration
}

type sinkReady struct{ URL string }

func sinkChild(ctx context.Context, c sinkConfig, out io.Writer) error {
	key, err := x509.ParsePKCS8PrivateKey(c.CertificateKey)
	if err != nil {
		return fmt.Errorf("read certificate key: %w", err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{c.Certificate}, PrivateKey: key}},
	})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	if err := json.NewEncoder(out).Encode(sinkReady{"https://" + ln.Addr().String()}); err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
		go serveSink(ctx, conn, c.Delay) // until the connection ends
	}
}

// due is an answer and its time.
type due struct {
	at     time.Time
	stream uint32
}

// sinkConn is one connection; read and answer are goroutines of their own.
type sinkConn struct {
	w     *bufio.Writer
	acks  chan []byte // frames that the reader wants sent at once
	due   chan due
	delay time.Duration
}

func serveSink(ctx context.Context, conn net.Conn, delay time.Duration) {
	defer conn.Close()
	s := &sinkConn{w: bufio.NewWriterSize(conn, 64<<10), acks: make(chan []byte, 64), due: make(chan due, 16*streamLimit), delay: delay}
	// SETTINGS come before anything else (RFC 9113 section 3.4).
	_, _ = s.w.Write(frame(http2.FrameSettings, 0, 0, setting(http2.SettingMaxConcurrentStreams, streamLimit)...))
	_, _ = s.w.Write(window(0, 1<<24))
	if s.w.Flush() != nil {
		return
	}
	ended, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		_ = s.answer(ended) // the connection is gone, or we are
		_ = conn.Close()
	}()
	_ = s.read(ended, conn)
}

// frame is one frame in bytes.
func frame(kind http2.FrameType, flags http2.Flags, stream uint32, payload ...byte) []byte {
	n := len(payload)
	b := []byte{byte(n >> 16), byte(n >> 8), byte(n), byte(kind), byte(flags), byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)} //nolint:gosec // bytes of a number
	return append(b, payload...)
}

func setting(id http2.SettingID, v uint32) []byte {
	return []byte{byte(id >> 8), byte(id), byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)} //nolint:gosec // bytes of a number
}

func window(stream uint32, n int) []byte {
	return frame(http2.FrameWindowUpdate, 0, stream, byte(n>>24), byte(n>>16), byte(n>>8), byte(n)) //nolint:gosec // bytes of a number
}

// read takes frames in until the connection ends.
func (s *sinkConn) read(ctx context.Context, conn net.Conn) error {
	in := bufio.NewReaderSize(conn, 64<<10)
	if _, err := io.CopyN(io.Discard, in, int64(len(http2.ClientPreface))); err != nil {
		return err
	}
	send := func(b []byte) error {
		select {
		case s.acks <- b:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	fr := http2.NewFramer(io.Discard, in)
	fr.SetReuseFrames()
	taken := 0
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return err
		}
		h := f.Header()
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = send(frame(http2.FrameSettings, http2.FlagSettingsAck, 0))
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = send(frame(http2.FramePing, http2.FlagPingAck, 0, f.Data[:]...))
			}
		case *http2.DataFrame:
			if taken += int(h.Length); taken >= 1<<20 {
				err, taken = send(window(0, taken)), 0
			}
		default:
		}
		if err != nil {
			return err
		}
		// END_STREAM is the same bit for HEADERS and DATA (RFC 9113 section 6).
		if (h.Type == http2.FrameHeaders || h.Type == http2.FrameData) && h.Flags.Has(http2.FlagDataEndStream) {
			select {
			case s.due <- due{time.Now().Add(s.delay), h.StreamID}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// answer writes what is due, and flushes when there is nothing more to write.
func (s *sinkConn) answer(ctx context.Context) error {
	ok := byte(0x88) // ":status: 200" of the static table (RFC 7541 appendix A)
	for {
		var err error
		select {
		case b := <-s.acks:
			_, err = s.w.Write(b)
		case d := <-s.due:
			if wait := time.Until(d.at); wait > 0 {
				err = s.w.Flush()
				if !pause(ctx, wait) {
					return ctx.Err()
				}
			}
			if err == nil {
				_, err = s.w.Write(frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, d.stream, ok))
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if err == nil && len(s.acks) == 0 && len(s.due) == 0 {
			err = s.w.Flush()
		}
		if err != nil {
			return err
		}
	}
}
