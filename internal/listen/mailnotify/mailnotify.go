// Package mailnotify hears of new mail by UDP, in the datagrams that Cyrus IMAP sends to its notifyd and the
// original's mailnotify listener understood.
//
// A datagram proves nothing: whoever can send one may name any user. So it is a hint and no event. It says
// "look at this mailbox", and what is found there is what devices are told. A forged one costs a look, of which
// there are few for a user and a sender; it shows nobody anything.
//
// No datagram ends the receiving: what is empty, cut, too long or random is counted and dropped, and after an
// error of the socket it is read again, or opened again, with back-off.
//
// Concurrency: New, then Run once. Run owns two goroutines: one reads the socket and never waits for
// anything else, one finds users and hints.
package mailnotify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Config is what a Source is made of.
type Config struct {
	// Listen is the address and port. With a Group, only its port counts.
	Listen string
	// Group is a multicast group to join; the zero Addr for none. Interface is the network interface to join
	// it on; "" for the system's choice.
	Group     netip.Addr
	Interface string
	// Delimiter ends the name of the user within the datagram's; "" for none.
	Delimiter string
	// Domains are appended to a name without one.
	Domains []string
	// AllowFrom are the networks to hear; empty for all.
	AllowFrom []netip.Prefix
	// Rate and Burst are the datagrams a second, and at once, that each sender may send.
	Rate, Burst int
	// Delay is the least time between two hints for one user.
	Delay time.Duration

	Tenants *tenant.Store
	// Hint says that something happened in a user's mailbox. It must not block for long.
	Hint    func(tenant.UserID)
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Now     func() time.Time
}

// result is what became of a datagram, as its metric has it.
type result string

const (
	accepted    result = "accepted"
	empty       result = "empty"
	malformed   result = "malformed"
	oversized   result = "oversized"
	notAllowed  result = "not_allowed"
	rateLimited result = "rate_limited"
	tooMany     result = "too_many"
)

// Source receives datagrams.
type Source struct {
	Config
	limit   *limiter
	collect *collector
	arrived chan string // names, from the reader to the collector

	conn *net.UDPConn // of the reader, after New
	// read is conn's; a test replaces it by one that fails.
	read func([]byte) (int, netip.AddrPort, error)

	datagrams, hints *prometheus.CounterVec
	failures         prometheus.Counter
}

const (
	// maxArrived bounds the names that wait while users are looked up.
	maxArrived = 4096
	// firstRetry and maxRetry bound the back-off of the socket.
	firstRetry = 10 * time.Millisecond
	maxRetry   = 5 * time.Second
	// reopenAfter is after how many failures in a row the socket is opened anew.
	reopenAfter = 5
	// receiveBuffer is what the kernel keeps of a burst, in bytes, as far as it lets us.
	receiveBuffer = 1 << 20
)

// New opens the socket. Run or Close must follow.
func New(ctx context.Context, c Config) (*Source, error) {
	s := &Source{
		Config: c, limit: newLimiter(c.Rate, c.Burst), arrived: make(chan string, maxArrived),
		datagrams: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_mailnotify_datagrams_total",
			Help: "Datagrams of the mailnotify source, by what became of them.",
		}, []string{"result"}),
		hints: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_mailnotify_hints_total",
			Help: "Names that datagrams were for, once for all of a moment, by whether they were found.",
		}, []string{"result"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthorn_mailnotify_socket_errors_total",
			Help: "Failed reads of the mailnotify socket, and failed attempts to open it again.",
		}),
	}
	s.collect = &collector{delay: c.Delay, now: c.Now, hint: s.hint, names: map[string]*name{}}
	for _, m := range []prometheus.Collector{s.datagrams, s.hints, s.failures} {
		if err := c.Metrics.Register(m); err != nil {
			return nil, err
		}
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// open opens the socket in place of the one before.
func (s *Source) open(ctx context.Context) error {
	_ = s.Close()
	conn, err := s.listen(ctx)
	if err != nil {
		return err
	}
	_ = conn.SetReadBuffer(receiveBuffer) // the system may give less
	s.conn, s.read = conn, conn.ReadFromUDPAddrPort
	return nil
}

func (s *Source) listen(ctx context.Context) (*net.UDPConn, error) {
	if !s.Group.IsValid() {
		var lc net.ListenConfig
		c, err := lc.ListenPacket(ctx, "udp", s.Listen)
		if err != nil {
			return nil, err
		}
		return c.(*net.UDPConn), nil
	}
	var ifi *net.Interface
	if s.Interface != "" {
		var err error
		if ifi, err = net.InterfaceByName(s.Interface); err != nil {
			return nil, fmt.Errorf("find interface %q: %w", s.Interface, err)
		}
	}
	listen, err := net.ResolveUDPAddr("udp", s.Listen)
	if err != nil {
		return nil, err
	}
	// It binds to the group, so that nothing is heard that was sent to this machine alone.
	return net.ListenMulticastUDP("udp", ifi, net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.Group, listen.AddrPort().Port())))
}

