package tenant_test

import (
	"errors"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

// TestAdmit: the app needs its capability and a host that is switched on, other clients neither; and who is refused
// is told whom to ask.
func TestAdmit(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newStore(t, "sqlite:"+t.TempDir()+"/a.db", tenant.NotifyCredential{UserForm: tenant.FormLogin})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.AddReseller(ctx, tenant.Reseller{Name: "north", Contact: "help@north.example"})
	must(err)
	_, err = s.AddContext(ctx, tenant.Context{ID: 1, Reseller: "north"})
	must(err)
	err = s.AddMailHost(ctx, tenant.MailHost{Name: "main", IMAPHost: "imap.example.org", IMAPPort: 993, Security: tenant.SecurityTLS, UserForm: tenant.FormLogin}, "")
	must(err)
	ann, bob := tenant.UserID{Context: 1, ID: 1}, tenant.UserID{Context: 1, ID: 2}
	for id, login := range map[tenant.UserID]string{ann: "ann", bob: "bob"} {
		_, err = s.AddUser(ctx, tenant.User{ID: id, Login: login, MailHost: "main"})
		must(err)
	}
	const app, mail, closed = "posthorn-app-ios", "Mail.Example.org:443", "closed.example.org"
	check := func(u tenant.UserID, client, host, reason, contact string) {
		t.Helper()
		err := s.Admit(ctx, u, client, host)
		var refused *tenant.RefusedError
		switch {
		case errors.As(err, &refused):
			if refused.Reason != reason || refused.Contact != contact || refused.Detail == "" {
				t.Errorf("refused: %+v, want %s and %q", refused, reason, contact)
			}
		case err != nil:
			t.Fatal(err)
		case reason != "":
			t.Errorf("admitted, want %s", reason)
		}
	}

	// Off by default, for every client that is the app, and for no other.
	check(ann, app, mail, tenant.MobileMailAppDisabled, "help@north.example")
	check(ann, "open-xchange-mailapp", mail, tenant.MobileMailAppDisabled, "help@north.example")
	check(ann, "thunderbird", mail, "", "")
	// On for the context, off for one user in it.
	set(t, s, ofOne, appName, "true")
	check(ann, app, mail, "", "")
	set(t, s, ofAnn, appName, "false")
	check(ann, app, mail, tenant.MobileMailAppDisabled, "help@north.example")
	check(bob, app, mail, "", "")

	// A host that is switched off is so for whoever may use the app elsewhere.
	rules, err := hostrule.Parse("mailapp-config.yml", []byte("default: {host: all, mail_app_enabled: true}\nc: {host: "+closed+", mail_app_enabled: false}"))
	must(err)
	s.SetHosts(rules)
	check(bob, app, mail, "", "")
	check(bob, app, closed, tenant.HostNotAllowed, "help@north.example")
	check(bob, app, "CLOSED.example.org.:8443", tenant.HostNotAllowed, "help@north.example")
	check(bob, app, "", tenant.HostNotAllowed, "help@north.example")
	check(bob, "thunderbird", closed, "", "")

	// Whom to ask: the host's provider before the reseller, the user's own before both.
	for _, p := range []tenant.Provider{
		{Name: "blue", Title: "Blue", Colour: "#1c6ea4", Contact: "help@blue.example", Hosts: []string{closed}, SignIn: tenant.SignInPassword},
		{Name: "red", Title: "Red", Colour: "#a41c1c", Contact: "help@red.example", SignIn: tenant.SignInPassword},
	} {
		_, err := s.AddProvider(ctx, p, true)
		must(err)
	}
	check(bob, app, closed, tenant.HostNotAllowed, "help@blue.example")
	set(t, s, ofOne, "provider", "red")
	check(bob, app, closed, tenant.HostNotAllowed, "help@red.example")
	s.SetHosts(nil)
	check(bob, app, closed, "", "")
	set(t, s, ofServer, "app.clients", "*")
	check(ann, "thunderbird", mail, tenant.MobileMailAppDisabled, "help@red.example")
}
