package onboard

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outbound"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/brand"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// office is where providers are examined, in a small internet.
type office struct {
	*internet
	doctor *Doctor
	key    string // of the directory
}

func newOffice(t *testing.T, hosts ...tenant.MailHost) *office {
	t.Helper()
	o := &office{internet: newInternet(t), doctor: newDoctor(t, hosts...)}
	key, err := o.doctor.Tenants.DirectoryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o.key, err = brand.KeyID(key); err != nil {
		t.Fatal(err)
	}
	o.doctor.Probes = func(tenant.Provider) ([]PushProbe, func()) { return nil, func() {} }
	o.doctor.TestPush = func(context.Context, tenant.UserID) ([]PushAnswer, error) { return nil, nil }
	return o
}

// ours is what this Posthorn says of itself.
func (o *office) ours(enabled bool, provider string) string {
	return fmt.Sprintf(`{"posthorn":1,"server":{"name":"Posthorn"},"api":"/api/v1","app":{"enabled":%v,"detail":"The app is off for this host."},"sign_in":["password"],
		"transports":[],"provider":{"name":%q,"title":"","branding":""},"directory":{"url":"/api/v1/directory","key":"/key.pem","key_id":%q}}`, enabled, provider, o.key)
}

func (o *office) url(host string) string { return fmt.Sprintf("https://%s:%d", host, o.https) }

