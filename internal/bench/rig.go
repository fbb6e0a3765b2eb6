package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	apnsKeyID      = "ABC123DEFG"
	apnsTeamID     = "DEF123GHIJ"
	apnsTopic      = "com.example.mail"
	notifyPassword = "bench-notify-password"
	notifyPath     = "/preliminary/http-notify/v1/notify"
	connections    = 64 // of the load generator
)

// rig is a sender process, its providers and its state directory.
type rig struct {
	r          *runner
	dir        string
	config     string
	serve      *process
	notify     string // URL
	metricsURL string
	apns, fcm  *remote
	processes  []*process
}

// remote is a provider process as its controller sees it.
type remote struct {
	ready providerReady
}

// rigConfig says how many users, each with one device, are on either transport.
type rigConfig struct {
	APNs, FCM int
	// Groups are who the users are, when it matters more than that.
	Groups []seedGroup
	// Extra is text for the end of the configuration.
	Extra string
}

// newRig starts the providers, seeds a database and writes the configuration. Users below APNs have an
// Apple device, the FCM ones after them an Android one.
func (r *runner) newRig(ctx context.Context, c rigConfig) (_ *rig, err error) {
	dir, err := os.MkdirTemp(r.dir, "rig-*")
	if err != nil {
		return nil, err
	}
	g := &rig{r: r, dir: dir, config: filepath.Join(dir, "posthorn.yml")}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	id, err := newIdentity()
	if err != nil {
		return nil, err
	}
	if g.apns, err = g.provider(ctx, id.provider(c.APNs)); err != nil {
		return nil, err
	}
	files := map[string][]byte{"apns.p8": id.tokenPEM, "ca.pem": id.caPEM, "password": []byte(notifyPassword)}
	fcm := ""
	if c.FCM > 0 {
		if g.fcm, err = g.provider(ctx, providerConfig{Kind: "fcm", Devices: c.APNs + c.FCM}); err != nil {
			return nil, err
		}
		files["firebase.json"] = g.fcm.ready.ServiceAccount
		fcm = fmt.Sprintf("\n  fcm: {enabled: true, apps: [{service_account_file: firebase.json, endpoint: %q}]}", g.fcm.ready.URL)
	}
	// Everything that is not here is the default, and that is what is measured.
	if c.Groups == nil { // there is no mail server
		c.Extra += "listen: {allow_permanent_push: false}\n"
	}
	files["posthorn.yml"] = fmt.Appendf(nil, `state_dir: state
public: {listen: "127.0.0.1:0"}
internal: {listen: "127.0.0.1:0", notify: {password_file: password}}
transports:
  webpush: {enabled: false}
  apns:
    enabled: true
    apps: [{topic: %s, key_file: apns.p8, key_id: %s, team_id: %s, url: %q, ca_file: ca.pem}]%s
%s`, apnsTopic, apnsKeyID, apnsTeamID, g.apns.ready.URL, fcm, c.Extra)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	// In a process of its own, so that nothing of it is in this one's memory when it starts others.
	groups := []seedGroup{{Users: c.APNs, Listen: true}, {Users: c.FCM, Android: true, Listen: true}}
	if c.Groups != nil {
		groups = c.Groups
	}
	return g, r.run(ctx, "seed", seedConfig{States: []string{filepath.Join(dir, "state")}, Groups: groups}, &struct{}{})
}

func (g *rig) provider(ctx context.Context, cfg providerConfig) (*remote, error) {
	m := &remote{}
	p, err := g.r.child(ctx, "provider", cfg, &m.ready)
	if err != nil {
		return nil, err
	}
	g.processes = append(g.processes, p)
	return m, nil
}

// close ends every process of the rig and removes its files.
func (g *rig) close() error {
	var errs []error
	for _, p := range g.processes {
		errs = append(errs, p.kill())
	}
	if g.serve != nil {
		errs = append(errs, g.serve.kill())
	}
	return errors.Join(append(errs, os.RemoveAll(g.dir))...)
}

