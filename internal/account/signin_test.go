package account

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestSignIn signs in against a real Dovecot.
func TestSignIn(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{
		Users: map[string]string{"alice@example.org": secret, "bob": "other"},
		Extra: noDelay + "login_trusted_networks = 127.0.0.1\n",
	})
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newService(t, url, nil)
		ctx := t.Context()
		addHost(t, s, host("dove", d))
		alice := addUser(t, s, "Alice@example.org", "dove") // Dovecot folds case, as we do
		sess, token, err := s.SignIn(ctx, request("aLICE@example.org", secret))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Authenticate(ctx, token); err != nil || got.ID != sess.ID || got.User != alice.ID {
			t.Errorf("%+v, %v", got, err)
		}
		c, err := s.Dial(ctx, alice)
		if err != nil {
			t.Fatalf("with the stored password: %v", err)
		}
		c.Close()

		// Dovecot learns who asks, and can tell him from others.
		for _, from := range []string{"198.51.100.23", "2001:db8::23"} {
			req := request("alice@example.org", secret)
			req.Address = netip.MustParseAddr(from)
			if _, _, err := s.SignIn(ctx, req); err != nil {
				t.Fatal(err)
			}
			if log, err := os.ReadFile(d.LogFile); err != nil || !strings.Contains(string(log), "rip="+from+",") {
				t.Errorf("Dovecot does not know of %s, %v", from, err)
			}
		}

		// A refusal opens nothing, stores nothing, and leaves the stored password alone.
		start := time.Now()
		_, _, err = s.SignIn(ctx, request("alice@example.org", "wrong"))
		if took := time.Since(start); !errors.Is(err, ErrBadLogin) || took < failureFloor {
			t.Errorf("wrong password: %v after %v", err, took)
		}
		if n := count(t, s, "SELECT COUNT(*) FROM sessions"); n != 3 {
			t.Errorf("%d sessions", n)
		}
		if c, err = s.Dial(ctx, alice); err != nil {
			t.Fatalf("with the stored password: %v", err)
		}
		c.Close()
	})
}

func TestSignInOnSeveralHosts(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{"alice": secret}})
	s := newService(t, testpeer.SQLiteURL(t), nil)
	addHost(t, s, host("dove", d))
	addHost(t, s, nowhere("nowhere"))
	alice := addUser(t, s, "alice", "dove")
	addUser(t, s, "alice", "nowhere")

	req := request("alice", secret)
	req.MailHost = "dove"
	if sess, _, err := s.SignIn(t.Context(), req); err != nil || sess.User != alice.ID {
		t.Errorf("%+v, %v", sess, err)
	}
	// Without a word the password is shown to neither. The answer tells that the login exists, so it
	// costs an attempt.
	req.MailHost = ""
	for range s.AttemptsPerLogin {
		_, _, err := s.SignIn(t.Context(), req)
		var invalid *tenant.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != "mailhost" {
			t.Errorf("%v", err)
		}
	}
	var tooMany *TooManyError
	if _, _, err := s.SignIn(t.Context(), req); !errors.As(err, &tooMany) {
		t.Errorf("any number of questions: %v", err)
	}
}

func TestSignInIsChecked(t *testing.T) {
	t.Parallel()
	s := newService(t, testpeer.SQLiteURL(t), nil)
	for i, c := range []struct {
		field  string
		change func(*SignIn)
	}{
		{"login", func(r *SignIn) { r.Login = "" }},
		{"login", func(r *SignIn) { r.Login = "a\r\nb" }},
		{"login", func(r *SignIn) { r.Login = "\xff" }},
		{"login", func(r *SignIn) { r.Login = strings.Repeat("x", 256) }},
		{"password", func(r *SignIn) { r.Password = "" }},
		{"password", func(r *SignIn) { r.Password = "a\rb" }},
		{"password", func(r *SignIn) { r.Password = "a\nb" }},
		{"password", func(r *SignIn) { r.Password = "a\x00b" }},
		{"password", func(r *SignIn) { r.Password = Password(strings.Repeat("x", 1025)) }},
		{"client", func(r *SignIn) { r.Client = "" }},
		{"device", func(r *SignIn) { r.Device = strings.Repeat("x", 256) }},
	} {
		for range 10 { // it is no attempt
			req := request("alice", secret)
			c.change(&req)
			_, _, err := s.SignIn(t.Context(), req)
			var invalid *tenant.InvalidError
			if !errors.As(err, &invalid) || invalid.Field != c.field {
				t.Errorf("%d: %v, want one of field %s", i, err, c.field)
			}
		}
	}
}

// inBubble runs f in virtual time with a service whose only user is alice on the given host.
func inBubble(t *testing.T, h tenant.MailHost, f func(t *testing.T, s *Service)) {
	t.Helper()
	t.Parallel()
	url := testpeer.SQLiteURL(t)
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, url, nil)
		addHost(t, s, h)
		addUser(t, s, "alice", h.Name)
		f(t, s)
	})
}

