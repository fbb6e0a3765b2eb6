package tenant_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// p8 is a fresh P-256 key as Apple hands them out.
func p8(t *testing.T) tenant.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return tenant.Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

//nolint:gosec // G101: no credential
const googleAccount = `{"type": "service_account", "project_id": "blue-mail", "client_email": "push@blue-mail.iam.gserviceaccount.com",
	"private_key": "-----BEGIN…", "token_uri": "https://oauth2.googleapis.com/token"}`

// blue is a provider with everything that one may have.
func blue(t *testing.T) tenant.Provider {
	t.Helper()
	return tenant.Provider{
		Name: "blue", Title: "Blue Mail", Colour: "#1C6EA4", OnColour: "#fff", BaseURL: "https://Push.Blue.example/", Contact: "help@blue.example",
		Hosts: []string{"push.blue.example:443", "Bücher.example."}, Domains: []string{"Blue.example"}, MailHosts: []string{"dove"}, Listed: true,
		SignIn: tenant.SignInOIDC,
		OIDC:   tenant.OIDC{Issuer: "https://login.blue.example/realms/mail", ClientID: "posthorn", ClientSecret: "oidc secret", Scopes: []string{"openid"}},
		APNs: []tenant.APNsCredential{
			{Topic: "example.blue.mail", Key: p8(t), KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", Privacy: "inherit"},
			{Client: "old*", Topic: "example.blue.old", Environment: "sandbox", Certificate: "cDEyIGZpbGU=", CertificatePassword: "p12 secret", Privacy: "none"},
		},
		FCM:      []tenant.FCMCredential{{ServiceAccount: googleAccount, Package: "example.blue.mail"}},
		VAPIDKey: p8(t), VAPIDSubject: "mailto:push@blue.example",
	}
}

func TestProviders(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		ctx := t.Context()
		first, second := keyFile(t), keyFile(t)
		s := openStore(t, url, first, installation)
		addHost(t, s, tenant.MailHost{Name: "dove"}, "")
		if all, err := s.Providers(ctx); err != nil || len(all) != 0 || all == nil {
			t.Errorf("none: %v, %v", all, err)
		}
		added, err := s.AddProvider(ctx, blue(t), true)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Provider(ctx, "blue")
		if err != nil || !reflect.DeepEqual(got.Hosts, []string{"push.blue.example", "xn--bcher-kva.example"}) || got.Colour != "#1c6ea4" ||
			got.OnColour != "#ffffff" || got.BaseURL != "https://push.blue.example" || got.OIDC.LoginClaim != "email" || got.APNs[0].Client != "*" ||
			got.APNs[0].Environment != "production" || got.APNs[0].Privacy != "" || !got.Created.Equal(clock()) {
			t.Errorf("kept: %+v, %v", got, err)
		}
		same := func(a, b tenant.Provider) bool {
			a.Created, a.Updated, b.Created, b.Updated = clock(), clock(), clock(), clock()
			return reflect.DeepEqual(a, b)
		}
		if !same(added, got) {
			t.Errorf("added %#v\nkept  %#v", added, got)
		}
		for _, host := range []string{"push.blue.example", "PUSH.blue.example.:8443", "bücher.example"} {
			if p, ok, err := s.ProviderByHost(ctx, host); !ok || err != nil || p.Name != "blue" {
				t.Errorf("by host %s: %v, %v", host, ok, err)
			}
		}
		for _, host := range []string{"blue.example", "", "push.blue.example.evil", "\xff", "a b"} {
			if _, ok, err := s.ProviderByHost(ctx, host); ok || err != nil {
				t.Errorf("by host %q: %v, %v", host, ok, err)
			}
		}
		if _, err := s.AddProvider(ctx, tenant.Provider{Name: "blue", Title: "Other", Colour: "#000"}, true); !errors.Is(err, tenant.ErrExists) {
			t.Errorf("added twice: %v", err)
		}
		_, err = s.AddProvider(ctx, tenant.Provider{Name: "red", Title: "Red", Colour: "#f00", Hosts: []string{"PUSH.blue.example"}}, true)
		wantField(t, err, "hosts[0]")
		_, err = s.AddProvider(ctx, tenant.Provider{Name: "red", Title: "Red", Colour: "#f00", Domains: []string{"blue.EXAMPLE"}}, true)
		wantField(t, err, "domains[0]")
		if _, err = s.AddProvider(ctx, tenant.Provider{Name: "red", Title: "Red", Colour: "#f00"}, false); err != nil {
			t.Error(err)
		}

		// Nothing of the secrets is in clear in the database.
		changed, err := s.ChangeProvider(ctx, "blue", false, func(p *tenant.Provider) error {
			p.Title = "Blue"
			p.Hosts = p.Hosts[:1]
			return nil
		})
		if err != nil || changed.Title != "Blue" || changed.APNs[0].Key != added.APNs[0].Key {
			t.Errorf("changed: %+v, %v", changed, err)
		}
		if _, ok, _ := s.ProviderByHost(ctx, "bücher.example"); ok {
			t.Error("a host that was taken away is found")
		}

		// A store with another key sees all but the secrets, and may change what does not need them.
		lost := openStore(t, url, second, installation)
		got, err = lost.Provider(ctx, "blue")
		if err != nil || got.Damaged == nil || got.Title != "Blue" || got.APNs[0].Key != "" || !errors.Is(got.Damaged, seal.ErrOpen) {
			t.Errorf("without the key: %+v, %v", got, err)
		}
		both := openStore(t, url, second+"\n"+first, installation)
		if n, err := both.Reseal(ctx); n != 1 || err != nil {
			t.Errorf("resealed %d: %v", n, err)
		}
		if n, err := both.Reseal(ctx); n != 0 || err != nil {
			t.Errorf("resealed again %d: %v", n, err)
		}
		lost = openStore(t, url, second, installation)
		got, err = lost.Provider(ctx, "blue")
		if err != nil || !same(got, changed) {
			t.Errorf("after a rotation: %#v, %v\nwant %#v", got, err, changed)
		}
		if _, err := s.Reseal(ctx); !errors.Is(err, seal.ErrOpen) || !strings.Contains(err.Error(), "blue") {
			t.Errorf("with the old key alone: %v", err)
		}

		if err := s.RemoveProvider(ctx, "blue"); err != nil {
			t.Error(err)
		}
		for _, err := range []error{
			s.RemoveProvider(ctx, "blue"), second2(s.Provider(ctx, "blue")), second2(s.ProviderLogo(ctx, "red")),
			second2(s.ChangeProvider(ctx, "blue", true, func(*tenant.Provider) error { return nil })),
		} {
			if !errors.Is(err, tenant.ErrNotFound) {
				t.Errorf("removed: %v", err)
			}
		}
	})
}