// examine examines a provider, with all names of the internet allowed.
func (o *office) examine(req ProviderRequest) map[string][]Check {
	o.t.Helper()
	var allow []string
	for _, name := range o.hosts() {
		if name == "inside.example" {
			continue
		}
		allow = append(allow, o.url(name))
	}
	guard, err := outbound.New(outbound.Config{Allow: allow, Resolver: func(_ context.Context, host string) ([]netip.Addr, error) {
		if !o.has(host) {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}})
	if err != nil {
		o.t.Fatal(err)
	}
	defer guard.Client().CloseIdleConnections()
	o.doctor.Guard = guard
	if req.Provider.Name == "" {
		req.Provider.Name = "blue"
	}
	if req.Provider.Colour == "" {
		req.Provider.Colour = "#1c6ea4"
	}
	told := 0
	r, err := o.doctor.Provider(o.t.Context(), req, func(r Report) { told += len(r.Checks) })
	if err != nil {
		o.t.Fatal(err)
	}
	if told != len(r.Checks) || r.Provider != req.Provider.Name {
		o.t.Errorf("told of %d of %d checks of %q", told, len(r.Checks), r.Provider)
	}
	found := map[string][]Check{}
	for _, c := range r.Checks {
		found[c.Name] = append(found[c.Name], c)
		if c.State == Failed && c.Do == "" {
			o.t.Errorf("%s fails without advice: %s", c.Name, c.Detail)
		}
	}
	return found
}

// lasting is a certificate of an issuer's that began two hundred days before today.
func lasting(i *issuer, ends time.Time, name string) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(3), DNSNames: []string{name}, NotBefore: time.Now().Add(-200 * 24 * time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, c, i.cert, &key.PublicKey, i.key)
	if err != nil {
		panic(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// want looks for a check with a state, and words in what it says.
func want(t *testing.T, found map[string][]Check, name string, state State, words ...string) {
	t.Helper()
	for _, c := range found[name] {
		text, all := c.Detail+" → "+c.Do, c.State == state
		for _, w := range words {
			all = all && strings.Contains(text, w)
		}
		if all {
			return
		}
	}
	t.Errorf("no check %s is %s and says %q: %+v", name, state, words, found[name])
}

// What is wrong with a base URL is named, with what to do.
func TestProviderWeb(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	p := tenant.Provider{Name: "blue", Colour: "#1c6ea4", Hosts: []string{"push.blue.example", "other.blue.example"}}
	if _, err := o.doctor.Tenants.AddProvider(t.Context(), p, true); err != nil {
		t.Fatal(err)
	}
	soon, long := time.Now().Add(10*24*time.Hour), time.Now().Add(90*24*time.Hour)
	for host, ends := range map[string]time.Time{
		"push.blue.example": long, "soon.example": soon, "expired.example": time.Now().Add(-24 * time.Hour), "off.example": long, "theirs.example": long, "away.example": long,
	} {
		o.certify(host, lasting(trusted, ends, host))
	}
	o.certify("name.example", lasting(trusted, long, "another.example"))
	o.certify("nobody.example", lasting(newIssuer(), long, "nobody.example"))
	for _, host := range []string{"push.blue.example", "soon.example", "expired.example", "name.example", "nobody.example"} {
		o.page(host+PosthornPath, 200, "application/json", o.ours(true, "blue"))
	}
	o.page("other.blue.example"+PosthornPath, 200, "application/json", o.ours(true, ""))
	o.page("off.example"+PosthornPath, 200, "application/json", o.ours(false, "blue"))
	o.page("theirs.example"+PosthornPath, 200, "application/json", strings.Replace(o.ours(true, "blue"), o.key, "0123456789abcdef", 1))
	o.page("page.example"+PosthornPath, 200, "text/html", "<html>")
	o.page("none.example/", 200, "text/html", "")
	o.name("inside.example")
	o.handle("away.example"+PosthornPath, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://www.away.example/", http.StatusFound)
	})

	found := o.examine(ProviderRequest{Provider: tenant.Provider{Name: "blue", Colour: "#1c6ea4", BaseURL: o.url("push.blue.example"), Hosts: p.Hosts}})
	want(t, found, "reachable", OK, "push.blue.example")
	want(t, found, "certificate", OK, "it ends on "+day(long))
	want(t, found, "discovery", OK, "push.blue.example", "this Posthorn answers")
	want(t, found, "discovery", Warning, "other.blue.example", "does not see which host")
	if len(found["discovery"]) != 2 {
		t.Errorf("%d discoveries of two hosts", len(found["discovery"]))
	}
	for _, c := range []struct {
		host, check string
		state       State
		words       []string
	}{
		{"soon.example", "certificate", Warning, []string{"it ends on " + day(soon), "renew it"}},
		{"expired.example", "certificate", Failed, []string{"the certificate has expired on", "renew the certificate"}},
		{"name.example", "certificate", Failed, []string{"is for another.example", "names this host"}},
		{"nobody.example", "certificate", Failed, []string{"nobody who is trusted", "public authority"}},
		{"off.example", "discovery", Failed, []string{"The app is off for this host", "posthorn host check off.example"}},
		{"theirs.example", "discovery", Failed, []string{"another installation", "pass all paths"}},
		{"page.example", "discovery", Failed, []string{"not a Posthorn's answer (HTTP 200)", "pass all paths"}},
		{"none.example", "discovery", Failed, []string{"not a Posthorn's answer (HTTP 404)"}},
		{"away.example", "reachable", Failed, []string{"leads to https://www.away.example/", "give the last address"}},
		{"inside.example", "reachable", Failed, []string{"not asked", "outbound.allow"}},
	} {
		found := o.examine(ProviderRequest{Provider: tenant.Provider{BaseURL: o.url(c.host)}})
		want(t, found, c.check, c.state, append(c.words, c.host)...)
	}
	// Without a name in DNS, on a port that is nobody's, and with no address at all.
	found = o.examine(ProviderRequest{Provider: tenant.Provider{BaseURL: "https://unknown.example"}})
	want(t, found, "reachable", Failed, "DNS has no such name", "publish an address")
	want(t, o.examine(ProviderRequest{}), "reachable", Failed, "--base-url")
}

// What becomes of colour and logo is said, and what cannot be used is refused with what can.
func TestProviderLook(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	look := func(p tenant.Provider) map[string][]Check { return o.examine(ProviderRequest{Provider: p}) }
	found := look(tenant.Provider{Colour: "#1c6ea4"})
	want(t, found, "colour", OK, "#1c6ea4", "#ffffff", "5.5:1")
	want(t, found, "logo", Warning, "--logo")
	want(t, look(tenant.Provider{Colour: "#ffffff"}), "colour", Failed, "cannot be told from the app's light page", "take #eeeeee")
	want(t, look(tenant.Provider{Colour: "#1c6ea4", OnColour: "#1c6e00"}), "colour", Failed, "contrast of 1.", "as on_colour")
	svg := `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1">%s<path d="M0 0h1v1z"/></svg>`
	want(t, look(tenant.Provider{Logo: tenant.Logo{Body: fmt.Appendf(nil, svg, "")}}), "logo", OK, "image/svg+xml")
	want(t, look(tenant.Provider{Logo: tenant.Logo{Body: fmt.Appendf(nil, svg, "<script>alert(1)</script>")}}), "logo", Failed, "holds a script: remove it")
}

// Test accounts sign in at a real mail server, from its name on.
func TestProviderSignIn(t *testing.T) {
	t.Parallel()
	dovecot := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret, "bob@rig.test": "other"}})
	at := tenant.MailHost{Name: "dove", IMAPHost: dovecot.Host, IMAPPort: dovecot.IMAPPort, Security: tenant.SecurityNone}
	dead := tenant.MailHost{Name: "dead", IMAPHost: "127.0.0.1", IMAPPort: 1, Security: tenant.SecurityNone}
	o := newOffice(t, at, dead)
	p := tenant.Provider{MailHosts: []string{"dove"}}
	found := o.examine(ProviderRequest{Provider: p, Accounts: []TestAccount{{alice, secret, ""}, {"bob@rig.test", "wrong", "dove"}, {"carol", "x", "else"}}})
	want(t, found, "sign_in", OK, alice+" at dove")
	want(t, found, "sign_in", Failed, "bob@rig.test at dove", "compare login and password")
	want(t, found, "sign_in", Failed, "mail host else is not the provider's", "--mailhost else")
	if len(found["test_accounts"]) > 0 {
		t.Errorf("enough accounts: %v", found["test_accounts"])
	}
	found = o.examine(ProviderRequest{Provider: tenant.Provider{MailHosts: []string{"dove", "dead"}}, Accounts: []TestAccount{{alice, secret, ""}}})
	want(t, found, "sign_in", Failed, "which mail host", "--accounts")
	want(t, found, "test_accounts", Warning, "1 of 2")
	found = o.examine(ProviderRequest{Provider: tenant.Provider{MailHosts: []string{"dead"}}, Accounts: []TestAccount{{alice, secret, ""}}})
	want(t, found, "sign_in", Failed, "127.0.0.1:1", "refused")
	if _, err := o.doctor.Provider(t.Context(), ProviderRequest{Accounts: make([]TestAccount, 6)}, nil); err == nil {
		t.Error("six accounts are taken")
	}
}

