package server_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/certificate"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/server"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestEveryQueryOnBothEngines lives an operator's and a user's day on each engine and then holds the
// queries that ran against those that the source declares: a query that no engine has seen, or only
// one, fails here by its name.
func TestEveryQueryOnBothEngines(t *testing.T) {
	declared := declaredQueries(t)
	if len(declared) < 40 {
		t.Fatalf("found only %d queries: the test looks in the wrong place", len(declared))
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			url := sqliteURL(t)
			if engine == "postgres" {
				url = testpeer.PostgresURL(t)
			}
			var mu sync.Mutex
			ran := map[string]bool{}
			w := newWorld(t, url, "metadata")
			w.configure("push: {", "push: {coalesce: 300ms, coalesce_max: 1s, badge_delay: 600ms, ")
			w.trace = func(q string) {
				mu.Lock()
				ran[q] = true
				mu.Unlock()
			}
			w.lease = 400 * time.Millisecond
			idp := startIDP(t, "alice@rig.test")
			w.elsewhere(idp)
			w.start()
			anotherNode(t, w)
			day(t, w, idp)
			w.stop()
			const putFreeze = "INSERT INTO freezes (transport, credential, since_ms) VALUES ('apns', '0/com.example.mail', 1)"
			w.exec(putFreeze) // as a server leaves one that is stopped in the middle of it
			w.start()         // what only a start asks
			w.waitFor("the freeze is kept", func() bool { return w.exec("DELETE FROM freezes WHERE since_ms > 1") == 1 })
			w.stop()
			imported(t, w)
			mu.Lock()
			defer mu.Unlock()
			for name, query := range declared {
				if !ran[query] {
					t.Errorf("%s never ran", name)
				}
			}
		})
	}
}

// anotherNode leaves the row of a server that is dead, and waits until it is noticed.
func anotherNode(t *testing.T, w *world) {
	d, err := db.Open(t.Context(), w.databaseURL, db.Options{})
	must(t, err)
	defer func() { must(t, d.Close()) }()
	must(t, d.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO nodes (id, process, beat) VALUES ('dead', 'dead', 1)")
		return err
	}))
	w.waitFor("the dead server is forgotten", func() bool {
		var n int
		must(t, d.QueryRow(t.Context(), "SELECT COUNT(*) FROM nodes WHERE id = 'dead'").Scan(&n))
		return n == 0
	})
}

// certificates lives the day of automatic certificates: an account is kept, a lock held, the seal key changed.
func certificates(t *testing.T, w *world) {
	d, err := db.Open(t.Context(), w.databaseURL, db.Options{Trace: w.trace})
	must(t, err)
	defer func() { must(t, d.Close()) }()
	ctx := t.Context()
	for i, text := range []string{strings.Repeat("0f", seal.KeySize), strings.Repeat("1f", seal.KeySize) + "\n" + strings.Repeat("0f", seal.KeySize)} {
		keys, err := seal.ParseKeyFile(text)
		must(t, err)
		s := certificate.NewStorage(d, keys, "n1", time.Now)
		must(t, s.Lock(ctx, "issue"))
		must(t, s.RenewLockLease(ctx, "issue", time.Hour))
		if i == 0 {
			must(t, s.Store(ctx, "acme/key", []byte("canary")))
		}
		if all, err := s.List(ctx, "acme", true); err != nil || len(all) != 1 || !s.Exists(ctx, all[0]) {
			t.Errorf("%q, %v", all, err)
		}
		must(t, s.Unlock(ctx, "issue"))
		must(t, s.ForgetLocks(ctx))
		if _, m, err := s.Reseal(ctx, ""); err != nil || m.Changed != i {
			t.Errorf("resealed %+v, %v", m, err)
		}
		if i == 1 {
			must(t, s.Delete(ctx, "acme"))
		}
	}
}

