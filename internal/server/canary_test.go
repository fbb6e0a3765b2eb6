package server_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// canary is a password that no file and no line of the log may hold.
const canary = "c4n4ry-Päss?&w0rd"

// forms are the ways in which something could hold a secret, by what they are.
func forms(secret string) map[string]string {
	all := map[string]string{
		"clear": secret, "hex": hex.EncodeToString([]byte(secret)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"query": url.QueryEscape(secret), "path": url.PathEscape(secret), "bytes": strings.Trim(fmt.Sprintf("%d", []byte(secret)), "[]"),
		"quoted": strings.Trim(fmt.Sprintf("%+q", secret), `"`),
	}
	for name, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
		all[name+" of SASL PLAIN"] = enc.EncodeToString([]byte("\x00" + alice + "\x00" + secret))
		for shift := range 3 { // wherever it begins in what is encoded; the ends depend on what is beside it
			text := enc.EncodeToString([]byte(strings.Repeat("x", shift) + secret))
			all[fmt.Sprint(name, " at ", shift)] = text[(shift*8+5)/6 : len(text)-2]
		}
	}
	return all
}

// sightings are the places that hold the canary, or the given secrets: files below a directory, and a log.
func sightings(t *testing.T, dir string, log []byte, secrets ...string) (found []string, looked int) {
	t.Helper()
	if secrets == nil {
		secrets = []string{canary}
	}
	look := func(place string, content []byte) {
		looked++
		for _, secret := range secrets {
			for form, text := range forms(secret) {
				if bytes.Contains(content, []byte(text)) {
					found = append(found, place+": "+form)
				}
			}
		}
	}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path) //nolint:gosec // the test's own
		look(filepath.Base(path), content)
		return err
	}))
	look("log", log)
	slices.Sort(found)
	return found, looked
}

// TestCanary signs in, listens, is told of mail, rotates and restarts in each store, and then looks at every file and
// every line of the log at debug level for the password.
func TestCanary(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"memory", "database", "none"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "sqlite:posthorn.db", "metadata")                   // in the state directory
			w.databaseURL = "sqlite:" + filepath.Join(w.stateDir, "posthorn.db") // as exec knows it
			w.edit("{store: database}", "{store: "+store+"}")
			w.logged = &bytes.Buffer{}
			w.start()
			d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: canary}, NotifyURL: w.notifyURL(), Extra: "auth_failure_delay = 0\n"})
			w.provision(d, api.MailHost{}, alice)
			must(t, w.admin.Do(t.Context(), "POST", "/admin/v1/mailhosts", nil, api.MailHost{
				Name: "other", IMAP: "mail.example.org", PasswordSource: "global", MasterLogin: "root", MasterPassword: canary,
			}, nil))
			session := w.signIn(alice, canary, "phone")
			w.call("POST", "/api/v1/sessions", "", map[string]any{"login": alice, "password": "not " + canary, "client": "posthorn-app"}, 401)
			w.call("POST", "/api/v1/sessions", "", map[string]any{"login": alice, "password": canary + "\r\n", "client": "posthorn-app"}, 422)
			phone := w.webpushPhone()
			w.subscribe(session, phone.transport, phone.token, "registered")
			if got := w.notify("1@1", 1); got != "queued" {
				t.Fatalf("notify: %s", got)
			}
			w.receive(phone)
			for _, path := range []string{"push/users", "push/explain/1@1", "mailhosts"} {
				must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/"+path, nil, nil, nil))
			}
			w.rotate(0)
			kept := int64(0) // rows of the database; in memory and none there is no other place
			if store == "database" {
				kept = 1
			}
			if n := w.exec("UPDATE credentials SET updated_ms = updated_ms"); n != kept {
				t.Errorf("%d passwords in the database", n)
			}
			if found, looked := sightings(t, w.stateDir, nil); len(found) > 0 || looked < 6 {
				t.Errorf("running, in %d places: %v", looked, found)
			}
			w.stop()
			w.start()
			w.signIn(alice, canary, "phone")
			w.stop()
			if found, looked := sightings(t, w.stateDir, w.logged.Bytes()); len(found) > 0 || looked < 5 || !strings.Contains(w.logged.String(), "notification answered") {
				t.Errorf("stopped, in %d places: %v", looked, found)
			}

			// The search finds what is there.
			w.exec("UPDATE mailhosts SET ca = '" + canary + "' WHERE name = 'other'")
			w.write(w.stateDir, "control", []byte("C: p1 AUTHENTICATE PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+alice+"\x00"+canary))))
			fmt.Fprintf(w.logged, "msg=%q\n", base64.RawStdEncoding.EncodeToString([]byte("xyz"+canary+"!")))
			found, _ := sightings(t, w.stateDir, w.logged.Bytes())
			for _, want := range []string{"control: base64 of SASL PLAIN", "log: base64 at 0"} {
				if !slices.Contains(found, want) {
					t.Errorf("the search does not find %q: %v", want, found)
				}
			}
			if !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, "posthorn.db") && strings.HasSuffix(f, ": clear") }) {
				t.Errorf("the search does not find what the database holds: %v", found)
			}
		})
	}
}

