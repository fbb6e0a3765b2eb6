package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

var errTest = errors.New("a write that fails")

// TestConcurrentWriters has many callers write at once, some of which fail, or give up waiting: what
// was answered with nil is kept, all of it, and nothing else is.
func TestConcurrentWriters(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		d := open(t, url, Options{})
		const writers, each = 24, 12
		var want []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					k := fmt.Sprintf("%03d/%03d", w, i)
					ctx, cancel := context.WithCancel(t.Context())
					fail := (w+i)%5 == 0
					var say error
					if fail {
						say = errTest
					}
					if i%4 == 3 {
						go cancel() // somewhere on its way
					}
					err := d.Write(ctx, put(k, say))
					cancel()
					switch {
					case err == nil && !fail:
						mu.Lock()
						want = append(want, k)
						mu.Unlock()
					case fail && errors.Is(err, errTest), i%4 == 3 && errors.Is(err, context.Canceled):
					default:
						t.Errorf("%s: %v", k, err)
					}
				}
			})
		}
		wg.Wait()
		slices.Sort(want)
		if got := keys(t, d); !slices.Equal(got, want) {
			t.Errorf("%d rows are kept, %d were promised", len(got), len(want))
		}
	})
}

// inBubble runs f with a database and virtual time; held keeps the writer busy until free is called.
// All that f writes before is one group then.
func inBubble(t *testing.T, f func(t *testing.T, d *DB, free func())) {
	t.Helper()
	t.Parallel()
	url := testpeer.SQLiteURL(t)
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(t.Context(), url, Options{})
		if err != nil {
			t.Fatal(err)
		}
		exec(t, d, "CREATE TABLE t (k TEXT PRIMARY KEY, n BIGINT NOT NULL)")
		gate, held := make(chan struct{}), make(chan error, 1)
		go func() {
			held <- d.Write(t.Context(), func(context.Context, *Tx) error { <-gate; return nil })
		}()
		synctest.Wait()
		free := sync.OnceFunc(func() {
			close(gate)
			if err := <-held; err != nil {
				t.Error(err)
			}
		})
		defer func() {
			free()
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}()
		f(t, d, free)
	})
}

// background begins writes one after the other and returns what they will have said.
func background(ctx context.Context, d *DB, writes ...func(context.Context, *Tx) error) []chan error {
	said := make([]chan error, len(writes))
	for i, fn := range writes {
		said[i] = make(chan error, 1)
		go func() { said[i] <- d.Write(ctx, fn) }()
		synctest.Wait()
	}
	return said
}

func wantError(t *testing.T, said []chan error, want error) {
	t.Helper()
	for i, ch := range said {
		if err := <-ch; !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("write %d: %v, want %v", i, err, want)
		}
	}
}

func wantKeys(t *testing.T, d *DB, want ...string) {
	t.Helper()
	if got := keys(t, d); !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
}

// TestGroup shows that what waits is committed at once, and that a failing write takes only itself back.
func TestGroup(t *testing.T) {
	inBubble(t, func(t *testing.T, d *DB, free func()) {
		count := func(ctx context.Context, tx *Tx) error {
			var inside, outside int
			err := errors.Join(tx.QueryRow(ctx, "SELECT COUNT(*) FROM t").Scan(&inside),
				d.QueryRow(ctx, "SELECT COUNT(*) FROM t").Scan(&outside))
			if err == nil && (inside != 2 || outside != 0) {
				err = fmt.Errorf("%d rows inside and %d outside", inside, outside)
			}
			return err
		}
		broken := func(ctx context.Context, tx *Tx) error {
			return errors.Join(put("d", nil)(ctx, tx), put("a", nil)(ctx, tx)) // "a" is there
		}
		said := background(t.Context(), d, put("a", nil), put("b", errTest), put("c", nil), count, broken, put("e", nil))
		free()
		for i, ch := range said {
			if err := <-ch; (err != nil) != (i == 1 || i == 4) {
				t.Errorf("write %d: %v", i, err)
			}
		}
		wantKeys(t, d, "a", "c", "e")
	})
}

