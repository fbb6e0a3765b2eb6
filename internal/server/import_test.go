package server_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/original"
	"github.com/posthorn-mail/posthorn/internal/server"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// planOf reads a configuration tree and dumps.
func planOf(tb testing.TB, dir string, opts original.Options, dumps ...string) *original.Plan {
	tb.Helper()
	opts.Now = time.Now()
	r, err := original.Open(dir, opts)
	must(tb, err)
	for _, dump := range dumps {
		f, err := os.Open(dump) //nolint:gosec // the test's own
		must(tb, err)
		must(tb, r.Dump(filepath.Base(dump), f))
		must(tb, f.Close())
	}
	p, err := r.Plan()
	must(tb, err)
	return p
}

// importInto writes the rows of a plan for the configuration of a world.
func (w *world) importInto(p *original.Plan) (server.Imported, error) {
	w.tb.Helper()
	cfg, _, err := config.Load(w.config, func(string) (string, bool) { return "", false })
	must(w.tb, err)
	return server.Import(w.tb.Context(), cfg, p, server.ImportOptions{TraceQuery: w.trace})
}

// TestImportEndToEnd is the way over: a realistic tree and dump of the system before become a server whose imported
// devices are told of mail at a real Dovecot, which goes on as it was, through the imported certificates.
func TestImportEndToEnd(t *testing.T) {
	t.Parallel()
	const anna, gerd, password, master = "anna@example.org", "gerd@brand1.example", "secret", "masters-secret"
	etc := filepath.Join(t.TempDir(), "etc")
	must(t, os.CopyFS(etc, os.DirFS("../original/testdata/etc")))
	pool := x509.NewCertPool()
	for file, topic := range map[string]string{"mailapp": "com.example.mailapp", "facade": "com.example.facade"} {
		raw, cert := p12(t, topic, map[string]string{"mailapp": "keystore pässword", "facade": "facade"}[file], time.Now().Add(200*24*time.Hour))
		must(t, os.MkdirAll(filepath.Join(etc, "security"), 0o700))
		must(t, os.WriteFile(filepath.Join(etc, "security", file+".p12"), raw, 0o600))
		pool.AddCert(cert)
	}
	apple, err := fake.NewAPNs(fake.APNsConfig{ClientCAs: pool})
	must(t, err)
	t.Cleanup(func() { must(t, apple.Close()) })
	annas, gerds := strings.Repeat("b1", 32), strings.Repeat("a1", 32)
	apple.Register(annas)
	apple.Register(gerds)

	// Dovecot as it was: it reports to where the system before listened, and every mailbox is registered.
	at := testpeer.FreeAddresses(t, 1)[0]
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{
		Users: map[string]string{anna: password, gerd: password}, Master: "posthorn", MasterPassword: master, UserFromMetadata: true,
		NotifyURL: "http://open-xchange:s3cret%20of%20the%20push%20URL@" + at + "/preliminary/http-notify/v1/notify",
	})
	d.SetMetadata(t, anna, "user=3@1")
	d.SetMetadata(t, gerd, "user=7@2")
	_, port, _ := net.SplitHostPort(at)
	replace(t, filepath.Join(etc, "server.properties"), "networkListenerHost=*", "networkListenerHost=127.0.0.1", "networkListenerPort=8009", "networkListenerPort="+port)
	replace(t, filepath.Join(etc, "mail.properties"), "imaps://imap.example.org", fmt.Sprintf("imap://%s:%d", d.Host, d.IMAPPort), "master's secret", master)

	w := &world{tb: t, stateDir: filepath.Join(t.TempDir(), "state")}
	plan := planOf(t, etc, original.Options{MasterLogin: "posthorn", StateDir: w.stateDir},
		"../original/testdata/oxdatabase_5.sql", "../original/testdata/context.csv", "../original/testdata/contextAttribute.tsv")
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "contextsets"), 0o700))
	for _, f := range plan.Files {
		must(t, os.WriteFile(filepath.Join(dir, f.Name), f.Content, f.Mode))
	}
	w.config = filepath.Join(dir, original.ConfigFile)
	out, err := w.importInto(plan)
	must(t, err)
	if out.Users != 3 || out.Contexts != 2 || out.MailHosts != 1 || out.Subscriptions != 5 || out.Properties != 2 || out.Had != 0 || len(out.Refused) != 0 {
		t.Errorf("imported %+v", out)
	}
	// Where Apple is, and where devices come in, the system before did not know.
	w.write(dir, "apple-ca.pem", apple.CAPEM())
	raw, err := os.ReadFile(w.config)
	must(t, err)
	raw = regexp.MustCompile(`(?m)^(\s+)certificate_file: .*$`).ReplaceAll(raw, []byte("${0}\n${1}url: "+apple.URL()+"\n${1}ca_file: apple-ca.pem"))
	w.write(dir, original.ConfigFile, append(raw, "public: {listen: \"127.0.0.1:0\"}\n"...))
	w.start()
	if _, err := w.importInto(plan); err == nil || !strings.Contains(err.Error(), "another posthorn uses the state directory") {
		t.Errorf("imported beside a running server: %v", err)
	}

	// Nobody signed in. The registrations are adopted as they are, by the master user. What is in a mailbox at that
	// first look was told by the system before, so the mails of this test come after it.
	w.waitFor("both are registered", func() bool {
		var users api.List[api.PushUser]
		must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/push/users", nil, nil, &users))
		return slices.ContainsFunc(users.Items, func(u api.PushUser) bool { return u.User == "3@1" && u.State == "registered" }) &&
			slices.ContainsFunc(users.Items, func(u api.PushUser) bool { return u.User == "7@2" && u.State == "registered" })
	})
	if value, ok := d.Metadata(t, anna); !ok || value != "user=3@1" {
		t.Errorf("the registration is %q, %v", value, ok)
	}

	receive := func(token, subject, topic string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		got, err := apple.NextFor(ctx, token)
		if err != nil {
			t.Fatalf("no notification of %q: %v", subject, err)
		}
		if s := read(t, "apns", got.Payload); s.Subject != subject || s.Sender != "Jürgen Groß" || s.Folder != "INBOX" {
			t.Errorf("shown is %+v, want %q", s, subject)
		}
		if got := got.Headers["apns-topic"]; got != topic {
			t.Errorf("sent as %q, want %q", got, topic)
		}
	}
	d.DeliverLMTP(t, []string{anna}, mail("For Anna", "x"))
	receive(annas, "For Anna", "com.example.facade")
	d.DeliverLMTP(t, []string{gerd}, mail("For Gerd", "x")) // whose phone was another's as well
	receive(gerds, "For Gerd", "com.example.mailapp")

	w.stop()
	again, err := w.importInto(plan)
	must(t, err)
	if again.Had != 13 || again.Users+again.Contexts+again.MailHosts+again.Subscriptions != 0 || len(again.Refused) != 0 {
		t.Errorf("imported again: %+v", again)
	}
}