// tokens keeps a token and reads it, and clears the database of it as a server with another store does at its start.
func tokens(t *testing.T, w *world) {
	d, err := db.Open(t.Context(), w.databaseURL, db.Options{Trace: w.trace})
	must(t, err)
	defer func() { must(t, d.Close()) }()
	keys, err := seal.ParseKeyFile(strings.Repeat("0f", seal.KeySize))
	must(t, err)
	tenants, err := tenant.New(d, keys, tenant.NotifyCredential{UserForm: tenant.FormLogin}, time.Now)
	must(t, err)
	must(t, tenants.AddMailHost(t.Context(), tenant.MailHost{ //nolint:gosec // G101: no credential
		Name: "tokens", IMAPHost: "mail.example.org", IMAPPort: 993, Security: tenant.SecurityTLS,
		PasswordSource: tenant.PasswordsOAuth, OAuthTokenURL: "https://login.example.org/token", OAuthClientID: "posthorn",
	}, ""))
	carol, err := tenants.AddUser(t.Context(), tenant.User{ID: tenant.UserID{Context: 1}, Login: "carol", MailHost: "tokens"})
	must(t, err)
	s := account.New(account.Config{DB: d, Keys: keys, Tenants: tenants, Log: slog.New(slog.DiscardHandler), Now: time.Now, AttemptsPerLogin: 1, AttemptsPerAddress: 1})
	must(t, s.PutToken(t.Context(), carol.ID, "refresh"))
	if can, err := s.CanDial(t.Context(), carol); !can || err != nil {
		t.Errorf("the token kept: %v", err)
	}
	s.Store = account.StoreNone
	must(t, s.ClearDatabase(t.Context()))
	must(t, tenants.RemoveUser(t.Context(), carol.ID))
	must(t, tenants.RemoveMailHost(t.Context(), "tokens"))
}

// cascades sets values at each scope, and takes them away with whom they are for.
func cascades(t *testing.T, w *world) {
	d, err := db.Open(t.Context(), w.databaseURL, db.Options{Trace: w.trace})
	must(t, err)
	defer func() { must(t, d.Close()) }()
	keys, err := seal.ParseKeyFile(strings.Repeat("0f", seal.KeySize))
	must(t, err)
	s, err := tenant.New(d, keys, tenant.NotifyCredential{UserForm: tenant.FormLogin}, time.Now)
	must(t, err)
	ctx := t.Context()
	_, err = s.AddReseller(ctx, tenant.Reseller{Name: "north"})
	must(t, err)
	_, err = s.ChangeReseller(ctx, "north", func(r *tenant.Reseller) error { r.Contact = "help@north.example"; return nil })
	must(t, err)
	c, err := s.AddContext(ctx, tenant.Context{Reseller: "north", Tags: []string{"gold"}})
	must(t, err)
	_, err = s.ChangeContext(ctx, c.ID, func(c *tenant.Context) error { c.Tags = append(c.Tags, "trial"); return nil })
	must(t, err)
	_, err = s.AddContextSet(ctx, tenant.ContextSet{Name: "gold", WithTags: "gold"})
	must(t, err)
	_, err = s.ChangeContextSet(ctx, "gold", func(c *tenant.ContextSet) error { c.Priority = 1; return nil })
	must(t, err)
	subjects := []tenant.Subject{
		{Scope: cascade.Server},
		{Scope: cascade.ContextSet, Name: "gold"},
		{Scope: cascade.Reseller, Name: "north"},
		{Scope: cascade.Context, Name: strconv.FormatInt(c.ID, 10)},
		{Scope: cascade.User, Name: "1@1"},
	}
	for _, of := range subjects {
		must(t, s.SetProperty(ctx, of, "push.max_subscriptions", "100", "cli"))
		_, err := s.Properties(ctx, &of)
		must(t, err)
	}
	e, err := s.Explain(ctx, "push.max_subscriptions", tenant.UserID{Context: 1, ID: 1})
	if err != nil || e.Winner.Scope != cascade.User {
		t.Errorf("%+v, %v", e, err)
	}
	_, err = s.Properties(ctx, nil)
	must(t, err)
	_, err = s.ContextSets(ctx)
	must(t, err)
	_, err = s.Resellers(ctx)
	must(t, err)
	var refused *tenant.RefusedError
	if err := s.Admit(ctx, tenant.UserID{Context: c.ID, ID: 1}, "posthorn-app", "mail.example.org"); !errors.As(err, &refused) || refused.Contact != "help@north.example" {
		t.Errorf("admitted: %v", err)
	}
	must(t, s.UnsetProperty(ctx, subjects[0], "push.max_subscriptions"))
	must(t, s.UnsetProperty(ctx, subjects[4], "push.max_subscriptions"))
	must(t, s.RemoveContext(ctx, c.ID))
	must(t, s.RemoveContextSet(ctx, "gold"))
	must(t, s.RemoveReseller(ctx, "north"))
	_, err = s.ReportUpgrade(ctx)
	must(t, err)
}

