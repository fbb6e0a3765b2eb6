package dovecot_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/listen/dovecot"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const (
	login  = "alice@example.org"
	secret = "pä\"ss\\wörd" //nolint:gosec // of a disposable server
)

// fixture is a source with one user, 1@1, whose password is stored.
type fixture struct {
	dovecot.Source
	db   *db.DB
	keys *seal.Keyring
	user tenant.User
	host tenant.MailHost
}

func newFixture(t *testing.T, url string, h tenant.MailHost) *fixture {
	t.Helper()
	return newFixtureWith(t, url, h, keyFile(t))
}

func keyFile(t *testing.T) string {
	t.Helper()
	text, err := seal.NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func newFixtureWith(t *testing.T, url string, h tenant.MailHost, keyFile string) *fixture {
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
	f := &fixture{db: d, host: h}
	f.Now = func() time.Time { return time.UnixMilli(1790000000000) }
	if f.keys, err = seal.ParseKeyFile(keyFile); err != nil {
		t.Fatal(err)
	}
	f.Tenants, err = tenant.New(d, f.keys, tenant.NotifyCredential{UserForm: tenant.FormMetadata}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	f.Accounts = account.New(account.Config{
		DB: d, Keys: f.keys, Tenants: f.Tenants, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		AttemptsPerLogin: 9, AttemptsPerAddress: 9, Window: time.Hour,
	})
	_, err = f.Tenants.AddContext(t.Context(), tenant.Context{})
	f.host.Name, f.host.Security, f.host.UserForm = "dove", tenant.SecurityNone, tenant.FormMetadata
	if err = errors.Join(err, f.Tenants.AddMailHost(t.Context(), f.host, "")); err != nil {
		t.Fatal(err)
	}
	f.user, err = f.Tenants.AddUser(t.Context(), tenant.User{ID: tenant.UserID{Context: 1}, Login: login, MailHost: "dove"})
	if err != nil {
		t.Fatal(err)
	}
	f.password(t, secret)
	return f
}

// password stores a mail password as a sign-in does.
func (f *fixture) password(t *testing.T, password string) {
	t.Helper()
	f.credential(t, f.keys.Seal("credential/"+f.user.ID.String(), []byte(password)))
}

func (f *fixture) credential(t *testing.T, sealed string) {
	t.Helper()
	err := f.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO credentials (context_id, user_id, sealed, updated_ms) VALUES (1, 1, ?, 0)
			ON CONFLICT (context_id, user_id) DO UPDATE SET sealed = excluded.sealed`, sealed)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// register wants a state, and a reason and a fault exactly when that is not Registered.
func (f *fixture) register(t *testing.T, state string, reason string, fault error) {
	t.Helper()
	st := f.Register(t.Context(), f.user)
	if st.State != state || !strings.Contains(st.Reason, reason) || (st.Reason == "") != (state == subscription.Registered) || !errors.Is(st.Err, fault) {
		t.Errorf("register: %+v, want %s because of %q, %v", st, state, reason, fault)
	}
	if st.Err != nil && strings.Contains(st.Err.Error(), secret) {
		t.Errorf("the password is told: %v", st.Err)
	}
}

func (f *fixture) unregister(t *testing.T, want error) {
	t.Helper()
	if err := f.Unregister(t.Context(), f.user); !errors.Is(err, want) || (err == nil) != (want == nil) {
		t.Errorf("unregister: %v, want %v", err, want)
	}
}

func at(d *testpeer.Dovecot) tenant.MailHost {
	return tenant.MailHost{IMAPHost: d.Host, IMAPPort: d.IMAPPort}
}

func wantEntry(t *testing.T, d *testpeer.Dovecot, want string, wantOK bool) {
	t.Helper()
	if got, ok := d.Metadata(t, login); got != want || ok != wantOK {
		t.Errorf("the entry is %q, %v; want %q, %v", got, ok, want, wantOK)
	}
}

func start(t *testing.T, cfg testpeer.DovecotConfig) *testpeer.Dovecot {
	t.Helper()
	cfg.Users = map[string]string{login: secret}
	return testpeer.StartDovecot(t, cfg)
}

func TestRegister(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		d := start(t, testpeer.DovecotConfig{})
		f := newFixture(t, url, at(d))
		f.unregister(t, nil) // nothing is there
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, "user=1@1", true) // to the byte what the original system writes
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, "user=1@1", true)
		f.unregister(t, nil)
		wantEntry(t, d, "", false)
		f.unregister(t, nil)

		// What the original system has left is adopted as it is, and removed when nobody wants it.
		for _, value := range []string{"user=1@1", "user=1@1\texpire=never", "folder=INBOX\tuser=1@1"} {
			d.SetMetadata(t, login, value)
			f.register(t, subscription.Registered, "", nil)
			wantEntry(t, d, value, true)
			f.unregister(t, nil)
			wantEntry(t, d, "", false)
		}

		d.SetMetadata(t, login, "") // an entry that registers nobody
		f.unregister(t, nil)
		wantEntry(t, d, "", true)
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, "user=1@1", true)

		for _, value := range []string{"user=9@9", "user=1@1." + strings.Repeat("A", 22), "user=1@1\tby=other", "url=http://example.org", "user=1@11"} {
			d.SetMetadata(t, login, value)
			f.register(t, subscription.Foreign, "/private/vendor/vendor.dovecot/http-notify", nil)
			f.unregister(t, nil)
			wantEntry(t, d, value, true)
		}
		d.ClearMetadata(t, login)
		f.register(t, subscription.Registered, "", nil)
	})
}

func TestRegisterKeyedAlias(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		d := start(t, testpeer.DovecotConfig{})
		h := at(d)
		h.KeyedAlias = true
		f := newFixture(t, url, h)
		want := "user=" + f.Tenants.Alias(f.host, f.user.ID)
		if !strings.HasPrefix(want, "user=1@1.") {
			t.Fatal(want)
		}
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, want, true)
		f.unregister(t, nil)
		wantEntry(t, d, "", false)
		// A bare value is ours, from before, and gets its proof.
		d.SetMetadata(t, login, "user=1@1")
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, want, true)
		d.SetMetadata(t, login, "user=1@1")
		f.unregister(t, nil)
		wantEntry(t, d, "", false)
		// Another installation's proof is another's.
		theirs := want[:len(want)-2] + "xx"
		d.SetMetadata(t, login, theirs)
		f.register(t, subscription.Foreign, "", nil)
		f.unregister(t, nil)
		wantEntry(t, d, theirs, true)
	})
}

// After a rotation of the seal key our own registration is still ours, and gets the new key's proof.
func TestRegisterAfterRotation(t *testing.T) {
	t.Parallel()
	d := start(t, testpeer.DovecotConfig{})
	h := at(d)
	h.KeyedAlias = true
	old := keyFile(t)
	before := newFixtureWith(t, testpeer.SQLiteURL(t), h, old)
	before.register(t, subscription.Registered, "", nil)
	rotated := newFixtureWith(t, testpeer.SQLiteURL(t), h, keyFile(t)+old)
	rotated.register(t, subscription.Registered, "", nil)
	wantEntry(t, d, "user="+rotated.Tenants.Alias(rotated.host, rotated.user.ID), true)
	before.register(t, subscription.Foreign, "", nil)
	d.SetMetadata(t, login, "user="+before.Tenants.Alias(before.host, before.user.ID))
	rotated.unregister(t, nil)
	wantEntry(t, d, "", false)
}

func TestUnsupported(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		f := newFixture(t, url, at(start(t, testpeer.DovecotConfig{NoMetadata: true})))
		f.register(t, subscription.Unsupported, "imap_metadata", imap.ErrUnsupported)
		f.unregister(t, nil) // there is nothing that could be left
	})
}

func TestServerAway(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		d := start(t, testpeer.DovecotConfig{})
		f := newFixture(t, url, at(d))
		d.Stop(t)
		f.register(t, subscription.Pending, "cannot be reached", account.ErrMailServer)
		f.unregister(t, account.ErrMailServer)
		d.Start(t)
		f.register(t, subscription.Registered, "", nil)
		d.Stop(t)
		f.unregister(t, account.ErrMailServer)
		d.Start(t)
		wantEntry(t, d, "user=1@1", true)
		f.unregister(t, nil)
		wantEntry(t, d, "", false)
	})
}

// Each state of the stored password has its own reason.
func TestStoredPassword(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		d := start(t, testpeer.DovecotConfig{Extra: "auth_failure_delay = 0"})
		f := newFixture(t, url, at(d))
		f.password(t, "an old one")
		f.register(t, subscription.Pending, "rejects the stored password", account.ErrBadLogin)
		f.credential(t, f.keys.Seal("credential/2@1", []byte(secret)))
		f.register(t, subscription.Pending, "cannot be read", seal.ErrOpen)
		f.unregister(t, seal.ErrOpen)
		err := f.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, "DELETE FROM credentials")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		f.register(t, subscription.Pending, "waiting for sign-in", account.ErrNoCredential)
		f.unregister(t, account.ErrNoCredential)
		wantEntry(t, d, "", false)
	})
}

// scripted is an IMAP server with METADATA. Each GETMETADATA takes the next of values; "-" is none, "!"
// a refusal. set answers SETMETADATA.
func scripted(t *testing.T, set string, values ...string) tenant.MailHost {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprint(conn, "* OK [CAPABILITY IMAP4rev1 METADATA AUTH=PLAIN SASL-IR] hello\r\n")
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				tag, rest, _ := strings.Cut(lines.Text(), " ")
				command, _, _ := strings.Cut(rest, " ")
				answer := tag + " OK done\r\n"
				switch command {
				case "AUTHENTICATE":
					answer = tag + " OK [CAPABILITY IMAP4rev1 METADATA] in\r\n"
				case "SETMETADATA":
					answer = tag + " " + set + "\r\n"
				case "GETMETADATA":
					value := values[0]
					values = values[1:]
					switch value {
					case "!":
						answer = tag + " NO [METADATA NOPRIVATE] no\r\n"
					case "-":
						answer = "* METADATA \"\" (" + dovecot.Entry + " NIL)\r\n" + answer
					default:
						answer = fmt.Sprintf("* METADATA \"\" (%s {%d}\r\n%s)\r\n%s", dovecot.Entry, len(value), value, answer)
					}
				}
				_, _ = fmt.Fprint(conn, answer)
			}
			_ = conn.Close()
		}
	})
	return tenant.MailHost{IMAPHost: "127.0.0.1", IMAPPort: l.Addr().(*net.TCPAddr).Port}
}

// TestWhatStands looks again after it has written: what stands then decides.
func TestWhatStands(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set    string
		values []string
		state  string
	}{
		"taken":    {"OK done", []string{"-", "user=1@1"}, subscription.Registered},
		"raced":    {"OK done", []string{"-", "user=9@9"}, subscription.Foreign},
		"lost":     {"OK done", []string{"-", "-"}, subscription.Pending},
		"refused":  {"NO [METADATA TOOMANY] no", []string{"-"}, subscription.Pending},
		"bad":      {"BAD what", []string{"-"}, subscription.Pending},
		"no looks": {"OK done", []string{"!"}, subscription.Pending},
		"blinded":  {"OK done", []string{"", "!"}, subscription.Pending},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, testpeer.SQLiteURL(t), scripted(t, c.set, c.values...))
			if st := f.Register(t.Context(), f.user); st.State != c.state || (st.Reason == "") != (c.state == subscription.Registered) {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestUnregisterIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ set, value string }{{"NO no", "user=1@1"}, {"OK done", "!"}} {
		f := newFixture(t, testpeer.SQLiteURL(t), scripted(t, c.set, c.value))
		var refusal *imap.ResponseError
		if err := f.Unregister(t.Context(), f.user); !errors.As(err, &refusal) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
