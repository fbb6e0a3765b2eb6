package tenant_test

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

var networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}

func TestSpeaker(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		addHost(t, s, tenant.MailHost{Name: "dove", NotifyLogin: "dove", AllowFrom: networks}, password)
		addHost(t, s, tenant.MailHost{Name: "none"}, "")
		for _, c := range []struct {
			login, password string
			ok              bool
			networks        []netip.Prefix
		}{
			{"dovecot", "the installation's own", true, nil},
			{"dove", password, true, networks},
			{"dovecot", password, false, nil},
			{"dove", "the installation's own", false, nil},
			{"dove", "", false, nil},
			{"dove", password + " ", false, nil},
			{"Dove", password, false, nil},
			{"", "", false, nil}, // the host without a login has no credential that this could be
			{"", password, false, nil},
			{"unknown", password, false, nil},
			{"dove\x00", password, false, nil}, // PostgreSQL refuses NUL and what is not UTF-8: the sender's fault, not ours
			{"\xff\xfe", password, false, nil},
			{strings.Repeat("x", 1<<20), password, false, nil},
		} {
			sp, err := s.Speaker(t.Context(), c.login, c.password)
			if c.ok && (err != nil || sp.Login != c.login || !reflect.DeepEqual(sp.AllowFrom, c.networks)) {
				t.Errorf("%.20q: %+v, %v", c.login, sp, err)
			}
			if !c.ok && (!errors.Is(err, tenant.ErrBadCredential) || !reflect.DeepEqual(sp, tenant.Speaker{})) {
				t.Errorf("%.20q with %q: %+v, %v", c.login, c.password, sp, err)
			}
		}
		// A store that cannot answer is not a wrong password.
		closed := newClosedStore(t)
		if _, err := closed.Speaker(t.Context(), "dove", password); err == nil || errors.Is(err, tenant.ErrBadCredential) {
			t.Errorf("without a store: %v", err)
		}
	})
}

func TestOpenSpeaker(t *testing.T) {
	t.Parallel()
	open := tenant.NotifyCredential{Login: "dovecot", Open: true, UserForm: tenant.FormLogin}
	s := newStore(t, testpeer.SQLiteURL(t), open)
	addHost(t, s, tenant.MailHost{Name: "dove", NotifyLogin: "dove"}, password)
	for login, ok := range map[string]bool{"": true, "dovecot": true, "dove": false, "other": false} {
		if sp, err := s.Speaker(t.Context(), login, "whatever"); (err == nil) != ok || ok && sp.Login != "dovecot" {
			t.Errorf("%q: %+v, %v", login, sp, err)
		}
	}
}

// world is users on four mail hosts, two of which have notify credentials of their own.
//
//	1@1 alice plain   1@2 alice other   the installation's credential, login form
//	2@1 bob   plain
//	3@1 alice keyed   2@2 dave  keyed   its own credential, metadata form, keyed aliases
//	4@1 carol meta    3@2 erin  meta    its own credential, metadata form, context 1 only
func world(t *testing.T, url string) *tenant.Store {
	t.Helper()
	s := newStore(t, url, installation)
	for range 2 {
		addContext(t, s, tenant.Context{})
	}
	addHost(t, s, tenant.MailHost{Name: "plain"}, "")
	addHost(t, s, tenant.MailHost{Name: "other"}, "")
	addHost(t, s, tenant.MailHost{Name: "keyed", NotifyLogin: "keyed", UserForm: tenant.FormMetadata, KeyedAlias: true}, password)
	addHost(t, s, tenant.MailHost{Name: "meta", NotifyLogin: "meta", UserForm: tenant.FormMetadata, Contexts: []int64{1}}, password)
	for _, u := range []struct {
		context     int64
		login, host string
	}{
		{1, "alice", "plain"},
		{1, "bob", "plain"},
		{1, "alice", "keyed"},
		{1, "carol", "meta"},
		{2, "Alice", "other"},
		{2, "dave", "keyed"},
		{2, "erin", "meta"},
	} {
		addUser(t, s, u.context, u.login, u.host)
	}
	return s
}

// alias is what a user is registered as.
func alias(t *testing.T, s *tenant.Store, id string) string {
	t.Helper()
	uid, err := tenant.ParseUserID(id)
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.User(t.Context(), uid)
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.MailHost(t.Context(), u.MailHost)
	if err != nil {
		t.Fatal(err)
	}
	return s.Alias(h, uid)
}