// TestCanaryElsewhere does the same with what a sign-in at an identity provider knows: nothing of it is in a file or in
// the log, neither what goes well nor what does not; and the last sign-out ends it there, too.
func TestCanaryElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite:posthorn.db", "metadata") // in the state directory
	idp := startIDP(t, alice)
	w.elsewhere(idp)
	w.logged = &bytes.Buffer{}
	w.start()
	conf := w.write(t.TempDir(), "oauth2.conf", []byte("introspection_mode = post\nintrospection_url = "+idp.URL+
		"/introspect\nusername_attribute = username\nactive_attribute = active\nactive_value = true\n"))
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: canary}, NotifyURL: w.notifyURL(), Extra: "auth_failure_delay = 0\n" +
		"auth_mechanisms = plain login xoauth2 oauthbearer\npassdb {\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  args = " + conf + "\n}\n"})
	w.provision(d, api.MailHost{PasswordSource: "oauth", OAuthTokenURL: idp.URL + "/token", OAuthClientID: "posthorn", OAuthClientSecret: idpSecret}, alice)
	w.blue(idp)
	phone := w.webpushPhone()
	session := w.signInElsewhere("phone")
	w.subscribe(session, phone.transport, phone.token, "registered") // by an access token of the refresh token
	rotated := w.call("POST", "/api/v1/sessions/current/rotate", session, nil, 200)["token"].(string)
	idp.broken.Store(true) // and answers with all that it was sent
	back := w.browse(w.beginElsewhere("watch", oauth2.GenerateVerifier()))
	if back.Get("error") == "" {
		t.Errorf("%v", back)
	}
	idp.broken.Store(false)
	secrets := append([]string{idpSecret, idpAccess, idpRefresh, session, rotated}, idp.secrets()...)
	if len(secrets) < 10 {
		t.Errorf("%d secrets", len(secrets))
	}
	if found, looked := sightings(t, w.stateDir, nil, secrets...); len(found) > 0 || looked < 6 {
		t.Errorf("running, in %d places: %v", looked, found)
	}
	w.call("DELETE", "/api/v1/sessions", rotated, nil, 204)
	select {
	case got := <-idp.revoked:
		if got != idpRefresh {
			t.Errorf("revoked is %q", got)
		}
	case <-time.After(20 * time.Second):
		t.Error("the refresh token is good after the last sign-out")
	}
	w.stop()
	if found, looked := sightings(t, w.stateDir, w.logged.Bytes(), secrets...); len(found) > 0 || looked < 5 || !strings.Contains(w.logged.String(), "sign-in at the identity provider failed") {
		t.Errorf("stopped, in %d places: %v", looked, found)
	}
}
