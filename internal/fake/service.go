package fake

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// service is what the three fakes share: a listener on a loopback address, net/http's server behind
// it, the script and the record.
//
// TLS is ended here rather than in net/http, which then speaks HTTP/2 over what it takes for a clear
// connection: so a connection can be wrapped (see firstStream) and cut off by a script.
type service struct {
	recorder
	url    string
	now    func() time.Time
	http   *http.Server
	done   chan struct{} // closed by Close: ends delayed and hanging answers
	script atomic.Pointer[func(Delivery) *Answer]

	mu     sync.Mutex
	conns  int // ever
	open   int
	closed bool // no wg.Add from outside the accept loop once this is set
	wg     sync.WaitGroup
}

// options is the part of the three configurations that the service needs.
type options struct {
	addr string
	keep int
	now  func() time.Time
	tls  *tls.Config // nil: plain HTTP
	h2   *http.HTTP2Config
	// wrap, if not nil, is given each TLS connection before its handshake.
	wrap func(*tls.Conn) net.Conn
}

// peer is one connection, as net/http's server sees it.
type peer struct {
	net.Conn
	raw *net.TCPConn
	tls *tls.Conn // nil without TLS
}

type peerKey struct{}

func peerOf(ctx context.Context) *peer {
	p, _ := ctx.Value(peerKey{}).(*peer)
	return p
}

// abort ends the connection of a request at once, with a TCP reset: no GOAWAY, no close_notify.
func abort(r *http.Request) {
	p := peerOf(r.Context())
	_ = p.raw.SetLinger(0)
	_ = p.raw.Close()
	// Returning instead would be an empty 200 to net/http, which could still slip out.
	panic(http.ErrAbortHandler)
}

type listener struct {
	*net.TCPListener
	opt options
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	if l.opt.tls == nil {
		return &peer{Conn: c, raw: c}, nil
	}
	t := tls.Server(c, l.opt.tls)
	if l.opt.wrap == nil {
		return &peer{Conn: t, raw: c, tls: t}, nil
	}
	return &peer{Conn: l.opt.wrap(t), raw: c, tls: t}, nil
}

func (s *service) start(opt options, handle http.HandlerFunc) error {
	if opt.addr == "" {
		opt.addr = "127.0.0.1:0"
	}
	addr, err := netip.ParseAddrPort(opt.addr)
	if err != nil {
		return fmt.Errorf("fake: parse address: %w", err)
	}
	if !addr.Addr().IsLoopback() {
		return fmt.Errorf("fake: %s is not a loopback address", addr)
	}
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		return fmt.Errorf("fake: listen: %w", err)
	}
	scheme := "http://"
	if opt.tls != nil {
		scheme = "https://"
	}
	s.url = scheme + ln.Addr().String()
	s.now = opt.now
	if s.now == nil {
		s.now = time.Now
	}
	s.init(opt.keep)
	s.done = make(chan struct{})
	s.http = &http.Server{
		Handler:           s.guard(handle),
		ReadHeaderTimeout: 10 * time.Second,
		Protocols:         new(http.Protocols),
		HTTP2:             opt.h2,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c)
		},
		ConnState: s.track,
	}
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetUnencryptedHTTP2(true)
	s.wg.Go(func() { _ = s.http.Serve(listener{ln, opt}) })
	return nil
}

// track counts connections. The accept loop holds the WaitGroup while it reports new ones.
func (s *service) track(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.wg.Add(1)
		s.mu.Lock()
		s.conns++
		s.open++
		closed := s.closed
		s.mu.Unlock()
		if closed { // accepted while Close was under way; net/http's Close no longer sees it
			_ = c.Close()
		}
	case http.StateClosed:
		s.mu.Lock()
		s.open--
		s.mu.Unlock()
		s.wg.Done()
	default:
	}
}

// guard counts running handlers: with HTTP/2 they can outlive their connection.
func (s *service) guard(handle http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			abort(r)
		}
		s.wg.Add(1)
		s.mu.Unlock()
		defer s.wg.Done()
		handle(w, r)
	})
}

// Connections is how many there have been, and how many of them are open.
func (s *service) Connections() (all, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns, s.open
}

// URL is the origin of the fake, without a trailing slash.
func (s *service) URL() string { return s.url }

// Close stops listening, cuts every connection and waits for every goroutine, scripts included.
func (s *service) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	var err error
	if first {
		close(s.done)
		err = s.http.Close()
	}
	s.wg.Wait()
	s.end()
	return err
}

// Script has f asked about each request that passed every check, before it is answered; nil, or a
// nil answer, is the ordinary one. Requests that fail a check get their refusal regardless. f runs on
// the request's goroutine, concurrently with itself.
func (s *service) Script(f func(Delivery) *Answer) {
	if f == nil {
		s.script.Store(nil)
		return
	}
	s.script.Store(&f)
}

// wanted says whether anybody looks at deliveries; if not, they need not be made.
func (s *service) wanted() bool { return s.keeps() || s.script.Load() != nil }

// decide asks the script; ordinary is the answer when it has nothing to say.
func (s *service) decide(d *Delivery, ordinary int) Answer {
	f := s.script.Load()
	if f == nil {
		return Answer{Status: ordinary}
	}
	given := (*f)(*d)
	if given == nil {
		return Answer{Status: ordinary}
	}
	ans := *given
	if ans.Status == 0 {
		ans.Status = ordinary
	}
	return ans
}

// conclude carries an answer out. d is recorded if it is accepted; nil is nothing to record. write
// sends the provider's document.
func (s *service) conclude(w http.ResponseWriter, r *http.Request, d *Delivery, ans Answer, write func(http.ResponseWriter, Answer)) {
	if ans.Delay > 0 && !s.pause(r, ans.Delay) {
		return
	}
	reason := ans.Reason
	switch {
	case ans.Hang:
		reason = "hang"
	case ans.Close:
		reason = "close"
	}
	if ans.Status/100 == 2 && d != nil {
		d.At = s.now()
		s.count(Result{ans.Status, reason}, d)
	} else {
		s.count(Result{ans.Status, reason}, nil)
	}
	switch {
	case ans.Hang:
		select {
		case <-r.Context().Done():
		case <-s.done:
			abort(r)
		}
		return
	case ans.Close:
		abort(r)
	}
	maps.Copy(w.Header(), ans.Header)
	if ans.Body != nil {
		w.WriteHeader(ans.Status)
		_, _ = w.Write(ans.Body)
		return
	}
	write(w, ans)
}

// pause waits and says whether anybody is still there to be answered.
func (s *service) pause(r *http.Request, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
	case <-s.done:
		abort(r)
	}
	return false
}

func writeJSON(w http.ResponseWriter, status int, doc any) {
	body, err := json.Marshal(doc)
	if err != nil { // strings, numbers and maps of them always marshal
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
