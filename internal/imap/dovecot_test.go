package imap_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const user, password = "alice@example.org", `p"ä\ss-wörd` //nolint:gosec // G101: the test's own

func config(d *testpeer.Dovecot, security string) imap.Config {
	cfg := imap.Config{Host: d.Host, Port: d.IMAPPort, Security: security, RootCAs: d.RootCAs}
	if security == imap.SecurityTLS {
		cfg.Port = d.IMAPSPort
	}
	return cfg
}

func dial(t *testing.T, cfg imap.Config) *imap.Client {
	t.Helper()
	c, err := imap.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestDovecot is the whole client against a real server, by each way to reach it.
func TestDovecot(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{user: password}})
	for _, security := range []string{imap.SecurityNone, imap.SecuritySTARTTLS, imap.SecurityTLS} {
		t.Run(security, func(t *testing.T) {
			c := dial(t, config(d, security))
			if c.Has("METADATA") {
				t.Error("METADATA before login")
			}
			id, err := c.ID(t.Context(), map[string]string{"name": "Posthorn"})
			if err != nil || id["name"] != "Dovecot" {
				t.Errorf("ID = %v, %v", id, err)
			}
			if err := c.Login(t.Context(), user, password); err != nil {
				t.Fatal(err)
			}
			if !c.Has("METADATA") || c.Has("AUTH=PLAIN") {
				t.Errorf("capabilities after login: %v", c.Capabilities())
			}
			metadata(t, c, d)
			if err := c.Logout(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := c.ID(t.Context(), nil); !errors.Is(err, imap.ErrClosed) {
				t.Errorf("after logout: %v", err)
			}
		})
	}

	t.Run("unknown authority", func(t *testing.T) {
		for _, security := range []string{imap.SecuritySTARTTLS, imap.SecurityTLS} {
			cfg := config(d, security)
			cfg.RootCAs = x509.NewCertPool()
			_, err := imap.Dial(t.Context(), cfg)
			if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
				t.Errorf("%s: %v", security, err)
			}
			cfg.Insecure = true
			if err := dial(t, cfg).Login(t.Context(), user, password); err != nil {
				t.Errorf("%s, insecure: %v", security, err)
			}
		}
	})

	t.Run("wrong password", func(t *testing.T) {
		t.Parallel() // Dovecot takes its time to say so
		c := dial(t, config(d, imap.SecurityNone))
		err := c.Login(t.Context(), user, "hunter2")
		if !errors.Is(err, imap.ErrAuth) || strings.Contains(err.Error(), "hunter2") {
			t.Fatalf("wrong password: %v", err)
		}
		if err := c.Login(t.Context(), user, password); err != nil {
			t.Fatalf("the right one after it: %v", err)
		}
	})

	t.Run("cancelled login", func(t *testing.T) {
		t.Parallel()
		c := dial(t, config(d, imap.SecurityTLS))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := c.Login(ctx, "nobody", "hunter2"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("cancelled login: %v", err)
		}
		if took := time.Since(start); took > time.Second {
			t.Fatalf("cancelled after %v", took)
		}
	})
}

