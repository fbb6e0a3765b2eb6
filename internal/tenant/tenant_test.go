package tenant_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const maxID = 1<<32 - 1

func clock() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

func keyFile(t *testing.T) string {
	t.Helper()
	text, err := seal.NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// newStore opens a store on a new database, with a new key.
func newStore(t *testing.T, url string, dflt tenant.NotifyCredential) *tenant.Store {
	t.Helper()
	return openStore(t, url, keyFile(t), dflt)
}

func openStore(t *testing.T, url, keyFile string, dflt tenant.NotifyCredential) *tenant.Store {
	t.Helper()
	keys, err := seal.ParseKeyFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	d, err := db.Open(t.Context(), url, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := tenant.New(d, keys, dflt, clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var installation = tenant.NotifyCredential{
	Login: "dovecot", Hash: tenant.HashPassword("the installation's own"), UserForm: tenant.FormLogin,
}

func addHost(t *testing.T, s *tenant.Store, h tenant.MailHost, password string) {
	t.Helper()
	if h.IMAPHost == "" {
		h.IMAPHost, h.IMAPPort, h.Security = "mail.example.org", 993, tenant.SecurityTLS
	}
	if err := s.AddMailHost(t.Context(), h, password); err != nil {
		t.Fatalf("add mail host %s: %v", h.Name, err)
	}
}

func addContext(t *testing.T, s *tenant.Store, c tenant.Context) tenant.Context {
	t.Helper()
	c, err := s.AddContext(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func addUser(t *testing.T, s *tenant.Store, inContext int64, login, host string) tenant.User {
	t.Helper()
	u, err := s.AddUser(t.Context(), tenant.User{ID: tenant.UserID{Context: inContext}, Login: login, MailHost: host})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// wantField checks that err names a field.
func wantField(t *testing.T, err error, field string) {
	t.Helper()
	var invalid *tenant.InvalidError
	if !errors.As(err, &invalid) || invalid.Field != field || invalid.Problem == "" {
		t.Errorf("error %v, want one of field %q", err, field)
	}
}

func TestContexts(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		ctx := t.Context()
		if all, err := s.Contexts(ctx); err != nil || len(all) != 0 || all == nil {
			t.Errorf("none: %v, %v", all, err)
		}
		for i, c := range []struct {
			give, want tenant.Context
			err        error
		}{
			{tenant.Context{}, tenant.Context{ID: 1, Name: "context 1"}, nil},
			{tenant.Context{Name: "Müller & Söhne"}, tenant.Context{ID: 2, Name: "Müller & Söhne"}, nil},
			{tenant.Context{ID: 7}, tenant.Context{ID: 7, Name: "context 7"}, nil},
			{tenant.Context{}, tenant.Context{ID: 8, Name: "context 8"}, nil},
			{tenant.Context{ID: 7, Name: "other"}, tenant.Context{}, tenant.ErrExists},
			{tenant.Context{Name: "context 7"}, tenant.Context{}, tenant.ErrExists},
			{tenant.Context{ID: 4}, tenant.Context{ID: 4, Name: "context 4"}, nil},
			{tenant.Context{}, tenant.Context{ID: 9, Name: "context 9"}, nil},
		} {
			got, err := s.AddContext(ctx, c.give)
			if !errors.Is(err, c.err) || c.err == nil && (err != nil || got.ID != c.want.ID || got.Name != c.want.Name) {
				t.Errorf("%d: %+v, %v", i, got, err)
			}
		}
		for _, c := range []tenant.Context{{ID: -1}, {ID: maxID + 1}} {
			_, err := s.AddContext(ctx, c)
			wantField(t, err, "id")
		}
		for _, name := range []string{" x", "x ", "a\nb", "a\x00b", "\xff", strings.Repeat("x", 256)} {
			_, err := s.AddContext(ctx, tenant.Context{Name: name})
			wantField(t, err, "name")
		}

		addHost(t, s, tenant.MailHost{Name: "dove"}, "")
		u := addUser(t, s, 2, "alice", "dove")
		if err := s.RemoveContext(ctx, 2); !errors.Is(err, tenant.ErrInUse) {
			t.Errorf("removed a context in use: %v", err)
		}
		if err := s.RemoveUser(ctx, u.ID); err != nil {
			t.Fatal(err)
		}
		for _, want := range []error{nil, tenant.ErrNotFound} {
			if err := s.RemoveContext(ctx, 2); !errors.Is(err, want) {
				t.Errorf("remove: %v, want %v", err, want)
			}
		}
		if err := s.RemoveContext(ctx, 9); err != nil {
			t.Fatal(err)
		}
		if c := addContext(t, s, tenant.Context{}); c.ID != 10 {
			t.Errorf("id %d: the last one was given again", c.ID)
		}
		all, err := s.Contexts(ctx)
		var ids []int64
		for _, c := range all {
			ids = append(ids, c.ID)
		}
		if err != nil || !slices.Equal(ids, []int64{1, 4, 7, 8, 10}) {
			t.Errorf("contexts %v, %v", all, err)
		}

		// The end of the numbers is an error, not an id that nobody can write.
		addContext(t, s, tenant.Context{ID: maxID})
		_, err = s.AddContext(ctx, tenant.Context{})
		wantField(t, err, "id")
	})
}

func TestUsers(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		ctx := t.Context()
		addContext(t, s, tenant.Context{})
		addContext(t, s, tenant.Context{ID: maxID})
		addHost(t, s, tenant.MailHost{Name: "dove"}, "")
		addHost(t, s, tenant.MailHost{Name: "cyrus"}, "")
		id := func(u, c int64) tenant.UserID { return tenant.UserID{Context: c, ID: u} }
		for i, c := range []struct {
			give tenant.User
			want tenant.UserID
			err  error
		}{
			{tenant.User{ID: id(0, 1), Login: "Alice@Example.org", MailHost: "dove"}, id(1, 1), nil},
			{tenant.User{ID: id(0, 1), Login: "alice@example.org", MailHost: "cyrus"}, id(2, 1), nil},
			{tenant.User{ID: id(0, 1), Login: "aLICE@example.ORG", MailHost: "dove"}, id(0, 0), tenant.ErrExists},
			{tenant.User{ID: id(0, maxID), Login: "aLICE@example.ORG", MailHost: "dove"}, id(0, 0), tenant.ErrExists},
			{tenant.User{ID: id(0, maxID), Login: "bob", MailHost: "dove"}, id(1, maxID), nil},
			{tenant.User{ID: id(maxID-1, maxID), Login: "Jürgen", MailHost: "dove"}, id(maxID-1, maxID), nil},
			{tenant.User{ID: id(1, 1), Login: "carol", MailHost: "dove"}, id(0, 0), tenant.ErrExists},
			{tenant.User{ID: id(0, 1), Login: "carol", MailHost: "dove"}, id(3, 1), nil},
			{tenant.User{ID: id(0, maxID), Login: "dave", MailHost: "dove"}, id(maxID, maxID), nil},
		} {
			got, err := s.AddUser(ctx, c.give)
			if !errors.Is(err, c.err) || c.err == nil && (err != nil || got.ID != c.want || got.Login != c.give.Login) {
				t.Errorf("%d: %+v, %v", i, got, err)
			}
		}
		for field, u := range map[string]tenant.User{
			"user":     {ID: id(0, 5), Login: "x", MailHost: "dove"},
			"mailhost": {ID: id(0, 1), Login: "x", MailHost: "nowhere"},
			"login":    {ID: id(0, 1), Login: "", MailHost: "dove"},
			"id":       {ID: id(0, maxID), Login: "one too many", MailHost: "dove"},
		} {
			_, err := s.AddUser(ctx, u)
			wantField(t, err, field)
		}
		for _, n := range []int64{-1, maxID + 1} {
			_, err := s.AddUser(ctx, tenant.User{ID: id(n, 1), Login: "x", MailHost: "dove"})
			wantField(t, err, "user")
		}

		for want, list := range map[string]struct {
			context int64
			host    string
		}{
			"1@1 2@1 3@1 1@4294967295 4294967294@4294967295 4294967295@4294967295": {},
			"1@4294967295 4294967294@4294967295 4294967295@4294967295":             {context: maxID},
			"2@1":     {host: "cyrus"},
			"1@1 3@1": {context: 1, host: "dove"},
			"":        {context: 2},
		} {
			users, err := s.Users(ctx, list.context, list.host)
			if got := ids(users); err != nil || got != want {
				t.Errorf("users of %+v: %q, want %q, %v", list, got, want, err)
			}
		}
		for login, want := range map[string]string{
			"ALICE@example.org": "2@1 1@1", "jÜRGEN": "4294967294@4294967295", "nobody": "", "": "",
			"alice\x00": "", "\xff\xfe": "", " bob": "", strings.Repeat("x", 1<<20): "",
		} {
			users, err := s.UsersByLogin(ctx, login)
			if got := ids(users); err != nil || got != want {
				t.Errorf("users with login %.20q: %q, want %q, %v", login, got, want, err)
			}
		}
		if u, err := s.User(ctx, id(1, 1)); err != nil || u.Login != "Alice@Example.org" || u.MailHost != "dove" || u.ID != id(1, 1) {
			t.Errorf("user 1@1: %+v, %v", u, err)
		}
		if _, err := s.User(ctx, id(9, 1)); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("user 9@1: %v", err)
		}
		for _, want := range []error{nil, tenant.ErrNotFound} {
			if err := s.RemoveUser(ctx, id(3, 1)); !errors.Is(err, want) {
				t.Errorf("remove: %v, want %v", err, want)
			}
		}
		// A registration at a mail server may still name 3@1: nobody else is ever called so by chance.
		if u := addUser(t, s, 1, "erin", "dove"); u.ID != id(4, 1) {
			t.Errorf("user %s: the id was given again", u.ID)
		}
	})
}

func ids(users []tenant.User) string {
	var all []string
	for _, u := range users {
		all = append(all, u.ID.String())
	}
	return strings.Join(all, " ")
}

// TestAddAndRemoveAtOnce adds users while their context and mail host are being removed.
func TestAddAndRemoveAtOnce(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		for round := range 20 {
			c := addContext(t, s, tenant.Context{})
			host := fmt.Sprint("host", round)
			addHost(t, s, tenant.MailHost{Name: host}, "")
			var wg sync.WaitGroup
			var added tenant.User
			var errAdd, errContext, errHost error
			wg.Go(func() {
				added, errAdd = s.AddUser(t.Context(), tenant.User{ID: tenant.UserID{Context: c.ID}, Login: "x", MailHost: host})
			})
			wg.Go(func() { errContext = s.RemoveContext(t.Context(), c.ID) })
			wg.Go(func() { errHost = s.RemoveMailHost(t.Context(), host) })
			wg.Wait()
			var invalid *tenant.InvalidError
			switch {
			case errAdd == nil && errors.Is(errContext, tenant.ErrInUse) && errors.Is(errHost, tenant.ErrInUse):
				if _, err := s.User(t.Context(), added.ID); err != nil {
					t.Error(err)
				}
			case errors.As(errAdd, &invalid) && (errContext == nil || errHost == nil):
			default:
				t.Errorf("add: %v; remove context: %v; remove mail host: %v", errAdd, errContext, errHost)
			}
		}
	})
}