// providers adds one with secrets, changes it, seals it anew and removes it.
func providers(t *testing.T, w *world) {
	d, err := db.Open(t.Context(), w.databaseURL, db.Options{Trace: w.trace})
	must(t, err)
	defer func() { must(t, d.Close()) }()
	open := func(key string) *tenant.Store {
		keys, err := seal.ParseKeyFile(key)
		must(t, err)
		s, err := tenant.New(d, keys, tenant.NotifyCredential{UserForm: tenant.FormLogin}, time.Now)
		must(t, err)
		return s
	}
	text, err := os.ReadFile(filepath.Join(w.stateDir, server.SealKeyFile))
	must(t, err)
	other := strings.Repeat("0f", seal.KeySize)
	s := open(string(text))
	w.exec("INSERT INTO resellers (name, title, contact, created_ms) VALUES ('north', 'North', '', 1)")
	_, err = s.AddProvider(t.Context(), tenant.Provider{
		Name: "blue", Title: "Blue", Colour: "#1c6ea4", Reseller: "north", SignIn: tenant.SignInOIDC,
		OIDC: tenant.OIDC{Issuer: "https://login.example.org", ClientID: "posthorn", ClientSecret: "secret"},
	}, true)
	must(t, err)
	_, err = s.ChangeProvider(t.Context(), "blue", true, func(p *tenant.Provider) error { p.Title = "Blau"; return nil })
	must(t, err)
	if _, err = s.ProviderLogo(t.Context(), "blue"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("a logo: %v", err)
	}
	_, err = s.Directory(t.Context())
	must(t, err)
	n, err := open(other + "\n" + string(text)).Reseal(t.Context())
	if err != nil || n == 0 {
		t.Errorf("sealed %d anew: %v", n, err)
	}
	_, err = open(string(text) + "\n" + other).Reseal(t.Context())
	must(t, err)
	must(t, s.RemoveProvider(t.Context(), "blue"))
	w.exec("DELETE FROM resellers")
}

// rotated seals everything with another key, and again with that of the running server.
func rotated(t *testing.T, w *world) {
	d, err := db.Open(t.Context(), w.databaseURL, db.Options{Trace: w.trace})
	must(t, err)
	defer func() { must(t, d.Close()) }()
	text, err := os.ReadFile(filepath.Join(w.stateDir, server.SealKeyFile))
	must(t, err)
	first, err := seal.ParseKeyFile(string(text))
	must(t, err)
	second, err := seal.ParseKeyFile(strings.Repeat("0f", seal.KeySize))
	must(t, err)
	old := account.New(account.Config{DB: d, Keys: first, Log: slog.New(slog.DiscardHandler), Now: time.Now, AttemptsPerLogin: 1, AttemptsPerAddress: 1})
	must(t, old.PutToken(t.Context(), tenant.UserID{Context: 1, ID: 1}, "refresh"))
	for _, keys := range []*seal.Keyring{seal.Join(second, first), seal.Join(first, second)} {
		s := account.New(account.Config{DB: d, Keys: keys, Log: slog.New(slog.DiscardHandler), Now: time.Now, AttemptsPerLogin: 1, AttemptsPerAddress: 1})
		subs := subscription.New(d, keys, nil, time.Now)
		for name, reseal := range map[string]func(context.Context, string) (string, seal.Moved, error){
			"subscriptions": subs.Reseal, "passwords": s.ResealPasswords, "tokens": s.ResealTokens,
		} {
			var all seal.Moved
			for after := ""; ; {
				next, m, err := reseal(t.Context(), after)
				must(t, err)
				if all.Add(m); next == "" {
					break
				}
				after = next
			}
			if all.Seen == 0 || all.Changed != all.Seen || len(all.Lost) > 0 {
				t.Errorf("%s: %+v", name, all)
			}
		}
		must(t, s.ResealCheck(t.Context()))
		must(t, s.CheckKey(t.Context()))
	}
	w.rotate(0)
}

