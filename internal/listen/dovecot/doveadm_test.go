package dovecot_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/listen/dovecot"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

const apiKey = "the doveadm_api_key" //nolint:gosec // of a disposable server

// byDoveadm is a mail host with a doveadm API; no password is stored.
func byDoveadm(t *testing.T, url string, d *testpeer.Dovecot) *fixture {
	t.Helper()
	h := at(d)
	h.DoveadmURL, h.DoveadmKey = d.DoveadmURL, apiKey
	f := newFixture(t, url, h)
	f.forget(t)
	return f
}

// forget removes the stored password.
func (f *fixture) forget(t *testing.T) {
	t.Helper()
	err := f.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM credentials")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// change changes the mail host.
func (f *fixture) change(t *testing.T, fn func(*tenant.MailHost)) {
	t.Helper()
	_, err := f.Tenants.ChangeMailHost(t.Context(), "dove", func(h *tenant.MailHost) (string, error) {
		fn(h)
		return "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// doveadmKey is apiKey as Dovecot's configuration needs it.
const doveadmKey = `"` + apiKey + `"`

// TestRegisterByDoveadm: no user's password is needed, and what others wrote stays theirs.
func TestRegisterByDoveadm(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		d := start(t, testpeer.DovecotConfig{DoveadmKey: doveadmKey, NoMetadata: true})
		f := byDoveadm(t, url, d)
		f.unregister(t, nil)
		for range 2 {
			f.register(t, subscription.Registered, "", nil)
			wantEntry(t, d, "user=1@1", true)
		}
		f.unregister(t, nil)
		wantEntry(t, d, "", false)
		f.unregister(t, nil)
		d.SetMetadata(t, login, "user=1@1\texpire=never")
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, "user=1@1\texpire=never", true)
		d.SetMetadata(t, login, "") // registers nobody
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, "user=1@1", true)
		for _, value := range []string{"user=9@9", "user=1@1\tby=other", "\"quoted\" \\ ü"} {
			d.SetMetadata(t, login, value)
			f.register(t, subscription.Foreign, "another system", nil)
			f.unregister(t, nil)
			wantEntry(t, d, value, true)
		}
		d.ClearMetadata(t, login)
		f.change(t, func(h *tenant.MailHost) { h.KeyedAlias = true })
		d.SetMetadata(t, login, "user=1@1")
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, "user="+f.Tenants.Alias(tenant.MailHost{KeyedAlias: true}, f.user.ID), true)
		f.unregister(t, nil)
		wantEntry(t, d, "", false)
	})
}

// TestDoveadmFaults: each fault has its own error and sentence, and the right settings heal it.
func TestDoveadmFaults(t *testing.T) {
	t.Parallel()
	d := start(t, testpeer.DovecotConfig{DoveadmKey: doveadmKey})
	f := byDoveadm(t, testpeer.SQLiteURL(t), d)
	f.change(t, func(h *tenant.MailHost) { h.DoveadmKey = "another" })
	f.register(t, subscription.Pending, "--doveadm-key-file", dovecot.ErrKey)
	f.unregister(t, dovecot.ErrKey)
	f.change(t, func(h *tenant.MailHost) { h.DoveadmKey = apiKey })
	f.register(t, subscription.Registered, "", nil)

	f.change(t, func(h *tenant.MailHost) { h.DoveadmURL = d.DoveadmURL + "/wrong" })
	f.register(t, subscription.Pending, "--doveadm-url", dovecot.ErrAnswer)
	f.change(t, func(h *tenant.MailHost) { h.DoveadmURL = d.DoveadmURL + "/doveadm/v1" })
	f.register(t, subscription.Registered, "", nil)
	f.change(t, func(h *tenant.MailHost) { h.DoveadmURL = fmt.Sprintf("http://%s:%d", d.Host, d.IMAPPort) })
	f.register(t, subscription.Pending, "cannot be reached", dovecot.ErrUnreachable)
	f.change(t, func(h *tenant.MailHost) { h.DoveadmURL = d.DoveadmURL })

	nobody := f.user
	nobody.Login = "nobody@example.org"
	if st := f.Register(t.Context(), nobody); st.State != subscription.Pending || !strings.Contains(st.Reason, "no user of this login") {
		t.Errorf("a user that the mail server does not know: %+v", st)
	}
	if err := f.Unregister(t.Context(), nobody); err != nil {
		t.Errorf("nothing can be left of him: %v", err)
	}

	d.Stop(t)
	f.register(t, subscription.Pending, "cannot be reached", dovecot.ErrUnreachable)
	f.unregister(t, dovecot.ErrUnreachable)
	d.Start(t) // the connections that were kept are dead
	f.register(t, subscription.Registered, "", nil)
}

