package account

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

func TestAdminKey(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, w *watch, _, _ tenant.User) {
		ctx, home := t.Context(), netip.MustParseAddr("192.0.2.7")
		north, key, err := s.AddAdminKey(ctx, AdminKey{Role: RoleReseller, Subject: "north", Note: "their portal"})
		if err != nil || !strings.HasPrefix(string(key), "pha_") || len(key) != 47 {
			t.Fatalf("key of %d bytes, %v", len(key), err)
		}
		if life := north.Expires.Sub(north.Created); life != 90*24*time.Hour {
			t.Errorf("lives for %s", life)
		}
		if got := fmt.Sprintf("%v %+v %q", key, key, key); strings.Contains(got, "pha_") {
			t.Errorf("the key can be printed: %s", got)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM admin_keys WHERE key_hash LIKE '%' || ? || '%'`, string(key)); n != 0 {
			t.Error("the key itself is stored")
		}
		if got, err := s.AuthenticateAdmin(ctx, string(key), home); err != nil || got.ID != north.ID || got.Role != RoleReseller || got.Subject != "north" {
			t.Errorf("authenticated as %+v, %v", got, err)
		}
		used := func() time.Time {
			all, err := s.AdminKeys(ctx)
			if err != nil || len(all) == 0 || all[0].ID != north.ID {
				t.Fatalf("keys %+v, %v", all, err)
			}
			return all[0].LastUsed
		}
		first := used()
		if first.IsZero() {
			t.Error("the first use is not noted")
		}
		w.pass(touchKeyEvery)
		_, _ = s.AuthenticateAdmin(ctx, string(key), home)
		if !used().Equal(first) {
			t.Error("each use is written")
		}
		w.pass(time.Second)
		_, _ = s.AuthenticateAdmin(ctx, string(key), home)
		if !used().Equal(w.now()) {
			t.Errorf("last use %s, now %s", used(), w.now())
		}
		for _, wrong := range []string{"", "pha_", string(key[:46]), string(key) + "A", "ph_" + string(key[4:]), north.ID, "\x00", "pha_\xff"} {
			if _, err := s.AuthenticateAdmin(ctx, wrong, netip.MustParseAddr("192.0.2.8")); !errors.Is(err, ErrNoKey) {
				t.Errorf("%q: %v", wrong, err)
			}
		}

		// An expired key is none, and is still listed.
		w.pass(90 * 24 * time.Hour)
		if _, err := s.AuthenticateAdmin(ctx, string(key), home); !errors.Is(err, ErrNoKey) {
			t.Errorf("after its end: %v", err)
		}
		used()

		// Removal, alone and with the reseller.
		operator, key2, err := s.AddAdminKey(ctx, AdminKey{Role: RoleOperator, Expires: w.now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		_, key3, err := s.AddAdminKey(ctx, AdminKey{Role: RoleReseller, Subject: "north"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.RemoveAdminKeysOf(ctx, RoleReseller, "north"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.AuthenticateAdmin(ctx, string(key3), home); !errors.Is(err, ErrNoKey) {
			t.Errorf("the reseller's key after him: %v", err)
		}
		if _, err := s.AuthenticateAdmin(ctx, string(key2), home); err != nil {
			t.Errorf("the operator's key: %v", err)
		}
		if err := s.RemoveAdminKey(ctx, operator.ID); err != nil {
			t.Error(err)
		}
		if _, err := s.AuthenticateAdmin(ctx, string(key2), home); !errors.Is(err, ErrNoKey) {
			t.Errorf("a removed key: %v", err)
		}
		for _, id := range []string{operator.ID, "", "x", "\x00", strings.Repeat("0", 16)} {
			if err := s.RemoveAdminKey(ctx, id); !errors.Is(err, tenant.ErrNotFound) {
				t.Errorf("remove %q: %v", id, err)
			}
		}
	})
}

func TestAdminKeyRefusals(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, w *watch, _, _ tenant.User) {
		for field, k := range map[string]AdminKey{
			"role":    {Role: "king"},
			"subject": {Role: RoleReseller},
			"expires": {Role: RoleOperator, Expires: w.now()},
			"note":    {Role: RoleOperator, Note: "two\nlines"},
		} {
			_, _, err := s.AddAdminKey(t.Context(), k)
			if wrong, ok := errors.AsType[*tenant.InvalidError](err); !ok || wrong.Field != field {
				t.Errorf("%s: %v", field, err)
			}
		}
		for _, k := range []AdminKey{
			{Role: RoleOperator, Subject: "north"},
			{Role: RoleOperator, Expires: w.now().Add(MaxKeyLifetime + time.Second)},
			{Role: RoleBrand},
		} {
			if _, _, err := s.AddAdminKey(t.Context(), k); err == nil {
				t.Errorf("%+v was made", k)
			}
		}
	})
}

// TestAdminKeyAttempts: who tries keys has to wait, and a good key from the same address has not.
func TestAdminKeyAttempts(t *testing.T) {
	withSessions(t, func(t *testing.T, s *Service, w *watch, _, _ tenant.User) {
		ctx, home := t.Context(), netip.MustParseAddr("2001:db8::1")
		_, key, err := s.AddAdminKey(ctx, AdminKey{Role: RoleOperator})
		if err != nil {
			t.Fatal(err)
		}
		for range s.AttemptsPerAddress {
			if _, err := s.AuthenticateAdmin(ctx, "pha_guess", home); !errors.Is(err, ErrNoKey) {
				t.Fatal(err)
			}
		}
		_, err = s.AuthenticateAdmin(ctx, "pha_guess", netip.MustParseAddr("2001:db8::2"))
		if wait, ok := errors.AsType[*TooManyError](err); !ok || wait.RetryAfter <= 0 {
			t.Errorf("one more, from the same network: %v", err)
		}
		if _, err := s.AuthenticateAdmin(ctx, "pha_guess", netip.MustParseAddr("2001:db8:1::1")); !errors.Is(err, ErrNoKey) {
			t.Errorf("from elsewhere: %v", err)
		}
		if _, err := s.AuthenticateAdmin(ctx, string(key), home); err != nil {
			t.Errorf("the good key: %v", err)
		}
		w.pass(s.Window)
		if _, err := s.AuthenticateAdmin(ctx, "pha_guess", home); !errors.Is(err, ErrNoKey) {
			t.Errorf("later: %v", err)
		}
	})
}
