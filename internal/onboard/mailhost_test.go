package onboard

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const (
	alice  = "alice@rig.test"
	secret = "secret"
)

// newDoctor has mail hosts by the names given to them, and nobody but them.
func newDoctor(t *testing.T, hosts ...tenant.MailHost) *Doctor {
	t.Helper()
	d, err := db.Open(t.Context(), testpeer.SQLiteURL(t), db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	text, err := seal.NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.ParseKeyFile(text)
	if err != nil {
		t.Fatal(err)
	}
	tenants, err := tenant.New(d, keys, tenant.NotifyCredential{UserForm: tenant.FormLogin}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if err := tenants.AddMailHost(t.Context(), h, ""); err != nil {
			t.Fatal(err)
		}
	}
	return &Doctor{
		Tenants: tenants, Node: "test", Ping: d.Ping, Now: time.Now,
		Bus: func() error { return nil }, Nodes: func() []Node { return []Node{{Name: "test", Owns: true}} },
		Listeners: func(context.Context) (map[string]int, error) { return map[string]int{"registered": 3}, nil },
		Told:      func(context.Context, tenant.UserID) (uint32, bool, error) { return 0, false, nil },
		Devices:   func(context.Context, tenant.UserID) (int, error) { return 0, nil },
	}
}

// examine returns the report of one mail host.
func examine(t *testing.T, d *Doctor, req Request) Report {
	t.Helper()
	reports, err := d.Examine(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(reports) != 2 {
		t.Fatalf("%d reports", len(reports))
	}
	return reports[1]
}

// want finds a check and compares its state and a part of what it says.
func (r Report) want(t *testing.T, name string, state State, say string) {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name != name {
			continue
		}
		if c.State != state || !strings.Contains(c.Detail+" → "+c.Do, say) {
			t.Errorf("%s: %s, %q → %q; want %s and %q", name, c.State, c.Detail, c.Do, state, say)
		}
		if c.State == Failed && c.Do == "" {
			t.Errorf("%s has failed, and there is nothing to do about it", name)
		}
		return
	}
	if state != "" {
		t.Errorf("there is no check %s: %+v", name, r.Checks)
	}
}

// last checks that the walk ended with a check, but for those that need none before them.
func (r Report) last(t *testing.T, name string) {
	t.Helper()
	for i, c := range r.Checks {
		if c.Name == name && i+1 < len(r.Checks) && r.Checks[i+1].Name != "ports" && r.Checks[i+1].Name != "doveadm" {
			t.Errorf("after %s came %s", name, r.Checks[i+1].Name)
		}
	}
}

func TestDovecot(t *testing.T) {
	t.Parallel()
	const key = "doveadm-key"
	dove := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, DoveadmKey: key})
	ca, err := os.ReadFile(dove.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	good := tenant.MailHost{
		Name: "dove", IMAPHost: dove.Host, IMAPPort: dove.IMAPSPort, Security: tenant.SecurityTLS, CA: string(ca),
		DoveadmURL: dove.DoveadmURL, DoveadmKey: key,
	}
	in := Request{Login: alice, Password: secret}

	r := examine(t, newDoctor(t, good), in)
	for name, say := range map[string]string{
		"name": "is an address", "reachable": "connected to", "greeting": "it speaks IMAP", "sign_in": "as " + alice,
		"METADATA": "offered", "IDLE": "offered", "CONDSTORE": "offered", "QRESYNC": "offered", "LIST-STATUS": "offered",
		"metadata_write": "written, read back and removed", "doveadm": "the key is right",
	} {
		r.want(t, name, OK, say)
	}
	r.want(t, "tls", Warning, "verified, but the certificate ends on") // it lives for a day
	r.want(t, "notify", Skipped, "--notify-url")
	r.want(t, "ports", Skipped, "no user")
	if _, kept := dove.Metadata(t, alice); kept || !r.All() {
		t.Errorf("the registration was touched, or something failed: %+v", r.Checks)
	}

	for _, tc := range []struct {
		name       string
		change     func(*tenant.MailHost)
		req        Request
		check      string
		state      State
		say        string
		goesBeyond bool
	}{
		{"STARTTLS", func(h *tenant.MailHost) { h.IMAPPort, h.Security = dove.IMAPPort, tenant.SecurityStartTLS }, in, "tls", Warning, "verified, but", true},
		{"no sign-in", nil, Request{}, "sign_in", Skipped, "--login", false},
		{"wrong password", nil, Request{Login: alice, Password: "wrong"}, "sign_in", Failed, "login rejected", false},
		{"wrong port", func(h *tenant.MailHost) { h.IMAPPort = 1 }, in, "reachable", Failed, "nobody answers at port 1: ", false},
		{"plain port", func(h *tenant.MailHost) { h.IMAPPort = dove.IMAPPort }, in, "tls", Failed, "--security none will do", false},
		{"the system's authorities", func(h *tenant.MailHost) { h.CA = "" }, in, "tls", Failed, "signed by nobody who is trusted", false},
		{"insecure", func(h *tenant.MailHost) { h.CA, h.Insecure = "", true }, in, "tls", Warning, "accepted, since the mail host is --insecure", true},
		{"name", func(h *tenant.MailHost) { h.IMAPHost = "mail.invalid" }, in, "name", Failed, "mail.invalid cannot be resolved", false},
		{"doveadm key", func(h *tenant.MailHost) { h.DoveadmKey = "other-key" }, in, "doveadm", Failed, "the key is refused (HTTP 401)", true},
		{"doveadm down", func(h *tenant.MailHost) { h.DoveadmURL = "http://127.0.0.1:1" }, in, "doveadm", Failed, "127.0.0.1:1 cannot be reached", true},
		{"no doveadm", func(h *tenant.MailHost) { h.DoveadmURL = fmt.Sprintf("http://127.0.0.1:%d", dove.IMAPPort) }, in, "doveadm", Failed, "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := good
			if tc.change != nil {
				tc.change(&h)
			}
			r := examine(t, newDoctor(t, h), tc.req)
			r.want(t, tc.check, tc.state, tc.say)
			if !tc.goesBeyond {
				r.last(t, tc.check)
			}
			if r.All() != (tc.state != Failed) {
				t.Errorf("all is %v: %+v", r.All(), r.Checks)
			}
		})
	}
}