// TestAllowedCommands: what docs/operating.md says of doveadm_allowed_commands is enough, and less has its reason.
func TestAllowedCommands(t *testing.T) {
	t.Parallel()
	const allow = "doveadm_allowed_commands = "
	d := start(t, testpeer.DovecotConfig{
		DoveadmKey: doveadmKey, Extra: allow + "mailbox metadata get,mailbox metadata set,mailbox metadata unset,mailbox status,fetch",
	})
	f := byDoveadm(t, testpeer.SQLiteURL(t), d)
	f.register(t, subscription.Registered, "", nil)
	f.unregister(t, nil)
	first := f.look(t, event.Inbox, event.Position{}, false)
	f.look(t, event.Inbox, event.Position{UIDValidity: first.UIDValidity, UIDNext: 0, Recent: []uint32{1}}, true)

	f = byDoveadm(t, testpeer.SQLiteURL(t), start(t, testpeer.DovecotConfig{DoveadmKey: doveadmKey, Extra: allow + "who"}))
	f.register(t, subscription.Pending, "doveadm_allowed_commands", dovecot.ErrNotAllowed)
}

// TestNoAttributes: a Dovecot without mail_attribute_dict keeps no METADATA, which is not a matter of access.
func TestNoAttributes(t *testing.T) {
	t.Parallel()
	d := start(t, testpeer.DovecotConfig{DoveadmKey: doveadmKey, Extra: "mail_attribute_dict ="})
	f := byDoveadm(t, testpeer.SQLiteURL(t), d)
	f.register(t, subscription.Unsupported, "mail_attribute_dict", imap.ErrUnsupported)
	f.unregister(t, nil)
}

// TestMetadataForAnotherNetwork: METADATA is denied to our address, and only the doveadm API helps.
func TestMetadataForAnotherNetwork(t *testing.T) {
	t.Parallel()
	d := start(t, testpeer.DovecotConfig{MetadataNets: []string{"127.0.0.8/32"}, DoveadmKey: doveadmKey})
	f := newFixture(t, testpeer.SQLiteURL(t), at(d))
	f.register(t, subscription.Unsupported, "enable imap_metadata for Posthorn's address", imap.ErrUnsupported)
	f.unregister(t, nil)
	wantEntry(t, d, "", false)

	f.change(t, func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = d.DoveadmURL, apiKey })
	f.register(t, subscription.Registered, "", nil)
	wantEntry(t, d, "user=1@1", true)
	f.unregister(t, nil)

	// A connection that is there already is of no use for it either.
	c := f.dial(t)
	if st := f.RegisterOn(t.Context(), c, f.user); st.State != subscription.Registered {
		t.Errorf("%+v", st)
	}
	wantEntry(t, d, "user=1@1", true)
	if _, err := c.ID(t.Context(), nil); err != nil {
		t.Errorf("the connection did not stay open: %v", err)
	}
	f.change(t, func(h *tenant.MailHost) { h.DoveadmURL = "" })
	if st := f.RegisterOn(t.Context(), c, f.user); st.State != subscription.Unsupported {
		t.Errorf("%+v", st)
	}
}

