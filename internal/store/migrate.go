package store

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/migrations"
)

// versionTable keeps which migrations were applied, in both dialects.
const versionTable = "schema_migrations"

// migrateTries is how often a migration that met another process doing the same is looked at again.
const migrateTries = 20

// migrate applies what is missing, each step in a transaction of its own together with its number. Of several processes
// that do so at once, one succeeds with a step and the others find it applied when they look again.
func migrate(ctx context.Context, d *dialect, db *sql.DB) error {
	for try := 1; ; try++ {
		err := migrateOnce(ctx, d, db)
		var known *stacyvm.Error
		if err == nil || errors.As(err, &known) && known.Code == stacyvm.CodeUnsupported {
			return err
		}
		if try == migrateTries || ctx.Err() != nil {
			return notMigrated(d, err)
		}
		time.Sleep(rand.N(20 * time.Millisecond))
	}
}

// notMigrated is the error of a migration that failed; nil stays nil.
func notMigrated(d *dialect, err error) error {
	var known *stacyvm.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return stacyvm.Wrap(stacyvm.CodeOf(d.translate(err)), err, "the database's schema cannot be brought up to date")
}

func migrateOnce(ctx context.Context, d *dialect, db *sql.DB) error {
	provider, err := newProvider(d, db)
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return err
	}
	present, known, err := provider.GetVersions(ctx)
	if err != nil {
		return err
	}
	if present > known {
		return stacyvm.Errorf(stacyvm.CodeUnsupported,
			"the database's schema has version %d, this program knows up to %d: use the newer program", present, known)
	}
	return nil
}

func newProvider(d *dialect, db *sql.DB) (*goose.Provider, error) {
	steps, err := migrations.Steps(d.words)
	if err != nil {
		return nil, err
	}
	var all []*goose.Migration
	for _, step := range steps {
		all = append(all, goose.NewGoMigration(step.Version, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, step.Text)
			return err
		}}, nil))
	}
	return goose.NewProvider(d.goose, db, nil,
		goose.WithGoMigrations(all...), goose.WithDisableGlobalRegistry(true), goose.WithTableName(versionTable))
}
