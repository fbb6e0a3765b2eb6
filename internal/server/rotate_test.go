package server_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/server"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// rotate asks for batches until the end, or for as many as it is told.
func (w *world) rotate(batches int) (all api.Rotated) {
	w.tb.Helper()
	for i := 0; i == 0 || all.Next != "" && i != batches; i++ {
		var done api.Rotated
		must(w.tb, w.admin.Do(w.tb.Context(), "POST", "/admin/v1/credentials/rotate", nil, api.Rotate{After: all.Next}, &done))
		all.Key, all.Next, all.Total = done.Key, done.Next, max(all.Total, done.Total)
		all.Seen, all.Changed, all.Lost = all.Seen+done.Seen, all.Changed+done.Changed, append(all.Lost, done.Lost...)
	}
	return all
}

// TestRotation changes the key of a server in use, from a file to a passphrase and to another passphrase. Nobody has
// to sign in again, and what the old keys sealed is needed no more.
func TestRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "metadata")
	w.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{
		Users: map[string]string{alice: secret1}, NotifyURL: w.notifyURL(), DoveadmKey: "the key of doveadm",
	})
	w.provision(d, api.MailHost{}, alice)
	must(t, w.admin.Do(t.Context(), "PATCH", "/admin/v1/mailhosts/dove", nil, map[string]any{"master_login": "root", "master_password": "of root"}, nil))
	session := w.signIn(alice, secret1, "phone")
	phone := w.webpushPhone()
	w.subscribe(session, phone.transport, phone.token, "registered")
	uid := 0
	works := func() {
		t.Helper()
		uid++
		if got := w.notify("1@1", uid); got != "queued" {
			t.Fatalf("notify: %s", got)
		}
		w.receive(phone)
		// By the stored password, which the registration needs.
		other := w.apnsPhone()
		w.call("DELETE", "/api/v1/subscriptions/"+w.subscribe(session, other.transport, other.token, "registered"), session, nil, 204)
	}
	works()
	if all := w.rotate(0); all.Changed != 0 || all.Seen == 0 || all.Next != "" {
		t.Errorf("nothing to do: %+v", all)
	}
	w.stop()
	text, err := os.ReadFile(filepath.Join(w.stateDir, server.SealKeyFile))
	must(t, err)
	before, err := seal.ParseKeyFile(string(text))
	must(t, err)
	w.exec("INSERT INTO refresh_tokens (context_id, user_id, sealed, updated_ms) VALUES (1, 1, '" + before.Seal("oauth/1@1", []byte("refresh")) + "', 1)")
	kept := w.sealedBy()
	if len(kept) != 5 { // passwords, tokens, device tokens, secrets of mail hosts, the check

		t.Errorf("sealed are %v", kept)
	}

	w.edit("{store: database}", "{store: database, passphrase: correct horse battery}")
	w.start()
	works()
	if all := w.rotate(2); all.Changed == 0 || all.Next == "" {
		t.Errorf("a rotation that is interrupted: %+v", all)
	}
	w.stop()
	w.start()
	var serving sync.WaitGroup
	serving.Go(works)
	all := w.rotate(0)
	serving.Wait()
	if all.Changed == 0 || all.Next != "" || len(all.Lost) > 0 || all.Total == 0 {
		t.Errorf("the rest: %+v", all)
	}
	for place := range w.sealedBy() {
		if !strings.HasSuffix(place, " "+all.Key) {
			t.Errorf("still sealed with the old key: %s", place)
		}
	}
	if len(w.sealedBy()) != len(kept) {
		t.Errorf("sealed are %v", w.sealedBy())
	}
	if again := w.rotate(0); again.Changed != 0 || again.Key != all.Key {
		t.Errorf("all is done: %+v", again)
	}
	w.stop()

	must(t, os.Remove(filepath.Join(w.stateDir, server.SealKeyFile)))
	w.start()
	works()
	if _, err := os.Stat(filepath.Join(w.stateDir, server.SealKeyFile)); !os.IsNotExist(err) {
		t.Errorf("a key file beside a passphrase: %v", err)
	}
	if files := w.server.Files(); files["seal key"] != "" {
		t.Errorf("files are %v", files)
	}
	w.stop()

	// Without the old one it does not start; with it, and after a rotation without it, it does.
	w.edit("passphrase: correct horse battery", "passphrase: another horse battery")
	cfg, _, err := config.Load(w.config, nil)
	must(t, err)
	if _, err := server.New(t.Context(), cfg, server.Options{}); !errors.Is(err, account.ErrWrongKey) || !strings.Contains(err.Error(), "old_passphrases") {
		t.Errorf("started with another passphrase: %v", err)
	}
	w.edit("passphrase: another horse battery", "passphrase: another horse battery, old_passphrases: [{passphrase: correct horse battery}]")
	w.start()
	works()
	if all := w.rotate(0); all.Changed == 0 || len(all.Lost) > 0 {
		t.Errorf("the second rotation: %+v", all)
	}
	// What no key opens is told, and left alone.
	if n := w.exec("UPDATE credentials SET sealed = 'v2.00000000.AAAA'"); n != 1 {
		t.Fatalf("%d credentials", n)
	}
	if all := w.rotate(0); len(all.Lost) != 1 || all.Lost[0] != "credential/1@1" {
		t.Errorf("lost: %+v", all)
	}
	must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/mailhosts", nil, nil, nil))
	var p interface{ Error() string }
	if err := w.admin.Do(t.Context(), "POST", "/admin/v1/credentials/rotate", nil, api.Rotate{After: "nowhere"}, nil); !errors.As(err, &p) {
		t.Errorf("a place that is none: %v", err)
	}
	w.stop()
	w.edit(", old_passphrases: [{passphrase: correct horse battery}]", "")
	w.start()
	session = w.signIn(alice, secret1, "phone")
	works()
}

// sealedBy lists what the database holds that is sealed, by the key: "credentials.sealed 44fd990b".
func (w *world) sealedBy() map[string]int {
	w.tb.Helper()
	d, err := db.Open(w.tb.Context(), w.databaseURL, db.Options{})
	must(w.tb, err)
	defer func() { must(w.tb, d.Close()) }()
	all := map[string]int{}
	tables, err := d.Query(w.tb.Context(), "SELECT name FROM sqlite_master WHERE type = 'table'")
	must(w.tb, err)
	var names []string
	for tables.Next() {
		var name string
		must(w.tb, tables.Scan(&name))
		names = append(names, name)
	}
	must(w.tb, errors.Join(tables.Err(), tables.Close()))
	for _, name := range names {
		rows, err := d.Query(w.tb.Context(), "SELECT * FROM "+name)
		must(w.tb, err)
		columns, err := rows.Columns()
		must(w.tb, err)
		for rows.Next() {
			cells, into := make([]any, len(columns)), make([]any, len(columns))
			for i := range cells {
				into[i] = &cells[i]
			}
			must(w.tb, rows.Scan(into...))
			for i, cell := range cells {
				if text, ok := cell.(string); ok && (strings.HasPrefix(text, "v1.") || strings.HasPrefix(text, "v2.")) {
					all[name+"."+columns[i]+" "+strings.Split(text, ".")[1]]++
				}
			}
		}
		must(w.tb, errors.Join(rows.Err(), rows.Close()))
	}
	return all
}
