package account

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// mustDial signs in and says good-bye.
func (s *Service) mustDial(t *testing.T, u tenant.User) {
	t.Helper()
	c, err := s.Dial(t.Context(), u)
	if err != nil {
		t.Errorf("%s (%s)", err, Reason(err))
		return
	}
	if err := c.Logout(t.Context()); err != nil {
		t.Error(err)
	}
}

// mustFail dials in vain.
func (s *Service) mustFail(t *testing.T, u tenant.User, want error, reason string) {
	t.Helper()
	c, err := s.Dial(t.Context(), u)
	if c != nil || !errors.Is(err, want) || errors.Is(err, ErrBadLogin) != (want == ErrBadLogin) || !strings.Contains(Reason(err), reason) { //nolint:errorlint // which one is expected
		t.Errorf("%v (%s), want %v (%s)", err, Reason(err), want, reason)
	}
}

func (s *Service) changeHost(t *testing.T, name string, change func(*tenant.MailHost)) {
	t.Helper()
	_, err := s.Tenants.ChangeMailHost(t.Context(), name, func(h *tenant.MailHost) (string, error) {
		change(h)
		return "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A master user needs nothing of the users.
func TestMasterUser(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{
		Users: map[string]string{"alice": secret, "bob": secret}, Master: "root", MasterPassword: "mäster", Extra: noDelay,
	})
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newService(t, url, nil)
		h := host("dove", d)
		h.PasswordSource, h.MasterLogin, h.MasterPassword = tenant.PasswordsGlobal, "root", "mäster"
		addHost(t, s, h)
		alice, ghost := addUser(t, s, "alice", "dove"), addUser(t, s, "ghost", "dove")
		if can, err := s.CanDial(t.Context(), alice); !can || err != nil {
			t.Errorf("%v, %v", can, err)
		}
		s.mustDial(t, alice)
		if _, _, err := s.SignIn(t.Context(), request("alice", secret)); err != nil {
			t.Fatal(err)
		}
		if n := count(t, s, "SELECT COUNT(*) FROM credentials"); n != 0 {
			t.Errorf("%d passwords are kept for nothing", n)
		}
		s.mustFail(t, ghost, ErrMailServer, "") // whom Dovecot does not know
		// A changed mail host is heeded at once; who is at fault is the operator, not the user.
		change := func(password string) {
			t.Helper()
			s.changeHost(t, "dove", func(h *tenant.MailHost) { h.MasterPassword = tenant.Secret(password) })
		}
		change("wrong")
		s.mustFail(t, alice, ErrMailServer, "rejects the master user")
		change("mäster")
		s.mustDial(t, alice)
	})
}

// tokenServer is a token server (RFC 6749) and the introspection endpoint (RFC 7662) that Dovecot asks.
type tokenServer struct {
	*httptest.Server
	mu       sync.Mutex
	refresh  string // the good refresh token
	access   string // the good access token
	rotate   bool   // each refresh token is good once
	basic    bool   // the client shows its secret in the header
	answer   func(http.ResponseWriter) bool
	requests []string // of refreshes
	given    int
}

