package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/server"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
	"github.com/posthorn-mail/posthorn/internal/webpush"
)

// newTokenKey makes a .p8 file, and the half of it that Apple has.
func newTokenKey(tb testing.TB, keyID, teamID string) (file []byte, known fake.APNsKey) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(tb, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), fake.APNsKey{KeyID: keyID, TeamID: teamID, Public: &key.PublicKey}
}

// apple starts another APNs beside the world's own.
func (w *world) apple(topic string, keys ...fake.APNsKey) *fake.APNs {
	w.tb.Helper()
	a, err := fake.NewAPNs(fake.APNsConfig{Keys: keys, Topics: []string{topic}})
	must(w.tb, err)
	w.tb.Cleanup(func() { must(w.tb, a.Close()) })
	return a
}

// edit changes the configuration file.
func (w *world) edit(old, by string) {
	w.tb.Helper()
	raw, err := os.ReadFile(w.config)
	must(w.tb, err)
	if !strings.Contains(string(raw), old) {
		w.tb.Fatalf("the configuration does not hold %q", old)
	}
	w.write(filepath.Dir(w.config), "posthorn.yml", []byte(strings.Replace(string(raw), old, by, 1)))
}

func (w *world) reload() (api.Reloaded, error) {
	w.tb.Helper()
	var done api.Reloaded
	err := w.admin.Do(w.tb.Context(), "POST", "/admin/v1/reload", nil, nil, &done)
	return done, err
}

const alice, secret1 = "alice@rig.test", "secret"

// populate starts a Dovecot with alice, and signs her in as client.
func (w *world) populate(clients ...string) (tokens []string) {
	w.tb.Helper()
	w.validity = "4294967295" // the mails are not there: of an older INBOX than a look has seen they would come late
	d := testpeer.StartDovecot(w.tb, testpeer.DovecotConfig{Users: map[string]string{alice: secret1}})
	w.provision(d, api.MailHost{}, alice)
	for _, client := range clients {
		out := w.call("POST", "/api/v1/sessions", "", map[string]any{
			"login": alice, "password": secret1, "client": client, "device": client,
		}, 201)
		tokens = append(tokens, out["token"].(string))
	}
	return tokens
}

// TestRotateUnderLoad replaces the APNs key while notifications are in flight, and revokes the old one when
// its connection is closed: each device gets the newest state, nothing is refused and nothing is tried again.
func TestRotateUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	dir := filepath.Dir(w.config)
	oldKey, oldKnown := newTokenKey(t, "OLDKEY1234", "DEF123GHIJ")
	newKey, newKnown := newTokenKey(t, "NEWKEY1234", "DEF123GHIJ")
	apple := w.apple(apnsTopic, oldKnown, newKnown)
	w.write(dir, "apns.p8", oldKey)
	w.write(dir, "apns-ca.pem", apple.CAPEM())
	w.edit("ABC123DEFG", "OLDKEY1234")
	w.edit(w.apns.URL(), apple.URL())
	w.start()
	token := w.populate("posthorn-app")[0]
	var phones []phone
	for range 8 {
		p := w.apnsPhoneAt(apple)
		w.subscribe(token, p.transport, p.token, "registered")
		phones = append(phones, p)
	}
	// So slow that there are always some in flight, and the newest of each still due.
	apple.Script(func(fake.Delivery) *fake.Answer { return &fake.Answer{Delay: 20 * time.Millisecond} })

	uid := 0
	load := func(while func() bool) {
		t.Helper()
		for tick := time.NewTicker(3 * time.Millisecond); while(); <-tick.C {
			uid++
			w.notify(alice, uid)
		}
	}
	begin := time.Now()
	load(func() bool { return time.Since(begin) < time.Second/2 })
	w.write(dir, "apns.p8", newKey)
	w.edit("OLDKEY1234", "NEWKEY1234")
	reloaded := make(chan error)
	go func() {
		done, err := w.server.Reload(context.WithoutCancel(t.Context()))
		if got := strings.Join(done.Changed, ", "); err == nil && got != "apns 0/com.example.mail" {
			err = fmt.Errorf("changed %q", got)
		}
		reloaded <- err
	}()
	load(func() bool {
		select {
		case err := <-reloaded:
			must(t, err)
			reloaded = nil
		default:
		}
		// The old connection is closed after its last answer, with the new one in use.
		all, open := apple.Connections()
		return reloaded != nil || all < 2 || open > 1 && time.Since(begin) < 20*time.Second
	})
	if all, open := apple.Connections(); all != 2 || open != 1 {
		t.Fatalf("%d of %d connections are open long after the reload", open, all)
	}
	apple.Revoke("OLDKEY1234")
	revoked := time.Now()
	load(func() bool { return time.Since(revoked) < time.Second/2 })

	newest := map[string]string{}
	w.waitFor("the newest state everywhere", func() bool {
		for _, d := range apple.Deliveries() {
			newest[d.Target] = read(t, "apns", d.Payload).UID
		}
		for _, p := range phones {
			if newest[p.target] != fmt.Sprint(uid) {
				return false
			}
		}
		return true
	})
	for _, line := range regexp.MustCompile(`(?m)^posthorn_push_outcomes_total.*$`).FindAllString(w.metrics(), -1) {
		if !strings.Contains(line, `outcome="delivered"`) {
			t.Errorf("not all was delivered at the first try: %s", line)
		}
	}
	for answer, n := range apple.Counts() {
		if answer.Status != 200 {
			t.Errorf("%d answers %+v", n, answer)
		}
	}
	after := 0
	for _, d := range apple.Deliveries() {
		if d.At.After(revoked) {
			after++
		}
	}
	t.Logf("%d states reported, %d notifications, %d of them with the new key only", uid, len(apple.Deliveries()), after)
	if after < len(phones) {
		t.Errorf("only %d notifications after the old key was revoked", after)
	}
}

