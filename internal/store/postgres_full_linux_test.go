package store_test

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestPostgresFullDisk fills the file system of the server's tables: writers are told, readers are
// served, and nothing needs repair when there is space again.
func TestPostgresFullDisk(t *testing.T) {
	server := postgrestest.Start(t)
	small := filepath.Join(server.Dir, "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	testneed.Mount(t, small, 4<<20)
	owner, err := os.Stat(server.Dir)
	if err != nil {
		t.Fatal(err)
	}
	ids := owner.Sys().(*syscall.Stat_t)
	if err := os.Chown(small, int(ids.Uid), int(ids.Gid)); err != nil {
		t.Fatal(err)
	}
	if _, err := postgrestest.Connect(t, server.DSN).ExecContext(t.Context(), `CREATE TABLESPACE small LOCATION '`+small+`'`); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(small, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, store.Config{Driver: "postgres", DSN: postgrestest.With(server.DSN, "default_tablespace", "small")})
	var kept []stacyvm.SandboxID
	write := func() error {
		noise := make([]byte, 4096)
		_, _ = rand.Read(noise) // never fails (crypto/rand)
		row := stacyvm.Sandbox{ID: stacyvm.NewSandboxID(), State: stacyvm.StateRunning}
		row.Metadata = map[string]string{"random": hex.EncodeToString(noise)}
		err := s.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.Sandboxes().Insert(t.Context(), row)
			return err
		})
		if err == nil {
			kept = append(kept, row.ID)
		}
		return err
	}
	fill := func() {
		t.Helper()
		for full := 0; full < 20; {
			switch err := write(); stacyvm.CodeOf(err) {
			case "":
			case stacyvm.CodeStorageFull:
				full++
			default:
				t.Fatalf("writing to a full disk: %v", err)
			}
		}
		err := s.View(t.Context(), func(tx store.Tx) error {
			if rows, err := tx.Sandboxes().Count(t.Context(), store.SandboxFilter{}); err != nil || rows != len(kept) {
				t.Errorf("%d rows, %d were answered, %v", rows, len(kept), err)
			}
			_, err := tx.Sandboxes().Get(t.Context(), kept[len(kept)-1])
			return err
		})
		if err != nil {
			t.Errorf("reading: %v", err)
		}
	}
	fill()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := write(); err != nil {
		t.Fatalf("there is space again: %v", err)
	}
	fill()
	t.Logf("%d rows fit", len(kept))
}
