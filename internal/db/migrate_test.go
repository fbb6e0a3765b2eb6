package db

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pressly/goose/v3/lock"

	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

var update = flag.Bool("update", false, "write the database file of the newest schema anew: only before its release")

// migrations returns the versions this build knows, in order.
func migrations(t *testing.T) []int {
	t.Helper()
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	var versions []int
	for _, f := range files {
		number, _, _ := strings.Cut(filepath.Base(f), "_")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, n)
	}
	for i, n := range versions {
		if n != i+1 {
			t.Fatalf("migrations are numbered %v", versions)
		}
	}
	return versions
}

// tables returns the names of all tables.
func tables(t *testing.T, d *DB) []string {
	t.Helper()
	query := "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
	if d.postgres {
		query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
	}
	return slices.Sorted(slices.Values(texts(t, d, query)))
}

func texts(t *testing.T, d *DB, query string) []string {
	t.Helper()
	rows, err := d.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func mustOpen(t *testing.T, url string) *DB {
	t.Helper()
	d, err := Open(t.Context(), url, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustClose(t *testing.T, d *DB) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestMigrate makes the schema once, and finds it there the next time.
func TestMigrate(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		want := []string{
			"acme_locks", "acme_storage", "admin_keys", "audit", "changes", "context_sets", "contexts", "credentials", "freezes", "goose_db_version", "installation_keys", "known_places", "listeners", "mailhosts", "nodes",
			"outcomes", "properties", "providers", "refresh_tokens", "resellers", "seal_check", "seal_salt", "sequences", "sessions", "sign_ins", "slots", "states", "subscriptions", "tombstones", "users",
		}
		for range 2 {
			d := mustOpen(t, url)
			if got := tables(t, d); !slices.Equal(got, want) {
				t.Errorf("tables %q, want %q", got, want)
			}
			var version int
			if err := d.QueryRow(t.Context(), "SELECT MAX(version_id) FROM goose_db_version").Scan(&version); err != nil {
				t.Error(err)
			}
			if known := migrations(t); version != known[len(known)-1] {
				t.Errorf("schema %d of %v", version, known)
			}
			mustClose(t, d)
		}
	})
}

// A database that a newer Posthorn wrote is left exactly as it is.
func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		d := mustOpen(t, url)
		newer := len(migrations(t)) + 1
		exec(t, d, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (?, 1 = 1)", newer)
		mustClose(t, d)
		d, err := Open(t.Context(), url, Options{})
		if err == nil {
			mustClose(t, d)
			t.Fatal("opened a newer schema")
		}
		if want := fmt.Sprintf("schema %d and this build knows %d", newer, newer-1); !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	})
}