// day uses everything that the API and the admin socket offer, until nothing is left.
func day(t *testing.T, w *world, elsewhere *idp) {
	const alice, bob, password = "alice@rig.test", "bob@rig.test", "secret"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{
		Users: map[string]string{alice: password, bob: password}, NotifyURL: w.notifyURL(),
	})
	// deliver puts a mail there, and tells of it as the mail server of the time before a restart would.
	deliver := func(login, user string, uid int) {
		t.Helper()
		d.Save(t, login, event.Inbox, mail("mail", "text"))
		_, w.validity, _ = strings.Cut(strings.TrimSpace(d.Doveadm(t, "mailbox", "status", "-u", login, "uidvalidity", event.Inbox)), "=")
		if got := w.notify(user, uid); got != "queued" && got != "duplicate" { // or a look was faster
			t.Fatalf("notify: %s", got)
		}
	}
	w.provision(d, api.MailHost{}, alice)
	tokens(t, w)
	certificates(t, w)
	providers(t, w)
	admin := func(method, path string, in, out any) {
		t.Helper()
		must(t, w.admin.Do(t.Context(), method, path, nil, in, out))
	}
	admin("POST", "/admin/v1/contexts", api.Context{Name: "two"}, nil)
	cascades(t, w)
	admin("POST", "/admin/v1/mailhosts", api.MailHost{Name: "other", IMAP: "mail.example.org", NotifyLogin: "other", Contexts: []int64{1}}, nil)
	admin("PATCH", "/admin/v1/mailhosts/other", map[string]any{"source": "idle"}, nil)
	admin("POST", "/admin/v1/users", api.User{User: "7@2", Login: bob, MailHost: "dove"}, nil)
	for path, misspelt := range map[string]any{"users": api.User{User: "8@2", Login: bob, MailHost: "dov"}, "contexts": api.Context{Name: "three", Reseller: "nobody"}} {
		if err := w.admin.Do(t.Context(), "POST", "/admin/v1/"+path, nil, misspelt, nil); err == nil || !strings.Contains(err.Error(), "there is no") {
			t.Errorf("%s: %v", path, err)
		}
	}
	first := w.signIn(alice, password, "phone")
	second := w.signIn(alice, password, "tablet")
	bobs := w.signIn(bob, password, "phone") // the same phone, with the same secret
	p, tablet, watch := w.webpushPhone(), w.apnsPhone(), w.fcmPhone()
	sub := w.subscribe(first, p.transport, p.token, "registered")
	w.subscribe(bobs, p.transport, p.token, "registered")
	tabletSub := w.subscribe(second, tablet.transport, tablet.token, "registered")
	xcode := w.apnsPhoneAt(w.sandbox)
	w.subscribe(second, xcode.transport, xcode.token, "registered")
	soon := time.Now().Add(time.Second)
	w.call("POST", "/api/v1/subscriptions", second, map[string]any{
		"transport": "fcm", "topics": []string{"mail:new:Lists"}, "token": watch.token, "expires": soon.UnixMilli(),
	}, 201)

	key := w.adminKey(api.Key{Role: api.RoleOperator})
	w.call("GET", "/api/v1/admin/keys", key.Key, nil, 200)
	admin("DELETE", "/admin/v1/keys/"+key.ID, nil, nil)
	var report api.ImportReport
	must(t, w.admin.Send(t.Context(), "POST", "/admin/v1/users/import", nil, "text/csv", strings.NewReader("context,user,login,mailhost\n2,55,imported@rig.test,dove\n"), &report))
	if report.Added != 1 {
		t.Errorf("import: %+v", report)
	}
	admin("DELETE", "/admin/v1/users/55@2", nil, nil)
	admin("POST", "/admin/v1/resellers", api.Reseller{Name: "portal"}, nil)
	w.call("GET", "/api/v1/admin/contexts", w.adminKey(api.Key{Role: api.RoleReseller, Reseller: "portal"}).Key, nil, 200)
	admin("DELETE", "/admin/v1/resellers/portal", nil, nil)
	rotated(t, w)
	admin("GET", "/admin/v1/push/trace/"+sub, nil, nil) // of a device that got nothing yet
	for uid := 1; uid <= 2; uid++ {
		deliver(alice, "1@1", uid)
		w.receive(p)
		w.receive(tablet)
		w.receive(xcode)
	}
	admin("POST", "/admin/v1/reload", nil, nil)
	w.notifyAs("other", "a password that is wrong", 401)
	deliver(bob, "7@2", 1)
	w.receive(p)
	for _, list := range []string{"contexts", "mailhosts", "users", "push/users", "push/devices", "push/devices?user=1@1"} {
		path, query, _ := strings.Cut(list, "?")
		var got api.List[map[string]any]
		must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/"+path, queryOf(query), nil, &got))
		if len(got.Items) == 0 {
			t.Errorf("%s is empty", list)
		}
	}
	var trace api.List[api.PushOutcome]
	w.waitFor("both outcomes in the trace", func() bool {
		admin("GET", "/admin/v1/push/trace/"+sub, nil, &trace)
		return len(trace.Items) == 2
	})
	var tested api.List[api.PushTestResult]
	admin("POST", "/admin/v1/push/test", api.PushTest{User: "1@1"}, &tested)
	for _, r := range tested.Items {
		if r.Outcome != "delivered" {
			t.Errorf("test push: %+v", r)
		}
	}

	w.stop()
	w.start() // what memory held is read again

	// What is read elsewhere is taken back, where something newer does not take its place anyhow.
	w.call("PATCH", "/api/v1/subscriptions/"+sub, first, map[string]any{"policy": map[string]any{"vips": []string{"boss@example.org"}}}, 200)
	told := func(uid string) { // test notifications come before it
		t.Helper()
		for _, device := range []phone{p, tablet} {
			for w.receive(device).UID != uid {
				continue
			}
		}
	}
	deliver(alice, "1@1", 3)
	told("3")
	w.waitFor("it is known as shown", func() bool {
		admin("GET", "/admin/v1/push/trace/"+sub, nil, &trace)
		return len(trace.Items) == 3
	})
	deliver(alice, "1@1", 4)
	w.tell("1@1", "MessageRead", w.validity, "3", "")
	told("4")
	w.tell("1@1", "MessageRead", w.validity, "4", `,"unseen":0`)
	w.wants(tablet, "read", payload{"topic": "mail:clear", "uid": "4"})
	w.waitFor("the browser needs nothing", func() bool {
		return strings.Contains(w.metrics(), `posthorn_push_skipped_total{reason="updates_not_wanted"}`)
	})
	w.waitFor("the tablet knows the count", func() bool {
		return strings.Contains(w.metrics(), `posthorn_push_skipped_total{reason="count_already_sent"}`)
	})

	// A provider's "gone" removes the tablet and nothing else.
	w.apns.Unregister(tablet.target, time.Now().Add(time.Minute))
	deliver(alice, "1@1", 5)
	w.waitFor("tablet gone", func() bool {
		status, _ := w.try("GET", "/api/v1/subscriptions/"+tabletSub, first, nil)
		return status == 404
	})
	w.forgetUse()
	w.call("GET", "/api/v1/sessions", first, nil, 200)
	var signIns api.AuditPage
	must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/audit", queryOf("user=1@1"), nil, &signIns))
	if len(signIns.Items) != 3 || signIns.Items[2].Act != "addUser" || signIns.Items[0].Actor != "user 1@1" || signIns.Items[0].Act != "sign_in" {
		t.Errorf("the audit log: %+v", signIns)
	}
	rotate := func(token string) string {
		t.Helper()
		return w.call("POST", "/api/v1/sessions/current/rotate", token, nil, 200)["token"].(string)
	}
	w.blue(elsewhere)
	third := w.signInElsewhere("watch")
	must(t, w.admin.Do(t.Context(), "DELETE", "/admin/v1/properties", queryOf("scope=context&subject=1&property=provider"), nil, nil))
	admin("DELETE", "/admin/v1/providers/blue", nil, nil)
	rotate(third)
	w.exec("UPDATE sessions SET rotated_ms = rotated_ms - 10000 WHERE rotated_ms > 0")
	third = rotate(third) // the answer was lost
	w.call("GET", "/api/v1/devices", third, nil, 200)
	w.call("DELETE", "/api/v1/devices/current", third, nil, 204)
	w.call("DELETE", "/api/v1/sessions/current", second, nil, 204)
	w.call("GET", "/api/v1/sessions", second, nil, 401)
	w.call("DELETE", "/api/v1/sessions/current", bobs, nil, 204)
	w.call("DELETE", "/api/v1/subscriptions/"+sub, first, nil, 204)
	w.call("DELETE", "/api/v1/sessions", first, nil, 204)

	admin("DELETE", "/admin/v1/users/1@1", nil, nil)
	admin("DELETE", "/admin/v1/users/7@2", nil, nil)
	admin("DELETE", "/admin/v1/mailhosts/dove", nil, nil)
	admin("DELETE", "/admin/v1/contexts/2", nil, nil)
}