// TestReloadOfABadFile: whatever is wrong with one credential, all stay, and the error names the file.
func TestReloadOfABadFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	dir := filepath.Dir(w.config)
	w.start()
	token := w.populate("posthorn-app")[0]
	iphone, android, browser := w.apnsPhone(), w.fcmPhone(), w.webpushPhone()
	for _, p := range []phone{iphone, android, browser} {
		w.subscribe(token, p.transport, p.token, "registered")
	}
	uid := 0
	works := func() {
		t.Helper()
		uid++
		w.notify(alice, uid)
		for _, p := range []phone{iphone, android, browser} {
			if got := w.receive(p); got.UID != fmt.Sprint(uid) {
				t.Errorf("%s shows %+v", p.transport, got)
			}
		}
	}
	works()
	if done, err := w.reload(); err != nil || len(done.Changed)+len(done.NeedsRestart) > 0 {
		t.Errorf("a reload of what is unchanged: %+v, %v", done, err)
	}
	if n, _ := w.apns.Connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
	works()

	vapid, err := os.ReadFile(filepath.Join(w.stateDir, "vapid.pem"))
	must(t, err)
	fresh, _ := newTokenKey(t, "ABC123DEFG", "DEF123GHIJ")
	for _, c := range []struct {
		name, dir, file string
		content         []byte // nil: it is removed
		says            []string
	}{
		{"no key", dir, "apns.p8", []byte("nonsense"), []string{"apns.p8: apns token key: not PEM", "transports.apns.apps[0].key: "}},
		{"empty", dir, "apns.p8", []byte("\n"), []string{"apns.p8 is empty"}},
		{"no file", dir, "apns.p8", nil, []string{"apns.p8: no such file"}},
		{"no account", dir, "firebase.json", []byte("{}"), []string{"firebase.json: fcm service account: type: missing"}},
		{"no CA", dir, "apns-ca.pem", []byte("x"), []string{"apns-ca.pem holds no PEM certificate"}},
		{"no VAPID key", w.stateDir, "vapid.pem", []byte("x"), []string{"vapid_key: vapid.pem: read the VAPID key: no PEM block"}},
		{"VAPID key is gone", w.stateDir, "vapid.pem", nil, []string{"vapid.pem: no such file"}},
		{"no YAML", dir, "posthorn.yml", []byte("a: ["), []string{"posthorn.yml:"}},
	} {
		path := filepath.Join(c.dir, c.file)
		before, err := os.ReadFile(path) //nolint:gosec // the test's own
		must(t, err)
		if c.content == nil {
			must(t, os.Remove(path))
		} else {
			w.write(c.dir, c.file, c.content)
		}
		good := filepath.Join(dir, "apns.p8")
		goodBefore, _ := os.ReadFile(good) //nolint:gosec // the test's own
		if c.file != "apns.p8" {
			w.write(dir, "apns.p8", fresh) // good in itself, and unknown to Apple: it must not be taken either
		}
		_, err = w.reload()
		for _, says := range c.says {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v, want %q in it", c.name, err, says)
			}
		}
		if c.file != "apns.p8" {
			w.write(dir, "apns.p8", goodBefore)
		}
		w.write(c.dir, c.file, before)
		works()
	}

	w.edit("    enabled: true\n    apps: [{service", "    enabled: false\n    apps: [{service")
	if _, err := w.reload(); err == nil || !strings.Contains(err.Error(), "transports.fcm.enabled: to switch a transport on or off, restart the server") {
		t.Errorf("a transport switched off: %v", err)
	}
	w.edit("    enabled: false\n", "    enabled: true\n")
	w.edit(`push: {`, `push: {privacy: none, `)
	w.edit(`push: {`, `push: {new_mail_ttl: 2d, `)
	if done, err := w.reload(); err != nil || strings.Join(done.Changed, ", ") != "properties" || strings.Join(done.NeedsRestart, " ") != "push.new_mail_ttl" {
		t.Errorf("another key: %+v, %v", done, err)
	}
	works()

	// Good ones again: the VAPID key is that of the devices that subscribe from now on.
	was := w.vapidKey()
	key, err := webpush.GenerateKey()
	must(t, err)
	text, err := webpush.MarshalKey(key)
	must(t, err)
	w.write(w.stateDir, "vapid.pem", text)
	if done, err := w.reload(); err != nil || strings.Join(done.Changed, ", ") != "webpush vapid" || w.vapidKey() == was {
		t.Errorf("another VAPID key: %+v, %v", done, err)
	}
	browser = w.webpushPhone()
	w.subscribe(token, browser.transport, browser.token, "registered")
	works()
	w.write(w.stateDir, "vapid.pem", vapid)
}

