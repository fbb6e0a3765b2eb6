package original

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/config"
)

// tryKeys makes a plan of one property file, and further files by name.
func tryKeys(t *testing.T, opts Options, properties string, files ...string) (*Plan, *config.Config) {
	t.Helper()
	dir := t.TempDir()
	files = append(files, "x.properties", properties)
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte(files[i+1]), 0o600))
	}
	opts.Now = today
	opts.StateDir = "/var/lib/posthorn"
	r, err := Open(dir, opts)
	must(t, err)
	p, err := r.Plan()
	must(t, err)
	out := t.TempDir()
	for _, f := range p.Files {
		must(t, os.MkdirAll(filepath.Join(out, filepath.Dir(f.Name)), 0o700))
		must(t, os.WriteFile(filepath.Join(out, f.Name), f.Content, f.Mode))
	}
	cfg, _, err := config.Load(filepath.Join(out, ConfigFile), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatalf("the configuration is not good: %v\n%s", err, p.Files[0].Content)
	}
	return p, cfg
}

// verdictOn is what the report says of a key: "verdict to: reason", "!" first when it needs a hand.
func verdictOn(p *Plan, key string) string {
	for _, e := range p.Report.Entries {
		if e.Key == key {
			s := string(e.Verdict)
			if e.NeedsYou {
				s = "! " + s
			}
			return s + " " + e.To + ": " + e.Reason
		}
	}
	return "missing"
}

// TestVerdicts holds single keys, with the traps of their names and values.
func TestVerdicts(t *testing.T) {
	const v1, push = "com.openxchange.mobilepush.events.", "com.openexchange.push."
	for _, tc := range []struct {
		name, properties, key, want string
	}{
		{"the plural wins", push + "allowedClients=a\n" + push + "allowedClient=b", push + "allowedClient", "dropped : allowedClients is set as well"},
		{"the singular was not read", push + "allowedClient=\"a*\"", push + "allowedClient", "changed push.allowed_clients: The system before read allowedClients"},
		{"all clients", push + "allowedClients=*", push + "allowedClients", "taken push.allowed_clients"},
		{"no client's name", push + "allowedClients=a;b", push + "allowedClients", "! dropped : \"a;b\" is no name of a client"},
		{"a short passphrase", push + "credstorage.passcrypt=short", push + "credstorage.passcrypt", "dropped : it is shorter than 12"},
		{"the right spelling had no effect", "com.openexchange.mobilepush.events.gcm.enabled=true", "com.openexchange.mobilepush.events.gcm.enabled", "changed transports.fcm.enabled: The system before read com.openxchange"},
		{"the older name", "com.openxchange.mobilenotifier.events.gcm.enabled=true\n" + v1 + "gcm.key=x", v1 + "gcm.key", "! dropped : Google has switched off"},
		{"GCM was off", v1 + "gcm.enabled=false\n" + v1 + "gcm.key=x", v1 + "gcm.key", "dropped : GCM was not enabled"},
		{"the vendor's certificate", v1 + "apn.ios.enabled=true\n" + v1 + "apn.ios.keystore=", v1 + "apn.ios.enabled", "! dropped : no keystore is named: the certificate was that of the package"},
		{"a keystore that is not there", v1 + "apn.ios.enabled=true\n" + v1 + "apn.ios.keystore=/no/such.p12", v1 + "apn.ios.keystore", "! dropped : the keystore cannot be read: such.p12 is neither in"},
		{"APNs was off", v1 + "apn.ios.enabled=false\n" + v1 + "apn.ios.keystore=/no/such.p12", v1 + "apn.ios.keystore", "dropped : APNs was not enabled"},
		{"a master password without a login", "com.openexchange.mail.passwordSource=global\ncom.openexchange.mail.masterPassword=x", "com.openexchange.mail.passwordSource", "! dropped : the system before signed in as each user with the master password"},
		{"no master password", "com.openexchange.mail.passwordSource=global", "com.openexchange.mail.passwordSource", "! dropped : it is global, and there is no masterPassword"},
		{"another login", "com.openexchange.mail.loginSource=mail", "com.openexchange.mail.loginSource", "taken users: login: the column user.mail"},
		{"an open notify endpoint", "com.openexchange.rest.services.basic-auth.login=\ncom.openexchange.rest.services.basic-auth.password=", "com.openexchange.rest.services.basic-auth.login", "! dropped : it is empty, which let everybody report"},
		{"no number", "com.openexchange.pns.delayDuration=soon", "com.openexchange.pns.delayDuration", "dropped : it must be a number"},
		{"no boolean", mobileMailApp + "=maybe", mobileMailApp, "! dropped : \"maybe\" must be true or false"},
		{"twice", push + "allowPermanentPush=true\n" + push + "allowPermanentPush=false", push + "allowPermanentPush", "dropped : it is there again in x.properties:2"},
		{"a slip", push + "allowPermanantPush=true", push + "allowPermanantPush", "! dropped : not known; did you mean com.openexchange.push.allowPermanentPush?"},
		{"nobody's", "some.key=1", "some.key", "dropped : not known"},
		{"not enabled", "com.openexchange.dovecot.doveadm.apiSecret=x", "com.openexchange.dovecot.doveadm.apiSecret", "dropped : it was not enabled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, _ := tryKeys(t, Options{}, tc.properties)
			if got := verdictOn(p, tc.key); !strings.HasPrefix(got, tc.want) {
				t.Errorf("%s: %s, want %s…", tc.key, got, tc.want)
			}
		})
	}
}

