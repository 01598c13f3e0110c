package sqlite

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stacyvm/stacyvm/internal/testneed"
)

func TestNoSpaceIsToldFromOtherFailures(t *testing.T) {
	dir := testneed.Tmpfs(t, 128<<10)
	if noSpace(dir) || noSpace(filepath.Join(dir, "missing")) {
		t.Error("an empty or missing directory counts as full")
	}
	ballast := filepath.Join(dir, "ballast")
	_ = os.WriteFile(ballast, make([]byte, 256<<10), 0o600) // as much as fits
	if !noSpace(dir) {
		t.Error("a full file system is not seen")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); noSpace(dir) || err != nil || len(left) != 0 {
		t.Errorf("after looking: %v, %v", left, err)
	}
}
