package store

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Config says which database to open.
type Config struct {
	// Driver is "sqlite" (also "sqlite3" or empty) or "postgres" (also "postgresql").
	Driver string
	// Path is SQLite's file. It is made, readable for its owner only, when it does not exist.
	Path string
	// DSN is PostgreSQL's connection string. It may hold a password and appears in no error.
	DSN string
	// Skew, when set, is added to the database's clock. It exists for tests of what time does to leases.
	Skew func() time.Duration
}

// Open opens the database that config names and brings its schema up to date. Several processes may open a new database
// at the same time. CodeInvalid: the configuration is wrong or the file is not a database; CodeUnsupported: the driver is
// not built yet, or the schema is newer than this program.
func Open(ctx context.Context, config Config) (Store, error) {
	switch config.Driver {
	case "", "sqlite", "sqlite3":
		return openSQLite(ctx, config)
	case "postgres", "postgresql":
		return nil, stacyvm.Errorf(stacyvm.CodeUnsupported, "database.driver: postgres is not built into this version, use sqlite")
	}
	return nil, stacyvm.Invalid("database.driver", "%.32q is not known: use sqlite (also sqlite3) or postgres (also postgresql)", config.Driver)
}

// NewSQLiteStore opens a SQLite file; see Open.
func NewSQLiteStore(ctx context.Context, path string) (Store, error) {
	return Open(ctx, Config{Driver: "sqlite", Path: path})
}
