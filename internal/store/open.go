package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/postgres"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqlite"
)

// Config says which database to open.
type Config = sqldb.Config

// Open opens the database that config names and brings its schema up to date. Several processes
// may open a new database at the same time. CodeInvalid: the configuration is wrong, the server
// refuses the user, or the file is not a database; CodeUnavailable: the server does not answer;
// CodeUnsupported: the server is too old, or the schema is newer than this program.
func Open(ctx context.Context, config Config) (Store, error) {
	var opened backend
	var err error
	cache := newRowCache()
	switch config.Driver {
	case "", "sqlite", "sqlite3":
		var commits sqlite.Commits
		if config.Alone {
			cache.alone, commits = true, cache.commits
		}
		opened, err = sqlite.Open(ctx, config.WithDefaults(), commits)
	case "postgres", "postgresql":
		opened, err = postgres.Open(ctx, config.WithDefaults(), postgres.Tables{
			BumpIncarnation: func(ctx context.Context, t *sqldb.Tx) error {
				_, err := tx{t}.bumpIncarnation(ctx, 0)
				return err
			},
			Unnumbered: func(ctx context.Context, t *sqldb.Tx) (bool, int64, error) { return events{tx{t}}.waiting(ctx) },
			Number:     func(ctx context.Context, t *sqldb.Tx) (bool, int64, error) { return events{tx{t}}.number(ctx) },
		})
	default:
		err = dberr.UnknownDriver(config.Driver)
	}
	if err != nil {
		return nil, err
	}
	return database{opened, cache}, nil
}

// NewSQLiteStore opens a SQLite file; see Open.
func NewSQLiteStore(ctx context.Context, path string) (Store, error) {
	return Open(ctx, Config{Driver: "sqlite", Path: path})
}

// NewPostgresStore opens a PostgreSQL database; see Open.
func NewPostgresStore(ctx context.Context, config Config) (Store, error) {
	config.Driver = "postgres"
	return Open(ctx, config)
}
