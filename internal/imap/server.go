package imap

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// A Server is where clients connect to. What all of them can share they share: the configuration, the
// authorities, the TLS sessions, and the capability lists. It is safe for concurrent use.
type Server struct {
	cfg Config
	tls *tls.Config

	mu   sync.Mutex
	sets map[string]*capabilities // by their names, sorted and joined; guarded by mu
}

// maxSets bounds the capability lists that are shared. Servers have two or three of them; one that makes up
// others is not remembered for it.
const maxSets = 64

// NewServer checks the configuration. It does not connect.
func NewServer(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("imap: %w", err)
	}
	return &Server{
		cfg: cfg,
		tls: &tls.Config{
			ServerName:         cfg.Host,
			RootCAs:            cfg.RootCAs,
			MinVersion:         tls.VersionTLS12,
			InsecureSkipVerify: cfg.Insecure, //nolint:gosec // G402: only on the operator's word
			// There is one key, the server's name. Its newest session resumes any number of connections.
			ClientSessionCache: tls.NewLRUClientSessionCache(1),
		},
		sets: map[string]*capabilities{},
	}, nil
}

// Dial connects, encrypts and reads the server's capabilities. A greeting of BYE is a [ResponseError].
func (s *Server) Dial(ctx context.Context) (*Client, error) {
	addr := s.cfg.addr()
	conn, err := s.cfg.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("imap: connect to %s: %w", addr, err)
	}
	c := &Client{srv: s, raw: conn, gate: newGate(conn), turn: make(chan struct{}, 1)}
	c.use(&c.gate)
	if err := c.do(ctx, "connect to "+addr, func() error { return c.open(ctx) }); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Dial connects once to a server that nobody will connect to again soon. See [Server.Dial].
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	s, err := NewServer(cfg)
	if err != nil {
		return nil, err
	}
	return s.Dial(ctx)
}

// capabilities are what a server can. They are shared between clients, and never changed.
type capabilities struct {
	has   map[string]bool // upper case
	names []string        // sorted
}

// intern returns the list of these names, which all clients have in common.
func (s *Server) intern(names []string) *capabilities {
	upper := make([]string, 0, len(names))
	for _, n := range names {
		upper = append(upper, strings.ToUpper(n))
	}
	slices.Sort(upper)
	upper = slices.Compact(upper)
	key := strings.Join(upper, " ")
	s.mu.Lock()
	defer s.mu.Unlock()
	if set, ok := s.sets[key]; ok {
		return set
	}
	set := &capabilities{has: make(map[string]bool, len(upper)), names: upper}
	for _, n := range upper {
		set.has[n] = true
	}
	if len(s.sets) < maxSets {
		s.sets[key] = set
	}
	return set
}

// Resumed reports whether the connection took up a TLS session of an earlier one.
func (c *Client) Resumed() bool {
	conn, ok := c.conn.(*tls.Conn)
	return ok && conn.ConnectionState().DidResume
}
