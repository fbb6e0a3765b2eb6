package tenant_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const (
	appName     = "capability.mobile_mail_app"
	privacyName = "push.privacy"
)

var (
	ofServer = tenant.Subject{Scope: cascade.Server}
	ofOne    = tenant.Subject{Scope: cascade.Context, Name: "1"}
	ofAnn    = tenant.Subject{Scope: cascade.User, Name: "1@1"}
)

func set(t *testing.T, s *tenant.Store, of tenant.Subject, name, value string) {
	t.Helper()
	if err := s.SetProperty(t.Context(), of, name, value, "cli"); err != nil {
		t.Fatalf("set %s for %s: %v", name, of, err)
	}
}

func unset(t *testing.T, s *tenant.Store, of tenant.Subject, name string) {
	t.Helper()
	if err := s.UnsetProperty(t.Context(), of, name); err != nil {
		t.Fatalf("unset %s for %s: %v", name, of, err)
	}
}

// says asks for the privacy and the app of a user, from the cache and explained.
func says(t *testing.T, s *tenant.Store, u tenant.UserID) string {
	t.Helper()
	v, err := s.View(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	app := "false"
	if cascade.MobileMailApp.Of(v) {
		app = "true"
	}
	privacy := cascade.PushPrivacy.Of(v)
	for name, want := range map[string]string{appName: app, privacyName: privacy} {
		e, err := s.Explain(t.Context(), name, u)
		if err != nil {
			t.Fatal(err)
		}
		if e.Value != want {
			t.Errorf("%s of %s is %s, explained as %s", name, u, want, e.Value)
		}
	}
	return privacy + " " + app
}

// TestCascade: each scope overrules the one before, and gives way again; "not set" is not "false".
func TestCascade(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		ctx := t.Context()
		if _, err := s.AddReseller(ctx, tenant.Reseller{Name: "north", Contact: "help@north.example"}); err != nil {
			t.Fatal(err)
		}
		addContext(t, s, tenant.Context{Reseller: "north", Tags: []string{"Webmail", "trial", "trial"}})
		addContext(t, s, tenant.Context{})
		addHost(t, s, tenant.MailHost{Name: "dove"}, "")
		ann, bob := addUser(t, s, 1, "ann", "dove").ID, addUser(t, s, 1, "bob", "dove").ID
		other := addUser(t, s, 2, "eve", "dove").ID
		want := func(u tenant.UserID, w string) {
			t.Helper()
			if got := says(t, s, u); got != w {
				t.Errorf("%s: %s, want %s", u, got, w)
			}
		}
		want(ann, "full false")
		set(t, s, ofServer, privacyName, "none")
		want(ann, "none false")
		if _, err := s.AddContextSet(ctx, tenant.ContextSet{Name: "paying", WithTags: "webmail & (premium | trial)"}); err != nil {
			t.Fatal(err)
		}
		set(t, s, tenant.Subject{Scope: cascade.ContextSet, Name: "paying"}, "mobile_mail_app", "TRUE") // by its alias
		want(ann, "none true")
		want(other, "none false")
		set(t, s, tenant.Subject{Scope: cascade.Reseller, Name: "north"}, privacyName, "sender")
		want(ann, "sender true")
		set(t, s, ofOne, privacyName, "sealed")
		want(bob, "sealed true")
		set(t, s, ofAnn, appName, "false")
		set(t, s, ofAnn, privacyName, "full")
		want(ann, "full false")
		want(bob, "sealed true")
		a, _ := s.View(ctx, bob)
		b, _ := s.ContextView(ctx, 1)
		if a != b {
			t.Error("a user without values has a view of his own")
		}
		unset(t, s, ofAnn, "com.openexchange.capability.mobile_mail_app")
		want(ann, "full true") // what is not set is not false
		if err := s.UnsetProperty(ctx, ofAnn, appName); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("unset twice: %v", err)
		}
		if _, err := s.ChangeContext(ctx, 1, func(c *tenant.Context) error {
			c.Tags, c.Reseller = []string{"webmail"}, ""
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		unset(t, s, ofOne, privacyName)
		want(bob, "none false")

		// Values go with whom they are for.
		if err := s.RemoveUser(ctx, ann); err != nil {
			t.Fatal(err)
		}
		if err := s.RemoveReseller(ctx, "north"); err != nil {
			t.Fatal(err)
		}
		if err := s.RemoveContextSet(ctx, "paying"); err != nil {
			t.Fatal(err)
		}
		set(t, s, tenant.Subject{Scope: cascade.Context, Name: "2"}, appName, "true")
		if err := s.RemoveUser(ctx, other); err != nil {
			t.Fatal(err)
		}
		if err := s.RemoveContext(ctx, 2); err != nil {
			t.Fatal(err)
		}
		if all, err := s.Properties(ctx, nil); err != nil || len(all) != 1 || all[0].Scope != cascade.Server {
			t.Errorf("what is left: %+v, %v", all, err)
		}
		want(bob, "none false")
	})
}

