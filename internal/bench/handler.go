package bench

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	_ "modernc.org/sqlite" // the driver that Posthorn uses
)

// handlerConfig makes the baseline of the notify line: a net/http handler that reads the notification and
// answers, and with a Database also commits one upserted row of it first.
type handlerConfig struct{ Database string }

type handlerReady struct{ URL string }

func handlerChild(ctx context.Context, c handlerConfig, out io.Writer) (err error) {
	var rows *committer
	if c.Database != "" {
		if rows, err = newCommitter(ctx, c.Database); err != nil {
			return err
		}
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err == nil && rows != nil {
			var v struct{ User string }
			if err = json.Unmarshal(body, &v); err == nil {
				err = rows.put(v.User, string(body))
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"success":true,"result":"queued"}`)
	})
	return serveChild(ctx, h, out, func(url string) any { return handlerReady{url + notifyPath} })
}

// committer is a group commit as short as it can be: one prepared upsert, one transaction for all that
// waits, one fsync for each.
type committer struct{ queue chan row }

type row struct {
	user, body string
	done       chan error
}

func newCommitter(ctx context.Context, path string) (*committer, error) {
	d, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-16384)")
	if err != nil {
		return nil, err
	}
	d.SetMaxOpenConns(1)
	if _, err := d.ExecContext(ctx, `CREATE TABLE rows (user TEXT PRIMARY KEY, body TEXT NOT NULL)`); err != nil {
		return nil, err
	}
	c := &committer{make(chan row, 1024)}
	go c.loop(ctx, d) // until the process ends
	return c, nil
}

func (c *committer) put(user, body string) error {
	r := row{user, body, make(chan error, 1)}
	c.queue <- r
	return <-r.done
}

func (c *committer) loop(ctx context.Context, d *sql.DB) {
	put, broken := d.PrepareContext(ctx, `INSERT INTO rows (user, body) VALUES (?, ?) ON CONFLICT (user) DO UPDATE SET body = excluded.body`)
	if broken == nil {
		defer func() { _ = put.Close() }()
	}
	for first := range c.queue {
		group := []row{first}
		for more := true; more && len(group) < 256; {
			select {
			case r := <-c.queue:
				group = append(group, r)
			default:
				more = false
			}
		}
		err := broken
		if err == nil {
			err = commit(ctx, d, put, group)
		}
		for _, r := range group {
			r.done <- err
		}
	}
}

func commit(ctx context.Context, d *sql.DB, put *sql.Stmt, group []row) error {
	tx, err := d.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	stmt := tx.StmtContext(ctx, put) // the same, as there is one connection
	defer func() { _ = stmt.Close() }()
	for _, r := range group {
		if _, err := stmt.ExecContext(ctx, r.user, r.body); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// fsyncConfig measures the disk: so many writes of 4 KiB at the end of a file, each followed by fsync.
type fsyncConfig struct {
	File  string
	Count int
}

type fsyncResult struct{ MS []float64 } // sorted

func fsyncChild(ctx context.Context, c fsyncConfig, out io.Writer) (err error) {
	f, err := os.Create(c.File)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(c.File)) }()
	page := make([]byte, 4096)
	var res fsyncResult
	for range c.Count {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		start := time.Now()
		if _, err := f.Write(page); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		res.MS = append(res.MS, float64(time.Since(start).Nanoseconds())/1e6)
	}
	slices.Sort(res.MS)
	return json.NewEncoder(out).Encode(res)
}