// TestNoMetadata is a Dovecot that offers none to us: what that means depends on the source.
func TestNoMetadata(t *testing.T) {
	t.Parallel()
	dove := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NoMetadata: true})
	for source, want := range map[string]State{
		tenant.SourceDovecot: Failed, tenant.SourceAuto: Warning, tenant.SourceIdle: Skipped, tenant.SourceMailNotify: Skipped,
	} {
		h := tenant.MailHost{Name: "dove", IMAPHost: dove.Host, IMAPPort: dove.IMAPPort, Security: tenant.SecurityNone, Source: source}
		r := examine(t, newDoctor(t, h), Request{Login: alice, Password: secret})
		r.want(t, "tls", OK, "none is needed on this machine")
		r.want(t, "METADATA", want, "not ")
		r.want(t, "metadata_write", "", "")
		if source == tenant.SourceMailNotify {
			r.want(t, "mailnotify", Warning, "mailnotify.enabled")
		}
	}
}

// TestReadOnlyMetadata is a Dovecot that offers METADATA and cannot keep it.
func TestReadOnlyMetadata(t *testing.T) {
	t.Parallel()
	dove := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, Extra: "mail_attribute_dict = file:/nowhere/at/all\n"})
	h := tenant.MailHost{Name: "dove", IMAPHost: dove.Host, IMAPPort: dove.IMAPPort, Security: tenant.SecurityNone}
	r := examine(t, newDoctor(t, h), Request{Login: alice, Password: secret})
	r.want(t, "METADATA", OK, "offered")
	r.want(t, "metadata_write", Failed, "mail_attribute_dict")
}

// listen serves each connection by a script.
func listen(t *testing.T, serve func(net.Conn)) tenant.MailHost {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return tenant.MailHost{Name: "script", IMAPHost: "127.0.0.1", IMAPPort: l.Addr().(*net.TCPAddr).Port, Security: tenant.SecurityNone}
}