// TestAppsSideBySide: two APNs apps of two teams and two Firebase projects, each device by its own; and a
// third app that a reload adds.
func TestAppsSideBySide(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	dir := filepath.Dir(w.config)
	ownKey, ownKnown := newTokenKey(t, "OWNKEY1234", "OWNTEAM123")
	own := w.apple("com.own.mail", ownKnown)
	w.write(dir, "own.p8", ownKey)
	w.write(dir, "own-ca.pem", own.CAPEM())
	firebase, err := fake.NewFCM(fake.FCMConfig{Project: "own-project"})
	must(t, err)
	t.Cleanup(func() { must(t, firebase.Close()) })
	account, err := firebase.ServiceAccount()
	must(t, err)
	w.write(dir, "own.json", account)
	ownApp := fmt.Sprintf(`{client: posthorn-own, topic: com.own.mail, key_file: own.p8, key_id: OWNKEY1234, team_id: OWNTEAM123, url: "%s", ca_file: own-ca.pem, connections: 2}`, own.URL())
	w.edit("apps: [{topic:", "apps: ["+ownApp+", {topic:")
	w.edit("apps: [{service_account_file:", fmt.Sprintf(`apps: [{client: posthorn-own, service_account_file: own.json, endpoint: "%s"}, {service_account_file:`, firebase.URL()))
	w.start()
	tokens := w.populate("posthorn-own", "posthorn-app")
	fcmPhoneAt := func(f *fake.FCM) phone {
		p := w.fcmPhone()
		f.Register(p.target)
		p.next = f.NextFor
		return p
	}
	phones := [][]phone{{w.apnsPhoneAt(own), fcmPhoneAt(firebase)}, {w.apnsPhone(), w.fcmPhone()}}
	subscribe := func(token, client string, p phone) {
		t.Helper()
		w.call("POST", "/api/v1/subscriptions", token, map[string]any{
			"client": client, "transport": p.transport, "topics": []string{"mail:new"}, "token": p.token,
		}, 201)
	}
	for i, client := range []string{"posthorn-own", "posthorn-app"} {
		for _, p := range phones[i] {
			subscribe(tokens[i], client, p)
		}
	}
	uid := 0
	works := func() {
		t.Helper()
		uid++
		w.notify(alice, uid)
		for i, group := range phones {
			for _, p := range group {
				if got := w.receive(p); got.UID != fmt.Sprint(uid) {
					t.Errorf("%s of app %d shows %+v", p.transport, i, got)
				}
			}
		}
	}
	works()
	for _, line := range []string{
		`posthorn_push_in_flight_limit{credential="0/com.own.mail",transport="apns"}`,
		`posthorn_push_in_flight_limit{credential="1/com.example.mail",transport="apns"}`,
		`posthorn_push_credential_loaded_timestamp_seconds{credential="0/own-project",transport="fcm"}`,
		`posthorn_push_token_age_seconds{credential="1/posthorn-fake",transport="fcm"}`,
		`posthorn_push_streams_limit{credential="0/com.own.mail",environment="production",transport="apns"} 2000`,
		`posthorn_push_streams_limit{credential="1/com.example.mail",environment="sandbox",transport="apns"} 1`,
	} {
		if !strings.Contains(w.metrics(), line) {
			t.Errorf("no metric %s", line)
		}
	}

	// A third one, before the others: their connections stay.
	w.edit("apps: ["+ownApp, "apps: ["+strings.NewReplacer("posthorn-own", "posthorn-third", ", connections: 2", "").Replace(ownApp)+", "+ownApp)
	if done, err := w.reload(); err != nil || len(done.Changed) == 0 {
		t.Fatalf("a third app: %+v, %v", done, err)
	}
	works()
	if n, _ := own.Connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
	third := w.apnsPhoneAt(own)
	out := w.call("POST", "/api/v1/sessions", "", map[string]any{"login": alice, "password": secret1, "client": "posthorn-third", "device": "third"}, 201)
	subscribe(out["token"].(string), "posthorn-third", third)
	phones = append(phones, []phone{third})
	works()
	if n, _ := own.Connections(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// p12 makes a push certificate for a topic that ends at a time, signed by itself.
func p12(tb testing.TB, topic, password string, ends time.Time) (file []byte, cert *x509.Certificate) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	uid := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: topic}
	spec := &x509.Certificate{
		SerialNumber: big.NewInt(ends.Unix()), Subject: pkix.Name{CommonName: "Apple Production IOS Push Services: " + topic, ExtraNames: []pkix.AttributeTypeAndValue{uid}},
		NotBefore: ends.Add(-365 * 24 * time.Hour), NotAfter: ends, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, spec, spec, key.Public(), key)
	must(tb, err)
	cert, err = x509.ParseCertificate(der)
	must(tb, err)
	file, err = pkcs12.Modern.Encode(key, cert, nil, password)
	must(tb, err)
	return file, cert
}

