package daemon

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker/local"
)

// What the tools for the database tell; the command line may not know the store itself.
type (
	// Schema is how far a database's schema is.
	Schema = store.Schema
	// Backup is a copy of a SQLite database.
	Backup = store.Backup
	// Restored is a database that was put back.
	Restored = store.Restored
	// Dump is a copy of a PostgreSQL database.
	Dump = store.Dump
)

// DumpFormats are those of DumpDatabase.
var DumpFormats = store.DumpFormats

// serveLock is held by the server of a data directory.
const serveLock = "serve.lock"

// storeConfig is the store that the configuration names, with SQLite's file at path.
func storeConfig(c config.Config, path string) store.Config {
	return store.Config{
		Driver: c.Database.Driver, Path: path, DSN: c.Database.DSN, ListenDSN: c.Database.ListenDSN,
		MaxOpenConns: c.Database.MaxOpenConns, MaxIdleConns: c.Database.MaxIdleConns, ExecMode: c.Database.ExecMode,
	}
}

// sqliteFile is the file that a tool for SQLite works on: path, or the configuration's when path is empty.
func sqliteFile(c config.Config, path string) (string, error) {
	if path != "" {
		return path, nil
	}
	if c.Postgres() {
		return "", stacyvm.Errorf(stacyvm.CodeInvalid, "database.driver is postgres: use `stacyvm db pg-backup` and PostgreSQL's own programs, or name a SQLite file with --database")
	}
	return c.DatabasePath(), nil
}

// BackupDatabase copies a SQLite database, the configuration's when path is empty, while servers use it. See
// store.BackupSQLite.
func BackupDatabase(ctx context.Context, c config.Config, path, out string, force bool) (Backup, error) {
	path, err := sqliteFile(c, path)
	if err != nil {
		return Backup{}, err
	}
	return store.BackupSQLite(ctx, store.BackupRequest{Database: path, Out: out, Force: force})
}

// RestoreDatabase puts a SQLite database back, the configuration's when path is empty, with an incarnation above every one
// that this machine knows of. CodeConflict: a server uses the data directory. See store.RestoreSQLite.
func RestoreDatabase(ctx context.Context, c config.Config, backup, path string) (Restored, error) {
	path, err := sqliteFile(c, path)
	if err != nil {
		return Restored{}, err
	}
	held, err := standStill(c)
	if err != nil {
		return Restored{}, err
	}
	defer held.release()
	above, err := local.Incarnation(sharedPlace(c.DataDir, "").worker)
	if err != nil {
		return Restored{}, err
	}
	return store.RestoreSQLite(ctx, store.RestoreRequest{Backup: backup, Database: path, Above: above})
}

// standStill keeps servers of the data directory from starting until the lock is released.
func standStill(c config.Config) (*lock, error) {
	if err := makeDataDir(c.DataDir); err != nil {
		return nil, err
	}
	held, err := lockFile(filepath.Join(c.DataDir, serveLock))
	if errors.Is(err, errLocked) {
		return nil, stacyvm.Errorf(stacyvm.CodeConflict, "a server uses %s: stop it first; its sandboxes go on meanwhile", c.DataDir)
	}
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be written")
	}
	return held, nil
}

// InspectDatabase looks at the configuration's database and changes nothing of it. See store.Inspect.
func InspectDatabase(ctx context.Context, c config.Config) (Schema, error) {
	return store.Inspect(ctx, storeConfig(c, c.DatabasePath()))
}

// MigrateDatabase brings the schema of the configuration's database up to date, and makes the database when there is none.
// It tells how the schema was before and is after. CodeUnsupported: a newer program has changed it.
func MigrateDatabase(ctx context.Context, c config.Config) (before, after Schema, err error) {
	if before, err = InspectDatabase(ctx, c); err != nil {
		return before, after, err
	}
	opened, err := store.Open(ctx, storeConfig(c, c.DatabasePath()))
	if err != nil {
		return before, after, err
	}
	if err := opened.Close(); err != nil {
		return before, after, err
	}
	after, err = InspectDatabase(ctx, c)
	return before, after, err
}

// DumpDatabase has pg_dump copy the configuration's PostgreSQL database. See store.DumpPostgres.
func DumpDatabase(ctx context.Context, c config.Config, out, format string) (Dump, error) {
	return store.DumpPostgres(ctx, store.DumpRequest{DSN: c.Database.DSN, Out: out, Format: format})
}

// RaiseIncarnation marks the configuration's database as put back from a backup by other programs: see store.Raise.
// CodeConflict: a server uses the data directory, or there is no database.
func RaiseIncarnation(ctx context.Context, c config.Config) (incarnation int64, err error) {
	held, err := standStill(c)
	if err != nil {
		return 0, err
	}
	defer held.release()
	found, err := InspectDatabase(ctx, c)
	if err != nil {
		return 0, err
	}
	if found.Present == 0 {
		return 0, stacyvm.Errorf(stacyvm.CodeConflict, "there is nothing in the database yet")
	}
	above, err := local.Incarnation(sharedPlace(c.DataDir, "").worker)
	if err != nil {
		return 0, err
	}
	opened, err := store.Open(ctx, storeConfig(c, c.DatabasePath()))
	if err != nil {
		return 0, err
	}
	cluster, err := store.Raise(ctx, opened, above)
	return cluster.Incarnation, errors.Join(err, opened.Close())
}
