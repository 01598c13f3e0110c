package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Dialect is SQLite's side of what differs. Its clock is this host's: the database runs in this
// process, and SQLite's own functions read the same clock with less precision.
func Dialect(path string) *sqldb.Dialect {
	return &sqldb.Dialect{
		Goose:     goose.DialectSQLite3,
		Clock:     sqldb.HostClock,
		Serial:    true,
		Members:   func(argument string) string { return "json_each(" + argument + ")" },
		Word:      func(column, key string) string { return "json_extract(" + column + ", '$." + key + "')" },
		Integer:   func(column, key string) string { return "json_extract(" + column + ", '$." + key + "')" },
		Bytes:     "BLOB",
		Words:     map[string]string{"serial": "INTEGER PRIMARY KEY", "postgres": "-- ", "stored": "VIRTUAL"},
		Translate: func(err error) error { return Translate(filepath.Dir(path), err) },
	}
}

// Code is the primary result code in err's chain, 0 without one.
func Code(err error) int {
	if failed, ok := errors.AsType[*sqlite.Error](err); ok {
		return failed.Code() & 0xff
	}
	return 0
}

// Translate gives a driver's error its code and a message that tells neither SQL nor paths.
func Translate(dir string, err error) error {
	var known *stacyvm.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	switch code := Code(err); code {
	case sqlite3.SQLITE_CONSTRAINT:
		return translateConstraint(err)
	case sqlite3.SQLITE_FULL:
		return dberr.DiskFull(err)
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
		if noSpace(dir) {
			return dberr.DiskFull(err)
		}
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database cannot be read or written")
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL:
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database is busy")
	case sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY:
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database cannot do this now")
	case sqlite3.SQLITE_NOTADB:
		return &stacyvm.Error{
			Code:    stacyvm.CodeInvalid,
			Field:   "database.path",
			Message: "database.path: the file is not a SQLite database",
			Err:     err,
		}
	case sqlite3.SQLITE_CORRUPT:
		return dberr.Damaged(err)
	}
	if errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone) || errors.Is(err, driver.ErrBadConn) {
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database's connection ended")
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database did not answer in time")
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, err, "the database failed")
}

func translateConstraint(err error) error {
	var failed *sqlite.Error
	if errors.As(err, &failed) &&
		(failed.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || failed.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY) {
		return stacyvm.Wrap(stacyvm.CodeConflict, err, "it exists already")
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, err, "the database refused a value")
}

// noSpace finds out by trying whether a failed write was for lack of space: SQLite tells a quota,
// and a full disk under its shared memory, as any input or output error.
func noSpace(dir string) bool {
	file, err := os.CreateTemp(dir, ".space-*")
	if err == nil {
		_, err = file.Write(make([]byte, 64<<10))
		err = errors.Join(err, file.Sync(), file.Close(), os.Remove(file.Name()))
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