// Addr is where datagrams are received. It is asked before Run.
func (s *Source) Addr() netip.AddrPort { return s.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// Close closes the socket of a Source that was never run; Run does it itself.
func (s *Source) Close() error {
	if s.conn == nil {
		return nil
	}
	return s.conn.Close()
}

// Run receives until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	workers, ctx := errgroup.WithContext(ctx)
	workers.Go(func() error { return s.receive(ctx) })
	workers.Go(func() error { return s.work(ctx) })
	return workers.Wait()
}

// receive reads the socket until ctx ends.
func (s *Source) receive(ctx context.Context) error {
	stop := s.closeAtEnd(ctx)
	defer func() { stop(); _ = s.Close() }()
	buf := make([]byte, maxDatagram+1) // one more, so that what is too long is seen
	failed := 0
	for {
		n, from, err := s.read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			failed = 0
			s.datagrams.WithLabelValues(string(s.take(from.Addr(), buf[:n]))).Inc()
			continue
		}
		failed++
		s.failures.Inc()
		if failed == reopenAfter {
			s.Log.WarnContext(ctx, "mailnotify socket fails: opening it again", slog.Any("err", err))
		}
		if !wait(ctx, min(maxRetry, firstRetry<<min(failed-1, 10))) {
			return nil
		}
		if failed >= reopenAfter {
			stop()
			if err := s.open(ctx); err != nil {
				s.Log.WarnContext(ctx, "cannot open mailnotify socket", slog.Any("err", err))
				s.failures.Inc()
				s.read = func([]byte) (int, netip.AddrPort, error) { return 0, netip.AddrPort{}, net.ErrClosed }
			}
			stop = s.closeAtEnd(ctx)
		}
	}
}

// closeAtEnd has a read that waits end with ctx.
func (s *Source) closeAtEnd(ctx context.Context) (stop func() bool) {
	conn := s.conn
	return context.AfterFunc(ctx, func() { _ = conn.Close() })
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// take judges one datagram and passes its name on. It does not wait.
func (s *Source) take(from netip.Addr, b []byte) result {
	from = from.Unmap().WithZone("") // no network has a zone
	if len(s.AllowFrom) > 0 && !slices.ContainsFunc(s.AllowFrom, func(p netip.Prefix) bool { return p.Contains(from) }) {
		return notAllowed
	}
	if !s.limit.take(from, s.Now()) {
		return rateLimited
	}
	user, r := parse(b)
	if r != accepted {
		return r
	}
	select {
	case s.arrived <- user:
		return accepted
	default:
		return tooMany
	}
}

// work finds the users of the names that arrive and hints, until ctx ends.
func (s *Source) work(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case user := <-s.arrived:
			if !s.collect.add(ctx, user) {
				s.hints.WithLabelValues("too_many").Inc()
			}
		case <-timer.C:
		}
		timer.Reset(s.collect.due(ctx))
	}
}

// lookUpTimeout bounds finding the users of one name.
const lookUpTimeout = 2 * time.Second

// hint hints at every user that a name may mean. The same login on two mail hosts means both: to look at a
// mailbox once too often does no harm.
func (s *Source) hint(ctx context.Context, name string) error {
	working, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	users, known, err := s.find(working, name)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		s.Log.ErrorContext(ctx, "cannot find the user of a datagram", slog.Any("err", err))
		s.hints.WithLabelValues("store_unavailable").Inc()
		return err
	case len(users) == 0 && known:
		s.hints.WithLabelValues("other_source").Inc()
	case len(users) == 0:
		s.hints.WithLabelValues("unknown_user").Inc()
	default:
		s.hints.WithLabelValues("hinted").Inc()
	}
	for _, u := range users {
		s.Hint(u)
	}
	return nil
}

// find returns the users that a name means on mail hosts that this source is for, and whether others were left out.
func (s *Source) find(ctx context.Context, name string) (users []tenant.UserID, others bool, err error) {
	if s.Delimiter != "" {
		name, _, _ = strings.Cut(name, s.Delimiter)
	}
	found, err := s.Tenants.UsersByLogin(ctx, name)
	if err != nil {
		return nil, false, err
	}
	if !strings.Contains(name, "@") {
		for _, domain := range s.Domains {
			more, err := s.Tenants.UsersByLogin(ctx, name+"@"+domain)
			if err != nil {
				return nil, false, err
			}
			found = append(found, more...)
		}
	}
	if id, err := tenant.ParseUserID(name); err == nil {
		u, err := s.Tenants.User(ctx, id)
		if err == nil {
			found = append(found, u)
		} else if !errors.Is(err, tenant.ErrNotFound) {
			return nil, false, err
		}
	}
	for _, u := range found {
		h, err := s.Tenants.MailHost(ctx, u.MailHost)
		switch {
		case errors.Is(err, tenant.ErrNotFound): // removed this moment
		case err != nil:
			return nil, false, err
		case !hears(h):
			others = true
		case !slices.Contains(users, u.ID):
			users = append(users, u.ID)
		}
	}
	return users, others, nil
}

// hears reports whether users of a mail host are told of by datagrams.
func hears(h tenant.MailHost) bool {
	return h.Source == tenant.SourceMailNotify || h.Source == tenant.SourceAuto
}