// TestExpiredCertificate keeps no server from starting: the other app works, and this one after a reload. Only
// a certificate that is good replaces another.
func TestExpiredCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	dir := filepath.Dir(w.config)
	const topic, password = "com.own.mail", "of the file"
	expired, _ := p12(t, topic, password, time.Now().Add(-time.Hour))
	soon, soonCert := p12(t, topic, password, time.Now().Add(10*24*time.Hour))
	pool := x509.NewCertPool()
	pool.AddCert(soonCert)
	own, err := fake.NewAPNs(fake.APNsConfig{ClientCAs: pool})
	must(t, err)
	t.Cleanup(func() { must(t, own.Close()) })
	w.write(dir, "own.p12", expired)
	w.write(dir, "own-ca.pem", own.CAPEM())
	w.edit("apps: [{topic:", fmt.Sprintf(`apps: [{client: posthorn-own, topic: %s, certificate_file: own.p12, certificate_password: %s, url: "%s", ca_file: own-ca.pem}, {topic:`,
		topic, password, own.URL()))
	check := func() (problems config.Problems, soon config.Warnings) {
		t.Helper()
		cfg, _, err := config.Load(w.config, func(string) (string, bool) { return "", false })
		must(t, err)
		return server.Check(cfg)
	}
	if problems, _ := check(); len(problems) != 1 || !strings.Contains(problems.Error(), "own.p12: apns certificate") || !strings.Contains(problems.Error(), "expired on") {
		t.Errorf("check says %v", problems)
	}
	w.start()
	tokens := w.populate("posthorn-own", "posthorn-app")
	mine, other := w.apnsPhoneAt(own), w.apnsPhone()
	id := w.call("POST", "/api/v1/subscriptions", tokens[0], map[string]any{
		"client": "posthorn-own", "transport": "apns", "topics": []string{"mail:new"}, "token": mine.token,
	}, 201)["id"].(string)
	w.subscribe(tokens[1], other.transport, other.token, "registered")
	w.notify(alice, 1)
	if got := w.receive(other); got.UID != "1" {
		t.Errorf("the other app shows %+v", got)
	}
	test := func() string {
		t.Helper()
		var tested api.List[api.PushTestResult]
		must(t, w.admin.Do(t.Context(), "POST", "/admin/v1/push/test", nil, api.PushTest{Device: id}, &tested))
		return strings.TrimSpace(tested.Items[0].Outcome + " " + tested.Items[0].Reason)
	}
	if got := test(); got != "blocked certificate_expired" {
		t.Errorf("with the expired certificate: %s", got)
	}

	again, _ := p12(t, topic, password, time.Now().Add(-time.Minute))
	w.write(dir, "own.p12", again)
	if _, err := w.reload(); err == nil || !strings.Contains(err.Error(), "own.p12") || !strings.Contains(err.Error(), "expired on") {
		t.Errorf("reload of another expired one: %v", err)
	}
	w.write(dir, "own.p12", soon)
	if done, err := w.reload(); err != nil || strings.Join(done.Changed, " ") != "apns 0/com.own.mail" {
		t.Errorf("reload of a good one: %+v, %v", done, err)
	}
	if got := test(); got != "delivered" {
		t.Errorf("with the new certificate: %s", got)
	}
	if line := fmt.Sprintf(`posthorn_push_credential_expiry_timestamp_seconds{credential="0/com.own.mail",transport="apns"} %g`, float64(soonCert.NotAfter.Unix())); !strings.Contains(w.metrics(), line) {
		t.Errorf("no metric %s", line)
	}
	if problems, warnings := check(); len(problems) > 0 || len(warnings) != 1 || !strings.Contains(warnings[0].String(), "own.p12: the certificate ends on "+soonCert.NotAfter.UTC().Format(time.DateTime)) {
		t.Errorf("check says %v, warns %v", problems, warnings)
	}
}
