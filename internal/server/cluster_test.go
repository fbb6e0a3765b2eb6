package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// member is a server of a cluster that runs as a process of its own.
type member struct {
	*world
	name  string
	route string // where it listens for routes
	cmd   *exec.Cmd
	said  bytes.Buffer // on standard error; read after the process has ended
}

// cluster is several servers on one PostgreSQL that mesh by TLS routes.
type cluster struct {
	*world
	dir string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{world: newWorld(t, testpeer.PostgresURL(t), "login"), dir: t.TempDir()}
	authority := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	key := c.certificate("ca", authority, authority, nil)
	c.certificate("node", &x509.Certificate{
		DNSNames: []string{config.BusCertificateName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, authority, key)
	c.configure("credentials: {store: database}", "credentials: {passphrase: correct horse battery}")
	return c
}

// certificate writes a certificate and its key, signed by signer, or by itself.
func (c *cluster) certificate(name string, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) *ecdsa.PrivateKey {
	c.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(c.tb, err)
	if signer == nil {
		signer = key
	}
	template.SerialNumber, template.NotAfter = big.NewInt(1), time.Now().Add(time.Hour)
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	must(c.tb, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(c.tb, err)
	c.write(c.dir, name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
	c.write(c.dir, name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	return key
}

// member prepares a server. advertise is what others are told of its address, empty: the truth; extra replaces
// texts of its configuration, in pairs.
func (c *cluster) member(name, advertise string, extra ...string) *member {
	c.tb.Helper()
	own := *c.world
	m := &member{world: &own, name: name, route: testpeer.FreeAddresses(c.tb, 1)[0]}
	m.stateDir = filepath.Join(c.tb.TempDir(), "state")
	text, err := os.ReadFile(c.config)
	must(c.tb, err)
	s := strings.NewReplacer(append([]string{c.stateDir, m.stateDir}, extra...)...).Replace(string(text))
	if advertise == "" {
		advertise = m.route
	}
	s += fmt.Sprintf("node_name: %s\nbus:\n  listen: %s\n  advertise: %s\n  ca_file: %s/ca.pem\n  certificate_file: %s/node.pem\n  key_file: %s/node.key\n",
		name, m.route, advertise, c.dir, c.dir, c.dir)
	m.config = c.write(filepath.Dir(c.config), name+".yml", []byte(s))
	return m
}

// routes completes the configuration.
func (m *member) routes(to ...string) {
	m.tb.Helper()
	f, err := os.OpenFile(m.config, os.O_APPEND|os.O_WRONLY, 0)
	must(m.tb, err)
	_, err = fmt.Fprintf(f, "  routes: [\"%s\"]\n", strings.Join(to, `", "`))
	must(m.tb, err)
	must(m.tb, f.Close())
}

// begin starts the process, and reports whether it serves.
func (m *member) begin() bool {
	exe, err := os.Executable()
	must(m.tb, err)
	m.said.Reset()
	m.cmd = exec.CommandContext(m.tb.Context(), exe) //nolint:gosec // ourselves
	m.cmd.Env = append(os.Environ(), serveEnv+"="+m.config)
	m.cmd.Stderr = &m.said
	out, err := m.cmd.StdoutPipe()
	must(m.tb, err)
	must(m.tb, m.cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = m.cmd.Wait()
		m.cmd = nil
		return false
	}
	var public, internal string
	_, err = fmt.Sscan(line, &public, &internal)
	must(m.tb, err)
	m.reached(public, internal)
	return true
}

// end sends a signal and waits.
func (m *member) end(s syscall.Signal) {
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Signal(s)
	_ = m.cmd.Wait()
	m.cmd = nil
	if m.tb.Failed() {
		m.tb.Logf("%s said:\n%s", m.name, m.said.String())
	}
}

// start starts members together.
func start(t *testing.T, members ...*member) {
	t.Helper()
	var all sync.WaitGroup
	for _, m := range members {
		t.Cleanup(func() { m.end(syscall.SIGKILL) })
		all.Go(func() {
			if !m.begin() {
				t.Errorf("%s does not start: %s", m.name, m.said.String())
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// sees lists the members that m sees, by name, sorted.
func (m *member) sees() string {
	var list api.List[api.Node]
	if err := m.admin.Do(m.tb.Context(), "GET", "/admin/v1/cluster/nodes", nil, nil, &list); err != nil {
		return err.Error()
	}
	names := map[string]bool{}
	for _, n := range list.Items {
		if n.State != "ignored" {
			names[n.Name] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), " ")
}

// remembers is how many passwords m holds in the cluster memory.
func (m *member) remembers() string {
	for line := range strings.Lines(m.metrics()) {
		if n, ok := strings.CutPrefix(line, "posthorn_memory_entries "); ok {
			return strings.TrimSpace(n)
		}
	}
	return "nothing"
}

// owners says who owns how many users, and what is wrong.
func (m *member) owners(want int, among string) string {
	var list api.List[api.PushUser]
	if err := m.admin.Do(m.tb.Context(), "GET", "/admin/v1/push/users", nil, nil, &list); err != nil {
		return err.Error()
	}
	has, odd := map[string]int{}, ""
	for _, u := range list.Items {
		if u.State != "registered" || u.LastError != "" {
			odd += fmt.Sprintf(" %s is %s (%s, %s)", u.Login, u.State, u.Reason, u.LastError)
		}
		has[u.Node]++
		want--
	}
	names := strings.Join(slices.Sorted(maps.Keys(has)), " ") // each has some
	if odd != "" || want != 0 || names != among {
		return fmt.Sprintf("%v, %d are missing,%s", has, want, odd)
	}
	return "all among " + among
}

// eventually waits until all members answer want, and fails when that takes longer than within.
func eventually(t *testing.T, what string, within time.Duration, want string, ask func(*member) string, members ...*member) {
	t.Helper()
	begin := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var wrong []string
		for _, m := range members {
			if got := ask(m); got != want {
				wrong = append(wrong, fmt.Sprintf("%s: %q", m.name, got))
			}
		}
		took := time.Since(begin)
		if len(wrong) == 0 {
			t.Logf("%s: %s", what, took.Round(10*time.Millisecond))
			return
		}
		if took > within {
			t.Fatalf("%s: not within %s: want %q, got %s", what, within, want, strings.Join(wrong, ", "))
		}
		<-tick.C
	}
}

// gate is a TCP relay that can be shut: then no connection through it lives or is made.
type gate struct {
	listener net.Listener
	mu       sync.Mutex // guards all below
	shut     bool
	open     map[net.Conn]struct{}
}

func newGate(t *testing.T) *gate {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	return &gate{listener: l, open: map[net.Conn]struct{}{}}
}

func (g *gate) address() string { return g.listener.Addr().String() }

// relay lets connections through to an address until the test ends.
func (g *gate) relay(t *testing.T, to string) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	pass := func(dst, src net.Conn) {
		_, _ = io.Copy(dst, src)
		_, _ = dst.Close(), src.Close()
	}
	all.Go(func() {
		for {
			in, err := g.listener.Accept()
			if err != nil {
				return
			}
			out, err := new(net.Dialer).DialContext(ctx, "tcp", to)
			if err != nil || !g.keep(in, out) {
				_ = in.Close()
				if err == nil {
					_ = out.Close()
				}
				continue
			}
			all.Go(func() { pass(out, in) })
			all.Go(func() { pass(in, out) })
		}
	})
	t.Cleanup(func() {
		_ = g.listener.Close()
		cancel()
		g.set(true)
		all.Wait()
	})
}

func (g *gate) keep(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		if !g.shut {
			g.open[c] = struct{}{}
		}
	}
	return !g.shut
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	if shut {
		for c := range g.open {
			_ = c.Close()
		}
		clear(g.open)
	}
}

// TestCluster: three processes. They find each other, refuse strangers, bear a partition, a kill and a clean stop, and
// keep passwords and listeners through all of it.
func TestCluster(t *testing.T) {
	t.Parallel()
	const bob, password, count = "bob@rig.test", "secret", 30
	passwords := map[string]string{bob: password}
	for i := range count {
		passwords[fmt.Sprintf("user%02d@rig.test", i)] = password
	}
	logins := slices.Sorted(maps.Keys(passwords)) // bob is the first
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: passwords})
	c := newCluster(t)
	// All that a and the others say to each other goes through gates, in either direction.
	toB, toC := newGate(t), newGate(t)
	ma, mb, mc := c.member("a", "127.0.0.1:1"), c.member("b", toB.address()), c.member("c", toC.address())
	ma.routes(toB.address(), toC.address())
	mb.routes(mc.route)
	mc.routes(mb.route)
	toB.relay(t, mb.route)
	toC.relay(t, mc.route)
	start(t, ma, mb, mc)
	eventually(t, "all see each other", 10*time.Second, "a b c", (*member).sees, ma, mb, mc)

	// Who cannot read what the others seal does not start, and neither does who takes the place of another.
	var refusals sync.WaitGroup
	for _, r := range []struct {
		m    *member
		says string
	}{
		{c.member("stranger", "", "correct horse battery", "another passphrase"), "make credentials.passphrase and the file seal.key in the state directory the same on all nodes"},
		{c.member("twin", ""), "the file node-id was copied with a state directory"},
	} {
		r.m.routes(mb.route, mc.route)
		if r.m.name == "twin" {
			id, err := os.ReadFile(filepath.Join(mb.stateDir, "node-id"))
			must(t, err)
			must(t, os.MkdirAll(r.m.stateDir, 0o700))
			r.m.write(r.m.stateDir, "node-id", id)
		}
		refusals.Go(func() {
			if r.m.begin() {
				t.Errorf("%s starts", r.m.name)
				r.m.end(syscall.SIGKILL)
			} else if !strings.Contains(r.m.said.String(), r.says) {
				t.Errorf("%s says %q", r.m.name, r.m.said.String())
			}
		})
	}

	// Users sign in at one node, and all share their listeners. (Nobody minds the refused ones meanwhile.)
	ma.provision(d, api.MailHost{}, logins...)
	for _, login := range logins[1:] {
		token := ma.signIn(login, password, login+"'s phone")
		p := ma.apnsPhone()
		ma.call("POST", "/api/v1/subscriptions", token, map[string]any{ // the answer may say that the owner is not known yet
			"client": "posthorn-app", "transport": p.transport, "topics": []string{"mail:new"}, "token": p.token,
		}, 201)
	}
	refusals.Wait()
	users := count
	owned := func(when string, among string, members ...*member) {
		t.Helper()
		eventually(t, when+": owners", 10*time.Second, "all among "+among, func(m *member) string { return m.owners(users, among) }, members...)
		for i := 1; i < len(logins); i += 5 {
			if v, ok := d.Metadata(t, logins[i]); !ok || v != fmt.Sprintf("user=%d@1", i+1) {
				t.Errorf("%s: the registration of %s is %q", when, logins[i], v)
			}
		}
	}
	owned("at the start", "a b c", ma, mb, mc)

	// The bus breaks apart. Each half goes on alone, and what they do meanwhile comes together.
	toB.set(true)
	toC.set(true)
	eventually(t, "partition, the one", 6*time.Second, "a", (*member).sees, ma)
	eventually(t, "partition, the two", 6*time.Second, "b c", (*member).sees, mb, mc)
	owned("partition, the one", "a", ma)
	owned("partition, the two", "b c", mb, mc)
	ma.signIn(bob, password, "bob's phone") // has a listener for as long as he uses the session
	users++
	toB.set(false)
	toC.set(false)
	eventually(t, "healed", 6*time.Second, "a b c", (*member).sees, ma, mb, mc)
	eventually(t, "healed: all know all passwords", 15*time.Second, strconv.Itoa(count+1), (*member).remembers, ma, mb, mc)
	owned("healed", "a b c", ma, mb, mc)

	// One is killed.
	mc.end(syscall.SIGKILL)
	eventually(t, "killed", 6*time.Second, "a b", (*member).sees, ma, mb)
	owned("killed", "a b", ma, mb)
	start(t, mc)
	eventually(t, "back", 6*time.Second, "a b c", (*member).sees, ma, mb, mc)
	eventually(t, "back: it has copied the passwords", 12*time.Second, strconv.Itoa(count+1), (*member).remembers, mc)

	// Two stop cleanly: that is seen at once. The third has everything.
	ma.end(syscall.SIGTERM)
	eventually(t, "stopped", time.Second, "b c", (*member).sees, mb, mc)
	mb.end(syscall.SIGTERM)
	eventually(t, "stopped, too", time.Second, "c", (*member).sees, mc)
	owned("the last one", "c", mc)
	if got := mc.remembers(); got != strconv.Itoa(count+1) {
		t.Errorf("the last one remembers %s passwords", got)
	}
	start(t, ma)
	eventually(t, "a begins again", 6*time.Second, "a c", (*member).sees, ma, mc)
	eventually(t, "a has copied the passwords", 12*time.Second, strconv.Itoa(count+1), (*member).remembers, ma)
	mc.end(syscall.SIGKILL)
	owned("only a", "a", ma)
	if got := ma.remembers(); got != strconv.Itoa(count+1) {
		t.Errorf("a remembers %s passwords", got)
	}
}