// notifyAs tries a notify credential.
func (w *world) notifyAs(login, password string, wantStatus int) {
	w.tb.Helper()
	req, err := http.NewRequestWithContext(w.tb.Context(), http.MethodPut, w.internal+"/preliminary/http-notify/v1/notify", strings.NewReader("{}"))
	must(w.tb, err)
	req.SetBasicAuth(login, password)
	res, err := http.DefaultClient.Do(req)
	must(w.tb, err)
	must(w.tb, res.Body.Close())
	if res.StatusCode != wantStatus {
		w.tb.Errorf("notify as %s: status %d, want %d", login, res.StatusCode, wantStatus)
	}
}

// forgetUse makes every session look unused for long, as if time had passed.
func (w *world) forgetUse() { w.exec("UPDATE sessions SET last_used_ms = 1") }

// exec changes the database behind the server's back, and returns how many rows.
func (w *world) exec(query string) (n int64) {
	w.tb.Helper()
	d, err := db.Open(w.tb.Context(), w.databaseURL, db.Options{})
	must(w.tb, err)
	must(w.tb, d.Write(w.tb.Context(), func(ctx context.Context, tx *db.Tx) (err error) {
		n, err = tx.Exec(ctx, query)
		return err
	}))
	must(w.tb, d.Close())
	return n
}

