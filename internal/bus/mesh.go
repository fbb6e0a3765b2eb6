package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// ErrListen means that the address for routes cannot be listened on.
var ErrListen = errors.New("cannot listen for routes")

// Mesh joins the servers inside several processes by routes: mutually authenticated TLS 1.3 connections, one
// between each two. There is no route without TLS.
type Mesh struct {
	// Listen is the host and port where the others' routes come in.
	Listen string
	// Advertise is what the others are told instead of it; empty: the address that they see.
	Advertise string
	// Routes are the host:port of others. This process's own may be among them.
	Routes []string
	// Name is a DNS name that the certificate of every node bears. Who has another one is refused, even
	// when CAs hold the authority that signed it.
	Name        string
	Certificate tls.Certificate
	CAs         *x509.CertPool
}

const (
	// inProcessUser is our own name at the server inside the process.
	inProcessUser = "posthorn"
	// meshName keeps other NATS servers out that find our port: only those of one name make routes.
	meshName = "posthorn"
	// routesEvery is the time between two looks at which routes there are.
	routesEvery = 500 * time.Millisecond
	// routeRetries is how often, once a second, a node tries to reach one that only others have told it of.
	routeRetries = 120
)

// options are those of a server that other processes reach by routes only. With DontListen it would not listen
// for routes either, so there is a port for clients, at which nobody can sign in: only connections from within
// the process may.
func (m *Mesh) options(password string) (*server.Options, error) {
	o := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, NoSystemAccount: true,
		Users: []*server.User{{
			Username: inProcessUser, Password: password, AllowedConnectionTypes: map[string]struct{}{"IN_PROCESS": {}},
		}},
	}
	host, port, err := splitPort(m.Listen)
	if err != nil {
		return nil, err
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	o.Cluster = server.ClusterOpts{
		Name: meshName, Host: host, Port: port, Advertise: m.Advertise,
		TLSConfig: m.tls(), TLSTimeout: dialTimeout.Seconds(),
		PingInterval: pingInterval, MaxPingsOut: pingsOut, WriteDeadline: silenceTimeout, ConnectRetries: routeRetries,
		Compression: server.CompressionOpts{Mode: server.CompressionOff},
		PoolSize:    -1, // our traffic needs one connection, not three
	}
	for _, r := range m.Routes {
		if _, _, err := splitPort(r); err != nil {
			return nil, err
		}
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: r})
	}
	return o, nil
}

func splitPort(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("read the address of a route: %w", err)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("read the port of %s: %w", address, err)
	}
	return host, int(n), nil
}

// tls verifies the other side, whether it calls or is called: against the authority, and the name.
func (m *Mesh) tls() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.Certificate},
		RootCAs:      m.CAs,
		ServerName:   m.Name,
		ClientCAs:    m.CAs,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the other node shows no certificate")
			}
			return s.PeerCertificates[0].VerifyHostname(m.Name)
		},
	}
}

// startServer starts a server that listens for routes, or, without a mesh, nowhere.
func startServer(ctx context.Context, m *Mesh, password string, log *slog.Logger) (*server.Server, error) {
	o := &server.Options{ServerName: "in-process", DontListen: true, NoSigs: true, NoLog: true, NoSystemAccount: true}
	if m != nil {
		var err error
		if o, err = m.options(password); err != nil {
			return nil, err
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		return nil, fmt.Errorf("make the server: %w", err)
	}
	said := &serverLog{ctx: context.WithoutCancel(ctx), log: log, fatal: make(chan error, 1), told: map[string]time.Time{}}
	s.SetLogger(said, false, false)
	s.Start()
	for begin := time.Now(); !s.ReadyForConnections(startTimeout / 100); {
		select {
		case err = <-said.fatal:
		default:
			if time.Since(begin) < startTimeout {
				continue
			}
			err = fmt.Errorf("start the server: not ready after %s", startTimeout)
		}
		s.Shutdown()
		s.WaitForShutdown()
		return nil, err
	}
	return s, nil
}

// serverLog passes on what the server inside this process complains of. It repeats nothing within a minute:
// the server tries a route again each second.
type serverLog struct {
	ctx   context.Context // for its values: the server's logger has no room for one
	log   *slog.Logger
	fatal chan error // room for one: why the server does not start

	mu   sync.Mutex // guards told
	told map[string]time.Time
}

// maxTold bounds what is remembered of what was told.
const maxTold = 100

// counted are the parts of a message that differ each time: ports, connections, attempts.
var counted = regexp.MustCompile(`(:|attempt )\d+`)

func (l *serverLog) tell(format string, args []any) {
	text := fmt.Sprintf(format, args...)
	key, now := counted.ReplaceAllString(text, ""), time.Now()
	l.mu.Lock()
	again := now.Sub(l.told[key]) < warnEvery
	if !again {
		if len(l.told) >= maxTold {
			clear(l.told)
		}
		l.told[key] = now
	}
	l.mu.Unlock()
	if !again {
		l.log.WarnContext(l.ctx, "bus server", slog.String("says", text))
	}
}

// The methods of server.Logger.

func (l *serverLog) Errorf(format string, args ...any) { l.tell(format, args) }
func (l *serverLog) Warnf(string, ...any)              {} // of how it is set up, which is our doing
func (l *serverLog) Noticef(string, ...any)            {}
func (l *serverLog) Debugf(string, ...any)             {}
func (l *serverLog) Tracef(string, ...any)             {}

// Fatalf is called instead of ending the process.
func (l *serverLog) Fatalf(format string, args ...any) {
	select {
	case l.fatal <- fmt.Errorf("%w: %s", ErrListen, fmt.Sprintf(format, args...)):
	default: // the first is the reason
	}
}

// watchRoutes tells every subscriber that it may have missed messages when a route has come up, until ctx
// ends: the connection to the server in this process never broke, but the way to another one did.
func (b *Bus) watchRoutes(ctx context.Context) {
	defer close(b.watched)
	tick := time.NewTicker(routesEvery)
	defer tick.Stop()
	known, fresh := map[uint64]*server.RouteInfo{}, false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if fresh { // since the last look the other side has learned what we are subscribed to, and we of it
			b.mu.Lock()
			for s := range b.subs {
				s.tellMissed()
			}
			b.mu.Unlock()
		}
		routes, err := b.server.Routez(nil)
		if err != nil {
			continue // it shuts down
		}
		now := map[uint64]*server.RouteInfo{}
		fresh = false
		for _, r := range routes.Routes {
			now[r.Rid] = r
			if known[r.Rid] == nil {
				fresh = true
				b.log.InfoContext(ctx, "bus route up", slog.String("address", r.IP))
			}
		}
		for rid, r := range known {
			if now[rid] == nil {
				b.log.InfoContext(ctx, "bus route down", slog.String("address", r.IP))
			}
		}
		known = now
	}
}
