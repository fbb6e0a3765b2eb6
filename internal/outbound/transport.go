package outbound

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	// MaxBody is how much of a response body can be read, in bytes.
	MaxBody = 64 << 10

	requestTimeout  = 10 * time.Second // a whole exchange, body included
	tlsTimeout      = 5 * time.Second
	headerTimeout   = 8 * time.Second
	idleTimeout     = 90 * time.Second
	pingAfter       = 20 * time.Second // silence on an HTTP/2 connection before it is asked whether it lives
	pingTimeout     = 5 * time.Second
	maxHeader       = 32 << 10 // bytes
	maxIdle         = 256      // connections
	maxConnsPerHost = 8        // sockets a single foreign host can make us hold
)

// ErrBodyTooLarge is what reading a response body returns after MaxBody bytes, if there are more.
var ErrBodyTooLarge = errors.New("response body over 64 KiB")

// transport is the guard in front of net/http: it judges the URL, picks the pool of the scheme and caps
// the body. One pool for each scheme lets the dialer know the whole origin, which net/http does not tell it.
type transport struct {
	guard       *Guard
	http, https *http.Transport
}

func newTransport(g *Guard) *transport {
	pool := func(scheme string) *http.Transport {
		var protocols http.Protocols
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
		return &http.Transport{
			// Proxy stays nil: a proxy would resolve the name itself, and dial what it likes.
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return g.dial(ctx, scheme, network, address)
			},
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    tlsTimeout,
			ResponseHeaderTimeout:  headerTimeout,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true, // the cap counts the bytes that a body really has
			MaxIdleConns:           maxIdle,
			MaxIdleConnsPerHost:    maxConnsPerHost,
			MaxConnsPerHost:        maxConnsPerHost,
			IdleConnTimeout:        idleTimeout,
			Protocols:              &protocols,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		}
	}
	return &transport{guard: g, http: pool("http"), https: pool("https")}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.guard.check(req.URL); err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // the contract of RoundTripper, errors included
		}
		return nil, err
	}
	pool := t.https
	if req.URL.Scheme == "http" {
		pool = t.http
	}
	resp, err := pool.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &cappedBody{body: resp.Body, left: MaxBody}
	return resp, nil
}

// CloseIdleConnections is found by http.Client's method of that name.
func (t *transport) CloseIdleConnections() {
	t.http.CloseIdleConnections()
	t.https.CloseIdleConnections()
}

type cappedBody struct {
	body io.ReadCloser
	left int64 // bytes; negative once more than MaxBody came
}

func (b *cappedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrBodyTooLarge
	}
	// One byte more than is left tells a body of exactly MaxBody from a longer one.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.body.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, ErrBodyTooLarge
	}
	return n, err
}

func (b *cappedBody) Close() error { return b.body.Close() }