// TestRefusals: what may not be set is refused by the field, with what to do.
func TestRefusals(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		ctx := t.Context()
		if _, err := s.AddReseller(ctx, tenant.Reseller{Name: "north"}); err != nil {
			t.Fatal(err)
		}
		addContext(t, s, tenant.Context{Reseller: "north"})
		for _, c := range []struct {
			of                         tenant.Subject
			name, value, field, phrase string
		}{
			{ofServer, "push.privasy", "none", "property", "did you mean push.privacy?"},
			{ofServer, privacyName, "nothing", "value", "full, sender, none, sealed"},
			{ofServer, appName, "yes", "value", "must be true or false"},
			{ofServer, "push.max_subscriptions", "101", "value", "at most 100"},
			{ofServer, "sessions.lifetime", "90", "value", "90d"},
			{ofOne, "app.clients", "x*", "scope", "set it at server"},
			{ofOne, "provider", "blu", "value", "there is no provider"},
			{ofAnn, "provider", "north", "scope", "set it at server, contextset, reseller or context"},
			{tenant.Subject{Scope: cascade.Default}, privacyName, "none", "scope", "server"},
			{tenant.Subject{Scope: cascade.Context, Name: "one"}, privacyName, "none", "subject", "number"},
			{tenant.Subject{Scope: cascade.Server, Name: "x"}, privacyName, "none", "subject", "empty"},
			{tenant.Subject{Scope: cascade.User, Name: "1"}, privacyName, "none", "user", "3@1"},
		} {
			err := s.SetProperty(ctx, c.of, c.name, c.value, "cli")
			wantField(t, err, c.field)
			if err != nil && !strings.Contains(err.Error(), c.phrase) {
				t.Errorf("%s = %s for %s: %v; want %q in it", c.name, c.value, c.of, err, c.phrase)
			}
		}
		for _, of := range []tenant.Subject{
			ofAnn, {Scope: cascade.Context, Name: "2"}, {Scope: cascade.Reseller, Name: "south"}, {Scope: cascade.ContextSet, Name: "x"},
		} {
			if err := s.SetProperty(ctx, of, privacyName, "none", "cli"); !errors.Is(err, tenant.ErrNotFound) {
				t.Errorf("%s: %v", of, err)
			}
		}
		if err := s.RemoveReseller(ctx, "north"); !errors.Is(err, tenant.ErrInUse) {
			t.Errorf("removed a reseller with a context: %v", err)
		}
		_, err := s.AddContext(ctx, tenant.Context{Reseller: "south"})
		wantField(t, err, "reseller")
		_, err = s.AddContext(ctx, tenant.Context{Tags: []string{"a b"}})
		wantField(t, err, "tags")
		_, err = s.AddContextSet(ctx, tenant.ContextSet{Name: "x", WithTags: "a & (b"})
		wantField(t, err, "with_tags")
		if _, err := s.ChangeContext(ctx, 9, func(*tenant.Context) error { return nil }); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("change: %v", err)
		}
	})
}

