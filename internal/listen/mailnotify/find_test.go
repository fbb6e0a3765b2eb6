package mailnotify

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

func TestFind(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		tenants := newTenants(t, url)
		for _, tc := range []struct {
			name, delimiter string
			domains         []string
			give            string
			want            []tenant.UserID
			others          bool
		}{
			{"login", "", nil, "anna@example.org", ids(1), false},
			{"without case", "", nil, "Anna@Example.ORG", ids(1), false},
			{"not by its first part alone", "", nil, "anna", nil, false},
			{"by its first part and a domain", "", []string{"example.net", "example.org"}, "Anna", ids(1), false},
			{"a domain is not added to one", "", []string{"example.org"}, "anna@example.net", nil, false},
			{"the delimiter ends it", "@", nil, "carl@anywhere", ids(3), false},
			{"or is not there", "+", nil, "carl", ids(3), false},
			{"a detail", "+", []string{"example.org"}, "anna+lists", ids(1), false},
			{"nothing before it", "+", []string{"example.org"}, "+lists", nil, false},
			{"number", "", nil, "1@1", ids(1), false},
			{"on two mail hosts", "", nil, "both", ids(5, 6), false},
			{"with a domain and without", "", []string{"example.org"}, "dora", ids(7, 8), false},
			{"login and number", "", nil, "9@1", ids(9), false},
			{"of another source", "", nil, "bob@example.org", nil, true},
			{"nobody", "", []string{"example.org"}, "nobody", nil, false},
			{"no number of ours", "", nil, "99@1", nil, false},
		} {
			s := newTestSource(t, Config{Delimiter: tc.delimiter, Domains: tc.domains, Tenants: tenants})
			got, others, err := s.find(t.Context(), tc.give)
			slices.SortFunc(got, func(a, b tenant.UserID) int { return int(a.ID - b.ID) })
			if err != nil || !slices.Equal(got, tc.want) || others != tc.others {
				t.Errorf("%s: %q is %v, %v, %v, want %v, %v", tc.name, tc.give, got, others, err, tc.want, tc.others)
			}
		}
	})
}

func ids(n ...int64) (all []tenant.UserID) {
	for _, id := range n {
		all = append(all, tenant.UserID{Context: 1, ID: id})
	}
	return all
}

// TestHint goes the whole way, from a datagram to the user.
func TestHint(t *testing.T) {
	t.Parallel()
	hinted := make(chan tenant.UserID, 1)
	s := newTestSource(t, Config{
		Tenants: newTenants(t, testpeer.SQLiteURL(t)), Domains: []string{"example.org"},
		Hint: func(u tenant.UserID) { hinted <- u },
	})
	send := sender(t, s.Addr())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	defer running.Wait()
	defer cancel()
	send(nil)
	send([]byte(cyrus))
	select {
	case u := <-hinted:
		if u != ids(1)[0] {
			t.Errorf("a hint for %s, want 1@1", u)
		}
	case <-time.After(30 * time.Second):
		t.Error("no hint")
	}
}

// newTenants has users on mail hosts of several sources.
func newTenants(t *testing.T, url string) *tenant.Store {
	t.Helper()
	d, err := db.Open(t.Context(), url, db.Options{})
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
	if _, err := tenants.AddContext(t.Context(), tenant.Context{}); err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]string{"cyrus": "mailnotify", "auto": "auto", "dovecot": "dovecot", "idle": "idle"} {
		h := tenant.MailHost{Name: name, IMAPHost: "mail.example.org", IMAPPort: 993, Security: tenant.SecurityTLS, Source: source}
		if err := tenants.AddMailHost(t.Context(), h, ""); err != nil {
			t.Fatal(err)
		}
	}
	for i, u := range []tenant.User{
		{Login: "anna@example.org", MailHost: "cyrus"},
		{Login: "bob@example.org", MailHost: "dovecot"},
		{Login: "carl", MailHost: "auto"},
		{Login: "bob@example.org", MailHost: "idle"},
		{Login: "both", MailHost: "cyrus"},
		{Login: "both", MailHost: "auto"},
		{Login: "dora", MailHost: "cyrus"},
		{Login: "dora@example.org", MailHost: "cyrus"},
		{Login: "9@1", MailHost: "cyrus"},
	} {
		u.ID = tenant.UserID{Context: 1, ID: int64(i + 1)}
		if _, err := tenants.AddUser(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	return tenants
}