// dial signs in with the stored password.
func (f *fixture) dial(t *testing.T) *imap.Client {
	t.Helper()
	c, err := f.Accounts.Dial(t.Context(), f.user)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestRegisterOn registers over a connection that is kept for more.
func TestRegisterOn(t *testing.T) {
	t.Parallel()
	d := start(t, testpeer.DovecotConfig{})
	f := newFixture(t, testpeer.SQLiteURL(t), at(d))
	c := f.dial(t)
	for range 2 {
		if st := f.RegisterOn(t.Context(), c, f.user); st != (dovecot.Status{State: subscription.Registered}) {
			t.Errorf("%+v", st)
		}
		wantEntry(t, d, "user=1@1", true)
	}
	d.Stop(t)
	if st := f.RegisterOn(t.Context(), c, f.user); st.State != subscription.Pending || st.Err == nil {
		t.Errorf("%+v", st)
	}
}

// TestInstallationID: what we write bears the id, what the original system wrote is adopted as it is, and what
// bears another id is left alone.
func TestInstallationID(t *testing.T) {
	t.Parallel()
	d := start(t, testpeer.DovecotConfig{DoveadmKey: doveadmKey})
	f := newFixture(t, testpeer.SQLiteURL(t), at(d))
	f.InstallationID = "here"
	for _, way := range []string{"IMAP", "doveadm"} {
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, "user=1@1\tby=here", true)
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, "user=1@1\tby=here", true)
		f.InstallationID = "there"
		f.register(t, subscription.Foreign, "another system", nil)
		f.unregister(t, nil)
		f.InstallationID = ""
		f.register(t, subscription.Foreign, "another system", nil)
		f.unregister(t, nil)
		wantEntry(t, d, "user=1@1\tby=here", true)
		f.InstallationID = "here"
		f.unregister(t, nil)
		wantEntry(t, d, "", false)

		d.SetMetadata(t, login, "user=1@1")
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, "user=1@1", true)
		f.change(t, func(h *tenant.MailHost) { h.KeyedAlias = true }) // now it must change
		want := "user=" + f.Tenants.Alias(tenant.MailHost{KeyedAlias: true}, f.user.ID) + "\tby=here"
		f.register(t, subscription.Registered, "", nil)
		wantEntry(t, d, want, true)
		f.unregister(t, nil)
		wantEntry(t, d, "", false)
		f.change(t, func(h *tenant.MailHost) { h.KeyedAlias = false })
		if way == "IMAP" {
			f.change(t, func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = d.DoveadmURL, apiKey })
		}
	}
}

// TestMarkedRegistrationReports: Dovecot's driver takes the user out of a value that bears more.
func TestMarkedRegistrationReports(t *testing.T) {
	t.Parallel()
	said := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		said <- string(body)
	}))
	t.Cleanup(srv.Close)
	d := start(t, testpeer.DovecotConfig{NotifyURL: srv.URL, UserFromMetadata: true})
	f := newFixture(t, testpeer.SQLiteURL(t), at(d))
	f.InstallationID = "here"
	f.register(t, subscription.Registered, "", nil)
	d.DeliverLMTP(t, []string{login}, []byte("Subject: x\n\nbody\n"))
	if got := <-said; !strings.HasPrefix(got, `{"user":"1@1","event":"messageNew"`) {
		t.Error(got)
	}
}

// TestAudit: registering again repairs what somebody removed, and what went with a mailbox.
func TestAudit(t *testing.T) {
	t.Parallel()
	d := start(t, testpeer.DovecotConfig{DoveadmKey: doveadmKey})
	f := newFixture(t, testpeer.SQLiteURL(t), at(d))
	for range 2 { // over IMAP, then by doveadm
		for _, loss := range []func(){
			func() { d.ClearMetadata(t, login) },
			func() { d.SetMetadata(t, login, "") },
			func() { d.RemoveMailbox(t, login) },
		} {
			f.register(t, subscription.Registered, "", nil)
			loss()
			if value, _ := d.Metadata(t, login); value != "" {
				t.Fatalf("%q is not lost", value)
			}
			f.register(t, subscription.Registered, "", nil)
			wantEntry(t, d, "user=1@1", true)
		}
		f.change(t, func(h *tenant.MailHost) { h.DoveadmURL, h.DoveadmKey = d.DoveadmURL, apiKey })
	}
}

// TestMasterUser registers without the user's password.
func TestMasterUser(t *testing.T) {
	t.Parallel()
	d := start(t, testpeer.DovecotConfig{Master: "posthorn", MasterPassword: "secret-of-all", Extra: "auth_failure_delay = 0"})
	h := at(d)
	h.PasswordSource, h.MasterLogin, h.MasterPassword = tenant.PasswordsGlobal, "posthorn", "secret-of-all"
	f := newFixture(t, testpeer.SQLiteURL(t), h)
	f.forget(t)
	f.register(t, subscription.Registered, "", nil)
	wantEntry(t, d, "user=1@1", true)
	f.unregister(t, nil)
	wantEntry(t, d, "", false)
	f.change(t, func(h *tenant.MailHost) { h.MasterPassword = "a wrong one" })
	f.register(t, subscription.Pending, "rejects the master user", account.ErrMailServer)
}