func second2[T any](_ T, err error) error { return err }

// Whatever is wrong is refused with the field's name.
func TestProviderIsChecked(t *testing.T) {
	t.Parallel()
	s := newStore(t, "sqlite:"+t.TempDir()+"/p.db", installation)
	addHost(t, s, tenant.MailHost{Name: "dove"}, "")
	for i, c := range []struct {
		field string
		set   func(p *tenant.Provider)
	}{
		{"name", func(p *tenant.Provider) { p.Name = "Blue" }},
		{"name", func(p *tenant.Provider) { p.Name = "-x" }},
		{"name", func(p *tenant.Provider) { p.Name = "" }},
		{"title", func(p *tenant.Provider) { p.Title = "\n" }},
		{"contact", func(p *tenant.Provider) { p.Contact = "a\nb" }},
		{"colour", func(p *tenant.Provider) { p.Colour = "" }},
		{"colour", func(p *tenant.Provider) { p.Colour = "blue" }},
		{"colour", func(p *tenant.Provider) { p.Colour = "#12345" }},
		{"on_colour", func(p *tenant.Provider) { p.OnColour = "#xyz" }},
		{"colour", func(p *tenant.Provider) { p.Colour, p.OnColour = "#fff", "" }},
		{"on_colour", func(p *tenant.Provider) { p.OnColour = "#1c6e00" }},
		{"logo", func(p *tenant.Provider) { p.Logo.Body = []byte("<svg/>") }},
		{"logo", func(p *tenant.Provider) {
			p.Logo.Body = []byte(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><script>alert(1)</script></svg>`)
		}},
		{"logo", func(p *tenant.Provider) { p.Logo.SHA256 = "00" }},
		{"base_url", func(p *tenant.Provider) { p.BaseURL = "http://blue.example" }},
		{"base_url", func(p *tenant.Provider) { p.BaseURL = "https://u:p@blue.example" }},
		{"base_url", func(p *tenant.Provider) { p.BaseURL = "https://blue.example/mail" }},
		{"base_url", func(p *tenant.Provider) { p.BaseURL = "blue.example" }},
		{"base_url", func(p *tenant.Provider) { p.BaseURL = "https://*.blue.example" }},
		{"hosts[1]", func(p *tenant.Provider) { p.Hosts = []string{"ok.example", "a b"} }},
		{"hosts", func(p *tenant.Provider) { p.Hosts = slices.Repeat([]string{"x.example"}, 101) }},
		{"domains[0]", func(p *tenant.Provider) { p.Domains = []string{"192.0.2.1"} }},
		{"mailhosts[0]", func(p *tenant.Provider) { p.MailHosts = []string{"none"} }},
		{"reseller", func(p *tenant.Provider) { p.Reseller = "none" }},
		{"sign_in", func(p *tenant.Provider) { p.SignIn = "magic" }},
		{"oidc", func(p *tenant.Provider) { p.SignIn = "password" }},
		{"oidc.issuer", func(p *tenant.Provider) { p.OIDC.Issuer = "http://login.example" }},
		{"oidc.issuer", func(p *tenant.Provider) { p.OIDC.Issuer = "" }},
		{"oidc.client_id", func(p *tenant.Provider) { p.OIDC.ClientID = "" }},
		{"oidc.client_secret", func(p *tenant.Provider) { p.OIDC.ClientSecret = "a\nb" }},
		{"oidc.scopes[0]", func(p *tenant.Provider) { p.OIDC.Scopes = []string{"a b"} }},
		{"oidc.login_claim", func(p *tenant.Provider) { p.OIDC.LoginClaim = "\n" }},
		{"apns[0].topic", func(p *tenant.Provider) { p.APNs[0].Topic = "*" }},
		{"apns[0].client", func(p *tenant.Provider) { p.APNs[0].Client = " x" }},
		{"apns[0].environment", func(p *tenant.Provider) { p.APNs[0].Environment = "both" }},
		{"apns[0].privacy", func(p *tenant.Provider) { p.APNs[0].Privacy = "some" }},
		{"apns[0].key", func(p *tenant.Provider) { p.APNs[0].Key = "key" }},
		{"apns[0].key", func(p *tenant.Provider) { p.APNs[0].Key = "" }},
		{"apns[0].key_id", func(p *tenant.Provider) { p.APNs[0].KeyID = "short" }},
		{"apns[0].team_id", func(p *tenant.Provider) { p.APNs[0].TeamID = "" }},
		{"apns[0].certificate_password", func(p *tenant.Provider) { p.APNs[0].CertificatePassword = "x" }},
		{"apns[1].certificate", func(p *tenant.Provider) { p.APNs[1].Certificate = "§" }},
		{"apns[1].certificate_password", func(p *tenant.Provider) { p.APNs[1].CertificatePassword = "" }},
		{"apns[1].key_id", func(p *tenant.Provider) { p.APNs[1].KeyID = "ABC123DEFG" }},
		{"apns[1]", func(p *tenant.Provider) { p.APNs[1].Key = p.APNs[0].Key }},
		{"apns[0].url", func(p *tenant.Provider) { p.APNs[0].URL = "http://apple.example" }},
		{"apns[0].other_url", func(p *tenant.Provider) { p.APNs[0].OtherURL = "https://apple.example" }},
		{"apns[0].ca", func(p *tenant.Provider) { p.APNs[0].CA = "none" }},
		{"apns", func(p *tenant.Provider) { p.APNs = slices.Repeat(p.APNs[:1], 21) }},
		{"fcm[0].service_account", func(p *tenant.Provider) { p.FCM[0].ServiceAccount = `{"project_info": {}}` }},
		{"fcm[0].service_account", func(p *tenant.Provider) { p.FCM[0].ServiceAccount = "" }},
		{"fcm[0].package", func(p *tenant.Provider) { p.FCM[0].Package = "a b" }},
		{"fcm[0].endpoint", func(p *tenant.Provider) { p.FCM[0].Endpoint = "https://x.example/path" }},
		{"vapid_key", func(p *tenant.Provider) { p.VAPIDKey = "key" }},
		{"vapid_subject", func(p *tenant.Provider) { p.VAPIDSubject = "push@blue.example" }},
		{"vapid_subject", func(p *tenant.Provider) { p.VAPIDSubject = "mailto:push@localhost" }},
		{"vapid_subject", func(p *tenant.Provider) { p.VAPIDSubject = "https://192.0.2.1" }},
	} {
		p := blue(t)
		c.set(&p)
		_, err := s.AddProvider(t.Context(), p, true)
		var invalid *tenant.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != c.field {
			t.Errorf("%d: %v, want one of %s", i, err, c.field)
		}
	}
	if all, err := s.Providers(t.Context()); len(all) != 0 || err != nil {
		t.Errorf("there are %d, %v", len(all), err)
	}

	// What mail hosts there are is told to the operator only.
	for operator, want := range map[bool]string{true: `did you mean "dove"?`, false: "ask the operator"} {
		p := blue(t)
		if p.MailHosts = []string{"doge"}; !operator {
			p.APNs, p.FCM = nil, nil // with addresses that are the operator's
		}
		if _, err := s.AddProvider(t.Context(), p, operator); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "dove") != operator {
			t.Errorf("operator %t: %v", operator, err)
		}
	}
}

// Only the operator leads the server elsewhere than to Apple and Google. Who is not him may keep what he set.
func TestProviderFieldsOfTheOperator(t *testing.T) {
	t.Parallel()
	s := newStore(t, "sqlite:"+t.TempDir()+"/p.db", installation)
	addHost(t, s, tenant.MailHost{Name: "dove"}, "")
	ctx := t.Context()
	p := blue(t)
	p.APNs[0].URL, p.FCM[0].Endpoint = "https://apple.example", "http://127.0.0.1:1"
	p.FCM[0].ServiceAccount = tenant.Secret(strings.Replace(googleAccount, "https://oauth2.googleapis.com/token", "http://10.0.0.1/", 1))
	_, err := s.AddProvider(ctx, p, false)
	wantField(t, err, "apns[0].url")
	if _, err = s.AddProvider(ctx, p, true); err != nil {
		t.Fatal(err)
	}
	change := func(fn func(p *tenant.Provider)) error {
		_, err := s.ChangeProvider(ctx, "blue", false, func(p *tenant.Provider) error { fn(p); return nil })
		return err
	}
	for field, fn := range map[string]func(p *tenant.Provider){
		"apns[0].url": func(p *tenant.Provider) { p.APNs[0].URL = "https://other.example" },
		"apns[1].url": func(p *tenant.Provider) {
			p.APNs[1].URL, p.APNs[1].OtherURL = "https://apple.example", "https://10.0.0.1"
		},
		"fcm[0].endpoint":        func(p *tenant.Provider) { p.FCM[0].Endpoint = "http://127.0.0.1:2" },
		"fcm[0].service_account": func(p *tenant.Provider) { p.FCM[0].ServiceAccount += " " },
		"reseller":               func(p *tenant.Provider) { p.Reseller = "north" },
		"base_url":               func(p *tenant.Provider) { p.BaseURL = "http://127.0.0.1:8009" },
	} {
		wantField(t, change(fn), field)
	}
	if err := change(func(p *tenant.Provider) { p.APNs[0].URL, p.Title = "", "Other" }); err != nil {
		t.Error(err)
	}
	if err := change(func(p *tenant.Provider) { p.FCM[0].ServiceAccount = googleAccount }); err != nil {
		t.Error(err)
	}
}

// A logo is cleaned once, stays with changes of something else, and goes when it is taken away.
func TestProviderLogo(t *testing.T) {
	t.Parallel()
	s := newStore(t, "sqlite:"+t.TempDir()+"/p.db", installation)
	ctx := t.Context()
	p := tenant.Provider{Name: "blue", Colour: "#1c6ea4"}
	p.Logo.Body = []byte(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1" data-x="y"><!-- c --><rect width="1" height="1"/></svg>`)
	added, err := s.AddProvider(ctx, p, false)
	if err != nil || added.Title != "blue" || added.Logo.MediaType != "image/svg+xml" || strings.Contains(string(added.Logo.Body), "data-x") {
		t.Fatalf("%+v, %v", added, err)
	}
	look := func(what string) tenant.Logo {
		t.Helper()
		l, err := s.ProviderLogo(ctx, "blue")
		p, _ := s.Provider(ctx, "blue")
		if err != nil || !reflect.DeepEqual(l, added.Logo) || p.Logo.SHA256 != l.SHA256 || p.Logo.Body != nil {
			t.Errorf("%s: %+v, %v", what, l, err)
		}
		return l
	}
	look("added")
	change := func(fn func(p *tenant.Provider)) {
		t.Helper()
		if _, err := s.ChangeProvider(ctx, "blue", false, func(p *tenant.Provider) error { fn(p); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	change(func(p *tenant.Provider) { p.Title = "Other" })
	look("the title changed")
	change(func(p *tenant.Provider) { p.Logo = tenant.Logo{} })
	if l, err := s.ProviderLogo(ctx, "blue"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("taken away: %+v, %v", l, err)
	}
}

// A user has the provider that the cascade names.
func TestProviderOf(t *testing.T) {
	t.Parallel()
	s := newStore(t, "sqlite:"+t.TempDir()+"/p.db", installation)
	ctx := t.Context()
	one, two := addContext(t, s, tenant.Context{}), addContext(t, s, tenant.Context{})
	of := func(c tenant.Context, want string) {
		t.Helper()
		p, ok, err := s.ProviderOf(ctx, tenant.UserID{Context: c.ID, ID: 1})
		if err != nil || ok != (want != "") || p.Name != want {
			t.Errorf("context %d: %q, %v, want %q", c.ID, p.Name, err, want)
		}
	}
	set := func(scope tenant.Subject, name string) {
		t.Helper()
		if err := s.SetProperty(ctx, scope, "provider", name, "test"); err != nil {
			t.Fatal(err)
		}
	}
	of(one, "")
	for _, file := range []cascade.Files{{Server: []cascade.Setting{{Name: "provider", Value: "ghost", Origin: "file"}}}, {}} {
		if err := s.SetFiles(file); err != nil {
			t.Fatal(err)
		}
		of(one, "") // there is none of that name
	}
	for _, name := range []string{"blue", "red"} {
		if _, err := s.AddProvider(ctx, tenant.Provider{Name: name, Colour: "#1c6ea4"}, true); err != nil {
			t.Fatal(err)
		}
	}
	set(tenant.Subject{Scope: cascade.Context, Name: fmt.Sprint(one.ID)}, "blue")
	of(one, "blue")
	of(two, "")
	set(tenant.Subject{Scope: cascade.Server}, "red")
	of(one, "blue")
	of(two, "red")
	if err := s.RemoveProvider(ctx, "blue"); !errors.Is(err, tenant.ErrInUse) {
		t.Errorf("removed while it is named: %v", err)
	}
	if _, err := s.AddReseller(ctx, tenant.Reseller{Name: "north"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ChangeProvider(ctx, "red", true, func(p *tenant.Provider) error { p.Reseller = "north"; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveReseller(ctx, "north"); !errors.Is(err, tenant.ErrInUse) {
		t.Errorf("removed with its provider: %v", err)
	}
}

// Of many who want the same host at once, one gets it.
func TestProvidersAtOnce(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		s := newStore(t, url, installation)
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = s.AddProvider(t.Context(), tenant.Provider{Name: fmt.Sprint("p", i), Title: "P", Colour: "#000", Hosts: []string{"one.example"}}, false)
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else {
				wantField(t, err, "hosts[0]")
			}
		}
		if p, ok, err := s.ProviderByHost(t.Context(), "one.example"); won != 1 || !ok || err != nil {
			t.Errorf("%d have the host: %v, %v, %v", won, p.Name, ok, err)
		}
	})
}

// Secrets are neither in what a provider is printed as nor in the rows.
func TestProviderSecretsStayInside(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/p.db"
	s := newStore(t, "sqlite:"+path, installation)
	addHost(t, s, tenant.MailHost{Name: "dove"}, "")
	p, err := s.AddProvider(t.Context(), blue(t), true)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	d, err := db.Open(t.Context(), "sqlite:"+path, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close() //nolint:errcheck // only read from
	var document, secrets string
	if err := d.QueryRow(t.Context(), "SELECT document, secrets FROM providers").Scan(&document, &secrets); err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %s %s", p, p, p, shown, document, secrets)
	for _, secret := range []tenant.Secret{p.OIDC.ClientSecret, p.APNs[0].Key[40:80], p.APNs[1].Certificate, p.APNs[1].CertificatePassword, "BEGIN", p.VAPIDKey[40:80]} {
		if strings.Contains(all, string(secret)) {
			t.Error("a secret is seen")
		}
	}
	if strings.Contains(document, "redacted") {
		t.Errorf("the document has places of secrets: %s", document)
	}
}

// A node that others change for hears of it, and tells who watches.
func TestProvidersAreWatched(t *testing.T) {
	t.Parallel()
	url := "sqlite:" + t.TempDir() + "/p.db"
	s := newStore(t, url, installation)
	told := 0
	s.Watch(func(tenant.UserID) { told++ })
	if _, err := s.AddProvider(t.Context(), tenant.Provider{Name: "p", Title: "P", Colour: "#000"}, true); err != nil || told != 1 {
		t.Errorf("told %d times: %v", told, err)
	}
}

func BenchmarkProviderByHost(b *testing.B) {
	keys, err := seal.ParseKeyFile(strings.Repeat("0f", seal.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	d, err := db.Open(b.Context(), "sqlite:"+b.TempDir()+"/p.db", db.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close() //nolint:errcheck // of a benchmark
	s, err := tenant.New(d, keys, installation, clock)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.AddProvider(b.Context(), tenant.Provider{Name: "p", Title: "P", Colour: "#000", Hosts: []string{"push.example.org"}}, true); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := s.ProviderByHost(b.Context(), "push.example.org:443"); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
