package apns

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"time"
)

const (
	// dialTimeout bounds the way to a connection: name, TCP and TLS.
	dialTimeout = 10 * time.Second
	// reconnectPause is the least time between reconnects that an answer or a timeout asks for.
	reconnectPause = 10 * time.Second
	// maxUnsent is how often one request may move to another connection or stream because the
	// server certainly did not look at it.
	maxUnsent = 3
	// maxHeaderList bounds the header fields of an answer, in bytes as RFC 9113 section 6.5.2 counts
	// them. Apple's have about 100.
	maxHeaderList = 16 << 10
)

var errNotHTTP2 = errors.New("tls: the server does not offer HTTP/2")

// newTLS is for host, which may have a port. roots nil means the system's.
func newTLS(host string, roots *x509.CertPool) *tls.Config {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // Apple asks for it
		RootCAs:    roots,
		ServerName: name,
		NextProtos: []string{"h2"},
		// Batches of frames fill records; small ones at the start would only cost.
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != "h2" {
				return errNotHTTP2
			}
			return nil
		},
	}
}

// dialAddress adds the port that https implies.
func dialAddress(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "443")
}

// dialTLS opens one connection. The name is resolved anew each time: Apple moves its servers, and a
// connection that was told to go away must not go back to the same machine by rule.
func dialTLS(ctx context.Context, addr string, conf *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error is the one to tell
		return nil, err
	}
	return c, nil
}