func startTokenServer(t *testing.T, serve func(http.Handler) *httptest.Server) *tokenServer {
	t.Helper()
	ts := &tokenServer{refresh: "refresh-1"}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		_ = r.ParseForm()
		ts.requests = append(ts.requests, r.PostForm.Encode())
		w.Header().Set("Content-Type", "application/json")
		switch {
		case ts.answer != nil && ts.answer(w):
		case ts.secretOf(r) != "s€cret":
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error": "invalid_client", "error_description": "`+r.PostForm.Get("client_secret")+`"}`) //nolint:gosec // G705: a fake
		case r.PostForm.Get("refresh_token") != ts.refresh:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error": "invalid_grant", "error_description": "`+r.PostForm.Get("refresh_token")+`"}`) //nolint:gosec // G705: a fake
		default:
			ts.given++
			ts.access = fmt.Sprint("access-", ts.given)
			next := ""
			if ts.rotate {
				ts.refresh = fmt.Sprint("refresh-", ts.given+1)
				next = `, "refresh_token": "` + ts.refresh + `"`
			}
			_, _ = fmt.Fprintf(w, `{"access_token": %q, "token_type": "Bearer", "expires_in": 3600%s}`, ts.access, next)
		}
	})
	mux.HandleFunc("/introspect", func(w http.ResponseWriter, r *http.Request) {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		_ = r.ParseForm()
		good := strings.HasPrefix(r.Header.Get("Authorization"), "Bearer "+ts.access) || r.Form.Get("token") == ts.access
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"active": %t, "username": "alice"}`, good && ts.access != "")
	})
	ts.Server = serve(mux)
	t.Cleanup(ts.Close)
	return ts
}

// secretOf is the client's secret of a request, at the one place where the server takes it. mu is held.
func (ts *tokenServer) secretOf(r *http.Request) string {
	if !ts.basic {
		return r.PostForm.Get("client_secret")
	}
	_, raw, _ := r.BasicAuth()
	secret, _ := url.QueryUnescape(raw)
	return secret
}

// set changes the server.
func (ts *tokenServer) set(change func()) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	change()
}

func (ts *tokenServer) asked() int {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return len(ts.requests)
}

func (ts *tokenServer) mailHost(h tenant.MailHost) tenant.MailHost {
	h.PasswordSource, h.OAuthTokenURL = tenant.PasswordsOAuth, ts.URL+"/token"
	h.OAuthClientID, h.OAuthClientSecret, h.OAuthScope = "posthorn", "s€cret", "mail offline_access"
	return h
}

// TestTokens signs in at a real Dovecot with access tokens that a token server gives and Dovecot has it check.
func TestTokens(t *testing.T) {
	t.Parallel()
	ts := startTokenServer(t, httptest.NewServer)
	conf := filepath.Join(t.TempDir(), "oauth2.conf")
	if err := os.WriteFile(conf, []byte("introspection_mode = auth\nintrospection_url = "+ts.URL+
		"/introspect\nusername_attribute = username\nactive_attribute = active\nactive_value = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{"alice": secret}, Extra: noDelay +
		"auth_mechanisms = plain login xoauth2 oauthbearer\npassdb {\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  args = " + conf + "\n}\n"})
	s := newService(t, testpeer.SQLiteURL(t), nil)
	addHost(t, s, ts.mailHost(host("dove", d)))
	alice := addUser(t, s, "alice", "dove")
	s.mustHaveNone(t, alice)
	if err := s.PutToken(t.Context(), alice.ID, "refresh-1"); err != nil {
		t.Fatal(err)
	}
	if can, err := s.CanDial(t.Context(), alice); !can || err != nil {
		t.Errorf("%v, %v", can, err)
	}
	before := ts.asked()
	s.mustDial(t, alice)
	s.mustDial(t, alice)
	if n := ts.asked() - before; n != 1 {
		t.Errorf("%d requests for two logins", n)
	}
	// One that was revoked early is replaced, once.
	ts.set(func() { ts.access = "" })
	s.mustDial(t, alice)
	if n := ts.asked() - before; n != 2 {
		t.Errorf("%d requests", n)
	}
	// One that is refused although it is new is a verdict.
	ts.set(func() {
		ts.access = ""
		ts.answer = func(w http.ResponseWriter) bool {
			_, _ = io.WriteString(w, `{"access_token": "of-somebody-else", "token_type": "Bearer"}`)
			return true
		}
	})
	s.mustFail(t, alice, ErrBadLogin, "must sign in again")
}

// talkative takes any token, and no master user.
func talkative(t *testing.T) tenant.MailHost {
	t.Helper()
	return scripted(t, map[string]string{
		"greeting": "* OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2 SASL-IR] hello\r\n", "AUTHENTICATE": "%s OK [CAPABILITY IMAP4rev1] in\r\n", "LOGOUT": "%s OK bye\r\n",
	})
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	inStore(t, func(t *testing.T, s *Service, _ tenant.User) {
		ts := startTokenServer(t, httptest.NewTLSServer)
		ts.rotate = true
		h := ts.mailHost(talkative(t))
		h.Name, h.CA = "tokens", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ts.Certificate().Raw}))
		addHost(t, s, h)
		alice := addUser(t, s, "alice", "tokens")
		if err := s.PutToken(t.Context(), alice.ID, "refresh-1"); err != nil {
			t.Fatal(err)
		}
		kept := func(want Password) {
			t.Helper()
			if got, err := s.secret(t.Context(), tokens, alice.ID); got != want || err != nil {
				t.Errorf("kept is %q, %v", string(got), err)
			}
		}
		var all sync.WaitGroup
		for range 8 { // at once, and one asks
			all.Go(func() { s.mustDial(t, alice) })
		}
		all.Wait()
		kept("refresh-2")
		if got := strings.Join(ts.requests, "\n"); got != "client_id=posthorn&client_secret=s%E2%82%ACcret&grant_type=refresh_token&refresh_token=refresh-1&scope=mail+offline_access" {
			t.Errorf("asked: %s", got)
		}

		// Its end is heeded, with a minute to spare.
		now := time.Now()
		s.Now = func() time.Time { return now.Add(58 * time.Minute) }
		s.mustDial(t, alice)
		if ts.asked() != 1 {
			t.Error("asked too early")
		}
		s.Now = func() time.Time { return now.Add(59*time.Minute + time.Second) }
		s.mustDial(t, alice)
		kept("refresh-3")
		if ts.asked() != 2 {
			t.Error("did not ask")
		}

		s.Now = func() time.Time { return now.Add(24 * time.Hour) }
		for _, tc := range []struct {
			status       int
			body, reason string
			want         error
		}{
			{500, `{"error": "invalid_grant"}`, "token server gives no", ErrMailServer},
			{503, `busy`, "token server gives no", ErrMailServer},
			{429, `{}`, "token server gives no", ErrMailServer},
			{404, `not here`, "token server gives no", ErrMailServer},
			{302, ``, "token server gives no", ErrMailServer},
			{200, `{`, "token server gives no", ErrMailServer},
			{200, `{"token_type": "Bearer"}`, "token server gives no", ErrMailServer},
			{200, `{"access_token": "two words", "token_type": "Bearer"}`, "token server gives no", ErrMailServer},
			{200, strings.Repeat("x", 2<<20), "token server gives no", ErrMailServer},
			{401, `{"error": "invalid_client"}`, "rejects Posthorn's client", ErrMailServer},
			{400, `{"error": "invalid_scope"}`, "rejects Posthorn's client", ErrMailServer},
			{400, `{"error": "invalid_grant"}`, "must sign in again", ErrBadLogin},
			{401, `{"error": "invalid_grant"}`, "must sign in again", ErrBadLogin},
			{400, `{"error": "interaction_required"}`, "must sign in again", ErrBadLogin}, // as Microsoft says when a second factor was switched on
			{400, `{"error": "consent_required"}`, "must sign in again", ErrBadLogin},
			{400, `{"error": "temporarily_unavailable"}`, "token server gives no", ErrMailServer},
		} {
			ts.set(func() {
				ts.answer = func(w http.ResponseWriter) bool {
					w.Header().Set("Location", ts.URL+"/token")
					w.WriteHeader(tc.status)
					_, _ = io.WriteString(w, tc.body)
					return true
				}
			})
			s.mustFail(t, alice, tc.want, tc.reason)
		}
		ts.set(func() { ts.answer = nil })
		s.mustDial(t, alice) // whatever went wrong, the token was kept
		kept("refresh-4")

		// Nothing of what is secret gets into an error.
		ts.set(func() { ts.refresh = "another" })
		s.Now = func() time.Time { return now.Add(48 * time.Hour) }
		if _, err := s.Dial(t.Context(), alice); !errors.Is(err, ErrBadLogin) || strings.Contains(err.Error(), "refresh-4") {
			t.Errorf("%v", err)
		}
		s.changeHost(t, "tokens", func(h *tenant.MailHost) { h.OAuthClientSecret = "wr0ng" })
		if _, err := s.Dial(t.Context(), alice); !errors.Is(err, errTokenClient) || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%v", err)
		}
		// A new sign-in at the token server.
		s.changeHost(t, "tokens", func(h *tenant.MailHost) { h.OAuthClientSecret = "s€cret" })
		if err := s.PutToken(t.Context(), alice.ID, "another"); err != nil {
			t.Fatal(err)
		}
		s.mustDial(t, alice)
		ts.CloseClientConnections()
		if err := s.ForgetCredential(t.Context(), alice.ID); err != nil {
			t.Fatal(err)
		}
		s.mustHaveNone(t, alice)
	}, StoreMemory, StoreDatabase, StoreNone)
}

// A server may take the client's secret in the header only, as RFC 6749 section 2.3.1 has it.
func TestClientSecretInHeader(t *testing.T) {
	t.Parallel()
	ts := startTokenServer(t, httptest.NewServer)
	ts.rotate, ts.basic = true, true
	s := newService(t, testpeer.SQLiteURL(t), nil)
	addHost(t, s, ts.mailHost(talkative(t)))
	alice := addUser(t, s, "alice", "dove")
	must(t, s.PutToken(t.Context(), alice.ID, "refresh-1"))
	now := time.Now()
	for i, want := range []int{2, 3, 4} { // what it takes is remembered
		s.Now = func() time.Time { return now.Add(time.Duration(i) * 2 * time.Hour) }
		s.mustDial(t, alice)
		if n := ts.asked(); n != want {
			t.Errorf("%d requests, want %d", n, want)
		}
	}
	s.changeHost(t, "dove", func(h *tenant.MailHost) { h.OAuthClientSecret = "wr0ng" })
	s.Now = func() time.Time { return now.Add(24 * time.Hour) }
	s.mustFail(t, alice, errTokenClient, "rejects Posthorn's client")
}

// What comes between a refresh and its answer is not undone by it, and a token that another node has spent is no verdict.
func TestRefreshRaces(t *testing.T) {
	t.Parallel()
	ts := startTokenServer(t, httptest.NewServer)
	ts.rotate = true
	s := newService(t, testpeer.SQLiteURL(t), nil)
	addHost(t, s, ts.mailHost(talkative(t)))
	alice := addUser(t, s, "alice", "dove")
	other := New(s.Config)
	must(t, s.PutToken(t.Context(), alice.ID, "refresh-1"))

	// Another node was faster, between our look at the token and our request.
	meanwhile := func(do func()) {
		once := false
		ts.set(func() {
			ts.answer = func(http.ResponseWriter) bool {
				if !once {
					once = true
					ts.mu.Unlock()
					do()
					ts.mu.Lock()
				}
				return false
			}
		})
	}
	meanwhile(func() { other.mustDial(t, alice) })
	s.mustDial(t, alice)
	if got, err := s.secret(t.Context(), tokens, alice.ID); got != "refresh-3" || err != nil {
		t.Errorf("kept is %q, %v", string(got), err)
	}

	// A sign-in brought another token while the old one was refreshed.
	later := time.Now().Add(2 * time.Hour)
	s.Now = func() time.Time { return later }
	meanwhile(func() { must(t, s.PutToken(t.Context(), alice.ID, "of a sign-in")) })
	s.mustDial(t, alice)
	if got, err := s.secret(t.Context(), tokens, alice.ID); got != "of a sign-in" || err != nil {
		t.Errorf("kept is %q, %v", string(got), err)
	}

	// A sign-out ended it.
	ts.set(func() { ts.refresh = "of a sign-in" })
	meanwhile(func() { must(t, s.ForgetCredential(t.Context(), alice.ID)) })
	s.mustDial(t, alice)
	s.mustHaveNone(t, alice)
}

// A token server that does not answer, or is not there, is an outage.
func TestTokenServerAway(t *testing.T) {
	t.Parallel()
	ts := startTokenServer(t, httptest.NewServer)
	s := newService(t, testpeer.SQLiteURL(t), nil)
	addHost(t, s, ts.mailHost(talkative(t)))
	alice := addUser(t, s, "alice", "dove")
	if err := s.PutToken(t.Context(), alice.ID, "refresh-1"); err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	ts.set(func() { ts.answer = func(http.ResponseWriter) bool { <-hang; return true } })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Dial(ctx, alice); !errors.Is(err, errTokenServer) || errors.Is(err, ErrBadLogin) {
		t.Errorf("hanging: %v", err)
	}
	close(hang)
	ts.Close()
	s.mustFail(t, alice, ErrMailServer, "token server gives no")
}

// A refresh token that could not be kept is not lost: the next one keeps it.
func TestRotatedTokenIsNotLost(t *testing.T) {
	t.Parallel()
	ts := startTokenServer(t, httptest.NewServer)
	ts.rotate = true
	s := newService(t, testpeer.SQLiteURL(t), nil)
	addHost(t, s, ts.mailHost(talkative(t)))
	alice := addUser(t, s, "alice", "dove")
	if err := s.PutToken(t.Context(), alice.ID, "refresh-1"); err != nil {
		t.Fatal(err)
	}
	write(t, s, "ALTER TABLE refresh_tokens RENAME TO away")
	write(t, s, "CREATE VIEW refresh_tokens AS SELECT * FROM away") // it can be read
	s.mustDial(t, alice)
	write(t, s, "DROP VIEW refresh_tokens")
	write(t, s, "ALTER TABLE away RENAME TO refresh_tokens")
	later := time.Now().Add(2 * time.Hour)
	s.Now = func() time.Time { return later }
	s.mustDial(t, alice)
	if got, err := s.secret(t.Context(), tokens, alice.ID); got != "refresh-3" || err != nil {
		t.Errorf("kept is %q, %v", string(got), err)
	}
}

// What connections to a mail host share is made once, and anew when it has changed.
func TestUpstreams(t *testing.T) {
	t.Parallel()
	var us upstreams
	of := func(h tenant.MailHost) *upstream {
		t.Helper()
		up, err := us.of(h)
		if err != nil {
			t.Fatal(err)
		}
		return up
	}
	h := nowhere("dove")
	first := of(h)
	h.MasterPassword, h.Source = "other", "idle"
	if of(h) != first {
		t.Error("made anew for nothing")
	}
	for i, change := range []func(){
		func() { h.IMAPHost = "other" }, func() { h.IMAPPort = 2 }, func() { h.Security = tenant.SecurityTLS }, func() { h.Insecure = true }, func() { h.CA = "x" },
	} {
		before := of(h)
		if change(); of(h) == before {
			t.Errorf("change %d is not heeded", i)
		}
	}
	other := h
	other.Name = "other"
	if of(other) == of(h) || len(us.all) != 2 {
		t.Error("shared between mail hosts")
	}
}
