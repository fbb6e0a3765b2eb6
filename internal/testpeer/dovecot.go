package testpeer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// MetadataKey is the server entry in which Dovecot's push driver looks a user up.
	MetadataKey = "/private/vendor/vendor.dovecot/http-notify"

	// otherLoopback is where Dovecot listens when it must not take its clients for local ones: it
	// counts a connection as secure when both ends have one address, and Linux gives a client of
	// 127.0.0.2 the address 127.0.0.1.
	otherLoopback = "127.0.0.2"

	// mailID owns the mail when Dovecot runs as root; any id that belongs to nobody would do.
	mailID = 64910

	startTimeout   = 20 * time.Second
	commandTimeout = 60 * time.Second
)

// DovecotConfig says what the started Dovecot shall be like. Only Users is needed.
type DovecotConfig struct {
	// Users maps each login to its password. Neither may hold a colon or white space.
	Users map[string]string
	// NotifyURL is the URL of the push driver "ox"; "" leaves it out. The endpoint need not listen yet.
	NotifyURL string
	// MoreNotifyURLs are further drivers, asked after the first in this order.
	MoreNotifyURLs []string
	// UserFromMetadata has the drivers send the text of the METADATA entry instead of the login.
	UserFromMetadata bool
	// NotifyOptions are more options for every driver: "timeout_msecs=500 max_retries=0".
	NotifyOptions string
	// NoMetadata leaves the METADATA extension out.
	NoMetadata bool
	// MetadataNets are the only networks (CIDR) that METADATA is offered to; none is all of them. It can be seen
	// from another address of this machine's 127.0.0.0/8.
	MetadataNets []string
	// Master is the login of a master user: SASL PLAIN with an authorization identity, or LOGIN as "user*master".
	Master, MasterPassword string
	// DoveadmKey is the key of the doveadm HTTP API; "" leaves that out.
	DoveadmKey string
	// Hibernate is how long, in whole seconds, a connection idles until its process is spared; 0 is never.
	Hibernate time.Duration
	// ClientLimit is how many connections share a process; 0 is one, as by default.
	ClientLimit int
	// MaxUserIPConnections bounds a user's connections from one address; 0 is no bound.
	MaxUserIPConnections int
	// NoPlaintextAuth has Dovecot refuse passwords in clear (LOGINDISABLED). Host then is 127.0.0.2.
	NoPlaintextAuth bool
	// Extra is text for the end of dovecot.conf; its settings win.
	Extra string
}

// Dovecot is a running server with the settings of the host's own, in none of the host's places.
type Dovecot struct {
	Host      string // of IMAP and IMAPS; a literal address
	IMAPPort  int    // offers STARTTLS
	IMAPSPort int
	LMTPPort  int // on 127.0.0.1
	// DoveadmURL is the doveadm HTTP API, on 127.0.0.1; "" without a key.
	DoveadmURL string
	CertFile   string
	RootCAs    *x509.CertPool // trusts CertFile
	LogFile    string

	dir   string
	conf  string
	guard *guard
	lda   string
	adm   string
}

// MostClients is how many connections a server with a ClientLimit takes.
const MostClients = 50_000