func queryOf(s string) map[string][]string {
	q, _ := url.ParseQuery(s)
	return q
}

// declaredQueries reads the constants named sql… of every package, folding their concatenations.
func declaredQueries(t *testing.T) map[string]string {
	t.Helper()
	queries := map[string]string{}
	err := filepath.WalkDir("..", func(dir string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return err
		}
		consts := map[string]ast.Expr{}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				return err
			}
			for _, decl := range f.Decls {
				g, ok := decl.(*ast.GenDecl)
				if !ok || g.Tok != token.CONST {
					continue
				}
				for _, spec := range g.Specs {
					v := spec.(*ast.ValueSpec)
					for i, id := range v.Names {
						if i < len(v.Values) {
							consts[id.Name] = v.Values[i]
						}
					}
				}
			}
		}
		for name, expr := range consts {
			if !strings.HasPrefix(name, "sql") {
				continue
			}
			query, err := fold(expr, consts)
			if err != nil {
				return fmt.Errorf("%s in %s: %w", name, dir, err)
			}
			queries[filepath.Base(dir)+"."+name] = query
		}
		return nil
	})
	must(t, err)
	return queries
}

func fold(expr ast.Expr, consts map[string]ast.Expr) (string, error) {
	switch e := expr.(type) {
	case *ast.BasicLit:
		return strconv.Unquote(e.Value)
	case *ast.Ident:
		if next, ok := consts[e.Name]; ok {
			return fold(next, consts)
		}
	case *ast.BinaryExpr:
		x, err := fold(e.X, consts)
		if err != nil {
			return "", err
		}
		y, err := fold(e.Y, consts)
		return x + y, err
	}
	return "", fmt.Errorf("cannot fold %T", expr)
}

// TestQueriesAreConstants fails on SQL that is not declared as a sql… constant, which the test above
// could not know of.
func TestQueriesAreConstants(t *testing.T) {
	calls := []string{"Exec", "Query", "QueryRow"}
	err := filepath.WalkDir("..", func(name string, e fs.DirEntry, err error) error {
		// db is where ? and $n, BEGIN and locks are at home; testpeer makes databases, and bench seeds one.
		exempt := slices.ContainsFunc([]string{"/db/", "/testpeer/", "/bench/"}, func(dir string) bool { return strings.Contains(name, dir) })
		if err != nil || e.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || exempt {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains(calls, sel.Sel.Name) {
				return true
			}
			id, ok := call.Args[1].(*ast.Ident)
			if !ok || !strings.HasPrefix(id.Name, "sql") && id.Name != "query" {
				t.Errorf("%s: the query is not a constant named sql…", fset.Position(call.Pos()))
			}
			return true
		})
		return nil
	})
	must(t, err)
}