// up starts "posthorn serve" and waits until it is ready.
func (g *rig) up(ctx context.Context) error {
	p, err := g.r.start(ctx, "serve", "--config", g.config)
	if err != nil {
		return err
	}
	g.serve = p
	internal := ""
	for internal == "" {
		line, err := p.out.ReadString('\n')
		if err != nil {
			return fmt.Errorf("posthorn serve: %w: %s", err, p.said())
		}
		if _, rest, ok := strings.Cut(line, "for mail servers"); ok {
			internal = strings.TrimSpace(rest)
		}
	}
	u, err := url.Parse(internal)
	if err != nil {
		return err
	}
	g.notify = internal
	g.metricsURL = "http://" + u.Host + "/metrics"
	return until(ctx, 10*time.Second, "posthorn serve answers", func() (bool, error) {
		_, err := get(ctx, "http://"+u.Host+"/readyz")
		return err == nil, nil
	})
}

// down kills the sender.
func (g *rig) down() error {
	p := g.serve
	g.serve = nil
	return p.kill()
}

func (p *process) said() string {
	raw, _ := os.ReadFile(p.log.Name())
	return tail(string(raw))
}

// metric reads the sum of a metric over its labels.
func (g *rig) metric(ctx context.Context, name string) (float64, error) {
	text, err := get(ctx, g.metricsURL)
	if err != nil {
		return 0, err
	}
	sum, found := 0.0, false
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		f := strings.Fields(line)
		v, err := strconv.ParseFloat(f[len(f)-1], 64)
		if err != nil {
			return 0, err
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("there is no metric %s", name)
	}
	return sum, nil
}

// dirty is how many slots wait.
func (g *rig) dirty(ctx context.Context) (float64, error) {
	return g.metric(ctx, "posthorn_push_slots_dirty")
}

// drained waits until nothing waits.
func (g *rig) drained(ctx context.Context, limit time.Duration) error {
	return until(ctx, limit, "every slot is sent", func() (bool, error) {
		n, err := g.dirty(ctx)
		return n == 0, err
	})
}

// load runs the load generator against the sender.
func (g *rig) load(ctx context.Context, c loadConfig) (loadResult, error) {
	c.URL, c.Connections = g.notify, connections
	var res loadResult
	err := g.r.run(ctx, "load", c, &res)
	if err == nil && res.Failed > 0 {
		err = fmt.Errorf("%d of %d notifications were not accepted, the first with: %s", res.Failed, res.Done+res.Failed, res.Problem)
	}
	return res, err
}

func (m *remote) mode(ctx context.Context, mode string, delay time.Duration) error {
	return post(ctx, m.ready.Control+"/mode?m="+mode+"&delay="+delay.String())
}

func (m *remote) reset(ctx context.Context) error { return post(ctx, m.ready.Control+"/reset") }

func (m *remote) stats(ctx context.Context, query string) (s providerStats, err error) {
	raw, err := get(ctx, m.ready.Control+"/stats?"+query)
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	return s, err
}

func post(ctx context.Context, address string) error {
	_, err := call(ctx, http.MethodPost, address)
	return err
}

func get(ctx context.Context, address string) ([]byte, error) {
	return call(ctx, http.MethodGet, address)
}

func call(ctx context.Context, method, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", address, res.Status, raw)
	}
	return raw, err
}

// identity is what stands for Apple's side, and for the nodes of a fleet: a certificate and a team's key.
type identity struct {
	caPEM, leaf, leafKey []byte // the certificate is its own authority
	tokenPEM, tokenKey   []byte
}

// newIdentity makes one whose certificate is for this machine, and for more names.
func newIdentity(more ...string) (identity, error) {
	key, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	token, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		return identity{}, fmt.Errorf("make keys: %w", err)
	}
	from := time.Now().Add(-time.Hour)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Posthorn bench provider"},
		NotBefore: from, NotAfter: from.AddDate(0, 0, 30), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames: append(more, "localhost"), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	var id identity
	var errs [4]error
	id.leaf, errs[0] = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	id.leafKey, errs[1] = x509.MarshalPKCS8PrivateKey(key)
	id.tokenKey, errs[2] = x509.MarshalPKIXPublicKey(token.Public())
	private, err := x509.MarshalPKCS8PrivateKey(token)
	errs[3] = err
	id.caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.leaf})
	id.tokenPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	if err := errors.Join(errs[:]...); err != nil {
		return identity{}, fmt.Errorf("make certificate: %w", err)
	}
	return id, nil
}

func (id identity) provider(devices int) providerConfig {
	return providerConfig{Kind: "apns", Devices: devices, Certificate: id.leaf, CertificateKey: id.leafKey, TokenKey: id.tokenKey}
}