// TestResellersAndSets: adding, changing and listing.
func TestResellersAndSets(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		ctx := t.Context()
		r, err := s.AddReseller(ctx, tenant.Reseller{Name: "north"})
		if err != nil || r.Title != "north" {
			t.Errorf("%+v, %v", r, err)
		}
		if _, err := s.AddReseller(ctx, r); !errors.Is(err, tenant.ErrExists) {
			t.Errorf("again: %v", err)
		}
		r, err = s.ChangeReseller(ctx, "north", func(r *tenant.Reseller) error {
			r.Title, r.Contact, r.Name = "North", "help@north.example", "other"
			return nil
		})
		if all, err2 := s.Resellers(ctx); err != nil || err2 != nil || len(all) != 1 || all[0] != r || r.Name != "north" || r.Title != "North" {
			t.Errorf("%+v, %v, %v, %v", r, all, err, err2)
		}
		if _, err := s.ChangeReseller(ctx, "south", nil); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("change: %v", err)
		}
		if err := s.RemoveReseller(ctx, "south"); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("remove: %v", err)
		}
		file := cascade.Set{Name: "gold", WithTags: "gold", Priority: 5, Origin: "sets/a.yml:1"}
		if err := s.SetFiles(cascade.Files{Sets: []cascade.Set{file}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.AddContextSet(ctx, tenant.ContextSet{Name: "paying", WithTags: "premium"}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"paying", "gold"} {
			if _, err := s.AddContextSet(ctx, tenant.ContextSet{Name: name, WithTags: "x"}); !errors.Is(err, tenant.ErrExists) {
				t.Errorf("%s again: %v", name, err)
			}
		}
		c, err := s.ChangeContextSet(ctx, "paying", func(c *tenant.ContextSet) error {
			c.WithTags, c.Priority = "premium | trial", 10
			return nil
		})
		all, err2 := s.ContextSets(ctx)
		if err != nil || err2 != nil || len(all) != 2 || all[0] != (tenant.ContextSet{"gold", "gold", 5, "sets/a.yml:1"}) || all[1] != c || c.Priority != 10 {
			t.Errorf("%+v, %v, %v, %v", c, all, err, err2)
		}
		_, err = s.ChangeContextSet(ctx, "gold", nil)
		wantField(t, err, "contextset")
		wantField(t, s.RemoveContextSet(ctx, "gold"), "contextset")
		if err := s.RemoveContextSet(ctx, "none"); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("remove: %v", err)
		}
	})
}

