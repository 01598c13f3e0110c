package store_test

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestFullDisk fills a file system of 4 MiB from several writers: they are told, readers are
// served, and nothing needs repair when there is space again.
func TestFullDisk(t *testing.T) {
	dir := testneed.Tmpfs(t, 4<<20)
	ballast, path := filepath.Join(dir, "ballast"), filepath.Join(dir, "stacyvm.db")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.NewSQLiteStore(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var kept []stacyvm.SandboxID
	write := func() error {
		id := stacyvm.NewSandboxID()
		err := s.Update(t.Context(), func(tx store.Tx) error { return storetest.InsertLeased(t.Context(), tx, id) })
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			kept = append(kept, id)
		}
		return err
	}
	checkRows := func(s store.Store) {
		t.Helper()
		err := s.View(t.Context(), func(tx store.Tx) error {
			rows, err := tx.Sandboxes().Count(t.Context(), store.SandboxFilter{})
			if err != nil || rows != len(kept) {
				t.Errorf("%d rows, %d were answered, %v", rows, len(kept), err)
			}
			_, err = tx.Sandboxes().Get(t.Context(), kept[len(kept)-1])
			return err
		})
		if err != nil {
			t.Errorf("reading: %v", err)
		}
	}
	for round := range 2 {
		var full atomic.Int32
		var wait sync.WaitGroup
		for range 8 {
			wait.Go(func() {
				for full.Load() < 50 {
					switch err := write(); stacyvm.CodeOf(err) {
					case "":
					case stacyvm.CodeStorageFull:
						full.Add(1)
					default:
						t.Errorf("round %d: writing to a full disk: %v", round, err)
						full.Add(1)
					}
				}
			})
		}
		wait.Wait()
		checkRows(s)
		if round == 0 {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			if err := write(); err != nil {
				t.Fatalf("there is space again: %v", err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	t.Logf("%d rows fit", len(kept))
	again, err := store.NewSQLiteStore(t.Context(), path)
	if err != nil {
		t.Fatalf("open on a full disk: %v", err)
	}
	defer func() { _ = again.Close() }()
	checkRows(again)
}
