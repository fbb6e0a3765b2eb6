package db

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// open opens a database for the length of a test, with a table "t" to play with.
func open(t *testing.T, url string, opts Options) *DB {
	t.Helper()
	d, err := Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	exec(t, d, "CREATE TABLE t (k TEXT PRIMARY KEY, n BIGINT NOT NULL)")
	return d
}

func exec(t *testing.T, d *DB, query string, args ...any) {
	t.Helper()
	err := d.Write(t.Context(), func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// put returns a write of one row, which then says err.
func put(k string, err error) func(context.Context, *Tx) error {
	return func(ctx context.Context, tx *Tx) error {
		n, xerr := tx.Exec(ctx, "INSERT INTO t (k, n) VALUES (?, ?)", k, len(k))
		if xerr != nil || n != 1 {
			return errors.Join(xerr, err)
		}
		return err
	}
}

// keys returns what is committed in "t".
func keys(t *testing.T, d *DB) []string {
	t.Helper()
	rows, err := d.Query(t.Context(), "SELECT k FROM t ORDER BY k")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := []string{}
	for rows.Next() {
		var k string
		if err := rows.Scan(&k); err != nil {
			t.Fatal(err)
		}
		all = append(all, k)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestReadAndWrite(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		var mu sync.Mutex
		var traced []string
		d := open(t, url, Options{Trace: func(q string) {
			mu.Lock()
			defer mu.Unlock()
			traced = append(traced, q)
		}})
		ctx := t.Context()
		if err := d.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		big := int64(1<<32 - 1)
		exec(t, d, "INSERT INTO t (k, n) VALUES (?, ?), ('what?', ?)", "ключ 🔑", big, 2)
		err := d.Write(ctx, func(ctx context.Context, tx *Tx) error {
			n, err := tx.Exec(ctx, "UPDATE t SET n = n + ? WHERE n > ?", 1, 0)
			if err != nil || n != 2 {
				t.Errorf("changed %d rows, %v", n, err)
			}
			if _, err := tx.Exec(ctx, "INSERT INTO t (k, n) VALUES (?, ?) ON CONFLICT DO NOTHING", "what?", 7); err != nil {
				return err
			}
			rows, err := tx.Query(ctx, "SELECT n FROM t ORDER BY n")
			if err != nil {
				return err
			}
			defer rows.Close()
			var got []int64
			for rows.Next() {
				var n int64
				if err := rows.Scan(&n); err != nil {
					return err
				}
				got = append(got, n)
			}
			if !slices.Equal(got, []int64{3, big + 1}) {
				t.Errorf("in the write: %v", got)
			}
			return rows.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
		var n int64
		if err := d.QueryRow(ctx, "SELECT n FROM t WHERE k = ?", "ключ 🔑").Scan(&n); err != nil || n != big+1 {
			t.Errorf("read back %d, %v", n, err)
		}
		if err := d.QueryRow(ctx, "SELECT n FROM t WHERE k = ?", "none").Scan(&n); !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("no row: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(traced, "SELECT n FROM t WHERE k = ?") || !slices.Contains(traced, "UPDATE t SET n = n + ? WHERE n > ?") {
			t.Errorf("traced only %q", traced)
		}
	})
}

func TestReadersCannotWrite(t *testing.T) {
	t.Parallel()
	d := open(t, testpeer.SQLiteURL(t), Options{})
	if _, err := d.reads.ExecContext(t.Context(), "INSERT INTO t (k, n) VALUES ('a', 1)"); err == nil {
		t.Fatal("a reading connection wrote beside the writer")
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("This is no database. ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{
		"", "mysql://localhost/", "posthorn.db", "sqlite:", "sqlite:" + dir, "sqlite:" + filepath.Join(dir, "no", "such"), "sqlite:" + text,
		"postgres://me:hunter2@127.0.0.1:1/x?sslmode=disable&connect_timeout=5", "postgres://me:hunter2@%zz/", "postgres://me:hunter2@h/?sslmode=maybe",
	} {
		d, err := Open(t.Context(), url, Options{})
		if err == nil {
			t.Errorf("%s: opened", url)
			err = d.Close()
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats the password: %v", err)
		}
	}
}

// The file holds sealed passwords and is for nobody else's eyes, nor are those that SQLite puts beside it.
func TestFileMode(t *testing.T) {
	t.Parallel()
	url := testpeer.SQLiteURL(t)
	d := open(t, url, Options{})
	exec(t, d, "INSERT INTO t (k, n) VALUES ('a', 1)")
	path := strings.TrimPrefix(url, "sqlite:")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		fi, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != 0o600 {
			t.Errorf("%s has mode %v", filepath.Base(path+suffix), fi.Mode())
		}
	}
}

// A path means the file of that name, whatever it looks like in a URI.
func TestOddPaths(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for i, name := range []string{":memory:", "a b?mode=memory&x=%41#y", "ü'\"", "//" + dir + "//double", "%2e"} {
		k := strconv.Itoa(i)
		d, err := Open(t.Context(), "sqlite:"+name, Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		exec(t, d, "INSERT INTO contexts (id, name, created_ms) VALUES (1, ?, 0)", k)
		var got string
		if err := d.QueryRow(t.Context(), "SELECT name FROM contexts").Scan(&got); err != nil || got != k {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if fi, err := os.Stat(name); err != nil || fi.Size() == 0 {
			t.Errorf("%s: no such file, %v", name, err)
		}
	}
}

func TestMillis(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{{}, time.UnixMilli(1), time.UnixMilli(-5), time.Date(2027, 2, 28, 23, 59, 59, 999_000_000, time.FixedZone("", 3600))} {
		if got := Time(Millis(at)); !got.Equal(at) || got.Location() != time.UTC {
			t.Errorf("%v became %v", at, got)
		}
	}
	if Millis(time.Time{}) != 0 {
		t.Error("the zero time is not 0")
	}
}

func TestRebind(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":              "",
		"SELECT 1":      "SELECT 1",
		"a = ? OR b=?":  "a = $1 OR b=$2",
		"'?' || ? ||''": "'?' || $1 ||''",
		"'it''s ?' + ?": "'it''s ?' + $1",
		"?????????? ??": "$1$2$3$4$5$6$7$8$9$10 $11$12",
		"ü?'ü?":         "ü$1'ü?",
	} {
		if got := rebind(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func FuzzRebind(f *testing.F) {
	for _, s := range []string{"", "SELECT ? FROM t WHERE k = '?'", "''''?", "\xff?", "$1 ?"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		got := rebind(query)
		// Outside of quotes each ? becomes its number, inside nothing changes: undo it piece by piece.
		in, out := strings.Split(query, "'"), strings.Split(got, "'")
		if len(in) != len(out) {
			t.Fatalf("%q became %q", query, got)
		}
		n := 0
		for i := range in {
			want := in[i]
			if i%2 == 0 {
				pieces := strings.Split(in[i], "?")
				want = pieces[0]
				for _, p := range pieces[1:] {
					n++
					want += "$" + strconv.Itoa(n) + p
				}
			}
			if out[i] != want {
				t.Fatalf("%q became %q", query, got)
			}
		}
	})
}