// imapServer greets, offers capabilities, and says OK to all else.
func imapServer(capabilities string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = fmt.Fprintf(c, "* OK [CAPABILITY %s] ready\r\n", capabilities)
		in := bufio.NewScanner(c)
		for in.Scan() {
			tag, command, _ := strings.Cut(in.Text(), " ")
			if strings.HasPrefix(strings.ToUpper(command), "CAPABILITY") {
				_, _ = fmt.Fprintf(c, "* CAPABILITY %s\r\n", capabilities)
			}
			_, _ = fmt.Fprintf(c, "%s OK done\r\n", tag)
		}
	}
}

func TestScripted(t *testing.T) {
	t.Parallel()
	in := Request{Login: "anna", Password: secret}
	for _, tc := range []struct {
		name   string
		serve  func(net.Conn)
		change func(*tenant.MailHost)
		check  string
		state  State
		say    string
	}{
		{"bye", func(c net.Conn) { _, _ = c.Write([]byte("* BYE too many connections\r\n")) }, nil, "greeting", Failed, "too many connections"},
		{"no IMAP", func(c net.Conn) { _, _ = c.Write([]byte("220 mail ESMTP\r\n")) }, nil, "greeting", Failed, "no IMAP"},
		{"silent", func(net.Conn) {}, nil, "greeting", Failed, "no IMAP"},
		{"no STARTTLS", func(c net.Conn) {
			_, _ = c.Write([]byte("* OK ready\r\n"))
			_, _ = bufio.NewReader(c).ReadString('\n')
			_, _ = c.Write([]byte("d1 BAD unknown command\r\n"))
		}, func(h *tenant.MailHost) { h.Security = tenant.SecurityStartTLS }, "tls", Failed, "does not offer STARTTLS"},
		{"no greeting", func(c net.Conn) { _, _ = c.Write([]byte("220 mail ESMTP\r\n")) }, func(h *tenant.MailHost) { h.Security = tenant.SecurityStartTLS }, "tls", Failed, "220 mail ESMTP"},
		{"a line without an end", func(c net.Conn) {
			for range 100 {
				if _, err := c.Write(make([]byte, 1024)); err != nil {
					return
				}
			}
		}, func(h *tenant.MailHost) { h.Security = tenant.SecurityStartTLS }, "tls", Failed, "read greeting"},
		{"no IDLE", imapServer("IMAP4rev1"), func(h *tenant.MailHost) { h.Source = tenant.SourceIdle }, "IDLE", Warning, "asked every few minutes"},
		{"no IDLE, not needed", imapServer("IMAP4rev1 METADATA"), nil, "IDLE", Skipped, "not needed"},
		{"METADATA that is not kept", imapServer("IMAP4rev1 METADATA"), nil, "metadata_write", Failed, "not kept"},
		{"IMAP4rev2", imapServer("IMAP4rev2"), func(h *tenant.MailHost) { h.Source = tenant.SourceIdle }, "IDLE", OK, "offered"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := listen(t, tc.serve)
			if tc.change != nil {
				tc.change(&h)
			}
			examine(t, newDoctor(t, h), in).want(t, tc.check, tc.state, tc.say)
		})
	}
}

// TestProbeIsRemoved looks at what is left of the annotation that is written to see whether one can be.
func TestProbeIsRemoved(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	kept, ever := map[string]string{}, 0
	entry := regexp.MustCompile(`^(SET|GET)METADATA "" \(([^ ]+)(?: (.*))?\)$`)
	h := listen(t, func(c net.Conn) {
		_, _ = c.Write([]byte("* OK [CAPABILITY IMAP4rev1 METADATA] ready\r\n"))
		for in := bufio.NewScanner(c); in.Scan(); {
			tag, command, _ := strings.Cut(in.Text(), " ")
			mu.Lock()
			if m := entry.FindStringSubmatch(command); m == nil {
				_, _ = c.Write([]byte("* CAPABILITY IMAP4rev1 METADATA\r\n"))
			} else if value := m[3]; m[1] == "GET" {
				_, _ = fmt.Fprintf(c, "* METADATA \"\" (%s %s)\r\n", m[2], kept[m[2]])
			} else if value == "NIL" {
				delete(kept, m[2])
			} else {
				kept[m[2]] = value
				ever++
			}
			mu.Unlock()
			_, _ = fmt.Fprintf(c, "%s OK done\r\n", tag)
		}
	})
	examine(t, newDoctor(t, h), Request{Login: "anna", Password: secret}).want(t, "metadata_write", OK, "written, read back and removed")
	mu.Lock()
	defer mu.Unlock()
	if ever != 1 || len(kept) != 0 {
		t.Errorf("%d written, left are %v", ever, kept)
	}
}

