package dbtool

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqlite"
)

// RestoreRequest asks for a SQLite database to be put back from a backup.
type RestoreRequest struct {
	Backup   string
	Database string // its file; need not exist
	// Above is the highest incarnation that is known from elsewhere, such as the worker's journal.
	Above int64
}

// Restored tells what was put back.
type Restored struct {
	Backup
	Incarnation int64  // the new one
	Known       int64  // the schema's version now
	Safety      string // path of the copy of what was there before; "" when nothing was
	Unsummed    bool   // there was no checksum beside the backup
}

// RestoreSQLite puts a database back. The backup's checksum and every page of it are checked, its
// schema is brought up to date and its incarnation raised in a copy, which then replaces the
// database; what was there is kept beside it. After an error, and after a crash, the database is
// as it was, or the next one who opens it finds the new one. The caller sees to it that no server
// starts meanwhile. CodeInvalid: the backup is none, or was changed; CodeUnsupported: its schema
// is newer than this program; CodeConflict: a process has the database open, or it belongs to
// another cluster that has sandboxes.
func RestoreSQLite(ctx context.Context, r RestoreRequest) (done Restored, err error) {
	if same(r.Backup, r.Database) {
		return done, stacyvm.Errorf(stacyvm.CodeConflict, "the backup is the database itself")
	}
	path, err := filepath.Abs(r.Database)
	if err != nil {
		return done, stacyvm.Wrap(stacyvm.CodeInvalid, err, "the database's path cannot be resolved")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return done, dberr.Unwritable(err)
	}
	if err := sqlite.FinishRestore(path); err != nil { // one that was killed
		return done, err
	}
	dir := sqlite.RestoreDir(path)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return done, dberr.Unwritable(err)
	}
	defer func() {
		if _, decided := os.Lstat(filepath.Join(dir, sqlite.RestoreReady)); errors.Is(decided, fs.ErrNotExist) {
			_ = os.RemoveAll(dir) // what is left there says nothing
		}
	}()
	fresh := filepath.Join(dir, filepath.Base(path))
	if done, err = fetch(ctx, r.Backup, fresh); err != nil {
		return done, err
	}
	present, err := quiesce(ctx, path)
	if err != nil {
		return done, err
	}
	if present.Cluster.ID != done.Cluster.ID && present.Sandboxes > 0 {
		return done, stacyvm.Errorf(
			stacyvm.CodeConflict,
			"the present database is another cluster's and has %d sandboxes, which nobody would look after: destroy them first, or move the database away",
			present.Sandboxes,
		)
	}
	if err := renew(ctx, fresh, max(r.Above, present.Cluster.Incarnation), &done); err != nil {
		return done, err
	}
	done.Safety, err = replace(path, fresh)
	return done, err
}

// fetch copies the backup and checks the copy.
func fetch(ctx context.Context, backup, to string) (done Restored, err error) {
	if _, err := os.Stat(backup + "-wal"); err == nil {
		return done, stacyvm.Errorf(
			stacyvm.CodeInvalid,
			"the backup has a -wal file beside it: it is a database in use, not a backup",
		)
	}
	wanted, err := recorded(backup)
	if err != nil {
		return done, err
	}
	if err := copyFile(ctx, backup, to); err != nil {
		return done, err
	}
	hash, err := sum(ctx, to)
	if err != nil {
		return done, dberr.Unreadable(err)
	}
	if done.Unsummed = wanted == ""; !done.Unsummed && hash != wanted {
		return done, stacyvm.Errorf(
			stacyvm.CodeInvalid,
			"the backup is not what its checksum was made of: it was changed or cut off",
		)
	}
	done.Backup, err = examine(ctx, to)
	done.SHA256 = hash
	return done, err
}

func copyFile(ctx context.Context, from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return dberr.Unreadable(err)
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return dberr.Unwritable(err)
	}
	_, err = io.Copy(target, contextReader{ctx, source})
	return dberr.Unwritable(errors.Join(err, target.Close()))
}

// quiesce looks at the present database and makes it one file, which works only when nobody else
// has it open. One that is damaged or missing is no obstacle: nothing is known of it then.
func quiesce(ctx context.Context, path string) (present Backup, err error) {
	if !startsAsDatabase(path) {
		return present, nil // SQLite would take what lies beside it for its own, and tidy up
	}
	db, err := sqlite.OpenFile(path, "busy_timeout(1000)")
	if err != nil {
		return present, err
	}
	defer db.Close()
	if err = checkpoint(ctx, db); err == nil {
		present, err = describe(ctx, db)
	}
	if ended := dberr.Context(ctx); ended != nil {
		return present, ended
	}
	switch sqlite.Code(err) {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return present, stacyvm.Wrap(stacyvm.CodeConflict, err, "another process has the database open: stop it first")
	}
	return present, nil
}

// startsAsDatabase reports whether there is a file with SQLite's mark.
func startsAsDatabase(path string) bool {
	const mark = "SQLite format 3\x00"
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	start := make([]byte, len(mark))
	_, err = io.ReadFull(file, start)
	return err == nil && string(start) == mark
}

// renew brings a copy's schema up to date and raises its incarnation.
func renew(ctx context.Context, path string, above int64, done *Restored) error {
	s, err := store.NewSQLiteStore(ctx, path)
	if err != nil {
		return err
	}
	cluster, err := store.Raise(ctx, s, above)
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	db, err := sqlite.OpenFile(path)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := checkpoint(ctx, db); err != nil {
		return translateCopy(ctx, filepath.Dir(path), err)
	}
	now, err := describe(ctx, db)
	done.Incarnation, done.Known = cluster.Incarnation, now.Schema
	return errors.Join(err, dberr.Unwritable(sqlite.SyncPath(path)))
}

// replace puts a whole file in the place of a database that nobody uses, and keeps what was there.
// What lies beside the old database (a journal that it needs, and that would spoil the new one)
// cannot be exchanged in the same step. So the decision is a file of its own: a crash before it
// leaves the old database with all of its files, and after it finishRestore goes on.
func replace(path, fresh string) (safety string, err error) {
	if _, err := os.Lstat(path); err == nil {
		if safety, err = keep(path); err != nil {
			return "", err
		}
	}
	dir := filepath.Dir(fresh)
	if err := sqlite.SyncPath(dir); err != nil {
		return safety, dberr.Unwritable(err)
	}
	if err := os.WriteFile(filepath.Join(dir, sqlite.RestoreReady), nil, 0o600); err != nil {
		return safety, dberr.Unwritable(err)
	}
	if err := errors.Join(sqlite.SyncPath(dir), sqlite.SyncPath(filepath.Dir(dir))); err != nil {
		return safety, dberr.Unwritable(err)
	}
	return safety, sqlite.FinishRestore(path)
}

// keep gives the present file, and what a damaged database has beside it, second names.
func keep(path string) (safety string, err error) {
	safety = path + ".pre-restore-" + time.Now().UTC().Format("20060102T150405.000Z")
	for _, suffix := range append([]string{""}, sqlite.SideFiles...) {
		err := os.Link(path+suffix, safety+suffix)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a file system without hard links
			err = copyFile(context.Background(), path+suffix, safety+suffix)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist) && suffix != "":
			continue
		case err != nil:
			return "", dberr.Unwritable(err)
		}
		if err := sqlite.SyncPath(safety + suffix); err != nil {
			return "", dberr.Unwritable(err)
		}
	}
	return safety, dberr.Unwritable(sqlite.SyncPath(filepath.Dir(path)))
}
