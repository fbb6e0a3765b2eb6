package imap

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A script is what a server says and expects, one step a line:
//
//	S: a line to send                C: the exact line to expect
//	R: "a Go string to send"         TLS: encrypt from here on
//	CALL: have the test act          EOF: close
//
// Behind the last step the server reads on, and whatever still comes is an error.
type script struct {
	text string
	call func()
	// times is how often it is played, to one connection after the other; 0 is once.
	times int
}

// certificate is for 127.0.0.1 and example.com; roots trusts it.
var certificate = sync.OnceValues(func() (cert tls.Certificate, roots *x509.CertPool) {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	roots = x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return srv.TLS.Certificates[0], roots
})

// serve fills cfg in such that Dial reaches a server that plays the script. The test waits for it.
func (s script) serve(t *testing.T, cfg Config) Config {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	wg.Go(func() {
		for range max(1, s.times) {
			conn, err := l.Accept()
			if err != nil {
				return // nobody came
			}
			wg.Go(func() {
				defer conn.Close()
				if err := s.play(conn); err != nil {
					t.Errorf("script: %v", err)
				}
			})
		}
	})
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if cfg.Security == "" {
		cfg.Security = SecurityNone
	}
	cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, l.Addr().String())
	}
	return cfg
}

// tickets has all servers of the process resume each other's sessions.
func tickets(cfg *tls.Config) *tls.Config {
	cfg.SetSessionTicketKeys([][32]byte{{1}})
	return cfg
}

func (s script) play(conn net.Conn) error {
	in := bufio.NewReader(conn)
	for line := range strings.Lines(s.text) {
		verb, arg, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		arg = strings.TrimPrefix(arg, " ")
		var err error
		switch verb {
		case "S":
			_, err = io.WriteString(conn, arg+"\r\n")
		case "R":
			if arg, err = strconv.Unquote(arg); err == nil {
				_, err = io.WriteString(conn, arg)
			}
		case "C":
			var got string
			if got, err = in.ReadString('\n'); err == nil && got != arg+"\r\n" {
				err = fmt.Errorf("got %q", got)
			}
		case "TLS":
			cert, _ := certificate()
			conn = tls.Server(conn, tickets(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}))
			in = bufio.NewReader(conn)
		case "CALL":
			s.call()
		case "EOF":
			return nil
		default:
			err = fmt.Errorf("no such verb")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", strings.TrimSpace(line), err)
		}
	}
	rest, _ := io.ReadAll(in) // an end by reset or alert is an end too
	if len(rest) > 0 {
		return fmt.Errorf("unexpected: %q", rest)
	}
	return nil
}

// dial returns a client of the script.
func (s script) dial(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := Dial(t.Context(), s.serve(t, cfg))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// play is the short form for most tests.
func play(t *testing.T, text string) *Client {
	t.Helper()
	return script{text: text}.dial(t, Config{})
}
