package testpeer

import (
	"path/filepath"
	"testing"
)

// EachDatabase runs f as a parallel subtest on an empty database of each engine that Posthorn runs on, by
// the URL that names it. Without PostgreSQL that subtest alone is skipped.
func EachDatabase(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	for name, url := range map[string]func(testing.TB) string{"sqlite": SQLiteURL, "postgres": PostgresURL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, url(t))
		})
	}
}

// SQLiteURL names a database file that ends with the test and does not exist yet.
func SQLiteURL(tb testing.TB) string {
	tb.Helper()
	return "sqlite:" + filepath.Join(tb.TempDir(), "posthorn.db")
}
