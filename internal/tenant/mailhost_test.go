package tenant_test

import (
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const (
	password = "a password of the host's own"
	canary   = "a secret for their eyes only"
)

// certificate returns some CA in PEM.
func certificate(t *testing.T) string {
	t.Helper()
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
}

func TestMailHosts(t *testing.T) {
	t.Parallel()
	ca := certificate(t)
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		ctx := t.Context()
		addContext(t, s, tenant.Context{})
		addContext(t, s, tenant.Context{})
		full := tenant.MailHost{ //nolint:gosec // G101: none that is in use
			Name: "dove", IMAPHost: "::1", IMAPPort: 65535, Security: tenant.SecurityStartTLS, Insecure: true, CA: ca,
			NotifyLogin: "dove-1", UserForm: tenant.FormMetadata, KeyedAlias: true,
			AllowFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}, Contexts: []int64{1, 2},
			Source: tenant.SourceDovecot, PasswordSource: tenant.PasswordsGlobal, MasterLogin: "master", MasterPassword: canary + "1",
			DoveadmURL: "https://[::1]:8443/doveadm/v1", DoveadmKey: canary + "2", OAuthTokenURL: "http://127.0.0.1/token",
			OAuthClientID: "posthorn", OAuthClientSecret: canary + "3", OAuthScope: "mail offline",
		}
		bare := tenant.MailHost{Name: "bare", IMAPHost: "localhost", IMAPPort: 1, Security: tenant.SecurityNone}
		if err := s.AddMailHost(ctx, full, password); err != nil {
			t.Fatal(err)
		}
		if err := s.AddMailHost(ctx, bare, ""); err != nil {
			t.Fatal(err)
		}
		bare.UserForm = tenant.FormLogin // the installation's
		bare.Source, bare.PasswordSource = tenant.SourceAuto, tenant.PasswordsSession
		listed := full
		listed.MasterPassword, listed.DoveadmKey, listed.OAuthClientSecret = "", "", ""
		all, err := s.MailHosts(ctx)
		if err != nil || !reflect.DeepEqual(all, []tenant.MailHost{bare, listed}) {
			t.Errorf("mail hosts: %+v, %v", all, err)
		}
		one, err := s.MailHost(ctx, "dove")
		if err != nil || !reflect.DeepEqual(one, full) {
			t.Errorf("mail host: %+v, %v", one, err)
		}
		if _, err := s.MailHost(ctx, "Dove"); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("unknown: %v", err)
		}
		again := full
		again.Name = "other" // but the same notify login
		for _, h := range []tenant.MailHost{full, again} {
			if err := s.AddMailHost(ctx, h, password); !errors.Is(err, tenant.ErrExists) {
				t.Errorf("%s: %v", h.Name, err)
			}
		}
		if err := s.AddMailHost(ctx, bare, ""); !errors.Is(err, tenant.ErrExists) || err.Error() != fmt.Sprintf("mail host %q exists already", bare.Name) {
			t.Errorf("%s, which has no notify login: %v", bare.Name, err)
		}
		u := addUser(t, s, 1, "alice", "dove")
		if err := s.RemoveMailHost(ctx, "dove"); !errors.Is(err, tenant.ErrInUse) {
			t.Errorf("removed a mail host in use: %v", err)
		}
		if err := s.RemoveUser(ctx, u.ID); err != nil {
			t.Fatal(err)
		}
		for _, want := range []error{nil, tenant.ErrNotFound} {
			if err := s.RemoveMailHost(ctx, "dove"); !errors.Is(err, want) {
				t.Errorf("remove: %v, want %v", err, want)
			}
		}
		if err := s.AddMailHost(ctx, again, password); err != nil {
			t.Errorf("the notify login is still taken: %v", err)
		}
		if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
			for _, suffix := range []string{"", "-wal"} {
				content, err := os.ReadFile(path + suffix) //nolint:gosec // the test's own
				if err != nil || strings.Contains(string(content), password) || strings.Contains(string(content), canary) {
					t.Errorf("a password is stored in clear (%v)", err)
				}
			}
		}
	})
}

