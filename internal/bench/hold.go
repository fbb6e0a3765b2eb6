package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// settle is how long nothing happens before memory is read.
	settle = 10 * time.Second
	// outage is how long the mail server is away.
	outage = 3 * time.Second
	// connectLimit bounds the time until all connections are there.
	connectLimit = 4 * time.Minute
)

// imapServer is a fake mail server's process as its controller sees it.
type imapServer struct {
	*process
	ready mailserverReady
	cfg   mailserverConfig
}

// imapServer starts one, at addr if that is not empty.
func (r *runner) imapServer(ctx context.Context, cfg mailserverConfig) (*imapServer, error) {
	m := &imapServer{cfg: cfg}
	var err error
	m.process, err = r.child(ctx, "mailserver", cfg, &m.ready)
	return m, err
}

// again starts a killed one at the same address.
func (m *imapServer) again(ctx context.Context, r *runner) (err error) {
	m.cfg.Addr = m.ready.Addr
	m.process, err = r.child(ctx, "mailserver", m.cfg, &m.ready)
	return err
}

func (m *imapServer) port() int {
	_, port, _ := net.SplitHostPort(m.ready.Addr)
	n, _ := strconv.Atoi(port) // it is an address that was listened on
	return n
}

func (m *imapServer) stats(ctx context.Context) (s mailserverStats, err error) {
	raw, err := get(ctx, m.ready.Control+"/stats")
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	return s, err
}

// idling waits until n connections are in IDLE and returns the statistics of then.
func (m *imapServer) idling(ctx context.Context, n int, p *process) (s mailserverStats, err error) {
	err = until(ctx, connectLimit, fmt.Sprintf("%d connections in IDLE", n), func() (bool, error) {
		s, err = m.stats(ctx)
		return s.Idling >= n, err
	})
	if err != nil {
		err = fmt.Errorf("%w: %d are open, %d in IDLE, after %v; the server said: %s", err, s.Open, s.Idling, s.Commands, p.said())
	}
	return s, err
}

// rssKiB is the resident memory in KiB.
func (p *process) rssKiB() (float64, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	return strconv.ParseFloat(procField(string(raw), "VmRSS:"), 64)
}

// hold has the server listen to very many mailboxes: over TLS, where the mail server then restarts, and in
// clear.
func (r *runner) hold(ctx context.Context) error {
	n := pick(r, 15_000, 1000)
	id, err := newIdentity()
	if err != nil {
		return err
	}
	secure := mailserverConfig{Certificate: id.leaf, CertificateKey: id.leafKey}
	kib, again, err := r.holdOn(ctx, n, secure, id)
	if err != nil {
		return fmt.Errorf("over TLS: %w", err)
	}
	if r.wants("idle") {
		r.put("idle.connections", "connections", float64(n))
		r.put("idle.tls_rss_kib", "KiB", kib)
		if kib, _, err = r.holdOn(ctx, n, mailserverConfig{}, id); err != nil {
			return fmt.Errorf("in clear: %w", err)
		}
		r.put("idle.plain_rss_kib", "KiB", kib)
	}
	if !r.wants("reconnect") {
		return nil
	}
	m, err := r.imapServer(ctx, secure)
	if err != nil {
		return err
	}
	var bare dialResult
	err = r.run(ctx, "dial", dialConfig{
		Addr: m.ready.Addr, CA: id.caPEM, Talk: again.talk, Connections: n, Concurrency: loginsAtOnce, Rate: again.rate,
	}, &bare)
	if err = errors.Join(err, m.kill()); err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	r.put("reconnect.baseline_cpu_ms", "ms", 1000*bare.CPU/float64(n))
	return nil
}

// holdOn opens n connections to one mail server. It returns the memory that each takes, and over TLS, after
// a restart of the mail server that it reports, what was seen of that.
func (r *runner) holdOn(ctx context.Context, n int, cfg mailserverConfig, id identity) (kib float64, again reconnected, err error) {
	m, err := r.imapServer(ctx, cfg)
	if err != nil {
		return 0, again, err
	}
	defer func() {
		if m.process != nil {
			err = errors.Join(err, m.kill())
		}
	}()
	host := seedHost{Name: "held", Port: m.port(), Source: "idle", PasswordSource: "session"}
	if cfg.Certificate != nil {
		host.CA = string(id.caPEM)
	}
	g, err := r.newRig(ctx, rigConfig{
		Groups: []seedGroup{{Host: host, Users: n, Listen: true, Password: userPassword}}, Extra: holdSettings,
	})
	if err != nil {
		return 0, again, err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	before, err := g.resting(ctx)
	if err != nil {
		return 0, again, err
	}
	if err := g.up(ctx); err != nil {
		return 0, again, err
	}
	start := time.Now()
	if _, err := m.idling(ctx, n, g.serve); err != nil {
		return 0, again, err
	}
	took := time.Since(start)
	pause(ctx, pick(r, settle, time.Second))
	after, err := g.serve.rssKiB()
	if err != nil {
		return 0, again, err
	}
	kib = (after - before) / float64(n)
	r.say("idle: %d connections in %.0f s, RSS %.0f KiB, without them %.0f KiB", n, took.Seconds(), after, before)
	if cfg.Certificate == nil || !r.wants("reconnect") {
		return kib, again, nil
	}
	again, err = r.reconnect(ctx, n, m, g)
	return kib, again, err
}

// resting is the memory of the server with the same database, allowed no listener.
func (g *rig) resting(ctx context.Context) (kib float64, err error) {
	usual := g.config
	text, err := os.ReadFile(usual) //nolint:gosec // our own file
	if err != nil {
		return 0, err
	}
	g.config = filepath.Join(g.dir, "resting.yml")
	defer func() { g.config = usual }()
	if err := os.WriteFile(g.config, append(text, restingSettings...), 0o600); err != nil { //nolint:gosec // our own file
		return 0, err
	}
	if err := g.up(ctx); err != nil {
		return 0, err
	}
	pause(ctx, pick(g.r, settle, time.Second))
	kib, err = g.serve.rssKiB()
	return kib, errors.Join(err, g.down())
}

// reconnected is what was seen of a reconnect: what a connection said until it was in IDLE, and how many came
// in a second.
type reconnected struct {
	talk []talkStep
	rate float64
}

// reconnect restarts the mail server and reports what it costs to be back.
func (r *runner) reconnect(ctx context.Context, n int, m *imapServer, g *rig) (again reconnected, err error) {
	err = m.kill()
	m.process = nil
	if err != nil {
		return again, err
	}
	pause(ctx, outage)
	m.cfg.Rate = loginsRefusedAbove
	if err := m.again(ctx, r); err != nil {
		return again, err
	}
	before, err := g.serve.cpu()
	if err != nil {
		return again, err
	}
	start := time.Now()
	s, err := m.idling(ctx, n, g.serve)
	if err != nil {
		return again, err
	}
	took := time.Since(start)
	after, err := g.serve.cpu()
	if err != nil {
		return again, err
	}
	r.say("reconnect: %d connections in %.0f s, at most %d logins in a second, commands %v", n, took.Seconds(), s.Peak, s.Commands)
	r.put("reconnect.cpu_ms", "ms", float64((after-before).Microseconds())/1000/float64(n))
	r.put("reconnect.seconds", "s", took.Seconds())
	r.put("reconnect.refused", "logins", float64(s.Refused))
	return reconnected{s.Talk, float64(n) / took.Seconds()}, nil
}