// StartDovecot starts a Dovecot which ends with the test. It returns when IMAP and LMTP answer.
func StartDovecot(tb testing.TB, cfg DovecotConfig) *Dovecot {
	tb.Helper()
	bin := findDovecot(tb)
	if len(cfg.Users) == 0 {
		tb.Fatal("dovecot: no users")
	}
	dir, err := shortDir()
	if err != nil {
		tb.Fatalf("dovecot: %v", err)
	}
	d := &Dovecot{
		Host: "127.0.0.1", CertFile: filepath.Join(dir, "cert.pem"), LogFile: filepath.Join(dir, "dovecot.log"),
		dir: dir, conf: filepath.Join(dir, "dovecot.conf"), lda: bin.lda, adm: bin.adm,
	}
	if cfg.NoPlaintextAuth {
		d.Host = otherLoopback
	}
	d.guard, err = newGuard(dir, "TERM", "KILL", bin.dovecot, "-F", "-c", d.conf)
	if err != nil {
		tb.Fatalf("dovecot: %v", errors.Join(err, os.RemoveAll(dir)))
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("dovecot's log:\n%s", d.logs())
		}
		if err := d.guard.close(); err != nil {
			tb.Errorf("dovecot: %v", err)
		}
	})
	if d.RootCAs, err = writeCertificate(dir); err != nil {
		tb.Fatalf("dovecot: %v", err)
	}
	// Somebody may take a port between the look and the start, so one failure is not the end.
	for try := 1; ; try++ {
		if err = d.configure(cfg); err != nil {
			tb.Fatalf("dovecot: %v", err)
		}
		if err = d.start(tb.Context()); err == nil {
			return d
		}
		if try == 3 {
			tb.Fatalf("start dovecot: %v\n%s", err, d.logs())
		}
		if _, err := d.guard.say("stop"); err != nil {
			tb.Fatalf("dovecot: %v", err)
		}
	}
}

type dovecotPrograms struct{ dovecot, adm, lda string }

func findDovecot(tb testing.TB) dovecotPrograms {
	tb.Helper()
	const hint = "apt-get install dovecot-imapd dovecot-lmtpd"
	sbin := []string{"/usr/sbin", "/usr/local/sbin", "/usr/bin"}
	libexec := []string{"/usr/lib/dovecot", "/usr/libexec/dovecot"}
	var p dovecotPrograms
	for _, need := range []struct {
		name string
		dirs []string
		path *string
	}{
		{"dovecot", sbin, &p.dovecot},
		{"doveadm", sbin, &p.adm},
		{"dovecot-lda", libexec, &p.lda},
		{"imap-login", libexec, new(string)},
		{"lmtp", libexec, new(string)},
	} {
		var ok bool
		if *need.path, ok = find(need.name, need.dirs...); !ok {
			missing(tb, "Dovecot's %s is not installed: %s", need.name, hint)
		}
	}
	version, err := exec.CommandContext(tb.Context(), p.dovecot, "--version").Output() //nolint:gosec // G204: found above
	if err != nil {
		tb.Fatalf("ask dovecot for its version: %v", err)
	}
	if !bytes.HasPrefix(version, []byte("2.3.")) {
		missing(tb, "Dovecot 2.3 is needed, installed is %s", bytes.TrimSpace(version))
	}
	return p
}