// What a write said about rows that were never committed is not told.
func TestGroupWithoutCommit(t *testing.T) {
	inBubble(t, func(t *testing.T, d *DB, free func()) {
		exists := func(ctx context.Context, tx *Tx) error {
			var n int
			if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM t").Scan(&n); err != nil || n > 0 {
				return errors.Join(errTest, err)
			}
			return nil
		}
		// Rolls the whole transaction back, as SQLite itself does when the disk is full.
		full := func(ctx context.Context, tx *Tx) error {
			_, err := tx.Exec(ctx, "ROLLBACK")
			return err
		}
		said := background(t.Context(), d, put("a", nil), exists, full, put("b", nil))
		free()
		for i, ch := range said {
			if err := <-ch; err == nil || errors.Is(err, errTest) {
				t.Errorf("write %d: %v", i, err)
			}
		}
		wantKeys(t, d)
		exec(t, d, "INSERT INTO t (k, n) VALUES ('later', 1)") // the writer goes on
		wantKeys(t, d, "later")
	})
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	d := open(t, testpeer.SQLiteURL(t), Options{})
	var pages int
	if err := d.writer.QueryRowContext(t.Context(), "PRAGMA page_count").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	limit := func(pages int) {
		if _, err := d.writer.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	limit(pages + 2)
	if err := d.Write(t.Context(), put(strings.Repeat("x", 1<<20), nil)); err == nil || !strings.Contains(err.Error(), "full") {
		t.Fatalf("a full disk: %v", err)
	}
	exec(t, d, "INSERT INTO t (k, n) VALUES ('small', 1)")
	limit(1 << 20)
	exec(t, d, "INSERT INTO t (k, n) VALUES (?, 1)", strings.Repeat("x", 1<<20))
	if got := keys(t, d); len(got) != 2 || got[0] != "small" {
		t.Errorf("%d rows", len(got))
	}
}

func TestCancelledWhileQueued(t *testing.T) {
	inBubble(t, func(t *testing.T, d *DB, free func()) {
		cause := errors.New("gone away")
		ctx, cancel := context.WithCancelCause(t.Context())
		said := background(ctx, d, put("never", nil))
		others := background(t.Context(), d, put("other", nil))
		cancel(cause)
		wantError(t, said, cause) // at once, not when the writer is free
		free()
		wantError(t, others, nil)
		wantKeys(t, d, "other")
	})
}

