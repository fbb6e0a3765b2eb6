package db

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// The schema of the whole product, numbered and forward only. A released file is never edited.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

func (d *DB) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	dialect, handle, opts := goose.DialectPostgres, d.reads, []goose.ProviderOption(nil)
	if !d.postgres {
		dialect, handle = goose.DialectSQLite3, d.writer.pool
	} else {
		// Two servers may start at once: one waits for the other, asking each second for five minutes.
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
		if err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		opts = append(opts, goose.WithSessionLocker(locker))
	}
	p, err := goose.NewProvider(dialect, handle, files, opts...)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("migrate: read the schema's version: %w", err)
	}
	if have > want {
		return fmt.Errorf("migrate: the database has schema %d and this build knows %d: start the newer Posthorn that wrote it", have, want)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
