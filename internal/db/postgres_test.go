package db

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// quickly has PostgreSQL look for deadlocks at once, not after a second.
func quickly(url string) string { return url + "&options=-c%20deadlock_timeout%3D20ms" }

func TestDeadlockIsTriedAgain(t *testing.T) {
	t.Parallel()
	d := open(t, quickly(testpeer.PostgresURL(t)), Options{})
	var tries atomic.Int64
	var meet sync.WaitGroup
	meet.Add(2)
	said := make(chan error, 2)
	for _, order := range [][]string{{"one", "two"}, {"two", "one"}} {
		go func() {
			first := true
			said <- d.Write(t.Context(), func(ctx context.Context, tx *Tx) error {
				tries.Add(1)
				if err := tx.Lock(ctx, order[0]); err != nil {
					return err
				}
				if first {
					first = false
					meet.Done()
					meet.Wait()
				}
				if err := tx.Lock(ctx, order[1]); err != nil {
					return err
				}
				return put(order[0], nil)(ctx, tx)
			})
		}()
	}
	if err := errors.Join(<-said, <-said); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, d, "one", "two")
	if tries.Load() < 3 {
		t.Errorf("%d tries: there was no deadlock", tries.Load())
	}
}

func TestTriesEnd(t *testing.T) {
	t.Parallel()
	d := open(t, testpeer.PostgresURL(t), Options{})
	for code, want := range map[string]int{"40001": maxPostgresTries, "40P01": maxPostgresTries, "23503": maxPostgresTries, "23505": 1, "": 1} {
		tries := 0
		say := error(&pgconn.PgError{Code: code})
		err := d.Write(t.Context(), func(context.Context, *Tx) error {
			tries++
			return fmt.Errorf("do: %w", say)
		})
		if !errors.Is(err, say) || tries != want {
			t.Errorf("%s: %d tries, %v", code, tries, err)
		}
	}
}

// TestPostgresCancel ends the caller's context at each point of a write.
func TestPostgresCancel(t *testing.T) {
	t.Parallel()
	d := open(t, testpeer.PostgresURL(t), Options{})
	// A COMMIT that takes its time: the trigger runs in it.
	exec(t, d, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END'`)
	exec(t, d, `CREATE TABLE s (k TEXT)`)
	exec(t, d, `CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()`)
	cause := errors.New("gone away")
	for name, at := range map[string]func(ctx context.Context, tx *Tx, cancel func()) error{
		"before a statement": func(ctx context.Context, tx *Tx, cancel func()) error {
			cancel()
			return put("x", nil)(ctx, tx)
		},
		"in a statement": func(ctx context.Context, tx *Tx, cancel func()) error {
			defer time.AfterFunc(50*time.Millisecond, cancel).Stop()
			_, err := tx.Exec(ctx, "SELECT pg_sleep(30)")
			return err
		},
		"after all": func(ctx context.Context, tx *Tx, cancel func()) error {
			err := put("x", nil)(ctx, tx)
			cancel()
			return err
		},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		err := d.Write(ctx, func(ctx context.Context, tx *Tx) error { return at(ctx, tx, func() { cancel(cause) }) })
		cancel(nil)
		if !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		wantKeys(t, d)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := d.Write(ctx, func(ctx context.Context, tx *Tx) error {
		time.AfterFunc(50*time.Millisecond, cancel)
		_, err := tx.Exec(ctx, "INSERT INTO s (k) VALUES ('kept')")
		return err
	})
	if err != nil || ctx.Err() == nil {
		t.Errorf("cancelled in COMMIT: %v (context: %v)", err, ctx.Err())
	}
	var n int
	if err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM s").Scan(&n); err != nil || n != 1 {
		t.Errorf("kept %d, %v", n, err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := d.Write(ended, put("x", nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that had ended: %v", err)
	}
}