func TestResolve(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := world(t, url)
		passwords := map[string]string{"dovecot": "the installation's own", "keyed": password, "meta": password}
		alice, dave := alias(t, s, "3@1"), alias(t, s, "2@2")
		_, mac, _ := strings.Cut(alice, ".")
		for _, c := range []struct{ speaker, name, user, reason string }{
			{"dovecot", "bob", "2@1", ""},
			{"dovecot", "BOB", "2@1", ""},
			{"dovecot", "alice", "", tenant.ReasonAmbiguousUser}, // on two hosts it speaks for
			{"dovecot", "carol", "", tenant.ReasonForeignUser},
			{"dovecot", "2@1", "", tenant.ReasonUnknownUser}, // the form is the credential's, not the sender's
			{"dovecot", alice, "", tenant.ReasonUnknownUser},
			{"dovecot", "", "", tenant.ReasonUnknownUser},
			{"dovecot", "bob\x00", "", tenant.ReasonUnknownUser},
			{"dovecot", strings.Repeat("b", 1<<20), "", tenant.ReasonUnknownUser},

			{"keyed", alice, "3@1", ""},
			{"keyed", dave, "2@2", ""},
			{"keyed", "3@1", "", tenant.ReasonUnverifiedUser},
			{"keyed", "2@2", "", tenant.ReasonUnverifiedUser}, // what anybody may write into his own METADATA
			{"keyed", "2@2." + mac, "", tenant.ReasonUnverifiedUser},
			{"keyed", "3@1.", "", tenant.ReasonUnverifiedUser},
			{"keyed", alice + "=", "", tenant.ReasonUnverifiedUser},
			{"keyed", alice[:len(alice)-1], "", tenant.ReasonUnverifiedUser},
			{"keyed", alice + "." + mac, "", tenant.ReasonUnverifiedUser},
			{"keyed", "2@1", "", tenant.ReasonForeignUser},
			{"keyed", "9@1", "", tenant.ReasonUnknownUser},
			{"keyed", "9@1." + mac, "", tenant.ReasonUnknownUser},
			{"keyed", "03@1." + mac, "", tenant.ReasonUnknownUser},
			{"keyed", "alice", "", tenant.ReasonUnknownUser},
			{"keyed", "\x00", "", tenant.ReasonUnknownUser},

			{"meta", "4@1", "4@1", ""},
			{"meta", "4@1." + mac, "", tenant.ReasonUnverifiedUser}, // a proof that is wrong is no lack of one
			{"meta", "3@2", "", tenant.ReasonForeignUser},           // a context it may not speak for
			{"meta", alice, "", tenant.ReasonForeignUser},
			{"meta", "2@1", "", tenant.ReasonForeignUser},
		} {
			sp, err := s.Speaker(t.Context(), c.speaker, passwords[c.speaker])
			if err != nil {
				t.Fatal(err)
			}
			id, reason, err := s.Resolve(t.Context(), sp, c.name)
			got := ""
			if id != (tenant.UserID{}) {
				got = id.String()
			}
			if err != nil || got != c.user || reason != c.reason {
				t.Errorf("%s says %.40q: %q %q, want %q %q, %v", c.speaker, c.name, got, reason, c.user, c.reason, err)
			}
		}
	})
}

// A MAC is this installation's and this user's, and is the same each time.
func TestAlias(t *testing.T) {
	t.Parallel()
	s, other := newStore(t, testpeer.SQLiteURL(t), installation), newStore(t, testpeer.SQLiteURL(t), installation)
	keyed, id := tenant.MailHost{KeyedAlias: true}, tenant.UserID{Context: 1, ID: 3}
	if got := s.Alias(tenant.MailHost{}, id); got != "3@1" {
		t.Errorf("bare: %q", got)
	}
	got := s.Alias(keyed, id)
	if !strings.HasPrefix(got, "3@1.") || len(got) != len("3@1.")+22 || strings.ContainsAny(got, "\t\r\n=\"\\ ") {
		t.Errorf("keyed: %q", got)
	}
	if s.Alias(keyed, id) != got || other.Alias(keyed, id) == got ||
		strings.HasSuffix(got, strings.TrimPrefix(s.Alias(keyed, tenant.UserID{Context: 3, ID: 1}), "1@3.")) {
		t.Error("the MAC is not made of the key and the user")
	}
}

// TestAliasAfterRotation: what was registered with an old key counts for as long as the key is kept.
func TestAliasAfterRotation(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		old, fresh := keyFile(t), keyFile(t)
		before := openStore(t, url, old, installation)
		addContext(t, before, tenant.Context{})
		addHost(t, before, tenant.MailHost{Name: "keyed", NotifyLogin: "keyed", UserForm: tenant.FormMetadata, KeyedAlias: true}, password)
		id := addUser(t, before, 1, "alice", "keyed").ID
		registered := alias(t, before, "1@1")
		rotated, dropped := openStore(t, url, fresh+old, installation), openStore(t, url, fresh, installation)
		if a, b := alias(t, rotated, "1@1"), alias(t, dropped, "1@1"); a != b || a == registered {
			t.Errorf("the first key does not make the alias: %q, %q", a, b)
		}
		if all := rotated.Aliases(id); !slices.Equal(all, []string{"1@1", alias(t, rotated, "1@1"), registered}) {
			t.Errorf("known aliases %q", all)
		}
		for _, c := range []struct {
			s      *tenant.Store
			name   string
			reason string
		}{
			{rotated, registered, ""},
			{rotated, alias(t, rotated, "1@1"), ""},
			{rotated, "1@1", tenant.ReasonUnverifiedUser},
			{rotated, registered + "A", tenant.ReasonUnverifiedUser},
			{dropped, registered, tenant.ReasonUnverifiedUser},
		} {
			sp, err := c.s.Speaker(t.Context(), "keyed", password)
			if err != nil {
				t.Fatal(err)
			}
			if got, reason, err := c.s.Resolve(t.Context(), sp, c.name); err != nil || reason != c.reason || (got == id) != (reason == "") {
				t.Errorf("%s: %v %q, %v; want %q", c.name, got, reason, err, c.reason)
			}
		}
	})
}

func newClosedStore(t *testing.T) *tenant.Store {
	t.Helper()
	var s *tenant.Store
	t.Run("closed", func(t *testing.T) { s = newStore(t, testpeer.SQLiteURL(t), installation) })
	return s
}
