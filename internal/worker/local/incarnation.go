package local

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Incarnation gives the highest incarnation that the journal in dir knows of, 0 without one: a
// database that is put back must be given a higher one. A file that cannot be read is passed over.
// A worker may use the journal meanwhile.
func Incarnation(dir string) (highest int64, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, unreadable(err)
	}
	defer root.Close()
	j := &journal{root: root}
	names, err := j.names()
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		var kept struct{ Fence stacyvm.Fence } // of a record and of a tombstone alike
		if !strings.HasSuffix(name, recordSuffix) && !strings.HasSuffix(name, tombstoneSuffix) {
			continue
		}
		if j.read(name, &kept) == nil {
			highest = max(highest, kept.Fence.Incarnation)
		}
	}
	return highest, nil
}
