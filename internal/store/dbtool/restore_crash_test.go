package dbtool

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqlite"
)

// killedDatabase makes the files of a database whose server was killed: its last rows are in its
// journal alone.
func killedDatabase(t *testing.T, path string, ids ...stacyvm.SandboxID) {
	t.Helper()
	alive := filepath.Join(t.TempDir(), "alive.db")
	s, err := store.NewSQLiteStore(t.Context(), alive)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		err := s.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.Sandboxes().Insert(t.Context(), stacyvm.Sandbox{ID: id, State: stacyvm.StateRunning})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(t.Context(), alive+suffix, path+suffix); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// wantRows opens a database as a server does, and demands its rows.
func wantRows(t *testing.T, path string, ids ...stacyvm.SandboxID) {
	t.Helper()
	s, err := store.NewSQLiteStore(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	err = s.View(t.Context(), func(tx store.Tx) error {
		for _, id := range ids {
			if _, err := tx.Sandboxes().Get(context.Background(), id); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		n, err := tx.Sandboxes().Count(context.Background(), store.SandboxFilter{})
		if n != len(ids) {
			t.Errorf("%d rows, want %d", n, len(ids))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestRestoreKilledBetweenItsSteps: whichever step of the exchange was the last, the next start
// finds the old database with all of its rows, or the new one; and what was there is whole beside
// it.
func TestRestoreKilledBetweenItsSteps(t *testing.T) {
	old, fresh := []stacyvm.SandboxID{stacyvm.NewSandboxID(), stacyvm.NewSandboxID()}, []stacyvm.SandboxID{stacyvm.NewSandboxID()}
	for name, steps := range map[string]struct {
		upTo func(t *testing.T, path, dir string)
		want []stacyvm.SandboxID
	}{
		"prepared": {func(*testing.T, string, string) {}, old},
		"kept": {func(t *testing.T, path, _ string) {
			if _, err := keep(path); err != nil {
				t.Fatal(err)
			}
		}, old},
		"decided": {func(t *testing.T, path, dir string) {
			if _, err := keep(path); err != nil {
				t.Fatal(err)
			}
			decide(t, dir)
		}, fresh},
		"the journal is gone": {func(t *testing.T, path, dir string) {
			decide(t, dir)
			if err := os.Remove(path + "-wal"); err != nil {
				t.Fatal(err)
			}
		}, fresh},
		"in its place": {func(t *testing.T, path, dir string) {
			decide(t, dir)
			if err := os.Remove(path + "-wal"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(dir, filepath.Base(path)), path); err != nil {
				t.Fatal(err)
			}
		}, fresh},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "stacyvm.db")
			killedDatabase(t, path, old...)
			dir := sqlite.RestoreDir(path)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			made := filepath.Join(dir, filepath.Base(path))
			killedDatabase(t, made, fresh...)
			wantRows(t, made, fresh...) // closes it: one file
			steps.upTo(t, path, dir)
			wantRows(t, path, steps.want...)
			wantRows(t, path, steps.want...)
			for _, safety := range kept(t, path) {
				wantRows(t, safety, old...)
			}
		})
	}
}

func decide(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, sqlite.RestoreReady), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// kept lists the copies of what was there before.
func kept(t *testing.T, path string) (found []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if name := entry.Name(); strings.Contains(name, ".pre-restore-") && !strings.HasSuffix(name, "-wal") && !strings.HasSuffix(name, "-shm") {
			found = append(found, filepath.Join(filepath.Dir(path), name))
		}
	}
	return found
}

// TestReplaceKeepsTheJournal: the whole exchange, of a database that cannot be made one file
// before.
func TestReplaceKeepsTheJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stacyvm.db")
	old, fresh := stacyvm.NewSandboxID(), stacyvm.NewSandboxID()
	killedDatabase(t, path, old)
	if err := os.Mkdir(sqlite.RestoreDir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(sqlite.RestoreDir(path), filepath.Base(path))
	killedDatabase(t, made, fresh)
	wantRows(t, made, fresh)
	safety, err := replace(path, made)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(sqlite.RestoreDir(path)); !os.IsNotExist(err) {
		t.Errorf("the directory of the restore: %v, want %v", err, fs.ErrNotExist)
	}
	wantRows(t, path, fresh)
	wantRows(t, safety, old)
}
