package testpeer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// pebbleVersion is the release of the authority that the tests run with. It is built from its Go module, outside of
// ours: nothing of it is in go.mod.
const pebbleVersion = "v2.10.1"

// Pebble is a running ACME authority, Let's Encrypt's own for tests: it makes real challenges.
type Pebble struct {
	// Directory is its address, and CAFile who is to be trusted there.
	Directory, CAFile string
	// Roots is who is to be trusted with what it issues.
	Roots *x509.CertPool
}

var pebble struct {
	once sync.Once
	dir  string
	err  error
}

// StartPebble starts an authority, to which every name is 127.0.0.1. It makes TLS challenges at one port and HTTP
// challenges at the other.
func StartPebble(tb testing.TB, tlsPort, httpPort int) *Pebble {
	tb.Helper()
	pebble.once.Do(func() { pebble.dir, pebble.err = buildPebble(tb.Context()) })
	if pebble.err != nil {
		missing(tb, "pebble %s cannot be built: %v", pebbleVersion, pebble.err)
	}
	dir, err := shortDir()
	if err != nil {
		tb.Fatalf("pebble: %v", err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("pebble: %v", err)
		}
	})
	ports := FreeAddresses(tb, 4)
	dns, api, management := ports[0], ports[1], ports[2]
	names := newPeer(tb, filepath.Join(dir, "dns"), filepath.Join(pebble.dir, "pebble-challtestsrv"), "-dnsserver", dns, "-defaultIPv4", "127.0.0.1",
		"-defaultIPv6", "", "-doh", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-management", ports[3])
	names.wait(tb, ports[3])
	trusted, err := writeCertificate(dir)
	if err != nil {
		tb.Fatalf("pebble: %v", err)
	}
	p := &Pebble{Directory: "https://" + api + "/dir", CAFile: filepath.Join(dir, "cert.pem")}
	conf := filepath.Join(dir, "pebble.json")
	text := fmt.Sprintf(`{"pebble": {"listenAddress": %q, "managementListenAddress": %q, "certificate": %q, "privateKey": %q,
		"httpPort": %d, "tlsPort": %d, "retryAfter": {"authz": 1, "order": 1},
		"profiles": {"default": {"description": "ninety days", "validityPeriod": 7776000}}}}`,
		api, management, p.CAFile, filepath.Join(dir, "key.pem"), httpPort, tlsPort)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		tb.Fatalf("pebble: %v", err)
	}
	authority := newPeer(tb, filepath.Join(dir, "authority"), "/usr/bin/env", "PEBBLE_VA_NOSLEEP=1", filepath.Join(pebble.dir, "pebble"),
		"-config", conf, "-dnsserver", dns)
	authority.wait(tb, management)
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "https://"+management+"/roots/0", nil)
	if err != nil {
		tb.Fatalf("pebble: %v", err)
	}
	res, err := client.Do(req)
	if err != nil {
		tb.Fatalf("pebble: ask for its root: %v\n%s", err, authority.logs())
	}
	defer res.Body.Close()
	root, err := io.ReadAll(res.Body)
	p.Roots = x509.NewCertPool()
	if err != nil || !p.Roots.AppendCertsFromPEM(root) {
		tb.Fatalf("pebble: its root: %v\n%s", err, root)
	}
	return p
}

// buildPebble builds the programs into the user's cache, once.
func buildPebble(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "posthorn-tests", "pebble-"+pebbleVersion)
	if _, err := os.Stat(filepath.Join(dir, "built")); err == nil {
		return dir, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	const module = "github.com/letsencrypt/pebble/v2/cmd/"
	cmd := exec.CommandContext(ctx, "go", "install", module+"pebble@"+pebbleVersion, module+"pebble-challtestsrv@"+pebbleVersion)
	cmd.Env, cmd.Dir = append(os.Environ(), "GOBIN="+dir, "GOFLAGS="), os.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install: %w: %s", err, bytes.TrimSpace(out))
	}
	return dir, os.WriteFile(filepath.Join(dir, "built"), nil, 0o600)
}

// FreeAddresses finds addresses of this machine that nobody listens at, for servers that are started a moment later,
// or again: their ports are below Linux's range for outgoing connections, so that none of those takes one meanwhile.
func FreeAddresses(tb testing.TB, n int) (all []string) {
	tb.Helper()
	for len(all) < n {
		port, err := freePort("127.0.0.1")
		if err != nil {
			tb.Fatal(err)
		}
		if at := fmt.Sprintf("127.0.0.1:%d", port); !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	return all
}

// peer is a program under a guard.
type peer struct {
	guard *guard
	name  string
}

// newPeer starts a program, which ends with the test.
func newPeer(tb testing.TB, dir string, command ...string) *peer {
	tb.Helper()
	p := &peer{name: filepath.Base(dir)}
	err := os.Mkdir(dir, 0o750)
	if err == nil {
		p.guard, err = newGuard(dir, "TERM", "KILL", command...)
	}
	if err != nil {
		tb.Fatalf("%s: %v", p.name, err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("%s's log:\n%s", p.name, p.logs())
		}
		if err := p.guard.close(); err != nil {
			tb.Errorf("%s: %v", p.name, err)
		}
	})
	if _, err := p.guard.say("start"); err != nil {
		tb.Fatalf("%s: %v", p.name, err)
	}
	return p
}

func (p *peer) logs() string {
	raw, err := os.ReadFile(p.guard.log())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(raw))
}

// wait returns when somebody listens at an address.
func (p *peer) wait(tb testing.TB, address string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 15*time.Second)
	defer cancel()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			_ = conn.Close() // it was a question only
			return
		}
		if ctx.Err() != nil || !p.guard.alive() { // which takes 20 ms to say
			tb.Fatalf("%s does not listen at %s: %v\n%s", p.name, address, err, p.logs())
		}
	}
}
