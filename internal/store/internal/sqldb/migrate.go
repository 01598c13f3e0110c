package sqldb

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

// migrateTries is how often a migration that met another process doing the same is looked at
// again.
const migrateTries = 20

// Migrate applies what is missing, each step in a transaction of its own together with its number.
// Of several processes that do so at once, one succeeds with a step and the others find it applied
// when they look again.
func Migrate(ctx context.Context, d *Dialect, db *sql.DB) error {
	for try := 1; ; try++ {
		err := MigrateOnce(ctx, d, db)
		var known *stacyvm.Error
		if err == nil || errors.As(err, &known) && known.Code == stacyvm.CodeUnsupported {
			return err
		}
		if try == migrateTries || ctx.Err() != nil {
			return NotMigrated(d, err)
		}
		time.Sleep(rand.N(20 * time.Millisecond))
	}
}

// NotMigrated gives the error of a migration that failed; nil stays nil.
func NotMigrated(d *Dialect, err error) error {
	var known *stacyvm.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return stacyvm.Wrap(stacyvm.CodeOf(d.Translate(err)), err, "the database's schema cannot be brought up to date")
}

// MigrateOnce is Migrate without another try. CodeUnsupported: a newer program has changed the
// schema.
func MigrateOnce(ctx context.Context, d *Dialect, db *sql.DB) error {
	provider, err := NewProvider(d, db)
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

// NewProvider gives the steps of the schema, to be applied to db.
func NewProvider(d *Dialect, db *sql.DB) (*goose.Provider, error) {
	steps, err := migrations.Steps(d.Words)
	if err != nil {
		return nil, err
	}
	var all []*goose.Migration
	for _, step := range steps {
		all = append(
			all,
			goose.NewGoMigration(step.Version, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, step.Text)
				return err
			}}, nil),
		)
	}
	return goose.NewProvider(
		d.Goose,
		db,
		nil,
		goose.WithGoMigrations(
			all...),
		goose.WithDisableGlobalRegistry(true),
		goose.WithTableName(migrations.VersionTable),
	)
}
