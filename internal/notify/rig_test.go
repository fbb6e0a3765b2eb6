package notify

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func onEachEngine(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { f(t, sqliteURL(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, testpeer.PostgresURL(t)) })
}

func sqliteURL(tb testing.TB) string { return "sqlite:" + filepath.Join(tb.TempDir(), "posthorn.db") }

// The users of a rig, each with a device for new mail of the INBOX. Their mail hosts:
//
//	shared   no credential of its own, so the installation's speaks for it; logins
//	dove     its own credential; logins
//	meta     its own credential; metadata, keyed aliases
//	bare     its own credential; metadata, plain ids; only context 2
//	near     its own credential, from 192.0.2.0/24 only
const (
	sharedUser = "ann@rig.test"   // 1@1
	doveUser   = "bob@rig.test"   // 2@1
	metaUser   = "carol@rig.test" // 3@1
	metaOther  = "dave@rig.test"  // 4@1
	bareUser   = "erin@rig.test"  // 1@2
	bareHidden = "frank@rig.test" // 5@1, on "bare", of a context that "bare" may not speak for
	nearUser   = "grace@rig.test" // 6@1

	// secret is the password of every credential; the logins are the hosts' names, or "posthorn".
	secret = "correct horse battery staple"
)

// rig is a handler on a real database.
type rig struct {
	tb      testing.TB
	db      *db.DB
	tenants *tenant.Store
	metrics *prometheus.Registry
	*Handler
}

func newRig(tb testing.TB, url string) *rig {
	tb.Helper()
	ctx := tb.Context()
	file, err := seal.NewKeyFile()
	must(tb, err)
	keys, err := seal.ParseKeyFile(file)
	must(tb, err)
	r := &rig{tb: tb, metrics: prometheus.NewRegistry()}
	r.db, err = db.Open(ctx, url, db.Options{})
	must(tb, err)
	tb.Cleanup(func() { must(tb, r.db.Close()) })
	r.tenants, err = tenant.New(r.db, keys, tenant.NotifyCredential{
		Login: "posthorn", Hash: tenant.HashPassword(secret), UserForm: tenant.FormLogin,
	}, time.Now)
	must(tb, err)
	for range 2 {
		_, err = r.tenants.AddContext(ctx, tenant.Context{})
		must(tb, err)
	}
	for _, h := range []tenant.MailHost{
		{Name: "shared", UserForm: tenant.FormLogin},
		{Name: "dove", NotifyLogin: "dove", UserForm: tenant.FormLogin},
		{Name: "meta", NotifyLogin: "meta", UserForm: tenant.FormMetadata, KeyedAlias: true},
		{Name: "bare", NotifyLogin: "bare", UserForm: tenant.FormMetadata, Contexts: []int64{2}},
		{Name: "near", NotifyLogin: "near", UserForm: tenant.FormLogin, AllowFrom: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fe80::/10"),
		}},
	} {
		h.IMAPHost, h.IMAPPort, h.Security = "mail.example.org", 993, tenant.SecurityTLS
		password := ""
		if h.NotifyLogin != "" {
			password = secret
		}
		must(tb, r.tenants.AddMailHost(ctx, h, password))
	}
	subs := subscription.New(r.db, keys, r.tenants.View, time.Now)
	for _, u := range []struct {
		login, host string
		context     int64
	}{
		{sharedUser, "shared", 1},
		{doveUser, "dove", 1},
		{metaUser, "meta", 1},
		{metaOther, "meta", 1},
		{bareHidden, "bare", 1},
		{nearUser, "near", 1},
		{bareUser, "bare", 2},
	} {
		added, err := r.tenants.AddUser(ctx, tenant.User{ID: tenant.UserID{Context: u.context}, Login: u.login, MailHost: u.host})
		must(tb, err)
		_, err = subs.Subscribe(ctx, account.Session{User: added.ID, Device: u.login}, subscription.Request{
			Client: "app", Topics: []string{subscription.TopicNewMail},
			Token: subscription.Token{Transport: "apns", Identity: u.login, Body: []byte("t"), Target: "o"},
		})
		must(tb, err)
	}
	log := slog.New(slog.DiscardHandler)
	service, err := push.New(push.Config{
		DB: r.db, Subscriptions: subs, Log: log, Metrics: prometheus.NewRegistry(), Now: time.Now, NewMailTTL: time.Hour, MaxInFlight: 1, Node: "node", Lease: time.Minute,
	})
	must(tb, err)
	r.Handler, err = New(r.tenants, dispatch.New(r.db, subs, service, time.Now), log, r.metrics, time.Now)
	must(tb, err)
	return r
}

// put notifies as a mail host and returns the answer.
func (r *rig) put(login, contentType, body string) *httptest.ResponseRecorder {
	r.tb.Helper()
	req := httptest.NewRequestWithContext(r.tb.Context(), http.MethodPut, Path, strings.NewReader(body))
	if login != "" {
		req.SetBasicAuth(login, secret)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w
}

// reply is either kind of answer.
type reply struct {
	status  int
	answer  answer
	problem problem.Problem
}

func (r *rig) read(status int, h http.Header, body io.Reader) reply {
	r.tb.Helper()
	raw, err := io.ReadAll(body)
	must(r.tb, err)
	out := reply{status: status}
	media, into := "application/json", any(&out.answer)
	if status != http.StatusOK {
		media, into = problem.MediaType, any(&out.problem)
	}
	if got := h.Get("Content-Type"); got != media {
		r.tb.Errorf("status %d with Content-Type %q, want %q", status, got, media)
	}
	must(r.tb, json.Unmarshal(raw, into))
	if status != http.StatusOK && (out.problem.Status != status || out.problem.Title != http.StatusText(status) || out.problem.Detail == "") {
		r.tb.Errorf("status %d with the problem %s", status, raw)
	}
	return out
}

func (r *rig) notify(login, contentType, body string) reply {
	r.tb.Helper()
	w := r.put(login, contentType, body)
	return r.read(w.Code, w.Result().Header, w.Body)
}

func (r *rig) expect(got reply, status int, result, reason string) {
	r.tb.Helper()
	gotReason := got.answer.Reason
	if status != http.StatusOK {
		gotReason = got.problem.Reason
	}
	if got.status != status || got.answer.Result != result || gotReason != reason || got.answer.Success != (status == http.StatusOK) {
		r.tb.Errorf("answer %+v, want %d %s %s", got, status, result, reason)
	}
}

// slots lists what is queued, by login.
func (r *rig) slots() map[string]push.Input {
	r.tb.Helper()
	rows, err := r.db.Query(r.tb.Context(), `SELECT u.login, s.input FROM slots s JOIN subscriptions b ON b.id = s.subscription_id
		JOIN users u ON u.context_id = b.context_id AND u.id = b.user_id`)
	must(r.tb, err)
	defer rows.Close()
	all := map[string]push.Input{}
	for rows.Next() {
		var login, raw string
		var in push.Input
		must(r.tb, rows.Scan(&login, &raw))
		must(r.tb, json.Unmarshal([]byte(raw), &in))
		all[login] = in
	}
	must(r.tb, rows.Err())
	return all
}

// exchange sends bytes on a connection and reads one answer.
func (r *rig) exchange(conn io.Writer, answers *bufio.Reader, request string) reply {
	r.tb.Helper()
	_, err := io.WriteString(conn, request)
	must(r.tb, err)
	res, err := http.ReadResponse(answers, nil)
	must(r.tb, err)
	defer res.Body.Close()
	if res.Close {
		r.tb.Error("the connection is not kept alive")
	}
	return r.read(res.StatusCode, res.Header, res.Body)
}