// TestSpelling takes what the system before read where both spellings are there, in whatever order.
func TestSpelling(t *testing.T) {
	const right, wrong, older = "com.openxchange.mobilepush.events.gcm.enabled", "com.openexchange.mobilepush.events.gcm.enabled", "com.openxchange.mobilenotifier.events.gcm.enabled"
	for _, text := range []string{
		right + "=true\n" + wrong + "=false\n" + older + "=false\n", older + "=false\n" + wrong + "=false\n" + right + "=true\n", older + "=true\n" + wrong + "=false\n",
	} {
		p, _ := tryKeys(t, Options{ServiceAccount: []byte("{}")}, text)
		taken := right
		if !strings.Contains(text, right) {
			taken = older
		}
		if got := verdictOn(p, taken); got != "changed transports.fcm.enabled: with a service account" {
			t.Errorf("%s: %s", taken, got)
		}
		if got := verdictOn(p, wrong); !strings.HasSuffix(got, "and the system before read that spelling") {
			t.Errorf("%s: %s", wrong, got)
		}
	}
	p, _ := tryKeys(t, Options{}, "com.openxchange.push.allowPermanentPush=false\n")
	if got := verdictOn(p, "com.openxchange.push.allowPermanentPush"); !strings.HasPrefix(got, "changed listen.allow_permanent_push: The system before read com.openexchange.…") {
		t.Error(got)
	}
}

