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
	"maps"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// mailserverConfig makes a fake IMAP server that holds very many connections. It says what Dovecot says,
// of one mailbox that every user has: it checks no password and delivers nothing.
type mailserverConfig struct {
	Addr string // empty: a free port of 127.0.0.1
	// Certificate and CertificateKey are DER; without them it speaks in clear.
	Certificate, CertificateKey []byte
	// Rate is how many logins it takes in a second before it refuses more; 0: all.
	Rate int
}

type mailserverReady struct{ Addr, Control string }

// mailserverStats is the answer of GET /stats.
type mailserverStats struct {
	// Open connections, those of them that are in IDLE, logins taken, logins refused for their rate, and
	// the most logins asked for within a second.
	Open, Idling, Logins, Refused, Peak int
	Commands                            map[string]int
	// Talk is all that one connection said until it was in IDLE.
	Talk []talkStep
}

// talkStep is what a client said in one piece, and how many bytes the server answered.
type talkStep struct {
	Said   []byte
	Answer int
}

// mailserver is one, and counts.
type mailserver struct {
	cfg          mailserverConfig
	open, idling atomic.Int64

	mu       sync.Mutex // guards all below
	logins   int
	refused  int
	peak     int
	second   int64 // of the logins counted in within
	within   int
	commands map[string]int
	talk     []talkStep
}

func mailserverChild(ctx context.Context, cfg mailserverConfig, out io.Writer) error {
	s := &mailserver{cfg: cfg, commands: map[string]int{}}
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", cfg.Addr)
	if err != nil {
		return err
	}
	addr := ln.Addr().String()
	var secure *tls.Config
	if cfg.Certificate != nil {
		key, err := x509.ParsePKCS8PrivateKey(cfg.CertificateKey)
		if err != nil {
			return fmt.Errorf("read certificate key: %w", err)
		}
		secure = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cfg.Certificate}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	}
	broken := make(chan error, 1)
	go func() { // until the process ends, like every connection
		for {
			conn, err := ln.Accept()
			if err != nil {
				broken <- err
				return
			}
			if secure != nil {
				conn = tls.Server(conn, secure)
			}
			go s.serve(ctx, conn)
		}
	}()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(s.stats()) })
	err = serveChild(ctx, mux, out, func(url string) any { return mailserverReady{addr, url} })
	select {
	case failed := <-broken:
		err = errors.Join(err, failed)
	default:
	}
	return errors.Join(err, ln.Close())
}

func (s *mailserver) stats() mailserverStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return mailserverStats{
		Open: int(s.open.Load()), Idling: int(s.idling.Load()), Logins: s.logins, Refused: s.refused, Peak: s.peak,
		Commands: maps.Clone(s.commands), Talk: s.talk,
	}
}

// login counts one and says whether it is refused for its rate.
func (s *mailserver) login() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now().Unix(); now != s.second {
		s.second, s.within = now, 0
	}
	s.within++
	s.peak = max(s.peak, s.within)
	if s.cfg.Rate > 0 && s.within > s.cfg.Rate {
		s.refused++
		return false
	}
	s.logins++
	return true
}

// mailConn is one connection. It reads with a small buffer and writes each answer at once.
type mailConn struct {
	s       *mailserver
	conn    net.Conn
	in      *bufio.Reader
	user    bool // logged in
	talk    []talkStep
	talking bool // until it is in IDLE for the first time
}

// Read notes what the client says while it may become Talk.
func (c *mailConn) Read(b []byte) (int, error) {
	n, err := c.conn.Read(b)
	if c.talking && n > 0 {
		c.talk = append(c.talk, talkStep{Said: append([]byte(nil), b[:n]...)})
	}
	return n, err
}

func (c *mailConn) write(text string) error {
	if c.talking {
		c.talk[len(c.talk)-1].Answer += len(text)
	}
	_, err := io.WriteString(c.conn, text)
	return err
}

func (s *mailserver) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	if t, ok := conn.(*tls.Conn); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			return
		}
	}
	s.open.Add(1)
	defer s.open.Add(-1)
	s.mu.Lock()
	first := s.talk == nil
	s.mu.Unlock()
	c := &mailConn{s: s, conn: conn, talking: first, talk: []talkStep{{}}}
	c.in = bufio.NewReaderSize(c, 512)
	err := c.write("* OK [CAPABILITY " + capabilitiesBefore + "] Bench ready.\r\n")
	for err == nil {
		err = c.command() // the end of the connection, whoever made it
	}
}

// idle holds the connection until the client says DONE.
func (c *mailConn) idle(tag string) error {
	if err := c.write("+ idling\r\n"); err != nil {
		return err
	}
	if c.talking {
		c.talking = false
		c.s.mu.Lock()
		c.s.talk = c.talk
		c.s.mu.Unlock()
		c.talk = nil
	}
	c.s.idling.Add(1)
	defer c.s.idling.Add(-1)
	line, err := c.in.ReadString('\n')
	if err != nil {
		return err
	}
	if line != "DONE\r\n" {
		return c.write(tag + " BAD Expected DONE.\r\n")
	}
	return c.write(tag + " OK Idle completed.\r\n")
}