// authority signs certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().AddDate(-2, 0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

func (a authority) issue(t *testing.T, ends time.Time, name string) tls.Certificate {
	t.Helper()
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: ends, DNSNames: []string{name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	days := func(n int) time.Time { return time.Now().AddDate(0, 0, n) }
	for _, tc := range []struct {
		name  string
		cert  tls.Certificate
		state State
		say   string
	}{
		{"good", ca.issue(t, days(90), "localhost"), OK, "TLS 1.3, verified; the certificate ends on " + days(90).UTC().Format(time.DateOnly)},
		{"three weeks and more", ca.issue(t, days(22), "localhost"), OK, "verified"},
		{"ends soon", ca.issue(t, days(20), "localhost"), Warning, "ends on " + days(20).UTC().Format(time.DateOnly)},
		{"expired", ca.issue(t, days(-1), "localhost"), Failed, "the certificate ended on " + days(-1).UTC().Format(time.DateOnly)},
		{"another name", ca.issue(t, days(90), "mail.example.org"), Failed, "is for mail.example.org, not for localhost"},
		{"another authority", other.issue(t, days(90), "localhost"), Failed, "another certificate than those of --ca has signed it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := listen(t, func(c net.Conn) {
				s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{tc.cert}, MinVersion: tls.VersionTLS12})
				imapServer("IMAP4rev1")(s)
			})
			h.IMAPHost, h.Security, h.CA = "localhost", tenant.SecurityTLS, ca.pem
			r := examine(t, newDoctor(t, h), Request{})
			r.want(t, "tls", tc.state, tc.say)
			if tc.state == Failed {
				r.last(t, "tls")
			} else {
				r.want(t, "greeting", OK, "IMAP")
			}
		})
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	one := tenant.MailHost{Name: "one", IMAPHost: "127.0.0.1", IMAPPort: 1, Security: tenant.SecurityNone}
	two := one
	two.Name = "two"
	d := newDoctor(t, one, two)
	if _, err := d.Tenants.AddContext(t.Context(), tenant.Context{}); err != nil {
		t.Fatal(err)
	}
	u, err := d.Tenants.AddUser(t.Context(), tenant.User{ID: tenant.UserID{Context: 1}, Login: "anna", MailHost: "two"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		req  Request
		want string // the mail hosts examined, or a part of the error
	}{
		{"all", Request{}, "one two"},
		{"some", Request{MailHosts: []string{"two"}}, "two"},
		{"unknown", Request{MailHosts: []string{"three"}}, "not found"},
		{"login for all", Request{Login: "anna"}, "login: belongs to one mail host"},
		{"unknown user", Request{User: tenant.UserID{Context: 1, ID: 9}}, "not found"},
		{"user elsewhere", Request{User: u.ID, MailHosts: []string{"one"}}, `lives on mail host "two"`},
		{"login and user", Request{User: u.ID, Login: "anna"}, "not both"},
		{"endpoint for all", Request{NotifyURL: "http://x"}, "name the one mail host"},
		{"delivery for all", Request{LMTP: "x:24"}, "name the one mail host"},
		{"two deliveries", Request{MailHosts: []string{"two"}, LMTP: "x:24", SMTP: "x:25"}, "not both"},
	} {
		reports, err := d.Examine(t.Context(), tc.req)
		var names []string
		for _, r := range reports[min(1, len(reports)):] {
			names = append(names, r.MailHost)
		}
		got := strings.Join(names, " ")
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != tc.want || err != nil && !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		if err != nil && !errors.Is(err, tenant.ErrNotFound) && !errors.As(err, new(*tenant.InvalidError)) {
			t.Errorf("%s: %v is no error of the request", tc.name, err)
		}
	}
}
