package bench

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/posthorn-mail/posthorn/internal/config"
)

// fleet is several servers on one PostgreSQL, with a Dovecot whose users they listen to.
type fleet struct {
	r       *runner
	dir     string
	url     string // of the database
	pg      *peer
	dovecot *dovecot
	apns    *remote
	nodes   []*node
	others  []*process // fakes
	// users are at Dovecot, in the first group.
	users int
}

// node is one server of a fleet; it runs while its rig's serve is not nil.
type node struct {
	*rig
	public, internal, route int // ports
	name                    string
	socket                  http.Client
}

// fleetConfig makes a fleet. The groups' first is at Dovecot, whose ports are put into its host.
type fleetConfig struct {
	Nodes  int
	Users  int
	Host   seedHost
	Stored bool // the users' passwords are in the database
	More   []seedGroup
	Extra  string // of every node's configuration
}

// newFleet starts the peers and seeds the database. No node runs yet.
func (r *runner) newFleet(ctx context.Context, c fleetConfig) (_ *fleet, err error) {
	dir, err := os.MkdirTemp(r.dir, "fleet-*")
	if err != nil {
		return nil, err
	}
	f := &fleet{r: r, dir: dir, users: c.Users}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	id, err := newIdentity(config.BusCertificateName)
	if err != nil {
		return nil, err
	}
	f.apns = &remote{}
	devices := c.Users
	for _, g := range c.More {
		devices += g.Users
	}
	p, err := r.child(ctx, "provider", id.provider(devices), &f.apns.ready)
	if err != nil {
		return nil, err
	}
	f.others = append(f.others, p)
	ports, err := r.freePorts(ctx, 3*c.Nodes)
	if err != nil {
		return nil, err
	}
	for i := range c.Nodes {
		own := filepath.Join(dir, strconv.Itoa(i+1))
		f.nodes = append(f.nodes, &node{
			name:   "node" + strconv.Itoa(i+1),
			rig:    &rig{r: r, dir: own, config: filepath.Join(own, "posthorn.yml")},
			public: ports[3*i], internal: ports[3*i+1], route: ports[3*i+2],
		})
	}
	if f.pg, f.url, err = r.startPostgres(ctx); err != nil {
		return nil, err
	}
	// Two of them are told of each mail, as two drivers do it: one push comes of that.
	notify := []string{address(f.nodes[0].internal), address(f.nodes[1].internal)}
	if f.dovecot, err = r.startDovecot(ctx, c.Users, notify); err != nil {
		return nil, err
	}
	var states []string
	for _, n := range f.nodes {
		states = append(states, filepath.Join(n.dir, "state"))
		if err := f.write(n, id, c.Extra); err != nil {
			return nil, err
		}
	}
	c.Host.Name, c.Host.Port = "dovecot", f.dovecot.imap
	if c.Host.DoveadmKey != "" {
		c.Host.DoveadmURL = "http://" + address(f.dovecot.manage)
	}
	first := seedGroup{Host: c.Host, Users: c.Users, Listen: true}
	if c.Stored {
		first.Password = userPassword
	}
	return f, r.run(ctx, "seed", seedConfig{States: states, Database: f.url, Groups: append([]seedGroup{first}, c.More...)}, &struct{}{})
}