// An identity provider is looked at as the sign-in will need it.
func TestProviderIdentity(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	const well = `{"issuer":"ISSUER","authorization_endpoint":"ISSUER/a","token_endpoint":"ISSUER/t","jwks_uri":"ISSUER/k",
		"response_types_supported":["code"],"code_challenge_methods_supported":["S256"],"grant_types_supported":["authorization_code","refresh_token"]}`
	for i, c := range []struct {
		from, to string
		state    State
		words    []string
	}{
		{"", "", OK, []string{"code flow with PKCE"}},
		{`"S256"`, `"plain"`, Failed, []string{"PKCE", "switch PKCE"}},
		{`["code"]`, `["token"]`, Failed, []string{"authorization code flow"}},
		{`,"refresh_token"`, "", Warning, []string{"refresh tokens"}},
		{`"issuer":"ISSUER"`, `"issuer":"ISSUER/"`, Failed, []string{"calls itself", "to the last slash"}},
		{`"ISSUER/t"`, `"http://10.0.0.1/t"`, Failed, []string{"not one that can be asked"}},
		{`{`, `[`, Failed, []string{"no discovery document"}},
	} {
		host := fmt.Sprintf("login%d.example", i)
		o.certify(host, lasting(trusted, time.Now().Add(60*24*time.Hour), host))
		o.page(host+oidcPath, 200, "application/json", strings.ReplaceAll(strings.Replace(well, c.from, c.to, 1), "ISSUER", o.url(host)))
		found := o.examine(ProviderRequest{Provider: tenant.Provider{SignIn: tenant.SignInOIDC, OIDC: tenant.OIDC{Issuer: o.url(host)}}})
		want(t, found, "identity_provider", c.state, c.words...)
	}
	found := o.examine(ProviderRequest{Provider: tenant.Provider{SignIn: tenant.SignInOIDC, OIDC: tenant.OIDC{Issuer: "https://unknown.example"}}})
	want(t, found, "identity_provider", Failed, "DNS has no such name")
}

