package node_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stacyvm/stacyvm/internal/node"
)

// TestHolds: the lock of a data directory keeps others from the files in it alone.
func TestHolds(t *testing.T) {
	top := t.TempDir()
	data, other := filepath.Join(top, "data"), filepath.Join(top, "other")
	in := func(name string) string { return filepath.Join(data, name) }
	for _, err := range []error{
		os.Mkdir(data, 0o700), os.Mkdir(other, 0o700), os.Mkdir(in("below"), 0o700), os.Symlink(data, filepath.Join(top, "same")),
		os.WriteFile(in("there"), nil, 0o600), os.WriteFile(filepath.Join(other, "db"), nil, 0o600),
		os.Symlink(filepath.Join(other, "db"), in("link")), os.Symlink(filepath.Join(other, "not yet"), in("dangling")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]bool{
		in("there"): true, in("not yet"): true, top + "/same/there": true, data + "/below/../there": true,
		in("link"): false, in("dangling"): false, data + "/../other/db": false, data + "/../other/not yet": false,
		in("below/db"): false, in("missing/db"): false, data + "2/db": false,
	} {
		if node.Holds(data, file) != want || node.Holds(filepath.Join(top, "same")+"/", file) != want {
			t.Errorf("%s: want %v", file, want)
		}
	}
}