// A login that nobody has is refused as late as a wrong password is.
func TestUnknownLogin(t *testing.T) {
	inBubble(t, nowhere("dove"), func(t *testing.T, s *Service) {
		for _, req := range []SignIn{
			request("nobody", secret),
			{Login: "alice", Password: secret, Client: "app", MailHost: "other", Address: netip.MustParseAddr("192.0.2.8")},
			{Login: "ghost", Password: secret, Client: "app"}, // from nowhere that we know
		} {
			start := time.Now()
			_, token, err := s.SignIn(t.Context(), req)
			if took := time.Since(start); took != failureFloor {
				t.Errorf("%s: refused after %v", req.Login, took)
			}
			if !errors.Is(err, ErrBadLogin) || err.Error() != ErrBadLogin.Error() || token != "" {
				t.Errorf("%s: %v", req.Login, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, _, err := s.SignIn(ctx, request("nobody", secret))
		if took := time.Since(start); !errors.Is(err, ErrBadLogin) || !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
			t.Errorf("nobody waits any more: %v after %v", err, took)
		}
	})
}

// Nor does it tell that the mail server takes its time: whoever is refused waits in steps, and a login that nobody has
// waits for as many as another one did.
func TestSlowRefusals(t *testing.T) {
	t.Parallel()
	var w watch
	s := newService(t, testpeer.SQLiteURL(t), func(c *Config) { c.Now = w.now })
	for i, c := range []struct {
		took   time.Duration
		nobody bool
		want   time.Duration
	}{
		{0, true, failureFloor},
		{time.Second, false, failureFloor},
		{2*failureFloor - time.Second, false, 2 * failureFloor},
		{0, true, 2 * failureFloor},
		{0, true, 2 * failureFloor},
		{dialTimeout, false, dialTimeout + failureFloor},
		{failureFloor - 1, false, failureFloor},
		{time.Millisecond, true, failureFloor},
	} {
		began := w.now()
		w.pass(c.took)
		if got := s.refusedAt(began, c.nobody).Sub(began); got != c.want {
			t.Errorf("%d: refused after %v, want %v", i, got, c.want)
		}
	}
}

func TestAttempts(t *testing.T) {
	inBubble(t, nowhere("dove"), func(t *testing.T, s *Service) {
		from := func(login, address string) error {
			req := request(login, secret)
			req.Address = netip.MustParseAddr(address)
			_, _, err := s.SignIn(t.Context(), req)
			return err
		}
		tooMany := func(err error, atLeast, atMost time.Duration) {
			t.Helper()
			var e *TooManyError
			if !errors.As(err, &e) || e.RetryAfter < atLeast || e.RetryAfter > atMost {
				t.Errorf("%v (%+v)", err, e)
			}
		}
		refused := func(err error) {
			t.Helper()
			if !errors.Is(err, ErrBadLogin) {
				t.Error(err)
			}
		}
		each := s.Window / time.Duration(2*s.AttemptsPerLogin)
		// All at once: what is under way counts.
		var wg sync.WaitGroup
		for i := range 2 * s.AttemptsPerLogin {
			wg.Go(func() { refused(from([]string{"nobody", "NoBody"}[i%2], fmt.Sprintf("192.0.2.%d", i+1))) })
		}
		synctest.Wait()
		tooMany(from("NOBODY", "192.0.2.99"), each-time.Second, each)
		wg.Wait()
		<-time.After(each) // virtual time
		refused(from("nobody", "192.0.2.99"))

		// One address, many logins; its neighbours of the same network count as one.
		for i := range s.AttemptsPerAddress {
			wg.Go(func() { refused(from(fmt.Sprint("user", i), fmt.Sprintf("2001:db8::%d", i))) })
		}
		synctest.Wait()
		tooMany(from("alice", "2001:db8::abcd"), time.Second, s.Window)
		if err := from("alice", "2001:db8:0:1::1"); !errors.Is(err, ErrMailServer) {
			t.Errorf("another network: %v", err)
		}
		wg.Wait()

		// When a login is out of attempts, others behind the same address lose none.
		for range s.AttemptsPerLogin {
			wg.Go(func() { refused(from("again", "198.51.100.1")) })
		}
		wg.Wait()
		for range 3 * s.AttemptsPerAddress {
			tooMany(from("again", "198.51.100.1"), 0, 2*each)
		}
		refused(from("first", "198.51.100.1"))
	})
}

// That the mail server is away is nobody's failure.
func TestMailServerAway(t *testing.T) {
	inBubble(t, nowhere("dove"), func(t *testing.T, s *Service) {
		for range 3 * s.AttemptsPerLogin {
			if _, _, err := s.SignIn(t.Context(), request("alice", secret)); !errors.Is(err, ErrMailServer) {
				t.Fatal(err)
			}
		}
	})
}

// Who does not wait for the no, as he would for a yes, has guessed all the same; and so has who meets a server that
// says no by hanging up.
func TestUnansweredGuesses(t *testing.T) {
	t.Parallel()
	const greeting = "* OK [CAPABILITY IMAP4rev1] hello\r\n"
	for name, c := range map[string]struct {
		answers map[string]string
		counts  bool
	}{
		"late":        {map[string]string{"greeting": greeting}, true},
		"hangs up":    {map[string]string{"greeting": greeting, "LOGIN": "* BYE %s too many failures\r\n"}, true},
		"in trouble":  {map[string]string{"greeting": greeting, "LOGIN": "%s NO [UNAVAILABLE] LDAP is down\r\n"}, false},
		"no password": {map[string]string{"greeting": "* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hello\r\n"}, false},
		"no greeting": {map[string]string{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, testpeer.SQLiteURL(t), nil)
			addHost(t, s, scripted(t, c.answers))
			addUser(t, s, "alice", "dove")
			for range s.AttemptsPerLogin {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				_, _, err := s.SignIn(ctx, request("alice", secret))
				cancel()
				if !errors.Is(err, ErrMailServer) {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, _, err := s.SignIn(ctx, request("alice", secret))
			if counted := errors.As(err, new(*TooManyError)); counted != c.counts {
				t.Errorf("%v", err)
			}
		})
	}
}

// scripted is an IMAP server that answers each command's tag with the answer of that name, and commands
// that have none not at all.
func scripted(t *testing.T, answers map[string]string) tenant.MailHost {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_, _ = fmt.Fprint(conn, answers["greeting"])
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					if words := strings.Fields(lines.Text()); len(words) > 1 && answers[words[1]] != "" {
						_, _ = fmt.Fprintf(conn, answers[words[1]], words[0])
					}
				}
			})
		}
	})
	addr := l.Addr().(*net.TCPAddr)
	return tenant.MailHost{Name: "dove", IMAPHost: "127.0.0.1", IMAPPort: addr.Port, Security: tenant.SecurityNone}
}

