package tenant_test

import (
	"slices"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestTakeOver adds users with ids of their own; who is somebody else here is refused, and nobody else with him.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s, ctx := newStore(t, url, tenant.NotifyCredential{UserForm: tenant.FormLogin}), t.Context()
		if _, err := s.AddContext(ctx, tenant.Context{ID: 1}); err != nil {
			t.Fatal(err)
		}
		if err := s.AddMailHost(ctx, tenant.MailHost{Name: "dove", IMAPHost: "localhost", IMAPPort: 143, Security: tenant.SecurityNone}, ""); err != nil {
			t.Fatal(err)
		}
		user := func(id int64, login string) tenant.User {
			return tenant.User{ID: tenant.UserID{Context: 1, ID: id}, Login: login, MailHost: "dove"}
		}
		added, had, refused, err := s.TakeOver(ctx, []tenant.User{user(7, "anna"), user(3, "bert")})
		if err != nil || added != 2 || had != 0 || len(refused) != 0 {
			t.Fatalf("added %d, had %d, refused %v, %v", added, had, refused, err)
		}
		added, had, refused, err = s.TakeOver(ctx, []tenant.User{
			user(7, "Anna"), user(3, "carl"), user(9, "BERT"), user(0, "dora"), user(10, "no\nlogin"), user(8, "emil"),
		})
		var who []int64
		for _, r := range refused {
			who = append(who, r.User.ID)
		}
		if err != nil || added != 1 || had != 1 || !slices.Equal(who, []int64{3, 9, 0, 10}) {
			t.Errorf("added %d, had %d, refused %v, %v", added, had, refused, err)
		}
		if u, err := s.AddUser(ctx, user(0, "frida")); err != nil || u.ID.ID != 10 {
			t.Errorf("the next user is %s, %v", u.ID, err)
		}
		if _, _, _, err := s.TakeOver(ctx, []tenant.User{{ID: tenant.UserID{Context: 99, ID: 1}, Login: "x", MailHost: "dove"}}); err == nil {
			t.Error("added to a context that is not there")
		}
	})
}
