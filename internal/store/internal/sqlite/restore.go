package sqlite

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
)

// SideFiles are what SQLite keeps beside a database.
var SideFiles = []string{"-wal", "-shm", "-journal"}

// RestoreReady is a file in the directory of a restore: once it is there, whoever comes first
// finishes the restore.
const RestoreReady = "ready"

// RestoreDir is the directory in which a restore of a database is prepared, on the same file
// system: its content can be moved in one step.
func RestoreDir(path string) string { return path + ".restoring" }

// FinishRestore ends a restore of the database that was decided, and does nothing without one.
// Nobody may have the database open.
func FinishRestore(path string) error {
	dir := RestoreDir(path)
	if _, err := os.Lstat(filepath.Join(dir, RestoreReady)); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil
		}
		return dberr.Unreadable(err)
	}
	fresh := filepath.Join(dir, filepath.Base(path))
	if _, err := os.Lstat(fresh); err == nil { // else it is in its place, and what lies beside it is its own
		for _, suffix := range SideFiles {
			if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return dberr.Unwritable(err)
			}
		}
		if err := SyncPath(filepath.Dir(path)); err != nil { // before the new database is there
			return dberr.Unwritable(err)
		}
		if err := os.Rename(fresh, path); err != nil {
			return dberr.Unwritable(err)
		}
	}
	if err := SyncPath(filepath.Dir(path)); err != nil {
		return dberr.Unwritable(err)
	}
	return dberr.Unwritable(os.RemoveAll(dir))
}

// SyncPath puts a file or directory on disk.
func SyncPath(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