func TestMailHostIsChecked(t *testing.T) {
	t.Parallel()
	s := newStore(t, testpeer.SQLiteURL(t), installation)
	addContext(t, s, tenant.Context{})
	for i, c := range []struct {
		field    string
		password string
		change   func(*tenant.MailHost)
	}{
		{"name", "", func(h *tenant.MailHost) { h.Name = "" }},
		{"name", "", func(h *tenant.MailHost) { h.Name = "a\x00" }},
		{"imap", "", func(h *tenant.MailHost) { h.IMAPHost = "" }},
		{"imap", "", func(h *tenant.MailHost) { h.IMAPHost = "me@host" }},
		{"imap", "", func(h *tenant.MailHost) { h.IMAPHost = "a b" }},
		{"imap", "", func(h *tenant.MailHost) { h.IMAPHost = "a\r\nb" }},
		{"imap", "", func(h *tenant.MailHost) { h.IMAPPort = 0 }},
		{"imap", "", func(h *tenant.MailHost) { h.IMAPPort = 65536 }},
		{"security", "", func(h *tenant.MailHost) { h.Security = "" }},
		{"security", "", func(h *tenant.MailHost) { h.Security = "TLS" }},
		{"user_form", "", func(h *tenant.MailHost) { h.UserForm = "both" }},
		{"user_form", "", func(h *tenant.MailHost) { h.UserForm = tenant.FormMetadata }}, // the installation's credential says login
		{"keyed_alias", "", func(h *tenant.MailHost) { h.KeyedAlias = true }},
		{"keyed_alias", password, func(h *tenant.MailHost) { h.NotifyLogin, h.KeyedAlias = "n", true }},
		{"ca", "", func(h *tenant.MailHost) { h.CA = "not PEM" }},
		{"notify_login", "", func(h *tenant.MailHost) { h.NotifyLogin = "n" }},
		{"notify_login", password, func(*tenant.MailHost) {}},
		{"notify_login", "", func(h *tenant.MailHost) { h.Contexts = []int64{1} }},
		{"notify_login", "", func(h *tenant.MailHost) { h.AllowFrom = []netip.Prefix{netip.MustParsePrefix("::/0")} }},
		{"notify_login", password, func(h *tenant.MailHost) { h.NotifyLogin = installation.Login }},
		{"notify_login", password, func(h *tenant.MailHost) { h.NotifyLogin = "a:b" }},
		{"notify_login", password, func(h *tenant.MailHost) { h.NotifyLogin = "a\n" }},
		{"notify_password", "short", func(h *tenant.MailHost) { h.NotifyLogin = "n" }},
		{"contexts", password, func(h *tenant.MailHost) { h.NotifyLogin, h.Contexts = "n", []int64{1, 9} }},
		{"source", "", func(h *tenant.MailHost) { h.Source = "Dovecot" }},
		{"password_source", "", func(h *tenant.MailHost) { h.PasswordSource = "master" }},
		{"master_login", "", func(h *tenant.MailHost) { h.PasswordSource = tenant.PasswordsGlobal }},
		{"master_login", "", func(h *tenant.MailHost) { h.MasterPassword = canary }},
		{"master_login", "", func(h *tenant.MailHost) { h.MasterLogin, h.MasterPassword = "a\n", canary }},
		{"master_password", "", func(h *tenant.MailHost) { h.MasterLogin = "master" }},
		{"master_password", "", func(h *tenant.MailHost) { h.MasterLogin, h.MasterPassword = "master", canary+"\n" }},
		{"doveadm_key", "", func(h *tenant.MailHost) { h.DoveadmURL = "https://h" }},
		{"doveadm_key", "", func(h *tenant.MailHost) {
			h.DoveadmURL, h.DoveadmKey = "https://h", tenant.Secret(strings.Repeat("k", 4097))
		}},
		{"doveadm_url", "", func(h *tenant.MailHost) { h.DoveadmKey = canary }},
		{"doveadm_url", "", func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = "h:8080", canary }},
		{"doveadm_url", "", func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = "ftp://h", canary }},
		{"doveadm_url", "", func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = "https://:8080", canary }},
		{"doveadm_url", "", func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = "https:h", canary }},
		{"doveadm_url", "", func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = "https://k@h", canary }},
		{"doveadm_url", "", func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = "https://h/?k", canary }},
		{"doveadm_url", "", func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = "http://h", canary }},
		{"doveadm_url", "", func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = "http://localhost.h", canary }},
		{"oauth_token_url", "", func(h *tenant.MailHost) { h.PasswordSource = tenant.PasswordsOAuth }},
		{"oauth_token_url", "", func(h *tenant.MailHost) { h.OAuthTokenURL, h.OAuthClientID = "http://h", "c" }},
		{"oauth_token_url", "", func(h *tenant.MailHost) { h.OAuthClientID = "c" }},
		{"oauth_token_url", "", func(h *tenant.MailHost) { h.OAuthScope = "mail" }},
		{"oauth_token_url", "", func(h *tenant.MailHost) { h.OAuthClientSecret = canary }},
		{"oauth_client_id", "", func(h *tenant.MailHost) { h.OAuthTokenURL = "https://h" }},
		{"oauth_client_id", "", func(h *tenant.MailHost) { h.OAuthTokenURL, h.OAuthClientID = "https://h", "\x00" }},
		{"oauth_scope", "", func(h *tenant.MailHost) { h.OAuthTokenURL, h.OAuthClientID, h.OAuthScope = "https://h", "c", "a\n" }},
	} {
		h := tenant.MailHost{Name: "dove", IMAPHost: "mail.example.org", IMAPPort: 993, Security: tenant.SecurityTLS}
		c.change(&h)
		err := s.AddMailHost(t.Context(), h, c.password)
		var invalid *tenant.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != c.field {
			t.Errorf("%d: %v, want one of field %s", i, err, c.field)
		}
		if err != nil && strings.Contains(err.Error(), c.password) && c.password != "" {
			t.Errorf("%d: the error repeats the password", i)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%d: the error repeats a secret", i)
		}
	}
	if all, err := s.MailHosts(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("stored nevertheless: %+v, %v", all, err)
	}
}

