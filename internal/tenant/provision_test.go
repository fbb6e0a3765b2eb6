package tenant_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestRehearsal imports random users in small batches, first as a dry run: what that says is what is done then, though
// none of its batches could see what those before it would have kept.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		ctx := t.Context()
		host := tenant.MailHost{Name: "dove", IMAPHost: "localhost", IMAPPort: 143, Security: tenant.SecurityNone}
		if err := s.AddMailHost(ctx, host, ""); err != nil {
			t.Fatal(err)
		}
		addContext(t, s, tenant.Context{})
		addContext(t, s, tenant.Context{})
		set(t, s, ofOne, "contexts.max_users", "6")
		const seed, batches, each, made = 7, 5, 6, 3 // context 3 is there only for the real run
		rnd := rand.New(rand.NewPCG(seed, seed))     //nolint:gosec // a test's
		var all [][]tenant.User
		for range batches {
			var batch []tenant.User
			for range each {
				id := tenant.UserID{Context: 1 + rnd.Int64N(3), ID: max(0, rnd.Int64N(12)-4)}
				batch = append(batch, tenant.User{ID: id, Login: fmt.Sprintf("u%d@example.org", rnd.IntN(25)), MailHost: "dove"})
			}
			all = append(all, batch)
		}
		run := func(rehearsal *tenant.Rehearsal, third int64) (said []string) {
			for _, batch := range all {
				users := append([]tenant.User{}, batch...)
				for i := range users {
					if users[i].ID.Context == made {
						users[i].ID.Context = third
					}
				}
				done, err := s.ImportUsers(ctx, users, rehearsal)
				if err != nil {
					t.Fatal(err)
				}
				for i, one := range done {
					said = append(said, fmt.Sprintf("%s %s added %v failed %v", batch[i].ID, batch[i].Login, one.Added, one.Err != nil))
				}
			}
			return said
		}
		dry := run(&tenant.Rehearsal{}, -1)
		if users, err := s.Users(ctx, 0, ""); err != nil || len(users) > 0 {
			t.Fatalf("a dry run kept %v, %v", users, err)
		}
		addContext(t, s, tenant.Context{})
		came := run(nil, made)
		for i := range came {
			if dry[i] != came[i] {
				t.Errorf("user %d: the dry run said %q, and it became %q", i, dry[i], came[i])
			}
		}
		if again := strings.Join(run(nil, made), "\n"); strings.Contains(again, "added true") || !strings.Contains(again, "failed true") || !strings.Contains(again, "failed false") {
			t.Errorf("a second import of the same said\n%s", again)
		}
	})
}
