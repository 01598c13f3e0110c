package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
	"github.com/stacyvm/stacyvm/internal/worker/local"
)

// SQLiteFile is the file that a tool for SQLite works on: path, or the configuration's when path
// is empty. CodeInvalid: the configuration names a PostgreSQL database.
func SQLiteFile(c config.Config, path string) (string, error) {
	if path != "" {
		return path, nil
	}
	if c.Postgres() {
		return "", stacyvm.Errorf(
			stacyvm.CodeInvalid,
			"database.driver is postgres: use `stacyvm db pg-backup` and PostgreSQL's own programs, or name a SQLite file with --database",
		)
	}
	return c.DatabasePath(), nil
}

// RestoreDatabase puts a SQLite database back, the configuration's when path is empty, with an
// incarnation above every one that this machine knows of. CodeConflict: a server uses the data
// directory. See dbtool.RestoreSQLite.
func RestoreDatabase(ctx context.Context, c config.Config, backup, path string) (dbtool.Restored, error) {
	path, err := SQLiteFile(c, path)
	if err != nil {
		return dbtool.Restored{}, err
	}
	held, err := standStill(c)
	if err != nil {
		return dbtool.Restored{}, err
	}
	defer held.Release()
	release, err := lockPresent(path)
	if err != nil {
		return dbtool.Restored{}, err
	}
	defer release()
	above, err := local.Incarnation(node.SharedPlace(c.DataDir, "").Worker)
	if err != nil {
		return dbtool.Restored{}, err
	}
	return dbtool.RestoreSQLite(ctx, dbtool.RestoreRequest{Backup: backup, Database: path, Above: above})
}

// standStill keeps servers of the data directory from starting until the lock is released.
func standStill(c config.Config) (*flock.Lock, error) {
	if err := node.MakeDataDir(c.DataDir); err != nil {
		return nil, err
	}
	held, err := flock.Try(filepath.Join(c.DataDir, node.ServeLock))
	if errors.Is(err, flock.ErrLocked) {
		return nil, stacyvm.Errorf(
			stacyvm.CodeConflict,
			"a server uses %s: stop it first; its sandboxes go on meanwhile",
			c.DataDir,
		)
	}
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be written")
	}
	return held, nil
}

// lockDatabase keeps other servers from a SQLite file until the lock is released, whichever path they
// have for it: the lock is on the file itself, which is made, empty, when there is none. SQLite has
// locks of another kind (fcntl) on it. Whoever closes a file lets go of those, so that the lock is
// released after the database is closed. CodeConflict: a server uses it.
func lockDatabase(path string) (*flock.Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "database.path: its directory cannot be made")
	}
	held, err := flock.Try(path)
	if errors.Is(err, flock.ErrLocked) {
		return nil, stacyvm.Errorf(
			stacyvm.CodeConflict,
			"another server uses the database %s: stop it, or set database.path to another file",
			path,
		)
	}
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "database.path: cannot be written")
	}
	return held, nil
}

// lockPresent is lockDatabase for a tool, which makes no file. The release is never nil.
func lockPresent(path string) (release func(), err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	held, err := lockDatabase(path)
	if err != nil {
		return func() {}, err
	}
	return held.Release, nil
}

// RaiseIncarnation marks the configuration's database as put back from a backup by other programs:
// see store.Raise. CodeConflict: a server uses the data directory, or there is no database.
func RaiseIncarnation(ctx context.Context, c config.Config) (incarnation int64, err error) {
	held, err := standStill(c)
	if err != nil {
		return 0, err
	}
	defer held.Release()
	if !c.Postgres() {
		release, err := lockPresent(c.DatabasePath())
		if err != nil {
			return 0, err
		}
		defer release()
	}
	found, err := dbtool.Inspect(ctx, StoreConfig(c))
	if err != nil {
		return 0, err
	}
	if found.Present == 0 {
		return 0, stacyvm.Errorf(stacyvm.CodeConflict, "there is nothing in the database yet")
	}
	above, err := local.Incarnation(node.SharedPlace(c.DataDir, "").Worker)
	if err != nil {
		return 0, err
	}
	opened, err := store.Open(ctx, StoreConfig(c))
	if err != nil {
		return 0, err
	}
	cluster, err := store.Raise(ctx, opened, above)
	return cluster.Incarnation, errors.Join(err, opened.Close())
}
