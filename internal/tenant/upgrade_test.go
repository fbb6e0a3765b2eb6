package tenant_test

import (
	"os"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestUpgradeKeepsTheAppOn: contexts of a database from before the cascade keep the app, are reported once, and say why.
func TestUpgradeKeepsTheAppOn(t *testing.T) {
	t.Parallel()
	old, err := os.ReadFile("../db/testdata/schema-3.db")
	if err != nil {
		t.Fatal(err)
	}
	url := testpeer.SQLiteURL(t)
	if err := os.WriteFile(strings.TrimPrefix(url, "sqlite:"), old, 0o600); err != nil { //nolint:gosec // the test's own
		t.Fatal(err)
	}
	s := newStore(t, url, installation)
	ctx := t.Context()
	v, err := s.View(ctx, tenant.UserID{Context: 1, ID: 3})
	if err != nil || !cascade.MobileMailApp.Of(v) {
		t.Errorf("the app is off: %v", err)
	}
	for _, want := range []int64{1, 0} {
		e, err := s.Explain(ctx, appName, tenant.UserID{Context: 1, ID: 3})
		if err != nil || e.Winner.Scope != cascade.Context || !strings.HasPrefix(e.Winner.Origin, "kept on by the upgrade ") {
			t.Errorf("%+v, %v", e.Winner, err)
		}
		if n, err := s.ReportUpgrade(ctx); n != want || err != nil {
			t.Errorf("reported %d, %v; want %d", n, err, want)
		}
	}
	added := addContext(t, s, tenant.Context{})
	if v, err := s.ContextView(ctx, added.ID); err != nil || cascade.MobileMailApp.Of(v) {
		t.Errorf("a context added later: %v", err)
	}
}

// TestSecretProperties: a secret is sealed where it is kept, shown to nobody, and sealed anew with another key.
func TestSecretProperties(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		const name, canary = "test.secret", "canary-7"
		secret := cascade.Definition{Name: name, Type: cascade.String, Secret: true, Scopes: []cascade.Scope{cascade.Server}}
		first, second := keyFile(t), keyFile(t)
		s := openStore(t, url, first, installation)
		s.Define(secret)
		ctx := t.Context()
		set(t, s, ofServer, name, canary)
		d, err := db.Open(ctx, url, db.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close() //nolint:errcheck // only read from
		kept := func() (value string) {
			t.Helper()
			if err := d.QueryRow(ctx, "SELECT value FROM properties WHERE name = 'test.secret'").Scan(&value); err != nil {
				t.Fatal(err)
			}
			return value
		}
		before := kept()
		if strings.Contains(before, canary) {
			t.Error("kept in clear")
		}
		explained := func(s *tenant.Store) string {
			t.Helper()
			e, err := s.Explain(ctx, name, tenant.UserID{})
			if err != nil {
				t.Fatal(err)
			}
			return e.Value + " at " + e.Winner.Scope.String()
		}
		if got := explained(s); got != cascade.Redacted+" at server" {
			t.Error(got)
		}
		if all, err := s.Properties(ctx, nil); err != nil || len(all) != 1 || all[0].Value != cascade.Redacted {
			t.Errorf("%+v, %v", all, err)
		}
		both := openStore(t, url, second+first, installation)
		both.Define(secret)
		for _, want := range []int{1, 0} {
			if n, err := both.Reseal(ctx); n != want || err != nil {
				t.Errorf("sealed %d anew, %v; want %d", n, err, want)
			}
		}
		if kept() == before {
			t.Error("the row is as before")
		}
		other := openStore(t, url, second, installation)
		other.Define(secret)
		if got := explained(other); got != cascade.Redacted+" at server" {
			t.Error(got)
		}
		lost := openStore(t, url, keyFile(t), installation)
		lost.Define(secret)
		if got := explained(lost); got != " at default" {
			t.Errorf("without the key: %s", got)
		}
		if _, err := lost.Reseal(ctx); err == nil {
			t.Error("sealed anew without the key")
		}
	})
}