// write makes a node's directory and configuration.
func (f *fleet) write(n *node, id identity, extra string) error {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	files := map[string][]byte{
		"apns.p8": id.tokenPEM, "ca.pem": id.caPEM, "password": []byte(notifyPassword),
		"bus.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: id.leafKey}),
		"posthorn.yml": fmt.Appendf(nil, `state_dir: state
node_name: %s
database: {url: %q}
public: {listen: %q}
internal: {listen: %q, notify: {password_file: password}}
transports:
  webpush: {enabled: false}
  apns:
    enabled: true
    apps: [{topic: %s, key_file: apns.p8, key_id: %s, team_id: %s, url: %q, ca_file: ca.pem}]
%s%s`, n.name, f.url, address(n.public), address(n.internal), apnsTopic, apnsKeyID, apnsTeamID, f.apns.ready.URL, f.routes(n), extra),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(n.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// routes is the configuration that meshes the nodes, all by one certificate.
func (f *fleet) routes(n *node) string {
	var all []string
	for _, other := range f.nodes {
		all = append(all, strconv.Quote(address(other.route)))
	}
	return fmt.Sprintf("bus: {listen: %q, routes: [%s], certificate_file: ca.pem, key_file: bus.key, ca_file: ca.pem}\n",
		address(n.route), strings.Join(all, ", "))
}

// start starts nodes together and waits until they are ready.
func (f *fleet) start(ctx context.Context, nodes ...*node) error {
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { errs[i] = n.start(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (n *node) start(ctx context.Context) error {
	if err := n.up(ctx); err != nil {
		return err
	}
	n.socket.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(n.dir, "state", "admin.sock"))
	}}
	return nil
}

// stop ends a node politely.
func (n *node) stop() error {
	p := n.serve
	n.serve = nil
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return p.wait()
}

// close ends everything, and is for a fleet that is half made too.
func (f *fleet) close() error {
	var errs []error
	for _, n := range f.nodes {
		if n.serve != nil {
			errs = append(errs, n.down())
		}
	}
	for _, p := range f.others {
		errs = append(errs, p.kill())
	}
	if f.dovecot != nil {
		errs = append(errs, f.dovecot.stop())
	}
	if f.pg != nil {
		errs = append(errs, f.pg.stop())
	}
	return errors.Join(append(errs, os.RemoveAll(f.dir))...)
}

// pushUser is a line of GET /admin/v1/push/users, as far as it is needed.
type pushUser struct {
	Login string `json:"login"`
	Node  string `json:"node"`
	State string `json:"state"`
}

// list asks a node who is listened to, by whom, in the whole cluster.
func (n *node) list(ctx context.Context) ([]pushUser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin/admin/v1/push/users", nil)
	if err != nil {
		return nil, err
	}
	res, err := n.socket.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("list push users: %s", res.Status)
	}
	var list struct{ Items []pushUser }
	return list.Items, json.NewDecoder(res.Body).Decode(&list)
}

// living are the names of the nodes that run.
func (f *fleet) living() map[string]bool {
	names := map[string]bool{}
	for _, n := range f.nodes {
		if n.serve != nil {
			names[n.name] = true
		}
	}
	return names
}

// view is the whole cluster's users as one node sees them.
type view struct {
	owner map[string]string // login -> node, where that lives
	share map[string]int    // node -> users
	state map[string]int    // state -> users
	in    map[string]string // login -> state
}

func (f *fleet) view(ctx context.Context, n *node) (view, error) {
	v := view{map[string]string{}, map[string]int{}, map[string]int{}, map[string]string{}}
	items, err := n.list(ctx)
	living := f.living()
	for _, u := range items {
		v.state[u.State]++
		v.in[u.Login] = u.State
		if living[u.Node] {
			v.owner[u.Login] = u.Node
			v.share[u.Node]++
		}
	}
	return v, err
}

// lookEvery is how often the list of all users is asked for: it takes the node a tenth of that.
const lookEvery = 250 * time.Millisecond

// settled waits until so many users have an owner that lives and are in one of the states.
func (f *fleet) settled(ctx context.Context, limit time.Duration, users int, states ...string) (v view, err error) {
	err = seldom(ctx, limit, lookEvery, fmt.Sprintf("%d users %s", users, strings.Join(states, " or ")), func() (bool, error) {
		v, err = f.view(ctx, f.nodes[0])
		n := 0
		for _, s := range states {
			n += v.state[s]
		}
		return n >= users && len(v.owner) >= users, err
	})
	if err != nil {
		err = fmt.Errorf("%w: owners %v, states %v; the first node said: %s", err, v.share, v.state, f.nodes[0].serve.said())
	}
	return v, err
}
