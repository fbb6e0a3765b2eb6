package db

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
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
	dialect, handle := goose.DialectSQLite3, d.writer
	if d.postgres {
		dialect, handle = goose.DialectPostgres, d.reads
	}
	p, err := goose.NewProvider(dialect, handle, files)
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
