package tenant_test

import (
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const password = "a password of the host's own"

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
		full := tenant.MailHost{
			Name: "dove", IMAPHost: "::1", IMAPPort: 65535, Security: tenant.SecurityStartTLS, Insecure: true, CA: ca,
			NotifyLogin: "dove-1", UserForm: tenant.FormMetadata, KeyedAlias: true,
			AllowFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}, Contexts: []int64{1, 2},
		}
		bare := tenant.MailHost{Name: "bare", IMAPHost: "localhost", IMAPPort: 1, Security: tenant.SecurityNone}
		if err := s.AddMailHost(ctx, full, password); err != nil {
			t.Fatal(err)
		}
		if err := s.AddMailHost(ctx, bare, ""); err != nil {
			t.Fatal(err)
		}
		bare.UserForm = tenant.FormLogin // the installation's
		all, err := s.MailHosts(ctx)
		if err != nil || !reflect.DeepEqual(all, []tenant.MailHost{bare, full}) {
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
				if err != nil || strings.Contains(string(content), password) {
					t.Errorf("the notify password is stored in clear (%v)", err)
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