// metadata sets, reads and removes; doveadm is the witness.
func metadata(t *testing.T, c *imap.Client, d *testpeer.Dovecot) {
	t.Helper()
	get := func(want string, wantOK bool) {
		t.Helper()
		got, ok, err := c.GetMetadata(t.Context(), "", testpeer.MetadataKey)
		if err != nil || got != want || ok != wantOK {
			t.Errorf("got %q, %v, %v; want %q, %v", got, ok, err, want, wantOK)
		}
		if got, ok := d.Metadata(t, user); got != want || ok != wantOK {
			t.Errorf("doveadm has %q, %v; want %q, %v", got, ok, want, wantOK)
		}
	}
	get("", false)
	for _, value := range []string{"user=3@1", "", `"quoted\`, "user=3@1\tä\r\nsecond line)", strings.Repeat("x", 5000)} {
		if err := c.SetMetadata(t.Context(), "", testpeer.MetadataKey, &value); err != nil {
			t.Errorf("set %q: %v", value, err)
		}
		get(value, true)
	}
	if err := c.SetMetadata(t.Context(), "", testpeer.MetadataKey, nil); err != nil {
		t.Errorf("remove: %v", err)
	}
	get("", false)
}

// withoutPLAIN hides AUTHENTICATE PLAIN, which every Dovecot offers that takes passwords at all.
type withoutPLAIN struct{ net.Conn }

func (c withoutPLAIN) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	copy(b, bytes.ReplaceAll(b[:n], []byte("AUTH=PLAIN"), []byte("AUTH=OTHER")))
	return n, err
}

// TestDovecotLOGIN: the other command to log in with, and literals the old way.
func TestDovecotLOGIN(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{
		Users: map[string]string{user: password},
		Extra: "imap_capability = IMAP4rev1 ID METADATA\nprotocol imap {\n  mail_max_userip_connections = 1\n}\n",
	})
	cfg := config(d, imap.SecurityNone)
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return withoutPLAIN{conn}, err
	}
	c := dial(t, cfg)
	if c.Has("AUTH=PLAIN") {
		t.Fatalf("capabilities: %v", c.Capabilities())
	}
	if err := c.Login(t.Context(), user, password); err != nil {
		t.Fatal(err)
	}
	if value := "a\tsynchronising literal"; c.Has("LITERAL+") {
		t.Error("LITERAL+ is on")
	} else if err := c.SetMetadata(t.Context(), "", testpeer.MetadataKey, &value); err != nil {
		t.Error(err)
	}
	if v, _ := d.Metadata(t, user); v != "a\tsynchronising literal" {
		t.Errorf("value %q", v)
	}
	// One connection is all this user may have: no verdict on his password.
	err := dial(t, config(d, imap.SecurityTLS)).Login(t.Context(), user, password)
	if r, ok := errors.AsType[*imap.ResponseError](err); !ok || !r.Temporary() || errors.Is(err, imap.ErrAuth) {
		t.Errorf("too many connections: %v", err)
	}
}

func TestDovecotWithoutMetadata(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{user: password}, NoMetadata: true})
	c := dial(t, config(d, imap.SecurityTLS))
	if err := c.Login(t.Context(), user, password); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.GetMetadata(t.Context(), "", testpeer.MetadataKey); !errors.Is(err, imap.ErrUnsupported) {
		t.Errorf("get: %v", err)
	}
	if err := c.SetMetadata(t.Context(), "", testpeer.MetadataKey, nil); !errors.Is(err, imap.ErrUnsupported) {
		t.Errorf("set: %v", err)
	}
	// A server that goes away is an outage, and the next call says so.
	d.Stop(t)
	_, err := c.ID(t.Context(), nil)
	if err == nil || errors.Is(err, imap.ErrUnsupported) || errors.Is(err, imap.ErrClosed) {
		t.Errorf("server gone: %v", err)
	}
	if _, err := c.ID(t.Context(), nil); !errors.Is(err, imap.ErrClosed) {
		t.Errorf("after that: %v", err)
	}
}

func TestDovecotLoginDisabled(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{user: password}, NoPlaintextAuth: true})
	c := dial(t, config(d, imap.SecurityNone))
	if !c.Has("LOGINDISABLED") {
		t.Fatalf("capabilities: %v", c.Capabilities())
	}
	if err := c.Login(t.Context(), user, password); !errors.Is(err, imap.ErrInsecure) {
		t.Errorf("in clear: %v", err)
	}
	if err := dial(t, config(d, imap.SecuritySTARTTLS)).Login(t.Context(), user, password); err != nil {
		t.Errorf("after STARTTLS: %v", err)
	}
}

func TestDovecotWithoutTLS(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{user: password}, Extra: "ssl = no"})
	if _, err := imap.Dial(t.Context(), config(d, imap.SecuritySTARTTLS)); !errors.Is(err, imap.ErrUnsupported) {
		t.Errorf("STARTTLS: %v", err)
	}
}

// TestDovecotMailbox is what a listener does, against a real server: it opens, waits, looks and fetches.
func TestDovecotMailbox(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{user: password}})
	deliver := func(subject string) {
		d.DeliverLMTP(t, []string{user}, []byte("From: =?utf-8?q?Zo=C3=AB?= <zoe@example.org>\r\nSubject: "+subject+"\r\n\r\nHello, you.\r\n"))
	}
	deliver("one")
	d.Doveadm(t, "mailbox", "create", "-s", "-u", user, "Entwürfe & so")
	s, err := imap.NewServer(config(d, imap.SecurityTLS))
	if err != nil {
		t.Fatal(err)
	}
	in := func() *imap.Client {
		t.Helper()
		c, err := s.Dial(t.Context())
		if err == nil {
			t.Cleanup(c.Close)
			err = c.Login(t.Context(), user, password)
		}
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := in()
	if enabled, err := c.Enable(t.Context(), "QRESYNC"); err != nil || len(enabled) != 1 {
		t.Fatalf("enabled %v, %v", enabled, err)
	}
	box, err := c.Examine(t.Context(), "INBOX", nil)
	if err != nil || box.UIDValidity == 0 || box.UIDNext != 2 || box.Exists != 1 || box.HighestModSeq == 0 || !box.ReadOnly {
		t.Fatalf("examined %+v, %v", box, err)
	}

	heard := make(chan imap.Update, 100)
	c.Handle(func(u imap.Update) { heard <- u })
	next := func(want func(imap.Update) bool) {
		t.Helper()
		for {
			select {
			case u := <-heard:
				if want(u) {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatal("nothing was heard")
			}
		}
	}
	idle := func(act func(), want func(imap.Update) bool) {
		t.Helper()
		ended := make(chan error, 1)
		go func() { ended <- c.Idle() }()
		act()
		next(want)
		c.Interrupt(10 * time.Second)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	idle(func() { deliver("two") }, func(u imap.Update) bool { return u == imap.Exists(2) })
	idle(func() { d.Doveadm(t, "flags", "add", "-u", user, `\Seen`, "mailbox", "INBOX", "uid", "1") },
		func(u imap.Update) bool {
			m, ok := u.(imap.Message)
			return ok && m.UID == 1 && m.Is(`\Seen`) && m.ModSeq > 0
		})
	idle(func() { d.Doveadm(t, "expunge", "-u", user, "mailbox", "INBOX", "uid", "1") },
		func(u imap.Update) bool { v, ok := u.(imap.Vanished); return ok && v.UIDs.Contains(1) })

	found, err := c.UIDSearch(t.Context(), imap.Search{Unseen: true, Undeleted: true, UIDs: imap.UIDSet{{From: 2, To: imap.Last}}},
		imap.ReturnAll|imap.ReturnCount|imap.ReturnMin|imap.ReturnMax)
	if err != nil || found.Count != 1 || found.Min != 2 || found.Max != 2 || !found.All.Contains(2) {
		t.Errorf("found %+v, %v", found, err)
	}
	all := imap.FetchFlags | imap.FetchDate | imap.FetchEnvelope | imap.FetchPreview | imap.FetchModSeq | imap.FetchGUID
	var m imap.Message
	err = c.UIDFetch(t.Context(), imap.UIDs(1, 2), all, func(got imap.Message) { m = got })
	if err != nil || m.UID != 2 || m.Has != all || m.Envelope.Subject != "two" || len(m.Envelope.From) != 1 || m.Envelope.From[0].String() != "zoe@example.org" ||
		m.Preview != "Hello, you." || m.ModSeq == 0 || m.GUID == "" || time.Since(m.InternalDate).Abs() > time.Minute {
		t.Errorf("fetched %+v, %v", m, err)
	}
	st, err := c.Status(t.Context(), "Entwürfe & so", imap.StatusMessages|imap.StatusUIDNext|imap.StatusUIDValidity|imap.StatusUnseen|imap.StatusHighestModSeq|imap.StatusGUID)
	if err != nil || st.UIDNext != 1 || st.GUID == "" || st.Mailbox != "Entwürfe & so" {
		t.Errorf("status %+v, %v", st, err)
	}
	boxes, err := c.List(t.Context(), imap.ListOptions{Subscribed: true, SpecialUse: true, Status: imap.StatusUnseen})
	if err != nil || len(boxes) != 1 || boxes[0].Name != "Entwürfe & so" || boxes[0].Status == nil || !boxes[0].Is(`\Subscribed`) {
		t.Errorf("listed %+v, %v", boxes, err)
	}

	// What happened since, at once: the flag of a message that was removed is no news.
	deliver("three")
	c.Close()
	c = in()
	if !c.Resumed() {
		t.Error("Dovecot's session was not resumed")
	}
	if _, err := c.Enable(t.Context(), "QRESYNC"); err != nil {
		t.Fatal(err)
	}
	again, err := c.Select(t.Context(), "INBOX", &imap.Resync{UIDValidity: box.UIDValidity, ModSeq: box.HighestModSeq})
	if err != nil || again.Exists != 2 || again.ReadOnly || !again.Vanished.Contains(1) || len(again.Changed) == 0 {
		t.Errorf("selected again %+v, %v", again, err)
	}
	if err := c.Unselect(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestDovecotMasterUser logs in for another.
func TestDovecotMasterUser(t *testing.T) {
	t.Parallel()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{
		Users: map[string]string{user: password},
		Extra: "passdb {\n  driver = static\n  master = yes\n  args = password=maestro\n  result_success = continue\n}\n",
	})
	c := dial(t, config(d, imap.SecurityTLS))
	if err := c.LoginAs(t.Context(), user, "master", "piano"); !errors.Is(err, imap.ErrAuth) {
		t.Errorf("wrong password: %v", err)
	}
	if err := c.LoginAs(t.Context(), user, "master", "maestro"); err != nil {
		t.Fatal(err)
	}
	if box, err := c.Examine(t.Context(), "INBOX", nil); err != nil || box.Exists != 0 {
		t.Errorf("examined %+v, %v", box, err)
	}
}
