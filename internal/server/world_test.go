package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/server"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// world is a Posthorn as an operator would set it up, with every provider a strict fake.
type world struct {
	tb          testing.TB
	stateDir    string
	databaseURL string
	config      string // path of the configuration file
	admin       *api.AdminClient
	public      string // base URL
	internal    string

	apns    *fake.APNs
	sandbox *fake.APNs
	fcm     *fake.FCM
	webpush *fake.WebPush

	host     string // that try asks for; "" is the server's address
	validity string // of the INBOX that notify tells of; "" is one that no server has

	trace  func(string)
	logged *bytes.Buffer // unless nil, what the server logs; to be read when it is stopped
	lease  time.Duration
	server *server.Server // that start made
	stop   func()         // of the running server
}

const apnsTopic = "com.example.mail"

// newWorld starts the fakes and writes the configuration. start starts the server.
func newWorld(tb testing.TB, databaseURL, notifyForm string) *world {
	tb.Helper()
	w := &world{tb: tb, stateDir: filepath.Join(tb.TempDir(), "state"), databaseURL: databaseURL}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	apple := fake.APNsConfig{
		Keys:   []fake.APNsKey{{KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", Public: &key.PublicKey}},
		Topics: []string{apnsTopic},
	}
	w.apns, err = fake.NewAPNs(apple)
	must(tb, err)
	w.sandbox, err = fake.NewAPNs(apple)
	must(tb, err)
	w.sandbox.Register(strings.Repeat("0", 64)) // and nobody else, before a test says so
	w.fcm, err = fake.NewFCM(fake.FCMConfig{})
	must(tb, err)
	w.webpush, err = fake.NewWebPush(fake.WebPushConfig{})
	must(tb, err)
	tb.Cleanup(func() {
		for _, c := range []io.Closer{w.apns, w.sandbox, w.fcm, w.webpush} {
			must(tb, c.Close())
		}
	})
	account, err := w.fcm.ServiceAccount()
	must(tb, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(tb, err)
	dir := tb.TempDir()
	w.write(dir, "apns.p8", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	w.write(dir, "apns-ca.pem", append(w.apns.CAPEM(), w.sandbox.CAPEM()...))
	w.write(dir, "firebase.json", account)
	w.write(dir, "database-url", []byte(databaseURL))
	w.config = w.write(dir, "posthorn.yml", fmt.Appendf(nil, `
state_dir: %s
database: {url_file: database-url}
public: {listen: "127.0.0.1:0", url: "https://push.example.org"}
internal: {listen: "127.0.0.1:0", notify: {user_form: %s}}
outbound: {allow: ["%s"]}
push: {allowed_clients: ["posthorn-*"]}
properties: {capability.mobile_mail_app: true}
credentials: {store: database} # a test that starts it again needs no second sign-in
transports:
  apns:
    enabled: true
    apps: [{topic: %s, key_file: apns.p8, key_id: ABC123DEFG, team_id: DEF123GHIJ, url: "%s", other_url: "%s", ca_file: apns-ca.pem}]
  fcm:
    enabled: true
    apps: [{service_account_file: firebase.json, endpoint: "%s"}]
`, w.stateDir, notifyForm, w.webpush.URL(), apnsTopic, w.apns.URL(), w.sandbox.URL(), w.fcm.URL()))
	return w
}

func (w *world) write(dir, name string, content []byte) string {
	w.tb.Helper()
	path := filepath.Join(dir, name)
	must(w.tb, os.WriteFile(path, content, 0o600)) //nolint:gosec // the test's own
	return path
}

// start runs a server in this process until the test ends or w.stop is called.
func (w *world) start() {
	w.tb.Helper()
	load := func() (*config.Config, config.Warnings, error) {
		return config.Load(w.config, func(string) (string, bool) { return "", false })
	}
	cfg, warnings, err := load()
	must(w.tb, err)
	if len(warnings) > 0 {
		w.tb.Errorf("configuration warnings: %v", warnings)
	}
	output := w.tb.Output()
	if w.logged != nil {
		output = io.MultiWriter(output, w.logged)
	}
	log := slog.New(slog.NewTextHandler(output, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := server.New(w.tb.Context(), cfg, server.Options{Log: log, TraceQuery: w.trace, Lease: w.lease, LoadConfig: func() (*config.Config, error) {
		cfg, _, err := load()
		return cfg, err
	}})
	must(w.tb, err)
	w.server = s
	w.reached(s.PublicAddr(), s.InternalAddr())
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.tb.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.tb.Errorf("server ended with %v", err)
		}
	}
	w.tb.Cleanup(w.stop)
}

func (w *world) reached(public, internal string) {
	w.public, w.internal = "http://"+public, "http://"+internal
	w.admin = api.NewAdminClient(w.stateDir)
}

// notifyURL is what an operator pastes into Dovecot's configuration.
func (w *world) notifyURL() string {
	w.tb.Helper()
	password, err := os.ReadFile(filepath.Join(w.stateDir, server.NotifyPasswordFile))
	must(w.tb, err)
	u, err := url.Parse(w.internal + "/preliminary/http-notify/v1/notify")
	must(w.tb, err)
	u.User = url.UserPassword("posthorn", strings.TrimSpace(string(password)))
	return u.String()
}

// provision adds a context, the mail host and users "@1" with the given logins.
func (w *world) provision(d *testpeer.Dovecot, host api.MailHost, logins ...string) {
	w.tb.Helper()
	host.Name, host.Security = "dove", "none"
	host.IMAP = fmt.Sprintf("%s:%d", d.Host, d.IMAPPort)
	ctx := w.tb.Context()
	must(w.tb, w.admin.Do(ctx, "POST", "/admin/v1/contexts", nil, api.Context{ID: 1, Name: "one"}, nil))
	must(w.tb, w.admin.Do(ctx, "POST", "/admin/v1/mailhosts", nil, host, nil))
	for _, login := range logins {
		must(w.tb, w.admin.Do(ctx, "POST", "/admin/v1/users", nil, api.User{User: "@1", Login: login, MailHost: "dove"}, nil))
	}
}

// call makes a request and decodes the answer; it fails the test on another status.
func (w *world) call(method, path, token string, in any, wantStatus int) map[string]any {
	w.tb.Helper()
	status, out := w.try(method, path, token, in)
	if status != wantStatus {
		w.tb.Fatalf("%s %s: status %d, want %d: %v", method, path, status, wantStatus, out)
	}
	return out
}

func (w *world) try(method, path, token string, in any) (int, map[string]any) {
	w.tb.Helper()
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		must(w.tb, err)
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(w.tb.Context(), method, w.public+path, body)
	must(w.tb, err)
	req.Host = w.host
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	must(w.tb, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	must(w.tb, err)
	out := map[string]any{}
	if len(raw) > 0 {
		must(w.tb, json.Unmarshal(raw, &out))
	}
	return res.StatusCode, out
}

// signIn returns a bearer token.
func (w *world) signIn(login, password, device string) string {
	w.tb.Helper()
	out := w.call("POST", "/api/v1/sessions", "", map[string]any{
		"login": login, "password": password, "client": "posthorn-app", "device": device,
	}, 201)
	return out["token"].(string)
}

// subscribe returns the subscription's id, and fails unless the listener is in wantState. The answer waits two
// seconds for that; on a machine that is busy with other tests it comes later.
func (w *world) subscribe(token, transport string, device any, wantState string) string {
	w.tb.Helper()
	out := w.call("POST", "/api/v1/subscriptions", token, map[string]any{
		"client": "posthorn-app", "transport": transport, "topics": []string{"mail:new"}, "token": device,
	}, 201)
	id, listener := out["id"].(string), out["listener"].(map[string]any)
	if listener["state"] == "pending" && wantState != "pending" {
		w.waitFor("the mail server has answered", func() bool {
			listener = w.call("GET", "/api/v1/subscriptions/"+id, token, nil, 200)["listener"].(map[string]any)
			return listener["state"] != "pending"
		})
	}
	if listener["state"] != wantState {
		w.tb.Fatalf("listener of %s subscription: %v, want %s", transport, listener, wantState)
	}
	return id
}

// phone is one device at one of the fakes.
type phone struct {
	transport string
	token     any
	target    string
	next      func(context.Context, string) (fake.Delivery, error)
}

func (w *world) webpushPhone() phone {
	w.tb.Helper()
	r, err := w.webpush.Subscribe(w.vapidKey())
	must(w.tb, err)
	return phone{"webpush", json.RawMessage(r.JSON()), r.Endpoint, w.webpush.NextFor}
}

func (w *world) apnsPhone() phone { return w.apnsPhoneAt(w.apns) }

func (w *world) apnsPhoneAt(apple *fake.APNs) phone {
	w.tb.Helper()
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	token := hex.EncodeToString(raw)
	apple.Register(token)
	return phone{"apns", map[string]string{"device_token": token}, token, apple.NextFor}
}

func (w *world) fcmPhone() phone {
	w.tb.Helper()
	token := "cReg:APA91b" + strings.Repeat(rand.Text(), 5)
	w.fcm.Register(token)
	return phone{"fcm", map[string]string{"registration_token": token}, token, w.fcm.NextFor}
}

func (w *world) vapidKey() string {
	w.tb.Helper()
	for _, item := range w.call("GET", "/api/v1/transports", "", nil, 200)["items"].([]any) {
		if t := item.(map[string]any); t["transport"] == "webpush" {
			return t["vapid_public_key"].(string)
		}
	}
	w.tb.Fatal("webpush is not offered")
	return ""
}

// shown is what a notification tells, whatever the transport.
type shown struct {
	Sender, Subject, Folder string
	UID, Unseen             string
}

// receive waits for the phone's next notification and reads it as the app would.
func (w *world) receive(p phone) shown {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(w.tb.Context(), 30*time.Second)
	defer cancel()
	d, err := p.next(ctx, p.target)
	if err != nil {
		w.tb.Fatalf("no notification on %s: %v", p.transport, err)
	}
	return read(w.tb, p.transport, d.Payload)
}

func read(tb testing.TB, transport string, payload []byte) shown {
	tb.Helper()
	switch transport {
	case "apns":
		var v struct {
			APS struct {
				Alert struct{ Title, Body string }
				Badge json.Number
			}
			Folder string
			UID    json.Number
		}
		must(tb, json.Unmarshal(payload, &v))
		return shown{v.APS.Alert.Title, v.APS.Alert.Body, v.Folder, v.UID.String(), v.APS.Badge.String()}
	case "fcm":
		var v struct{ Data map[string]string }
		must(tb, json.Unmarshal(payload, &v))
		return shown{v.Data["sender"], v.Data["subject"], v.Data["folder"], v.Data["uid"], v.Data["unseen"]}
	}
	var v struct {
		WebPush      int `json:"web_push"`
		Notification struct {
			Title, Body, Navigate string
			Data                  struct {
				Folder string
				UID    json.Number
			}
		}
		AppBadge string `json:"app_badge"`
	}
	must(tb, json.Unmarshal(payload, &v))
	if v.WebPush != 8030 || v.Notification.Navigate != "https://push.example.org/" {
		tb.Errorf("not a declarative notification: %s", payload)
	}
	return shown{v.Notification.Title, v.Notification.Body, v.Notification.Data.Folder, v.Notification.Data.UID.String(), v.AppBadge}
}

// waitFor polls what only another process can tell.
func (w *world) waitFor(what string, ok func() bool) {
	w.tb.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			w.tb.Fatalf("waited 30 s in vain: %s", what)
		}
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
