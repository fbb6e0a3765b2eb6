package testpeer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

// postgresUser is the superuser of the disposable server, the owner of every database.
const postgresUser = "posthorn"

// postgresScript makes the data directory and becomes the server. Nothing here outlives a test, so
// nothing is ever forced to the disk; shared memory is kept in the directory, which the guard removes.
// Its arguments are the directory and that of PostgreSQL's programs. There is no TCP listener: the
// socket's directory belongs to one user and so "trust" lets in that user and root alone.
const postgresScript = `
"$2/initdb" --pgdata="$1/data" --username=` + postgresUser + ` --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync &&
exec "$2/postgres" -D "$1/data" -k "$1" -c listen_addresses= \
	-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c autovacuum=off \
	-c shared_buffers=32MB -c max_connections=200 -c dynamic_shared_memory_type=mmap
`

// postgres is the one server of this test process. It is started by the first test that asks and
// ended by its guard when the process ends: no test owns it, since the next may need it.
var postgres struct {
	once      sync.Once
	dir       string
	guard     *guard // kept: once collected as garbage, its pipe would be closed
	err       error
	databases atomic.Int64
}

// PostgresURL makes an empty database and returns its URL. The database is dropped, with whoever is
// still connected to it, when the test ends.
func PostgresURL(tb testing.TB) string {
	tb.Helper()
	initdb, ok := find("initdb", "/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin")
	if !ok {
		missing(tb, "PostgreSQL is not installed: apt-get install postgresql")
	}
	postgres.once.Do(func() { postgres.dir, postgres.guard, postgres.err = startPostgres(filepath.Dir(initdb)) })
	if errors.Is(postgres.err, errNoPostgresUser) {
		missing(tb, "%v", postgres.err)
	}
	if postgres.err != nil {
		tb.Fatalf("postgres: %v", postgres.err)
	}
	name := fmt.Sprintf("test_%d", postgres.databases.Add(1))
	admin := databaseURL(postgres.dir, "postgres")
	// template0: nobody can be connected to it, which would make the copy fail.
	if err := execute(tb.Context(), admin, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		tb.Fatalf("postgres: %v", err)
	}
	tb.Cleanup(func() {
		if err := execute(context.WithoutCancel(tb.Context()), admin, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("postgres: %v", err)
		}
	})
	return databaseURL(postgres.dir, name)
}

func databaseURL(dir, name string) string {
	return "postgres:///" + name + "?host=" + dir + "&user=" + postgresUser + "&sslmode=disable"
}

// execute runs one statement on a connection of its own.
func execute(ctx context.Context, url, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the statement's error matters
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

var errNoPostgresUser = errors.New("PostgreSQL refuses to run as root and there is no user postgres: apt-get install postgresql")

// startPostgres returns the directory of the server's socket, once it answers, and its guard.
func startPostgres(bin string) (string, *guard, error) {
	dir, err := shortDir()
	if err != nil {
		return "", nil, err
	}
	own := filepath.Join(dir, "pg")
	command := []string{"/bin/sh", "-c", postgresScript, "postgres", own, bin}
	if err := os.Mkdir(own, 0o700); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	if os.Getuid() == 0 {
		pg, err := user.Lookup("postgres")
		if err != nil {
			return "", nil, errors.Join(errNoPostgresUser, os.RemoveAll(dir))
		}
		if err := chown(own, pg); err != nil {
			return "", nil, errors.Join(err, os.RemoveAll(dir))
		}
		command = append([]string{"setpriv", "--reuid=" + pg.Uid, "--regid=" + pg.Gid, "--init-groups", "--"}, command...)
	}
	// The polite signal of PostgreSQL's "fast" shutdown is also the last: killed outright, it would
	// leave a piece of System V shared memory behind.
	g, err := newGuard(dir, "INT", "INT", command...)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := awaitPostgres(g, own); err != nil {
		text, _ := os.ReadFile(g.log()) // without it there is no more to tell
		return "", nil, errors.Join(fmt.Errorf("start server: %w\n%s", err, text), g.close())
	}
	return own, g, nil
}

// awaitPostgres starts the server and waits until it answers a query.
// The server belongs to the process, so the context is not that of the test which came first.
func awaitPostgres(g *guard, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if _, err := g.say("start"); err != nil {
		return err
	}
	for {
		err := execute(ctx, databaseURL(dir, "postgres"), "SELECT 1")
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		if !g.alive() {
			return errors.New("it ended at once")
		}
	}
}

// chown gives a directory to a user.
func chown(dir string, u *user.User) error {
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return fmt.Errorf("read user id: %w", err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return fmt.Errorf("read group id: %w", err)
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return fmt.Errorf("give directory away: %w", err)
	}
	return nil
}
