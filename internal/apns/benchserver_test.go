package apns

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// benchCertificate is for 127.0.0.1, and its own authority.
func benchCertificate() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func poolOf(certPEM []byte) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool
}

func listenTLS(cert tls.Certificate) (net.Listener, error) {
	return tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
}

// benchServer accepts every notification.
type benchServer struct {
	listener net.Listener
	delay    time.Duration
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func newBenchServer(cert tls.Certificate, delay time.Duration) (*benchServer, error) {
	l, err := listenTLS(cert)
	if err != nil {
		return nil, err
	}
	s := &benchServer{listener: l, delay: delay}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(c) })
		}
	})
	return s, nil
}

func (s *benchServer) close() {
	_ = s.listener.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// due is an answer that is to be given at a time.
type due struct {
	at     time.Time
	stream uint32
	id     string
}

func (s *benchServer) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	br := bufio.NewReaderSize(c, 64<<10)
	if _, err := br.Discard(len(http2.ClientPreface)); err != nil {
		return
	}
	var out bytes.Buffer
	var mu sync.Mutex // out
	fr := http2.NewFramer(&out, br)
	fr.SetReuseFrames()
	flush := func() error {
		mu.Lock()
		defer mu.Unlock()
		_, err := c.Write(out.Bytes())
		out.Reset()
		return err
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	answer := func(stream uint32, id string) {
		block.Reset()
		_ = enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
		_ = enc.WriteField(hpack.HeaderField{Name: "apns-id", Value: id, Sensitive: true}) // a literal; the table would be of no use
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	}
	later := make(chan due, benchStreams)
	if s.delay > 0 {
		var wg sync.WaitGroup
		defer wg.Wait()
		defer close(later)
		wg.Go(func() {
			for d := range later {
				if wait := time.Until(d.at); wait > 0 {
					if flush() != nil {
						break
					}
					<-time.After(wait)
				}
				mu.Lock()
				answer(d.stream, d.id)
				mu.Unlock()
				if len(later) == 0 && flush() != nil {
					break
				}
			}
			for range later { // so that the reader is never stuck
			}
		})
	}
	var id string
	dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == "apns-id" {
			id = f.Value
		}
	})
	mu.Lock()
	_ = fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: benchStreams}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	_ = fr.WriteWindowUpdate(0, 1<<30)
	mu.Unlock()
	ids := map[uint32]string{}
	read := uint32(0)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		mu.Lock()
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = fr.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = fr.WritePing(true, f.Data)
			}
		case *http2.HeadersFrame:
			if _, err := dec.Write(f.HeaderBlockFragment()); err != nil || !f.HeadersEnded() {
				mu.Unlock()
				return
			}
			_ = dec.Close()
			ids[f.StreamID] = id
		case *http2.DataFrame:
			if read += f.Length; read > 1<<29 {
				_ = fr.WriteWindowUpdate(0, read)
				read = 0
			}
			if f.StreamEnded() {
				if s.delay > 0 {
					d := due{time.Now().Add(s.delay), f.StreamID, ids[f.StreamID]}
					mu.Unlock()
					later <- d
					mu.Lock()
				} else {
					answer(f.StreamID, ids[f.StreamID])
				}
				delete(ids, f.StreamID)
			}
		}
		mu.Unlock()
		if br.Buffered() == 0 && flush() != nil {
			return
		}
	}
}
