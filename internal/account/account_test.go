package account

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const (
	secret = "pä\"ss\\wörd" //nolint:gosec // of a disposable server
	device = "a secret of the device's own"
)

// noDelay has Dovecot answer a wrong password at once, and not slow down what follows from the same address.
const noDelay = `
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
`

// newService returns a service on an empty database with context 1 and no mail host. change may adapt
// its configuration.
func newService(t *testing.T, url string, change func(*Config)) *Service {
	t.Helper()
	d, err := db.Open(t.Context(), url, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	text, err := seal.NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.ParseKeyFile(text)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		DB: d, Keys: keys, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: time.Now,
		AttemptsPerLogin: 5, AttemptsPerAddress: 8, Window: 15 * time.Minute,
	}
	if change != nil {
		change(&c)
	}
	c.Tenants, err = tenant.New(d, keys, tenant.NotifyCredential{UserForm: tenant.FormLogin}, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tenants.AddContext(t.Context(), tenant.Context{}); err != nil {
		t.Fatal(err)
	}
	setProperty(t, c.Tenants, cascade.SessionLifetime.Name(), "24h")
	return New(c)
}

// setProperty sets a property for everybody.
func setProperty(t *testing.T, s *tenant.Store, name, value string) {
	t.Helper()
	if err := s.SetProperty(t.Context(), tenant.Subject{Scope: cascade.Server}, name, value, "test"); err != nil {
		t.Fatal(err)
	}
}

func addHost(t *testing.T, s *Service, h tenant.MailHost) {
	t.Helper()
	if err := s.Tenants.AddMailHost(t.Context(), h, ""); err != nil {
		t.Fatal(err)
	}
}

// nowhere is a mail host that cannot be reached.
func nowhere(name string) tenant.MailHost {
	return tenant.MailHost{Name: name, IMAPHost: "127.0.0.1", IMAPPort: 1, Security: tenant.SecurityNone}
}

// host is the given Dovecot, without encryption.
func host(name string, d *testpeer.Dovecot) tenant.MailHost {
	return tenant.MailHost{Name: name, IMAPHost: d.Host, IMAPPort: d.IMAPPort, Security: tenant.SecurityNone}
}

func addUser(t *testing.T, s *Service, login, host string) tenant.User {
	t.Helper()
	u, err := s.Tenants.AddUser(t.Context(), tenant.User{ID: tenant.UserID{Context: 1}, Login: login, MailHost: host})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// request is a sign-in that is well formed.
func request(login, password string) SignIn {
	return SignIn{Login: login, Password: Password(password), Client: "app", Device: device, Address: netip.MustParseAddr("192.0.2.7")}
}

func TestPasswordIsRedacted(t *testing.T) {
	t.Parallel()
	req := request("alice", "hunter2")
	req.Device = ""
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3s", "%T %v", "%!"} {
		fmt.Fprintf(&b, verb+" "+verb+"\n", req.Password, req)
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", slog.Any("password", req.Password), slog.Any("request", req))
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", slog.Any("password", req.Password), slog.Any("request", req))
	raw, err := json.Marshal(req) //nolint:gosec // that is the question
	if err != nil {
		t.Fatal(err)
	}
	b.Write(raw)
	for _, leak := range []string{"hunter2", "68756e74657232", "68756E74657232", "hun"} {
		if strings.Contains(b.String(), leak) {
			t.Errorf("the password is told:\n%s", &b)
		}
	}
	// It is redacted on its way out only.
	var in struct{ Password Password }
	if err := json.Unmarshal([]byte(`{"password":"hunter2"}`), &in); err != nil || in.Password != "hunter2" {
		t.Errorf("read as %q, %v", string(in.Password), err)
	}
}

// TestDial uses the stored password at a real Dovecot.
func TestDial(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{
		Users: map[string]string{"alice@example.org": secret, "bob": secret}, Extra: noDelay,
	})
	ca, err := os.ReadFile(d.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newService(t, url, nil)
		addHost(t, s, host("plain", d))
		addHost(t, s, tenant.MailHost{Name: "tls", IMAPHost: d.Host, IMAPPort: d.IMAPSPort, Security: tenant.SecurityTLS, CA: string(ca)})
		addHost(t, s, tenant.MailHost{Name: "starttls", IMAPHost: d.Host, IMAPPort: d.IMAPPort, Security: tenant.SecurityStartTLS, CA: string(ca)})
		addHost(t, s, tenant.MailHost{Name: "unverified", IMAPHost: d.Host, IMAPPort: d.IMAPSPort, Security: tenant.SecurityTLS})
		addHost(t, s, tenant.MailHost{Name: "insecure", IMAPHost: d.Host, IMAPPort: d.IMAPSPort, Security: tenant.SecurityTLS, Insecure: true})
		addHost(t, s, nowhere("nowhere"))
		dial := func(u tenant.User, want error) {
			t.Helper()
			c, err := s.Dial(t.Context(), u)
			if !errors.Is(err, want) || (c == nil) != (want != nil) {
				t.Errorf("%s: %v, want %v", u.MailHost, err, want)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error tells the password: %v", u.MailHost, err)
			}
			if c != nil {
				if !c.Has("METADATA") {
					t.Errorf("%s: capabilities are %v", u.MailHost, c.Capabilities())
				}
				if err := c.Logout(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
		for mailhost, want := range map[string]error{
			"plain": nil, "tls": nil, "starttls": nil, "insecure": nil, "unverified": ErrMailServer, "nowhere": ErrMailServer,
		} {
			u := addUser(t, s, "alice@example.org", mailhost)
			dial(u, ErrNoCredential)
			if _, _, err := s.open(t.Context(), u, request("alice@example.org", secret)); err != nil {
				t.Fatal(err)
			}
			dial(u, want)
		}

		// What is sealed for one is of no use in another's row.
		bob := addUser(t, s, "bob", "plain")
		if _, _, err := s.open(t.Context(), bob, request("bob", secret)); err != nil {
			t.Fatal(err)
		}
		dial(bob, nil)
		write(t, s, `UPDATE credentials SET sealed = (SELECT sealed FROM credentials WHERE user_id = 1) WHERE user_id = ?`, bob.ID.ID)
		dial(bob, seal.ErrOpen)
		write(t, s, `UPDATE credentials SET sealed = ? WHERE user_id = ?`, secret, bob.ID.ID) // no fall-back to clear text
		dial(bob, seal.ErrOpen)
		if _, _, err := s.open(t.Context(), bob, request("bob", "an old one")); err != nil {
			t.Fatal(err)
		}
		dial(bob, ErrBadLogin)
	})
}