func TestNewPassword(t *testing.T) {
	t.Parallel()
	a, b := tenant.NewPassword(), tenant.NewPassword()
	if a == b || len(a) != 48 {
		t.Errorf("%q, %q", a, b)
	}
}

// TestChangeMailHost: what a change does not touch stays, a secret goes with what it belongs to, and the hot
// path sees the change at once.
func TestChangeMailHost(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		ctx := t.Context()
		addContext(t, s, tenant.Context{})
		addHost(t, s, tenant.MailHost{Name: "other", NotifyLogin: "taken"}, password)
		want := tenant.MailHost{
			Name: "dove", IMAPHost: "mail.example.org", IMAPPort: 993, Security: tenant.SecurityTLS, UserForm: tenant.FormLogin,
			NotifyLogin: "dove", Source: tenant.SourceAuto, PasswordSource: tenant.PasswordsSession,
		}
		addHost(t, s, tenant.MailHost{Name: "dove", NotifyLogin: "dove"}, password)
		step := func(notify string, change func(*tenant.MailHost)) {
			t.Helper()
			change(&want)
			changed, err := s.ChangeMailHost(ctx, "dove", func(h *tenant.MailHost) (string, error) {
				change(h)
				return notify, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.MailHost(ctx, "dove")
			if err != nil || !reflect.DeepEqual(got, changed) || !same(got, want) {
				t.Errorf("answer %+v, later %+v, %v, want %+v", changed, got, err, want)
			}
		}
		step("", func(h *tenant.MailHost) {
			h.IMAPHost, h.IMAPPort, h.Security = "imap2.example.org", 143, tenant.SecurityStartTLS
		})
		step("", func(h *tenant.MailHost) {
			h.PasswordSource, h.MasterLogin, h.MasterPassword = tenant.PasswordsGlobal, "master", canary
		})
		step("", func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = "https://d", canary+"2" })
		step("", func(h *tenant.MailHost) { h.Contexts = []int64{1} })
		step("", func(h *tenant.MailHost) {
			h.OAuthTokenURL, h.OAuthClientID, h.OAuthClientSecret = "https://o", "c", canary+"3"
		})
		want.DoveadmKey = ""
		step("", func(h *tenant.MailHost) { h.DoveadmURL = "" })
		want.OAuthClientSecret = ""
		step("", func(h *tenant.MailHost) { h.OAuthTokenURL, h.OAuthClientID = "", "" })
		if _, err := s.Speaker(ctx, "dove", password); err != nil {
			t.Errorf("the notify password is lost: %v", err)
		}
		step("another password of its own", func(h *tenant.MailHost) { h.NotifyLogin = "dove2" })
		if _, err := s.Speaker(ctx, "dove2", "another password of its own"); err != nil {
			t.Errorf("the new notify password is not taken: %v", err)
		}
		if _, err := s.Speaker(ctx, "dove", password); !errors.Is(err, tenant.ErrBadCredential) {
			t.Errorf("the old notify credential: %v", err)
		}
		want.MasterPassword = ""
		step("", func(h *tenant.MailHost) { h.PasswordSource, h.MasterLogin = tenant.PasswordsSession, "" })
		step("", func(h *tenant.MailHost) { h.NotifyLogin, h.Contexts = "", nil })

		for name, c := range map[string]struct {
			host   string
			change func(*tenant.MailHost) (string, error)
			want   string
		}{
			"unknown":        {"none", func(*tenant.MailHost) (string, error) { return "", nil }, `mail host "none" not found`},
			"refused":        {"dove", func(*tenant.MailHost) (string, error) { return "", errors.New("no") }, "no"},
			"invalid":        {"dove", func(h *tenant.MailHost) (string, error) { h.IMAPPort = 0; return "", nil }, "imap: the port must be from 1 to 65535"},
			"no password":    {"dove", func(h *tenant.MailHost) (string, error) { h.NotifyLogin = "n"; return "", nil }, "notify_login: a notify credential is a login and a password, or neither"},
			"no context":     {"other", func(h *tenant.MailHost) (string, error) { h.Contexts = []int64{9}; return "", nil }, "contexts: there is no context 9: add it first"},
			"login is taken": {"dove", func(h *tenant.MailHost) (string, error) { h.NotifyLogin = "taken"; return password, nil }, `notify login "taken" exists already`},
		} {
			if _, err := s.ChangeMailHost(ctx, c.host, c.change); err == nil || err.Error() != c.want {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got, err := s.MailHost(ctx, "dove"); err != nil || !same(got, want) {
			t.Errorf("after refused changes %+v, %v, want %+v", got, err, want)
		}
	})
}

// same takes no list and an empty one for the same.
func same(a, b tenant.MailHost) bool {
	if len(a.AllowFrom)+len(b.AllowFrom) == 0 {
		a.AllowFrom, b.AllowFrom = nil, nil
	}
	if len(a.Contexts)+len(b.Contexts) == 0 {
		a.Contexts, b.Contexts = nil, nil
	}
	return reflect.DeepEqual(a, b)
}

// TestSecretsAreSealed: a row whose secrets the key at hand does not open is an error for those who need them,
// and for nobody else; new secrets repair it.
func TestSecretsAreSealed(t *testing.T) {
	t.Parallel()
	url := testpeer.SQLiteURL(t)
	ctx := t.Context()
	addHost(t, newStore(t, url, installation), tenant.MailHost{
		Name: "dove", NotifyLogin: "dove", DoveadmURL: "https://d", DoveadmKey: canary,
	}, password)
	s := newStore(t, url, installation) // with another key
	if h, err := s.MailHost(ctx, "dove"); !errors.Is(err, seal.ErrOpen) || h.DoveadmKey != "" {
		t.Errorf("%+v, %v", h, err)
	}
	if all, err := s.MailHosts(ctx); err != nil || len(all) != 1 {
		t.Errorf("list: %v, %v", all, err)
	}
	if _, err := s.Speaker(ctx, "dove", password); err != nil {
		t.Errorf("speaker: %v", err)
	}
	addContext(t, s, tenant.Context{})
	ann := addUser(t, s, 1, "ann", "dove")
	sp, err := s.Speaker(ctx, "dove", password)
	if err != nil {
		t.Fatal(err)
	}
	if id, reason, err := s.Resolve(ctx, sp, "ann"); id != ann.ID || err != nil {
		t.Errorf("notification: %v %s %v", id, reason, err)
	}
	change := func(key tenant.Secret) error {
		_, err := s.ChangeMailHost(ctx, "dove", func(h *tenant.MailHost) (string, error) {
			h.DoveadmKey = key
			return "", nil
		})
		return err
	}
	var invalid *tenant.InvalidError
	if err := change(""); !errors.As(err, &invalid) || invalid.Field != "doveadm_key" {
		t.Errorf("a change without the key: %v", err)
	}
	if err := change("new"); err != nil {
		t.Error(err)
	}
	if h, err := s.MailHost(ctx, "dove"); err != nil || h.DoveadmKey != "new" {
		t.Errorf("%v", err)
	}
}

// TestReseal: after a rotation the old key is needed no more, and what cannot be opened is told and left alone.
func TestReseal(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		ctx := t.Context()
		first, second := keyFile(t), keyFile(t)
		old := openStore(t, url, first, installation)
		for _, name := range []string{"a", "b"} {
			addHost(t, old, tenant.MailHost{Name: name, NotifyLogin: name, DoveadmURL: "https://d", DoveadmKey: canary}, password)
		}
		addHost(t, old, tenant.MailHost{Name: "none"}, "")
		lost := openStore(t, url, keyFile(t), installation) // with a key that is in no ring later
		addHost(t, lost, tenant.MailHost{Name: "lost", DoveadmURL: "https://d", DoveadmKey: canary}, "")
		both := openStore(t, url, second+first, installation)
		if n, err := both.Reseal(ctx); n != 2 || !errors.Is(err, seal.ErrOpen) || !strings.Contains(err.Error(), `"lost"`) {
			t.Errorf("%d, %v", n, err)
		}
		if err := both.RemoveMailHost(ctx, "lost"); err != nil {
			t.Fatal(err)
		}
		if n, err := both.Reseal(ctx); n != 0 || err != nil {
			t.Errorf("again: %d, %v", n, err)
		}
		now := openStore(t, url, second, installation)
		for _, name := range []string{"a", "b"} {
			if h, err := now.MailHost(ctx, name); err != nil || h.DoveadmKey != canary {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := now.Speaker(ctx, name, password); err != nil {
				t.Errorf("the notify password of %s is lost: %v", name, err)
			}
		}
	})
}