// TestFiles: files and what is stored hold together; at one scope what is stored wins; a broken file changes nothing.
func TestFiles(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		ctx := t.Context()
		addContext(t, s, tenant.Context{Tags: []string{"gold"}})
		addHost(t, s, tenant.MailHost{Name: "dove"}, "")
		ann := addUser(t, s, 1, "ann", "dove").ID
		good := cascade.Files{
			Server: []cascade.Setting{{Name: "mobile_mail_app", Value: "true", Origin: "posthorn.yml:3"}},
			Sets: []cascade.Set{{Name: "gold", WithTags: "gold", Origin: "sets/a.yml:1", Values: []cascade.Setting{
				{Name: privacyName, Value: "sender", Origin: "sets/a.yml:3"},
			}}},
		}
		if got := says(t, s, ann); got != "full false" {
			t.Error(got)
		}
		if err := s.SetFiles(good); err != nil {
			t.Fatal(err)
		}
		if got := says(t, s, ann); got != "sender true" {
			t.Error(got)
		}
		broken := good
		broken.Server = append(broken.Server, cascade.Setting{Name: "push.privacy", Value: "some", Origin: "posthorn.yml:4"})
		var problems cascade.Problems
		if err := s.SetFiles(broken); !errors.As(err, &problems) || !strings.HasPrefix(problems[0].String(), "posthorn.yml:4: push.privacy: ") {
			t.Errorf("broken: %v", err)
		}
		if got := says(t, s, ann); got != "sender true" {
			t.Error(got)
		}
		wantField(t, s.UnsetProperty(ctx, ofServer, appName), "property")
		set(t, s, ofServer, appName, "false")
		set(t, s, tenant.Subject{Scope: cascade.ContextSet, Name: "gold"}, privacyName, "none")
		if got := says(t, s, ann); got != "none false" {
			t.Error(got)
		}
		e, err := s.Explain(ctx, appName, ann)
		if err != nil {
			t.Fatal(err)
		}
		var steps []string
		for _, step := range e.Steps {
			steps = append(steps, step.Scope.String()+" "+step.Value+" "+string(step.State)+" "+step.Origin)
		}
		const want = "user  not set ,context  not set ,reseller  not set ,contextset  not set ," +
			"server false wins set by cli 2026-11-22 12:00:00,server true passed over posthorn.yml:3,default false passed over built in"
		if got := strings.Join(steps, ","); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if all, err := s.Properties(ctx, &ofServer); err != nil || len(all) != 2 || all[0].Property != appName || all[0].Origin != "posthorn.yml:3" || all[1].SetBy != "cli" {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

// TestViewsOfTwoNodes: what one node sets, another one sees by the bus while the clock stands still.
func TestViewsOfTwoNodes(t *testing.T) {
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
		key := keyFile(t)
		s, other := openStore(t, url, key, installation), openStore(t, url, key, installation)
		for _, node := range []*tenant.Store{s, other} {
			if err := node.Join(t.Context(), b, slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
		}
		addContext(t, s, tenant.Context{})
		addHost(t, s, tenant.MailHost{Name: "dove"}, "")
		ann := addUser(t, s, 1, "ann", "dove").ID
		hears := func(want string) {
			t.Helper()
			deadline := time.After(30 * time.Second)
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			ask := func() string {
				v, err := other.View(t.Context(), ann)
				if err != nil {
					t.Fatal(err)
				}
				return cascade.PushPrivacy.Of(v)
			}
			for got := ask(); got != want; got = ask() {
				select {
				case <-tick.C:
				case <-deadline:
					t.Fatalf("the other node says %q, want %q", got, want)
				}
			}
		}
		hears("full")
		set(t, s, ofServer, privacyName, "none")
		hears("none")
		set(t, s, ofOne, privacyName, "sender")
		hears("sender")
		set(t, s, ofAnn, privacyName, "sealed")
		hears("sealed")
		unset(t, s, ofAnn, privacyName)
		hears("sender")
		unset(t, s, ofOne, privacyName)
		hears("none")
		if _, err := s.AddContextSet(t.Context(), tenant.ContextSet{Name: "x", WithTags: "gold"}); err != nil {
			t.Fatal(err)
		}
		set(t, s, tenant.Subject{Scope: cascade.ContextSet, Name: "x"}, privacyName, "full")
		if _, err := s.ChangeContext(t.Context(), 1, func(c *tenant.Context) error { c.Tags = []string{"gold"}; return nil }); err != nil {
			t.Fatal(err)
		}
		hears("full")
	})
}

// BenchmarkView holds a look-up to its budget: under 1 µs, and no allocation.
func BenchmarkView(b *testing.B) {
	keys, err := seal.ParseKeyFile(strings.Repeat("0f", seal.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	d, err := db.Open(b.Context(), "sqlite:"+filepath.Join(b.TempDir(), "bench.db"), db.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close() //nolint:errcheck // gone with its directory
	s, err := tenant.New(d, keys, installation, time.Now)
	if err != nil {
		b.Fatal(err)
	}
	u := tenant.UserID{Context: 1, ID: 1}
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		v, err := s.View(ctx, u)
		if err != nil || !cascade.CapabilityPush.Of(v) {
			b.Fatal(err)
		}
	}
}

// TestLimitOfUsers: a context takes as many users as it may have, one by one or many at once, and no more.
func TestLimitOfUsers(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		ctx := t.Context()
		addContext(t, s, tenant.Context{})
		host := tenant.MailHost{Name: "dove", IMAPHost: "localhost", IMAPPort: 143, Security: tenant.SecurityNone}
		if err := s.AddMailHost(ctx, host, ""); err != nil {
			t.Fatal(err)
		}
		user := func(login string) tenant.User {
			return tenant.User{ID: tenant.UserID{Context: 1}, Login: login, MailHost: "dove"}
		}
		set(t, s, ofOne, "contexts.max_users", "2")
		if _, err := s.AddUser(ctx, user("ann")); err != nil {
			t.Fatal(err)
		}
		done, err := s.ImportUsers(ctx, []tenant.User{user("ben"), user("ann"), user("cid")}, nil)
		if err != nil || !done[0].Added || done[1].Err != nil || done[2].Added || done[2].Err == nil {
			t.Errorf("%+v, %v", done, err)
		}
		_, err = s.AddUser(ctx, user("cid"))
		wantField(t, err, "user")
		unset(t, s, ofOne, "contexts.max_users")
		if _, err := s.AddUser(ctx, user("cid")); err != nil {
			t.Error(err)
		}
	})
}
