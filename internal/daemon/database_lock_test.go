package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// TestLockDatabase: a SQLite file has one server, whichever path leads to it, also before there
// is a file.
func TestLockDatabase(t *testing.T) {
	top := t.TempDir()
	data, other := filepath.Join(top, "data"), filepath.Join(top, "other")
	for _, err := range []error{
		os.Mkdir(data, 0o700), os.Mkdir(other, 0o700), os.Symlink(data, filepath.Join(top, "same")),
		os.Symlink(filepath.Join(data, "db"), filepath.Join(other, "link")), os.Symlink("../other/link", filepath.Join(data, "twice")),
		os.Symlink("loop", filepath.Join(data, "loop")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	names := []string{data + "/db", top + "/same/db", other + "/../data/db", other + "/link", data + "/twice"}
	if err := os.WriteFile(data+"/db", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(data+"/db", other+"/hard"); err != nil {
		t.Fatal(err)
	}
	names = append(names, other+"/hard")
	for _, first := range names {
		held, err := lockDatabase(first)
		if err != nil {
			t.Fatal(first, err)
		}
		for _, second := range names {
			if _, err := lockDatabase(second); stacyvm.CodeOf(err) != stacyvm.CodeConflict {
				t.Errorf("%s beside %s: %v", second, first, err)
			}
		}
		beside, err := lockDatabase(data + "/another")
		if err != nil {
			t.Error(err)
		} else {
			beside.Release()
		}
		held.Release()
	}
	if _, err := lockDatabase(data + "/loop"); stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
		t.Errorf("a link to itself: %v", err)
	}
}
