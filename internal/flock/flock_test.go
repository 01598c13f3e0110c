package flock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if again, err := Try(path); !errors.Is(err, ErrLocked) || again != nil {
		t.Errorf("a lock that is held: %v, %v", again, err)
	}
	taken := make(chan error)
	go func() {
		next, err := Wait(path)
		if err == nil {
			next.Release()
		}
		taken <- err
	}()
	held.Release()
	if err := <-taken; err != nil {
		t.Error(err)
	}
	if next, err := Try(path); err != nil {
		t.Error(err)
	} else {
		next.Release()
	}
	if _, err := Wait(filepath.Join(path, "below a file")); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("a file that cannot be made: %v", err)
	}
	if _, err := Try(filepath.Join(t.TempDir(), "none", "lock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// TestDirectory: directories are locked like files, and shared locks stand beside one another.
func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	open := func() *os.File {
		file, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		return file
	}
	first, second, third := open(), open(), open()
	if err := errors.Join(Shared(first), Shared(second)); err != nil {
		t.Fatal(err)
	}
	if err := TryExclusive(third); !errors.Is(err, ErrLocked) {
		t.Errorf("beside shared ones: %v", err)
	}
	if err := errors.Join(first.Close(), second.Close(), Exclusive(third)); err != nil {
		t.Error(err)
	}
}