// TestClientOptions takes options that another client lends, the keystore that its path means of several of one name, and
// tells of what is none.
func TestClientOptions(t *testing.T) {
	dir := t.TempDir()
	for _, brand := range []string{"a", "b"} {
		must(t, os.MkdirAll(filepath.Join(dir, "security", brand), 0o700))
		keystore(t, filepath.Join(dir, "security", brand, "apn.pfx"), "com.example."+brand, "changeme", today.Add(300*24*time.Hour))
	}
	keystore(t, filepath.Join(dir, "apn.pfx"), "com.example.top", "changeme", today.Add(300*24*time.Hour))
	must(t, os.WriteFile(filepath.Join(dir, "pns.properties"), []byte("com.openexchange.pns.transport.apn.ios.enabled=true\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "foldercache.xml"), []byte("<x/>"), 0o600))
	const text = `a: &a
  enabled: true
  keystore: /opt/open-xchange/etc/security/a/apn.pfx
  password: changeme
  colour: [{x: blue}, {y: 1}]
b:
  <<: *a
  keystore: /opt/open-xchange/etc/security/b/apn.pfx
  keystore: /opt/open-xchange/etc/security/b/apn.pfx
c: true
d:
`
	must(t, os.WriteFile(filepath.Join(dir, "pns-apns-options.yml"), []byte(text), 0o600))
	p := planOfTree(t, dir)
	var got []string
	for _, e := range p.Report.Entries {
		if e.File == "pns-apns-options.yml" {
			got = append(got, fmt.Sprintf("%d %s %s %s", e.Line, e.Key, e.Value, e.Verdict))
		}
	}
	want := []string{
		"2 a.enabled true taken", "3 a.keystore /opt/open-xchange/etc/security/a/apn.pfx changed", "4 a.password [redacted] taken",
		"5 a.colour[0].x [not shown] dropped", "5 a.colour[1].y [not shown] dropped",
		"7 b.<< a changed", "8 b.keystore /opt/open-xchange/etc/security/b/apn.pfx dropped", "9 b.keystore /opt/open-xchange/etc/security/b/apn.pfx changed",
		"10 c true dropped", "11 d  dropped",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	config := string(p.Files[0].Content)
	for _, topic := range []string{"com.example.a", "com.example.b"} {
		if !strings.Contains(config, "topic: "+topic+" ") {
			t.Errorf("no app with the topic %s:\n%s", topic, config)
		}
	}
	if i := slices.IndexFunc(p.Report.Findings, func(f Finding) bool { return f.Subject == "other files" }); i < 0 || !strings.HasPrefix(p.Report.Findings[i].Text, "2 files were not looked at (.pfx, .xml)") {
		t.Errorf("%+v", p.Report.Findings)
	}
}

// TestKeystoreProblems says of each keystore that cannot be used what to do about it.
func TestKeystoreProblems(t *testing.T) {
	whole := func(dir string) []byte {
		keystore(t, filepath.Join(dir, "whole.p12"), "com.example.app", "changeme", today.Add(300*24*time.Hour))
		data, err := os.ReadFile(filepath.Join(dir, "whole.p12")) //nolint:gosec // the test's own
		must(t, err)
		return data
	}(t.TempDir())
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "pns.properties"), []byte("com.openexchange.pns.transport.apn.ios.enabled=true\n"), 0o600))
	want := map[string]string{}
	var options strings.Builder
	for _, tc := range []struct {
		name, data, password, want string
	}{
		{"whole", string(whole), "changeme", "copied from whole.p12: topic com.example.app, production"},
		{"another-password", string(whole), "geheim", "another-password.p12: apns certificate: wrong password for the .p12 file"},
		{"cut", string(whole[:300]), "changeme", "cut.p12: it is no PKCS #12 file, or it is cut off: copy it again"},
		{"empty", "", "changeme", "empty.p12: it is empty: copy it again"},
		{"pem", "-----BEGIN CERTIFICATE-----\n", "changeme", "pem.p12: it is PEM, not PKCS #12: openssl pkcs12 -export makes one of it"},
		{"text", "not a keystore", "changeme", "text.p12: it is no PKCS #12 file, or it is cut off: copy it again"},
	} {
		must(t, os.WriteFile(filepath.Join(dir, tc.name+".p12"), []byte(tc.data), 0o600))
		fmt.Fprintf(&options, "%s: {keystore: /etc/%s.p12, password: %s}\n", tc.name, tc.name, tc.password)
		want[tc.name+".keystore"] = tc.want
	}
	must(t, os.WriteFile(filepath.Join(dir, "pns-apns-options.yml"), []byte(options.String()), 0o600))
	p := planOfTree(t, dir)
	for key, want := range want {
		if got := verdictOn(p, key); !strings.Contains(got, ": "+want) {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
	if text := p.Report.Text(); strings.Contains(text, "geheim") || strings.Contains(text, "changeme") {
		t.Errorf("a password is in the report:\n%s", text)
	}
}

// TestWrongDirectory says so when it is none, or another one; a link is followed.
func TestWrongDirectory(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "mail.properties"), filepath.Join(t.TempDir(), "etc")
	if p := planOfTree(t, dir); p.Report.Findings[0].Subject != dir || !p.Report.Findings[0].NeedsYou {
		t.Errorf("an empty directory: %+v", p.Report.Findings)
	}
	must(t, os.WriteFile(file, []byte("com.openexchange.mail.loginSource=mail\n"), 0o600))
	must(t, os.Symlink(dir, link))
	if p := planOfTree(t, link); len(p.Report.Entries) != 1 || p.Report.Entries[0].File != "mail.properties" {
		t.Errorf("a link: %+v", p.Report.Entries)
	}
	for name, want := range map[string]string{file: "is no directory", filepath.Join(dir, "nowhere"): "no such file"} {
		if _, err := Open(name, Options{Now: today}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSettings holds what keys become.
func TestSettings(t *testing.T) {
	host := Options{IMAPHost: "imap.example.org"}
	t.Run("idle", func(t *testing.T) {
		p, _ := tryKeys(t, host, "com.openexchange.push.imapidle.supportsPermanentListeners=true")
		if p.MailHosts[0].Source != "idle" {
			t.Errorf("%+v", p.MailHosts[0])
		}
	})
	t.Run("idle that is not permanent", func(t *testing.T) {
		p, _ := tryKeys(t, host, "com.openexchange.push.imapidle.folder=INBOX")
		if p.MailHosts[0].Source != "auto" {
			t.Errorf("%+v", p.MailHosts[0])
		}
	})
	t.Run("doveadm", func(t *testing.T) {
		p, _ := tryKeys(t, host, "com.openexchange.push.dovecot.stateless=true\ncom.openexchange.dovecot.doveadm.enabled=true\n"+
			"com.openexchange.dovecot.doveadm.apiSecret=hush\ncom.openexchange.dovecot.doveadm.endpoints=https://dove1:8080/doveadm/v1, https://dove2:8080/doveadm/v1")
		h := p.MailHosts[0]
		if h.Source != "dovecot" || h.DoveadmURL != "https://dove1:8080" || h.DoveadmKey.Reveal() != "hush" {
			t.Errorf("%+v", h)
		}
	})
	t.Run("mailnotify", func(t *testing.T) {
		const n = "com.openexchange.push.mail.notify."
		p, cfg := tryKeys(t, host, n+"udp_listen_host=localhost\n"+n+"udp_listen_port=23421\n"+n+"imap_login_delimiter=+\n"+n+"delay_millis=2500\n"+n+"use_ox_login=false")
		m := cfg.MailNotify
		if !m.Enabled || m.Listen != "127.0.0.1:23421" || m.LoginDelimiter != "+" || time.Duration(m.Delay) != 2500*time.Millisecond || p.MailHosts[0].Source != "mailnotify" {
			t.Errorf("%+v, %+v", m, p.MailHosts[0])
		}
		p, cfg = tryKeys(t, host, n+"udp_listen_host=239.0.0.5\n"+n+"udp_listen_multicast=true")
		if m := cfg.MailNotify; m.Enabled || m.MulticastGroup != "239.0.0.5" || p.Report.NeedsYou() == 0 {
			t.Errorf("%+v", m)
		}
	})
	t.Run("credentials in memory", func(t *testing.T) {
		_, cfg := tryKeys(t, host, "com.openexchange.push.credstorage.enabled=true")
		if cfg.Credentials.Store != "memory" {
			t.Errorf("%s", cfg.Credentials.Store)
		}
	})
	t.Run("what Dovecot sends", func(t *testing.T) {
		_, cfg := tryKeys(t, host, "", "dovecot/dovecot.conf", "# push_notification_driver = ox:url=x user_from_metadata\npush_notification_driver = ox:url=http://a:b@c/\n")
		if cfg.Internal.Notify.UserForm != "login" {
			t.Errorf("%s", cfg.Internal.Notify.UserForm)
		}
	})
	t.Run("a file of host rules that is not good", func(t *testing.T) {
		p, cfg := tryKeys(t, host, "", "mailapp-config.yml", "default:\n  host: all\n  mail_app_enabled: perhaps\n")
		if cfg.HostsFile != "" || p.Report.NeedsYou() == 0 || verdictOn(p, "default.host") != "dropped : the file is not good" {
			t.Errorf("%q, %+v", cfg.HostsFile, p.Report.Findings)
		}
	})
	t.Run("two context sets of one name", func(t *testing.T) {
		const set = "premium:\n  withTags: premium\n  com.openexchange.capability.mobile_mail_app: true\n"
		p, _ := tryKeys(t, host, "", "contextSets/a.yml", set, "contextSets/b.yml", set+"broken:\n  withTags: (a\n  mobile_mail_app: true\n")
		var dropped int
		for _, e := range p.Report.Entries {
			if e.NeedsYou && e.Verdict == Dropped {
				dropped++
			}
		}
		if dropped < 2 || len(p.Files) != 2 {
			t.Errorf("%d dropped, %d files: %+v", dropped, len(p.Files), p.Report.Entries)
		}
	})
}

// TestMailServers holds the forms of an address.
func TestMailServers(t *testing.T) {
	for address, want := range map[string]string{
		"imap.example.org":              "imap.example.org imap.example.org:993 tls",
		"IMAP.example.org:143":          "imap.example.org imap.example.org:143 starttls",
		"imap://imap.example.org":       "imap.example.org imap.example.org:143 starttls",
		"imaps://imap.example.org":      "imap.example.org imap.example.org:993 tls",
		"imaps://imap.example.org:1993": "imap.example.org:1993 imap.example.org:1993 tls",
		"imap://localhost":              "localhost localhost:143 none",
		"127.0.0.1:10143":               "127.0.0.1:10143 127.0.0.1:10143 none",
		"imap://[::1]:143":              "::1 ::1:143 none",
		"imaps://Müller.example.org":    "xn--mller-kva.example.org xn--mller-kva.example.org:993 tls",
		"mail_store.example.org":        "mail_store.example.org mail_store.example.org:993 tls",
		"":                              "",
		"imap://":                       "",
		"a b":                           "",
		"imap.example.org:99999":        "",
		"imap\xff.example.org":          "",
	} {
		p, _ := tryKeys(t, Options{IMAPHost: address}, "")
		got := ""
		if len(p.MailHosts) > 0 {
			h := p.MailHosts[0]
			got = h.Name + " " + h.Host + ":" + strconv.Itoa(h.Port) + " " + h.Security
		}
		if got != want {
			t.Errorf("%q is %q, want %q", address, got, want)
		}
	}
}