// configure picks ports and writes every file that Dovecot reads.
func (d *Dovecot) configure(cfg DovecotConfig) error {
	s := dovecotSettings{DovecotConfig: cfg, Dir: d.dir, Host: d.Host, UID: mailID, GID: mailID}
	for _, port := range []*int{&d.IMAPPort, &d.IMAPSPort, &d.LMTPPort, &s.DoveadmPort} {
		var err error
		if *port, err = freePort(d.Host); err != nil {
			return err
		}
	}
	s.IMAPPort, s.IMAPSPort, s.LMTPPort = d.IMAPPort, d.IMAPSPort, d.LMTPPort
	if cfg.DoveadmKey != "" {
		d.DoveadmURL = "http://127.0.0.1:" + strconv.Itoa(s.DoveadmPort)
	}
	for _, sub := range []string{"run", "state", "mail"} {
		//nolint:gosec // G301: Dovecot's other users pass through
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	if os.Getuid() == 0 {
		if err := os.Chown(filepath.Join(d.dir, "mail"), s.UID, s.GID); err != nil {
			return fmt.Errorf("give mail away: %w", err)
		}
	} else {
		me, err := user.Current()
		if err != nil {
			return fmt.Errorf("look up own user: %w", err)
		}
		group, err := user.LookupGroupId(me.Gid)
		if err != nil {
			return fmt.Errorf("look up own group: %w", err)
		}
		s.User, s.Group, s.UID, s.GID = me.Username, group.Name, os.Getuid(), os.Getgid()
	}
	for _, url := range append([]string{cfg.NotifyURL}, cfg.MoreNotifyURLs...) {
		if url == "" {
			continue
		}
		driver := "ox:url=" + url
		if cfg.UserFromMetadata {
			driver += " user_from_metadata"
		}
		if cfg.NotifyOptions != "" {
			driver += " " + cfg.NotifyOptions
		}
		s.Drivers = append(s.Drivers, strings.ReplaceAll(driver, "%", "%%")) // plugin settings are expanded
	}
	if err := d.writePasswords("users", cfg.Users); err != nil {
		return err
	}
	if cfg.Master != "" {
		if err := d.writePasswords("masters", map[string]string{cfg.Master: cfg.MasterPassword}); err != nil {
			return err
		}
	}
	var conf bytes.Buffer
	if err := dovecotConf.Execute(&conf, s); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	//nolint:gosec // G306: Dovecot's other users read it
	if err := os.WriteFile(d.conf, conf.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// writePasswords writes a passwd file.
func (d *Dovecot) writePasswords(name string, passwords map[string]string) error {
	var b bytes.Buffer
	for _, login := range slices.Sorted(maps.Keys(passwords)) {
		password := passwords[login]
		if login == "" || strings.ContainsAny(login+password, ": \t\r\n") {
			return fmt.Errorf("login %q or its password cannot stand in a passwd file", login)
		}
		fmt.Fprintf(&b, "%s:{PLAIN}%s::::::\n", login, password)
	}
	//nolint:gosec // G306: Dovecot's auth process is another user
	if err := os.WriteFile(filepath.Join(d.dir, name), b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// freePort finds a port that can be listened on at both addresses in use. It looks below Linux's
// range for outgoing connections, so that none of those takes the port between Stop and Start.
func freePort(host string) (int, error) {
	for range 200 {
		port := 14000 + rand.IntN(17000) //nolint:gosec // G404: no secret
		free := true
		for _, h := range []string{host, "127.0.0.1"} {
			l, err := net.Listen("tcp", net.JoinHostPort(h, strconv.Itoa(port))) //nolint:noctx // answers at once
			if err != nil {
				free = false
				break
			}
			if err := l.Close(); err != nil {
				return 0, fmt.Errorf("close probe of port %d: %w", port, err)
			}
		}
		if free {
			return port, nil
		}
	}
	return 0, errors.New("no free port found")
}

// start runs the server and waits until it greets on each of its ports.
func (d *Dovecot) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if _, err := d.guard.say("start"); err != nil {
		return err
	}
	for {
		err := errors.Join(greets(ctx, d.Host, d.IMAPPort, "* OK"), greets(ctx, "127.0.0.1", d.LMTPPort, "220 "))
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for greeting: %w", err)
		}
		if !d.guard.alive() {
			return errors.New("it ended at once")
		}
	}
}

// greets connects and looks at the first bytes the server says.
func greets(ctx context.Context, host string, port int, want string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if !strings.HasPrefix(line, want) {
		return fmt.Errorf("port %d greets with %q", port, line)
	}
	return nil
}

// Stop ends the server politely. Ports and data are kept for [Dovecot.Start].
func (d *Dovecot) Stop(tb testing.TB) {
	tb.Helper()
	if _, err := d.guard.say("stop"); err != nil {
		tb.Fatalf("stop dovecot: %v", err)
	}
}

// Start runs a stopped server again, on the same ports and with the same data.
func (d *Dovecot) Start(tb testing.TB) {
	tb.Helper()
	if err := d.start(tb.Context()); err != nil {
		tb.Fatalf("start dovecot again: %v\n%s", err, d.logs())
	}
}

// logs returns what the server wrote: its log and, when it did not get that far, its stderr.
func (d *Dovecot) logs() string {
	var b strings.Builder
	for _, file := range []string{d.guard.log(), d.LogFile} {
		text, err := os.ReadFile(file) //nolint:gosec // G304: our own file
		if err != nil {
			fmt.Fprintf(&b, "%v\n", err)
			continue
		}
		b.Write(text)
	}
	return b.String()
}
