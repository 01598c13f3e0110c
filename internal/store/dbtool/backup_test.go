package dbtool_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
)

// openAt opens a store that ends with the test.
func openAt(t *testing.T, path string) store.Store {
	t.Helper()
	s, err := store.NewSQLiteStore(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func liveRows(t *testing.T, s store.Store) map[stacyvm.SandboxID]stacyvm.Sandbox {
	t.Helper()
	found := map[stacyvm.SandboxID]stacyvm.Sandbox{}
	err := s.View(t.Context(), func(tx store.Tx) error {
		rows, err := tx.Sandboxes().List(t.Context(), store.SandboxFilter{})
		for _, row := range rows {
			found[row.ID] = row
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// wantFiles demands that a directory holds these files and no others, with or without a database's
// own.
func wantFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		found = append(found, entry.Name())
	}
	if fmt.Sprint(found) != fmt.Sprint(names) {
		t.Errorf("%s holds %q, want %q", filepath.Base(dir), found, names)
	}
}

// TestBackupUnderLoad copies a database that is written without a pause: writers do not wait for
// the copy, and the copy has what was answered before it began and no half transaction.
func TestBackupUnderLoad(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	live := openAt(t, filepath.Join(dir, "stacyvm.db"))
	for range 200 { // some pages to copy
		if _, err := storetest.AddSandboxes(t.Context(), live); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var written atomic.Int64
	var slowest atomic.Int64
	for range 4 {
		writers.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				if _, err := storetest.AddSandboxes(context.WithoutCancel(ctx), live); err != nil {
					t.Error(err)
					return
				}
				written.Add(1)
				slowest.Store(max(slowest.Load(), int64(time.Since(began))))
			}
		})
	}
	for i := range 5 {
		first, err := storetest.AddSandboxes(t.Context(), live)
		if err != nil {
			t.Fatal(err)
		}
		before, copied := written.Load(), filepath.Join(out, fmt.Sprintf("b%d.db", i))
		made, err := dbtool.BackupSQLite(t.Context(), dbtool.BackupRequest{Database: filepath.Join(dir, "stacyvm.db"), Out: copied})
		if err != nil {
			t.Fatal(err)
		}
		if written.Load() == before {
			t.Error("nothing was written during the backup")
		}
		checkBackup(t, copied, made, first)
	}
	cancel()
	writers.Wait()
	t.Logf("%d transactions beside the backups, the slowest %s", written.Load(), time.Duration(slowest.Load()))
	wantFiles(t, out, "b0.db", "b0.db.sha256", "b1.db", "b1.db.sha256", "b2.db", "b2.db.sha256", "b3.db", "b3.db.sha256", "b4.db", "b4.db.sha256")
}

func checkBackup(t *testing.T, path string, made dbtool.Backup, has stacyvm.SandboxID) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(content)
	sums, err := os.ReadFile(path + ".sha256")
	if want := hex.EncodeToString(hash[:]); err != nil || made.SHA256 != want || string(sums) != want+"  "+filepath.Base(path)+"\n" || made.Bytes != int64(len(content)) {
		t.Errorf("%+v, checksum file %q, %v; the content's is %s", made, sums, err, want)
	}
	for _, name := range []string{path, path + ".sha256"} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", filepath.Base(name), info.Mode(), err)
		}
	}
	again := filepath.Join(t.TempDir(), "copy.db") // opening changes it
	if err := os.WriteFile(again, content, 0o600); err != nil {
		t.Fatal(err)
	}
	rows := liveRows(t, openAt(t, again))
	if _, ok := rows[has]; !ok || len(rows) != made.Sandboxes {
		t.Errorf("%d rows, %d were told; the one that was answered before is there: %v", len(rows), made.Sandboxes, ok)
	}
	if len(rows)%2 != 0 {
		t.Errorf("%d rows: a transaction was torn", len(rows))
	}
}

func TestBackupRefuses(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "stacyvm.db")
	_ = openAt(t, path)
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("no database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	present := filepath.Join(out, "present")
	if err := os.WriteFile(present, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(out, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, database, out string
		force               bool
		want                stacyvm.Code
	}{
		{"no such database", filepath.Join(dir, "none"), "b", false, stacyvm.CodeInvalid},
		{"no database", text, "b", false, stacyvm.CodeInvalid},
		{"an output that exists", path, "present", false, stacyvm.CodeConflict},
		{"a directory", path, "directory", true, stacyvm.CodeConflict},
		{"no directory for it", path, "none/b", false, stacyvm.CodeUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := dbtool.BackupSQLite(t.Context(), dbtool.BackupRequest{Database: tt.database, Out: filepath.Join(out, tt.out), Force: tt.force})
			if stacyvm.CodeOf(err) != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	if _, err := dbtool.BackupSQLite(t.Context(), dbtool.BackupRequest{Database: path, Out: path, Force: true}); stacyvm.CodeOf(err) != stacyvm.CodeConflict {
		t.Errorf("onto itself: %v", err)
	}
	if content, err := os.ReadFile(present); string(content) != "mine" || err != nil {
		t.Errorf("a file was changed: %q, %v", content, err)
	}
	wantFiles(t, out, "directory", "present")
	if _, err := os.Stat(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a database was made: %v", err)
	}
}

func TestBackupReplacesWithForce(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	live := openAt(t, filepath.Join(dir, "stacyvm.db"))
	request := dbtool.BackupRequest{Database: filepath.Join(dir, "stacyvm.db"), Out: filepath.Join(out, "b"), Force: true}
	for range 2 {
		id, err := storetest.AddSandboxes(t.Context(), live)
		if err != nil {
			t.Fatal(err)
		}
		made, err := dbtool.BackupSQLite(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		checkBackup(t, request.Out, made, id)
	}
	wantFiles(t, out, "b", "b.sha256")
}

// countdown is a context that ends when it was asked so many times.
type countdown struct {
	context.Context
	left atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestBackupInterrupted gives a backup up at each place where it looks at its context: nothing is
// left, or the whole.
func TestBackupInterrupted(t *testing.T) {
	dir := t.TempDir()
	live := openAt(t, filepath.Join(dir, "stacyvm.db"))
	if _, err := storetest.AddSandboxes(t.Context(), live); err != nil {
		t.Fatal(err)
	}
	for looks := int64(0); ; looks++ {
		out := t.TempDir()
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(looks)
		_, err := dbtool.BackupSQLite(ctx, dbtool.BackupRequest{Database: filepath.Join(dir, "stacyvm.db"), Out: filepath.Join(out, "b")})
		if err == nil {
			wantFiles(t, out, "b", "b.sha256")
			if looks < 3 {
				t.Errorf("the backup looked at its context %d times", looks)
			}
			return
		}
		wantFiles(t, out)
		if stacyvm.CodeOf(err) != stacyvm.CodeUnavailable || looks > 1000 {
			t.Fatalf("after %d looks: %v", looks, err)
		}
	}
}
