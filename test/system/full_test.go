package system

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestFullDatabaseDisk fills the file system of 16 MiB that the server's database is on. Writes
// are answered with 507, reads go on, and with space again all is well without a restart. Nothing
// that was answered is lost, twice.
func TestFullDatabaseDisk(t *testing.T) {
	disk := testneed.Tmpfs(t, 16<<20)
	s := start(t, "STACYVM_DATABASE_PATH="+filepath.Join(disk, "stacyvm.db"))
	impatient, err := client.New(s.URL(), client.Options{Patience: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]bool{s.spawn(client.SpawnRequest{MemoryMB: 64}).ID: true}
	ballast := filepath.Join(disk, "ballast")
	for round := range 2 {
		fill(t, ballast)
		var refused *client.Error
		s.until(30*time.Second, "a create is refused for lack of space", func() bool {
			sandbox, err := impatient.Spawn(t.Context(), client.SpawnRequest{MemoryMB: 64})
			if err == nil {
				kept[sandbox.ID] = true // what was left in the file's own pages
				return false
			}
			return errors.As(err, &refused)
		})
		if refused.Status != http.StatusInsufficientStorage {
			t.Errorf("round %d: a full disk was answered with %+v", round, refused)
		}
		s.wantKept(kept)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		kept[s.spawn(client.SpawnRequest{MemoryMB: 64}).ID] = true
		s.wantKept(kept)
	}
}

// wantKept demands that these sandboxes are there, one by one, and no other, as soon as a create
// that the full disk cut short is taken back.
func (s *server) wantKept(kept map[string]bool) {
	s.t.Helper()
	var others []string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		rows, err := s.Sandboxes(s.t.Context())
		if err != nil {
			s.t.Fatalf("list: %v", err)
		}
		others = nil
		for _, row := range rows {
			if !kept[row.ID] {
				others = append(others, row.ID+" "+row.State+" "+row.Reason)
			}
		}
		if len(others) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(others) > 0 {
		s.t.Errorf("never answered, and listed: %v", others)
	}
	for id := range kept {
		if row, err := s.Sandbox(s.t.Context(), id); err != nil || row.State != "running" {
			s.t.Errorf("%s is %s, %v", id, row.State, err)
		}
	}
}

// fill writes a file until the file system is full.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size >= 4096; size /= 2 {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, size))
		}
	}
}
