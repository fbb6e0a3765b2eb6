package tenant_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestOtherNodesHear: what one node adds and removes, another one sees, by the bus while the clock stands still.
func TestOtherNodesHear(t *testing.T) {
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		b, err := bus.Open(t.Context(), bus.Options{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
		two(t, url, b)
	})
}

// TestLostWordHeals: the nodes are not on a bus at all, but time passes.
func TestLostWordHeals(t *testing.T) {
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		two(t, url, nil)
	})
}

// two has one node change things and another ask, on a bus, or without one some seconds later.
func two(t *testing.T, url string, b *bus.Bus) {
	t.Helper()
	now := clock()
	d, err := db.Open(t.Context(), url, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	keys, err := seal.ParseKeyFile(keyFile(t))
	if err != nil {
		t.Fatal(err)
	}
	var nodes [2]*tenant.Store
	for i := range nodes {
		if nodes[i], err = tenant.New(d, keys, installation, func() time.Time { return now }); err != nil {
			t.Fatal(err)
		}
		if b == nil {
			continue
		}
		if err := nodes[i].Join(t.Context(), b, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	s, other := nodes[0], nodes[1]
	speaks := func(login, password, name string) string {
		sp, err := other.Speaker(t.Context(), login, password)
		if err != nil {
			return err.Error()
		}
		id, reason, err := other.Resolve(t.Context(), sp, name)
		return fmt.Sprint(id, reason, err)
	}
	const password = "the password of dove"
	ask := func() string {
		return speaks(installation.Login, "the installation's own", "Ann") + ", " + speaks("dove", password, "2@1")
	}
	hears := func(want string) {
		t.Helper()
		if b == nil {
			now = now.Add(4 * time.Second)
		}
		deadline := time.After(30 * time.Second)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for got := ask(); got != want; got = ask() {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("the other node says %q, want %q", got, want)
			}
		}
	}
	const nobody, both = "0@0unknown_user<nil>, notify credential is not valid", "1@1<nil>, 2@1<nil>"
	hears(nobody)
	addContext(t, s, tenant.Context{})
	addHost(t, s, tenant.MailHost{Name: "h"}, "")
	addHost(t, s, tenant.MailHost{Name: "d", NotifyLogin: "dove", UserForm: tenant.FormMetadata}, password)
	hears("0@0unknown_user<nil>, 0@0unknown_user<nil>")
	for i, host := range []string{"h", "d"} {
		if _, err := s.AddUser(t.Context(), tenant.User{ID: tenant.UserID{Context: 1}, Login: []string{"ann", "bob"}[i], MailHost: host}); err != nil {
			t.Fatal(err)
		}
	}
	hears(both)
	for id := range int64(2) {
		if err := s.RemoveUser(t.Context(), tenant.UserID{Context: 1, ID: id + 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.RemoveMailHost(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
	hears(nobody)
}
