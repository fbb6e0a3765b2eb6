package bench

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/server"
)

// seedConfig fills a database. Users are numbered through, group after group; each has one device.
type seedConfig struct {
	// States are the state directories that get the seal key.
	States []string
	// Database is the database's URL; empty: the SQLite file in the first state directory.
	Database string
	Groups   []seedGroup
}

// seedGroup is users of one mail host on one transport.
type seedGroup struct {
	Host    seedHost
	Users   int
	Android bool
	// Listen wants the users' listeners.
	Listen bool
	// Password is stored for each, unless it is empty.
	Password string
}

// seedHost is a mail host. Of groups with the same name the first one's counts.
type seedHost struct {
	Name           string
	Port           int    // on 127.0.0.1; 0: nobody listens there
	CA             string // PEM, for TLS; empty: in clear
	Source         string // empty: auto
	PasswordSource string // empty: session
	MasterLogin    string
	MasterPassword string
	DoveadmURL     string
	DoveadmKey     string
}

// seedChild fills a database with the rows that sign-ins and subscriptions would have left, without the
// IMAP server and the minutes that they take.
func seedChild(ctx context.Context, c seedConfig, out io.Writer) (err error) {
	text, err := seal.NewKeyFile()
	if err != nil {
		return err
	}
	keys, err := seal.ParseKeyFile(text)
	if err != nil {
		return err
	}
	for _, dir := range c.States {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, server.SealKeyFile), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if c.Database == "" {
		c.Database = "sqlite:" + filepath.Join(c.States[0], "posthorn.db")
	}
	d, err := db.Open(ctx, c.Database, db.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	s := seeder{keys: keys, now: db.Millis(time.Now()), hosts: map[string]bool{}}
	if err := d.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		return insert(ctx, tx, "contexts", map[string]any{"id": 1, "name": "bench", "created_ms": s.now})
	}); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	for _, g := range c.Groups {
		if err := s.group(ctx, d, g); err != nil {
			return fmt.Errorf("seed: %w", err)
		}
	}
	_, err = io.WriteString(out, "{}\n")
	return err
}

// seeder is how far it is.
type seeder struct {
	keys  *seal.Keyring
	now   int64
	hosts map[string]bool
	users int // so many are there
}

func (s *seeder) group(ctx context.Context, d *db.DB, g seedGroup) error {
	if g.Host.Name == "" {
		g.Host.Name = "bench"
	}
	if !s.hosts[g.Host.Name] {
		if err := d.Write(ctx, func(ctx context.Context, tx *db.Tx) error { return s.host(ctx, tx, g.Host) }); err != nil {
			return err
		}
		s.hosts[g.Host.Name] = true
	}
	const batch = 5000
	for end := s.users + g.Users; s.users < end; {
		n := min(batch, end-s.users)
		err := d.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
			for i := s.users; i < s.users+n; i++ {
				if err := s.user(ctx, tx, g, i); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.users += n
	}
	return nil
}

func (s *seeder) host(ctx context.Context, tx *db.Tx, h seedHost) error {
	security, port := "none", 1
	h.Source, h.PasswordSource = cmp.Or(h.Source, "auto"), cmp.Or(h.PasswordSource, "session")
	if h.CA != "" {
		security = "tls"
	}
	if h.Port > 0 {
		port = h.Port
	}
	row := map[string]any{
		"name": h.Name, "imap_host": "127.0.0.1", "imap_port": port, "security": security, "insecure": 0, "ca": h.CA,
		"notify_login": nil, "notify_hash": "", "user_form": "login", "keyed_alias": 0, "allow_from": "[]", "contexts": "[]",
		"created_ms": s.now, "source": h.Source, "password_source": h.PasswordSource, "master_login": h.MasterLogin, "doveadm_url": h.DoveadmURL,
	}
	if h.MasterPassword+h.DoveadmKey != "" {
		text, err := json.Marshal(map[string]string{"master_password": h.MasterPassword, "doveadm_key": h.DoveadmKey})
		if err != nil {
			return err
		}
		row["secrets"] = s.keys.Seal("mailhost/"+h.Name, text)
	}
	return insert(ctx, tx, "mailhosts", row)
}

func (s *seeder) user(ctx context.Context, tx *db.Tx, g seedGroup, i int) error {
	id := i + 1
	transport, token := "apns", fmt.Sprintf("%064x", i)
	if g.Android {
		transport, token = "fcm", fmt.Sprintf("cBench:APA91b%0128x", i)
	}
	sum := sha256.Sum256([]byte(transport + "\x00" + token))
	hash := hex.EncodeToString(sum[:])
	errs := []error{
		insert(ctx, tx, "users", map[string]any{
			"context_id": 1, "id": id, "login": login(i), "login_key": login(i), "mailhost": g.Host.Name, "created_ms": s.now,
		}),
		insert(ctx, tx, "subscriptions", map[string]any{
			"id": fmt.Sprintf("%024x", i), "context_id": 1, "user_id": id, "client": "bench", "transport": transport,
			"token_hash": hash, "token": s.keys.Seal("token/"+transport+"/"+hash, []byte(token)), "target": token[len(token)-6:],
			"device_hash": "", "topics": `["mail:new"]`, "created_ms": s.now, "renewed_ms": s.now, "expires_ms": 0,
		}),
	}
	if g.Listen {
		errs = append(errs, insert(ctx, tx, "listeners", map[string]any{
			"context_id": 1, "user_id": id, "wanted": 1, "state": "pending", "reason": "", "attempt": 0, "not_before_ms": s.now,
			"since_ms": s.now,
		}))
	}
	if g.Password != "" {
		errs = append(errs, insert(ctx, tx, "credentials", map[string]any{
			"context_id": 1, "user_id": id, "sealed": s.keys.Seal("credential/"+strconv.Itoa(id)+"@1", []byte(g.Password)), "updated_ms": s.now,
		}))
	}
	return errors.Join(errs...)
}

// insert writes a row; columns that are not named have their defaults.
func insert(ctx context.Context, tx *db.Tx, table string, row map[string]any) error {
	columns := slices.Sorted(maps.Keys(row))
	var values []any
	for _, c := range columns {
		values = append(values, row[c])
	}
	_, err := tx.Exec(ctx, "INSERT INTO "+table+" ("+strings.Join(columns, ", ")+") VALUES ("+
		strings.TrimSuffix(strings.Repeat("?, ", len(columns)), ", ")+")", values...)
	return err
}

// login is the name of the i-th user.
func login(i int) string { return "user" + strconv.Itoa(i) + "@bench.example" }