// An answer about a device that there is not says what a credential is worth.
func TestProviderPush(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for _, c := range []struct {
		probe PushProbe
		state State
		words []string
	}{
		{PushProbe{Transport: "apns", Send: says("suspect", "BadDeviceToken", 400)}, OK, []string{"taken"}},
		{PushProbe{Transport: "fcm", Send: says("gone", "UNREGISTERED", 404)}, OK, []string{"taken"}},
		{PushProbe{Transport: "apns", Send: says("blocked", "InvalidProviderToken", 403)}, Failed, []string{"InvalidProviderToken", "compare key id"}},
		{PushProbe{Transport: "apns", Send: says("refused", "TopicDisallowed", 400)}, Failed, []string{"TopicDisallowed", "bundle id"}},
		{PushProbe{Transport: "fcm", Send: says("blocked", "PERMISSION_DENIED", 403)}, Failed, []string{"Firebase console"}},
		{PushProbe{Transport: "apns", Send: says("later", "timeout", 0)}, Warning, []string{"api.push.apple.com"}},
		{PushProbe{Transport: "apns", Ends: time.Now().Add(24 * time.Hour), Send: says("suspect", "BadDeviceToken", 400)}, Warning, []string{"taken, but the certificate ends"}},
		{PushProbe{Transport: "apns", Ends: time.Now().Add(-24 * time.Hour), Send: says("suspect", "BadDeviceToken", 400)}, Failed, []string{"ended on", "renew it"}},
		{PushProbe{Name: "credential", Err: errors.New("apns[0].key: not PEM")}, Failed, []string{"not PEM"}},
		{PushProbe{Transport: "webpush"}, OK, []string{"public key"}},
	} {
		o.doctor.Probes = func(tenant.Provider) ([]PushProbe, func()) { return []PushProbe{c.probe}, func() {} }
		want(t, o.examine(ProviderRequest{}), "push_credential", c.state, c.words...)
	}
	o.doctor.Probes = func(tenant.Provider) ([]PushProbe, func()) { return nil, func() {} }
	found := o.examine(ProviderRequest{})
	want(t, found, "push_credential", Skipped, "those of the installation")
	want(t, found, "test_push", Skipped, "--user")

	// A test goes by the provider's own credentials, or says why not.
	ctx, user := t.Context(), tenant.UserID{Context: 1, ID: 1}
	want(t, o.examine(ProviderRequest{User: user}), "test_push", Failed, "not a user of this provider", "posthorn property set")
	if _, err := o.doctor.Tenants.AddProvider(ctx, tenant.Provider{Name: "blue", Colour: "#1c6ea4"}, true); err != nil {
		t.Fatal(err)
	}
	if err := o.doctor.Tenants.SetProperty(ctx, tenant.Subject{Scope: cascade.Server}, "provider", "blue", "test"); err != nil {
		t.Fatal(err)
	}
	want(t, o.examine(ProviderRequest{User: user}), "test_push", Failed, "no device")
	answers := []PushAnswer{{Device: "d1", Outcome: "delivered"}}
	o.doctor.TestPush = func(context.Context, tenant.UserID) ([]PushAnswer, error) { return answers, nil }
	want(t, o.examine(ProviderRequest{User: user}), "test_push", OK, "d1")
	answers = append(answers, PushAnswer{Device: "d2", Outcome: "blocked", Reason: "InvalidProviderToken"})
	want(t, o.examine(ProviderRequest{User: user}), "test_push", Failed, "d2", "posthorn push trace d2")
}

func says(outcome, reason string, status int) func(context.Context) PushAnswer {
	return func(context.Context) PushAnswer { return PushAnswer{Outcome: outcome, Reason: reason, Status: status} }
}
