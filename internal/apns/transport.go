package apns

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// pingAfter is the silence after which the connection is pinged, and pingTimeout how long the
	// answer may take: so long can a dead connection swallow requests.
	pingAfter   = time.Minute
	pingTimeout = 15 * time.Second
	// idleTimeout ends an unused connection. Apple wants connections kept, not reopened per burst.
	idleTimeout = time.Hour
)

// transport moves requests over one HTTP/2 connection at a time, made and run by net/http. It is what
// [Config.HTTP2Transport] selects: the cross-check of our own connection, and its baseline.
//
// It takes single connections from net/http instead of its pool. The pool dials once per waiting
// request, and stalls for good when it has to respect the server's stream limit (golang/go#70809),
// which Apple sets to 1 until a provider token has proved itself. On a single connection a request
// above the limit waits its turn. Only the time before the server's SETTINGS is ours to bridge: until
// then net/http assumes a limit of 100, so the first request on a connection goes alone.
type transport struct {
	base string // "https://host:port"
	addr string // "host:port"
	http *http.Transport

	mu      sync.Mutex
	cur     *httpConn // nil before the first request and while another is dialled
	dialing *dial
	left    time.Time // when leave last acted
}

// httpConn is one connection; its fields are guarded by transport.mu.
type httpConn struct {
	t  *transport
	cc *http.ClientConn
	// open counts the requests under way; a retired connection is closed when it falls to 0.
	open    int
	retired bool
	// proven is set by the first answer. Until then one request at a time leads, and the others
	// wait for led to be closed.
	proven, leading bool
	led             chan struct{}
}

// dial is one attempt, shared by all who wait for a connection.
type dial struct {
	done chan struct{}
	err  error // to be read after done
}

func newTransport(host string, conf *tls.Config) *transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	return &transport{base: "https://" + host, addr: dialAddress(host), http: &http.Transport{
		Proxy: nil, // Apple is reached directly or not at all
		// The name is resolved anew for every connection.
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    dialTimeout,
		Protocols:              protocols,
		DisableCompression:     true,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderList,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: pingTimeout},
	}}
}

// do makes one request.
func (t *transport) do(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	for unsent := 0; ; unsent++ {
		c, err := t.acquire(ctx)
		if err != nil {
			return answer{}, ended(ctx, err)
		}
		a, err := t.exchange(ctx, c, &r)
		t.release(c, err == nil)
		switch {
		case err == nil:
			a.via = c
			return a, nil
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			// A black hole keeps its connection "open" until a ping fails; do not wait for that.
			c.leave()
			fallthrough
		case unsent == maxUnsent || ctx.Err() != nil:
			return answer{}, ended(ctx, err)
		case refused(err): // the connection is good
		case unusable(err):
			t.retire(c)
		default:
			return answer{}, err
		}
	}
}

// exchange sends and reads on one connection.
func (t *transport) exchange(ctx context.Context, c *httpConn, r *request) (answer, error) {
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, t.base+devicePath+r.token, bytes.NewReader(r.m.Payload))
	if err != nil {
		return answer{}, errors.New("make request: the address does not parse") // the cause quotes the device token
	}
	for _, f := range r.fields() {
		hr.Header.Set(f.name, f.value)
	}
	// Below http.Client: no redirects, and no error that quotes the URL with the device token.
	resp, err := c.cc.RoundTrip(hr)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	a := answer{status: resp.StatusCode, apnsID: resp.Header.Get("Apns-Id"), retryAfter: resp.Header.Get("Retry-After")}
	if a.status != http.StatusOK {
		// What came before an error still counts: the status is known, and judged by itself if need be.
		a.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxBody))
	}
	return a, nil
}

// acquire returns the connection to use, dialling when there is none. The caller releases it.
func (t *transport) acquire(ctx context.Context) (*httpConn, error) {
	for {
		t.mu.Lock()
		if t.cur != nil && t.cur.cc.Err() != nil {
			t.drop(t.cur) // closed already
		}
		var wait <-chan struct{}
		switch c := t.cur; {
		case c != nil && (c.proven || !c.leading):
			c.leading = true
			c.open++
			t.mu.Unlock()
			return c, nil
		case c != nil:
			wait = c.led
		case t.dialing == nil:
			d := &dial{done: make(chan struct{})}
			t.dialing = d
			t.mu.Unlock()
			if err := t.dial(ctx, d); err != nil {
				return nil, err
			}
			continue
		default:
			wait = t.dialing.done
		}
		d := t.dialing
		t.mu.Unlock()
		select {
		case <-wait:
			if d != nil && d.err != nil {
				return nil, d.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dial opens the connection for everyone who waits on d.
func (t *transport) dial(ctx context.Context, d *dial) error {
	cc, err := t.http.NewClientConn(ctx, "https", t.addr)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.cur = &httpConn{t: t, cc: cc, led: make(chan struct{})}
	} else if ctx.Err() == nil { // else it was our caller's haste, and the next in line dials anew
		d.err = err
	}
	t.dialing = nil
	close(d.done)
	return err
}

// release ends one request on c.
func (t *transport) release(c *httpConn, answered bool) {
	t.mu.Lock()
	c.open--
	if !c.proven {
		c.proven, c.leading = answered, answered
		close(c.led)
		c.led = make(chan struct{})
	}
	t.unlockAndClose(c)
}

// retire takes c out of use. Requests under way on it finish there.
func (t *transport) retire(c *httpConn) {
	t.mu.Lock()
	t.drop(c)
	t.unlockAndClose(c)
}

// leave retires c unless another connection was left just now.
func (c *httpConn) leave() {
	t, now := c.t, time.Now()
	t.mu.Lock()
	if c != t.cur || (!t.left.IsZero() && now.Sub(t.left) < reconnectPause) {
		t.mu.Unlock()
		return
	}
	t.left = now
	t.drop(c)
	t.unlockAndClose(c)
}

func (t *transport) streams() (inFlight, limit int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.cur
	switch {
	case c == nil:
		return 0, 1
	case !c.proven:
		return c.open, 1
	}
	return c.open, c.cc.InFlight() + c.cc.Available()
}

func (t *transport) close() {
	t.mu.Lock()
	c := t.cur
	if c == nil {
		t.mu.Unlock()
		return
	}
	t.drop(c)
	t.unlockAndClose(c)
}

// drop makes c nobody's next connection; t.mu is held.
func (t *transport) drop(c *httpConn) {
	c.retired = true
	if t.cur == c {
		t.cur = nil
	}
}

// unlockAndClose releases t.mu and closes c if its last request is done. Closing writes to the
// network, so it happens outside the lock.
func (t *transport) unlockAndClose(c *httpConn) {
	done := c.retired && c.open == 0
	t.mu.Unlock()
	if done {
		_ = c.cc.Close() // nothing is lost with it
	}
}