// A server that has said yes is not waited for any longer.
func TestSilentLogout(t *testing.T) {
	t.Parallel()
	s := newService(t, testpeer.SQLiteURL(t), nil)
	addHost(t, s, scripted(t, map[string]string{
		"greeting": "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\r\n", "AUTHENTICATE": "%s OK [CAPABILITY IMAP4rev1] in\r\n",
	}))
	addUser(t, s, "alice", "dove")
	start := time.Now()
	if _, _, err := s.SignIn(t.Context(), request("alice", secret)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*logoutTimeout {
		t.Errorf("signed in after %v", took)
	}
}

func TestServersThatFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answers map[string]string
		timeout time.Duration
		want    error
	}{
		"silent":         {map[string]string{}, 100 * time.Millisecond, ErrMailServer},
		"not IMAP":       {map[string]string{"greeting": "220 mail.example.org ESMTP\r\n"}, time.Minute, ErrMailServer},
		"logged in":      {map[string]string{"greeting": "* PREAUTH [CAPABILITY IMAP4rev1] hello\r\n"}, time.Minute, ErrMailServer},
		"in trouble":     {map[string]string{"greeting": "* OK [CAPABILITY IMAP4rev1] hello\r\n", "LOGIN": "%s NO [UNAVAILABLE] LDAP is down\r\n"}, time.Minute, ErrMailServer},
		"no passwords":   {map[string]string{"greeting": "* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hello\r\n"}, time.Minute, ErrMailServer},
		"hanging logins": {map[string]string{"greeting": "* OK [CAPABILITY IMAP4rev1] hello\r\n"}, 100 * time.Millisecond, ErrMailServer},
		"refusing":       {map[string]string{"greeting": "* OK [CAPABILITY IMAP4rev1 ID] hello\r\n", "ID": "%s BAD no\r\n", "LOGIN": "%s NO wrong\r\n"}, 500 * time.Millisecond, ErrBadLogin},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, testpeer.SQLiteURL(t), nil)
			addHost(t, s, scripted(t, c.answers))
			addUser(t, s, "alice", "dove")
			ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
			defer cancel()
			_, token, err := s.SignIn(ctx, request("alice", secret))
			if !errors.Is(err, c.want) || token != "" || strings.Contains(err.Error(), secret) {
				t.Errorf("%v", err)
			}
			if n := count(t, s, "SELECT COUNT(*) FROM sessions") + count(t, s, "SELECT COUNT(*) FROM credentials"); n != 0 {
				t.Errorf("%d rows are stored", n)
			}
		})
	}
}