// Ids are given once, however many ask.
func TestIDsAreUnique(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		c := addContext(t, s, tenant.Context{})
		addHost(t, s, tenant.MailHost{Name: "dove"}, "")
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				_, err := s.AddUser(t.Context(), tenant.User{ID: tenant.UserID{Context: c.ID}, Login: strconv.Itoa(i), MailHost: "dove"})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		users, err := s.Users(t.Context(), 0, "")
		if err != nil || len(users) != 20 || users[19].ID.ID != 20 {
			t.Errorf("%s, %v", ids(users), err)
		}
	})
}

func TestParseUserID(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := tenant.UserID{Context: rapid.Int64Range(1, maxID).Draw(t, "context"), ID: rapid.Int64Range(1, maxID).Draw(t, "id")}
		if got, err := tenant.ParseUserID(want.String()); err != nil || got != want {
			t.Fatalf("%s became %v, %v", want, got, err)
		}
	})
	for _, s := range []string{
		"", "@", "3", "3@", "@1", "0@1", "3@0", "03@1", "3@01", "+3@1", "-3@1", "3@-1", " 3@1", "3@1 ", "3@1@1", "3@1.x", "3.0@1",
		"4294967296@1", "3@4294967296", "99999999999999999999@1", "٣@1", "3@1\x00", "0x3@1", "3e0@1", "1_0@1",
	} {
		_, err := tenant.ParseUserID(s)
		wantField(t, err, "user")
	}
}

func FuzzParseUserID(f *testing.F) {
	for _, s := range []string{"3@1", "4294967295@4294967295", "03@1", "3@1.AAAA", "3@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := tenant.ParseUserID(s)
		if err == nil && (u.String() != s || u.ID < 1 || u.ID > maxID || u.Context < 1 || u.Context > maxID) {
			t.Fatalf("%q became %+v", s, u)
		}
	})
}