// replace puts texts of a file in place of others.
func replace(t *testing.T, file string, pairs ...string) {
	t.Helper()
	raw, err := os.ReadFile(file) //nolint:gosec // the test's own
	must(t, err)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(string(raw), pairs[i]) {
			t.Fatalf("%s has no %q", file, pairs[i])
		}
	}
	must(t, os.WriteFile(file, []byte(strings.NewReplacer(pairs...).Replace(string(raw))), 0o600)) //nolint:gosec // likewise
}

// imported imports beside what is there: who is somebody else already is refused, and his device with him.
func imported(t *testing.T, w *world) {
	t.Helper()
	dir := t.TempDir()
	users := w.write(dir, "user.csv", []byte("cid,id,imapServer,imapLogin,mail\n90,1,imaps://old.example.org,eva@old.example,\n90,2,imaps://old.example.org,otto@old.example,\n"))
	tokens := []string{strings.Repeat("c1", 32), strings.Repeat("c2", 32)}
	subs := w.write(dir, "mobileEventSubscriptions.csv", []byte("cid,service,token,provider,user,timestamp\n"+
		"90,apn,"+tokens[0]+",mail,1,1700000000000\n90,apn,"+tokens[1]+",mail,2,1700000000000\n"))
	attributes := w.write(dir, "contextAttribute.csv", []byte("cid,name,value\n90,config/com.openexchange.capability.mobile_mail_app,true\n"))
	out, err := w.importInto(planOf(t, dir, original.Options{}, users, subs, attributes))
	must(t, err)
	if out.Contexts != 1 || out.Users != 2 || out.Properties != 1 || out.Subscriptions != 2 || out.Had != 0 || len(out.Refused) != 0 {
		t.Errorf("imported %+v", out)
	}
	// A master password that no mail host can have: its users and their devices are left out with it.
	bad := planOf(t, dir, original.Options{}, users, subs)
	bad.MailHosts[0].Name, bad.MailHosts[0].MasterLogin = "bad", "master"
	for i := range bad.Users {
		bad.Users[i].MailHost = "bad"
	}
	out, err = w.importInto(bad)
	must(t, err)
	if out.Users != 0 || out.Subscriptions != 0 || len(out.Refused) != 3 {
		t.Errorf("imported without a mail host: %+v", out)
	}
	// Otto has left there meanwhile, and another has his number, with a phone that is new.
	w.write(dir, "user.csv", []byte("cid,id,imapServer,imapLogin,mail\n90,2,imaps://old.example.org,else@old.example,\n90,3,imaps://old.example.org,EVA@old.example,\n"))
	w.write(dir, "mobileEventSubscriptions.csv", []byte("cid,service,token,provider,user,timestamp\n90,apn,"+strings.Repeat("c3", 32)+",mail,2,1700000000000\n"))
	out, err = w.importInto(planOf(t, dir, original.Options{}, users, subs))
	must(t, err)
	if out.Users != 0 || out.Subscriptions != 0 || len(out.Refused) != 2 {
		t.Errorf("imported over others: %+v", out)
	}
}
