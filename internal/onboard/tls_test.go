package onboard

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
)

// heard is a connection on which a server says what it likes.
type heard struct {
	net.Conn
	io.Reader
	wrote int
}

func (h *heard) Read(b []byte) (int, error) { return h.Reader.Read(b) }

func (h *heard) Write(b []byte) (int, error) { h.wrote++; return len(b), nil }

// FuzzStartTLS: whatever a server says, TLS begins only after a greeting and an OK to our command.
func FuzzStartTLS(f *testing.F) {
	f.Add([]byte("* OK ready\r\nd1 OK begin\r\n"))
	f.Add([]byte("* OK ready\r\n* CAPABILITY IMAP4rev1\r\nd1 BAD what\r\n"))
	f.Add([]byte("220 mail ESMTP\r\n"))
	f.Add([]byte("* OK " + strings.Repeat("x", 9000)))
	f.Fuzz(func(t *testing.T, said []byte) {
		h := &heard{Reader: bytes.NewReader(said)}
		err := startTLS(h)
		if err == nil && (!bytes.HasPrefix(said, []byte("* OK")) || !bytes.Contains(said, []byte("\nd1 OK")) || h.wrote != 1) {
			t.Fatalf("TLS begins after %q", said)
		}
	})
}