// TestMailHostFromMemory: the hot path asks the database once for each host, not once for each user.
func TestMailHostFromMemory(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	d, err := db.Open(t.Context(), testpeer.SQLiteURL(t), db.Options{Trace: func(query string) {
		if strings.Contains(query, "FROM mailhosts") {
			asked.Add(1)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close() //nolint:errcheck // nothing was lost
	keys, err := seal.ParseKeyFile(keyFile(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := tenant.New(d, keys, installation, clock)
	if err != nil {
		t.Fatal(err)
	}
	addHost(t, s, tenant.MailHost{Name: "dove"}, "")
	asked.Store(0)
	for range 1000 {
		if _, err := s.MailHost(t.Context(), "dove"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.MailHost(t.Context(), "none"); !errors.Is(err, tenant.ErrNotFound) {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("%d queries", n)
	}
}

func TestSecretsStayOutOfLogs(t *testing.T) {
	t.Parallel()
	h := tenant.MailHost{MasterPassword: canary, DoveadmKey: canary, OAuthClientSecret: canary}
	var b strings.Builder
	log := slog.New(slog.NewJSONHandler(&b, nil))
	log.Info("struct", slog.Any("host", h), slog.Any("pointer", &h), slog.Any("secret", h.DoveadmKey))
	slog.New(slog.NewTextHandler(&b, nil)).Info("text", slog.Any("host", h), slog.Any("secret", h.DoveadmKey))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb+verb, h, h.DoveadmKey)
	}
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(text)
	if strings.Contains(b.String(), canary) || strings.Contains(b.String(), hex.EncodeToString([]byte(canary))) {
		t.Errorf("told: %s", b.String())
	}
}