// Several servers may be started on one empty database at once: each waits while another migrates.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := testpeer.PostgresURL(t)
	other, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	migrating, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := migrating.ExecContext(t.Context(), "SELECT pg_advisory_lock($1)", lock.DefaultLockID); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if d, err := Open(ctx, url, Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("opened beside a migration: %v, %v", d, err)
	}
	if _, err := migrating.ExecContext(t.Context(), "SELECT pg_advisory_unlock($1)", lock.DefaultLockID); err != nil {
		t.Fatal(err)
	}
	if err := migrating.Close(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			d, err := Open(t.Context(), url, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestMigrateCancelled ends the context before the schema is there.
func TestMigrateCancelled(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if d, err := Open(ctx, url, Options{}); err == nil {
			mustClose(t, d)
			t.Fatal("opened")
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		mustClose(t, mustOpen(t, url))
	})
}

// rows puts one row in each table that there is in the newest schema.
var rows = []string{
	`INSERT INTO contexts VALUES (1, 'one', 1790000000000, 'north', '["premium"]')`,
	`INSERT INTO changes VALUES ('tenant', 3), ('subscription', 1)`,
	`INSERT INTO nodes VALUES ('n1', 'p1', 3)`,
	`INSERT INTO seal_check VALUES (1, 'v1.00000000.AA')`,
	`INSERT INTO sequences VALUES ('context', 1), ('user/1', 3)`,
	`INSERT INTO mailhosts VALUES ('dove', 'mail.example.org', 993, 'tls', 0, '', 'dove', '00', 'metadata', 1, '["192.0.2.0/24"]', '[1]', 1790000000000,
		'dovecot', 'global', 'master', 'https://mail.example.org:8443', '', '', '', 'v1.00000000.AA')`,
	`INSERT INTO mailhosts VALUES ('bare', 'localhost', 143, 'none', 0, '', NULL, '', 'login', 0, 'null', 'null', 1790000000000,
		'auto', 'session', '', '', '', '', '', '')`,
	`INSERT INTO users VALUES (1, 3, 'Alice@example.org', 'alice@example.org', 'dove', 1790000000000)`,
	`INSERT INTO sessions VALUES ('0123456789abcdef', 'th', 1, 3, 'app', 'dh', '192.0.2.1', 1790000000000, 1790000000000, 1790000000000, 'fh', 'oh', 1790000000000, 1790000000000, 'phone')`,
	`INSERT INTO credentials VALUES (1, 3, 'v1.00000000.AAAA', 1790000000000)`,
	`INSERT INTO seal_salt VALUES (1, 'AAAAAAAAAAAAAAAAAAAAAA')`,
	`INSERT INTO refresh_tokens VALUES (1, 3, 'v2.00000000.AAAA', 1790000000000)`,
	`INSERT INTO subscriptions VALUES ('s1', 1, 3, 'app', 'apns', 'kh', 'v1.00000000.AAAA', '…beef', 'dh', '["mail:new"]', 1790000000000, 1790000000000, 0, 'sandbox', '', '', 'blue')`,
	`INSERT INTO listeners VALUES (1, 3, 1, 'registered', '', 0, 1790000000000, 1790000000000, 1790000000000, 1790000000000, 1)`,
	`INSERT INTO states VALUES (1, 3, 7, '[{"f":"INBOX","v":4294967295,"u":4294967295,"s":18446744073709551615,"t":1790000000000}]')`,
	`INSERT INTO slots VALUES ('s1', 'mail', 7, 6, '{}', 1, 2, 1790000000000, 1790000000000, 1790000000000, 1, 1790000000000, 0, 'n1', 1790000000000, '')`,
	`INSERT INTO outcomes VALUES ('s1', 1, 6, 1, 'delivered', 200, '', 'id', 1790000000000, 1790000000000, 1790000000000, 0)`,
	`INSERT INTO tombstones VALUES ('s0', 5, 1, 'gone', 410, 'Unregistered', 1790000000000, 1790000000000, 1790000000000)`,
	`INSERT INTO resellers VALUES ('north', 'North', 'https://north.example.org/help', 1790000000000)`,
	`INSERT INTO context_sets VALUES ('paying', 'premium | trial', 10, 1790000000000)`,
	`INSERT INTO properties VALUES ('context', '1', 'capability.mobile_mail_app', 'true', 'upgrade', 1790000000000)`,
	`INSERT INTO providers VALUES ('blue', 'north', '{}', '', '', 1790000000000, 1790000000000)`,
	`INSERT INTO installation_keys VALUES ('directory', 'v2.00000000.AAAA')`,
	`INSERT INTO admin_keys VALUES ('k1', 'kh', 'reseller', 'north', 'billing', 1790000000000, 1790000000000, 1790000000000)`,
	`INSERT INTO audit VALUES ('01', 1790000000000, 'key k1', 'user.add', '3@1', 1, '192.0.2.1', 'ok', '')`,
	`INSERT INTO sign_ins VALUES ('sh', 'v2.00000000.AAAA', 1790000000000)`,
	`INSERT INTO acme_storage VALUES ('acme/ca/users/x.key', 'v2.00000000.AAAA', 1790000000000)`,
	`INSERT INTO acme_locks VALUES ('issue_cert_push.example.org', 'n1', 1790000000000)`,
	`INSERT INTO known_places VALUES ('lh', 'ph', 1790000000000)`,
	`INSERT INTO freezes VALUES ('apns', '0/com.example.mail', 1790000000000)`,
}

// TestReleasedSchemas opens a database file of each released schema: what was in it is there, and its
// schema is that of a new one. It fails too when a released migration was edited.
func TestReleasedSchemas(t *testing.T) {
	t.Parallel()
	fresh := open(t, testpeer.SQLiteURL(t), Options{})
	exec(t, fresh, "DROP TABLE t")
	for _, version := range migrations(t) {
		golden := filepath.Join("testdata", fmt.Sprintf("schema-%d.db", version))
		if *update && version == len(migrations(t)) {
			writeGolden(t, golden)
		}
		content, err := os.ReadFile(golden) //nolint:gosec // a fixed name
		if err != nil {
			t.Fatalf("%v (go test ./internal/db -run %s -update writes it)", err, t.Name())
		}
		url := testpeer.SQLiteURL(t)
		if err := os.WriteFile(strings.TrimPrefix(url, "sqlite:"), content, 0o600); err != nil { //nolint:gosec // the test's own
			t.Fatal(err)
		}
		d := open(t, url, Options{})
		exec(t, d, "DROP TABLE t")
		const schema = "SELECT type || ' ' || name || ': ' || COALESCE(sql, '') FROM sqlite_master WHERE tbl_name <> 'goose_db_version' ORDER BY 1"
		if got, want := texts(t, d, schema), texts(t, fresh, schema); !slices.Equal(got, want) {
			t.Errorf("schema %d does not become that of a new database:\n%s\nbut\n%s", version, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for _, table := range tables(t, d) {
			if since := map[string]int{
				"tombstones": 2, "changes": 2, "nodes": 2, "freezes": 2, "seal_salt": 3, "refresh_tokens": 3, "resellers": 4, "context_sets": 4,
				"properties": 4, "providers": 4, "installation_keys": 4, "admin_keys": 4, "audit": 4, "sign_ins": 4, "known_places": 4, "acme_storage": 4, "acme_locks": 4,
			}; since[table] > version {
				continue
			}
			var n int
			if err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&n); err != nil || n == 0 {
				t.Errorf("schema %d: %d rows in %s, %v", version, n, table, err)
			}
		}
		var login string
		err = d.QueryRow(t.Context(), `SELECT u.login FROM users u JOIN states s ON s.context_id = u.context_id AND s.user_id = u.id
			WHERE s.version = 7`).Scan(&login) // a version never begins anew: the slots have theirs
		if err != nil || login != "Alice@example.org" {
			t.Errorf("schema %d: %q, %v", version, login, err)
		}
		exec(t, d, "DELETE FROM users")
		for _, table := range []string{"sessions", "credentials", "subscriptions", "listeners", "states", "slots", "outcomes"} {
			if left := texts(t, d, "SELECT 'a row' FROM "+table); len(left) > 0 {
				t.Errorf("schema %d: %s outlives its user", version, table)
			}
		}
	}
}

func writeGolden(t *testing.T, path string) {
	t.Helper()
	url := testpeer.SQLiteURL(t)
	d := mustOpen(t, url)
	for _, row := range rows {
		exec(t, d, row)
	}
	for _, q := range []string{"PRAGMA journal_mode = DELETE", "PRAGMA page_size = 1024", "VACUUM", "PRAGMA journal_mode = WAL"} {
		d.reads.SetMaxIdleConns(0) // whoever reads keeps the journal's mode from changing
		if _, err := d.writer.ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	mustClose(t, d)
	content, err := os.ReadFile(strings.TrimPrefix(url, "sqlite:"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil { //nolint:gosec // no secrets in it
		t.Fatal(err)
	}
}

// TestSchemaOnPostgres puts the same rows in PostgreSQL: the types hold what SQLite's hold.
func TestSchemaOnPostgres(t *testing.T) {
	t.Parallel()
	d := open(t, testpeer.PostgresURL(t), Options{})
	for _, row := range rows {
		exec(t, d, row)
	}
	exec(t, d, "DELETE FROM users")
	if left := texts(t, d, "SELECT subscription_id FROM slots"); len(left) > 0 {
		t.Error("slots outlive their user")
	}
}