// A full queue is room to wait for.
func TestQueueFull(t *testing.T) {
	inBubble(t, func(t *testing.T, d *DB, free func()) {
		var wg sync.WaitGroup
		for i := range maxQueuedWrites {
			wg.Go(func() {
				if err := d.Write(t.Context(), put(fmt.Sprintf("%04d", i), nil)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := d.Write(ctx, put("late", nil)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the queue has no end: %v", err)
		}
		free()
		wg.Wait()
		if n := len(keys(t, d)); n != maxQueuedWrites {
			t.Errorf("%d rows", n)
		}
	})
}

func TestCancelledWhileRunning(t *testing.T) {
	inBubble(t, func(t *testing.T, d *DB, free func()) {
		free()
		ctx, cancel := context.WithCancel(t.Context())
		gate := make(chan struct{})
		said := background(ctx, d, func(ctx context.Context, tx *Tx) error {
			<-gate
			return put("kept", nil)(ctx, tx)
		})
		cancel()
		synctest.Wait()
		select {
		case err := <-said[0]:
			t.Fatalf("left alone what was under way: %v", err)
		default:
		}
		close(gate)
		wantError(t, said, nil)
		wantKeys(t, d, "kept")
	})
}

func TestClose(t *testing.T) {
	inBubble(t, func(t *testing.T, d *DB, free func()) {
		said := background(t.Context(), d, put("queued", nil))
		path := ""
		if err := d.QueryRow(t.Context(), "SELECT file FROM pragma_database_list").Scan(&path); err != nil {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- d.Close() }()
		synctest.Wait()
		if err := d.Write(t.Context(), put("late", nil)); !errors.Is(err, ErrClosed) {
			t.Errorf("write beside Close: %v", err)
		}
		free()
		wantError(t, said, nil)
		if err := errors.Join(<-closed, d.Close()); err != nil {
			t.Error(err)
		}
		if err := d.Write(t.Context(), put("late", nil)); !errors.Is(err, ErrClosed) {
			t.Errorf("write after Close: %v", err)
		}
		if d.Ping(t.Context()) == nil {
			t.Error("closed, and answers")
		}
		again, err := Open(t.Context(), "sqlite:"+path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		wantKeys(t, again, "queued")
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A write that looked before Close and is queued after it is told so: nobody will come for it.
func TestQueuedAfterClose(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, testpeer.SQLiteURL(t))
	mustClose(t, d)
	d.closing = make(chan struct{}) // as Write saw it
	if err := d.Write(t.Context(), put("late", nil)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestCloseRace closes a database in use, many times: no write hangs, none is lost that was promised.
func TestCloseRace(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		open(t, url, Options{})
		for round := range 8 {
			d, err := Open(t.Context(), url, Options{})
			if err != nil {
				t.Fatal(err)
			}
			var kept atomic.Int64
			var wg sync.WaitGroup
			begun := make(chan struct{}, 64)
			for w := range 16 {
				wg.Go(func() {
					for i := 0; ; i++ {
						err := d.Write(context.Background(), put(fmt.Sprintf("%d/%d/%d", round, w, i), nil))
						if err != nil {
							if url[:6] == "sqlite" && !errors.Is(err, ErrClosed) {
								t.Error(err)
							}
							return
						}
						kept.Add(1)
						select {
						case begun <- struct{}{}:
						default:
						}
					}
				})
			}
			<-begun
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			wg.Wait()
			d, err = Open(t.Context(), url, Options{})
			if err != nil {
				t.Fatal(err)
			}
			var n int64
			if err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM t WHERE k LIKE ?", fmt.Sprintf("%d/%%", round)).Scan(&n); err != nil {
				t.Error(err)
			}
			if n != kept.Load() {
				t.Errorf("%d rows are kept, %d were promised", n, kept.Load())
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// Another process, a backup say, may hold the file's lock: a write waits for it, but not for ever.
func TestBusy(t *testing.T) {
	t.Parallel()
	url := testpeer.SQLiteURL(t)
	d := open(t, url, Options{})
	other, err := sql.Open("sqlite", strings.TrimPrefix(url, "sqlite:")+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	hold := func() *sql.Tx {
		tx, err := other.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}

	lock := hold()
	said := make(chan error, 1)
	go func() { said <- d.Write(t.Context(), put("a", nil)) }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := d.Write(ctx, put("b", nil)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("write beside a lock: %v", err)
	}
	wantKeys(t, d) // reading goes on
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-said; err != nil {
		t.Fatal(err)
	}
	wantKeys(t, d, "a")

	if _, err := d.writer.ExecContext(t.Context(), "PRAGMA busy_timeout = 10"); err != nil {
		t.Fatal(err)
	}
	lock = hold()
	if err := d.Write(t.Context(), put("c", nil)); err == nil || !strings.Contains(err.Error(), "begin") {
		t.Errorf("write beside a lasting lock: %v", err)
	}
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	exec(t, d, "INSERT INTO t (k, n) VALUES ('d', 1)")
	wantKeys(t, d, "a", "d")
}

// Lock makes writes exclusive that have no row in common.
func TestLock(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		d := open(t, url, Options{})
		var inside atomic.Int64
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				err := d.Write(t.Context(), func(ctx context.Context, tx *Tx) error {
					if err := tx.Lock(ctx, "the rule"); err != nil {
						return err
					}
					if n := inside.Add(1); n != 1 {
						t.Errorf("%d hold the lock", n)
					}
					defer inside.Add(-1)
					var n int
					if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM t").Scan(&n); err != nil {
						return err
					}
					if n >= 3 {
						return errTest // no more than three: a rule over rows that are not there yet
					}
					return put(fmt.Sprint(i), nil)(ctx, tx)
				})
				if err != nil && !errors.Is(err, errTest) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := len(keys(t, d)); n != 3 {
			t.Errorf("%d rows", n)
		}
	})
}

// TestGather: who comes after a large group waits a moment for others, and after a small one does not.
func TestGather(t *testing.T) {
	inBubble(t, func(t *testing.T, d *DB, free func()) {
		var many []func(context.Context, *Tx) error
		for i := range gatherFrom {
			many = append(many, put(fmt.Sprint("crowd ", i), nil))
		}
		said := background(t.Context(), d, many...)
		free()
		for _, c := range said {
			if err := <-c; err != nil {
				t.Error(err)
			}
		}
		for i, want := range []time.Duration{gatherFor, 0} {
			began := time.Now()
			if err := d.Write(t.Context(), put(fmt.Sprint("alone ", i), nil)); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took != want {
				t.Errorf("write %d took %v, want %v", i, took, want)
			}
		}
	})
}

// TestReadsInsideWrites: however many write at once, each may read beside his transaction.
func TestReadsInsideWrites(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		d := open(t, url, Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				err := d.Write(ctx, func(ctx context.Context, tx *Tx) error {
					var n int
					if err := d.QueryRow(ctx, "SELECT COUNT(*) FROM t").Scan(&n); err != nil {
						return err
					}
					return put(fmt.Sprintf("%03d", i), nil)(ctx, tx)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}
