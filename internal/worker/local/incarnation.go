package local

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Incarnation gives the highest incarnation that the journal in dir knows of, 0 without one: a
// database that is put back must be given a higher one. What cannot be read is passed over. A
// worker may use the journal meanwhile.
func Incarnation(dir string) (highest int64, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, unreadable(err)
	}
	defer root.Close()
	take := func(l line) {
		if l.Record != nil {
			highest = max(highest, l.Record.Fence.Incarnation)
		}
		if l.Gone != nil {
			highest = max(highest, l.Gone.Fence.Incarnation)
		}
	}
	j := &journal{root: root}
	names, err := j.names()
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		var kept struct{ Fence stacyvm.Fence } // of a record and of a tombstone alike
		_, isRecord := sandboxOf(name, recordSuffix)
		_, isTombstone := sandboxOf(name, tombstoneSuffix)
		if (isRecord || isTombstone) && readFile(root, name, &kept) == nil {
			highest = max(highest, kept.Fence.Incarnation)
		}
	}
	file, err := root.Open(logName)
	if errors.Is(err, fs.ErrNotExist) {
		return highest, nil
	}
	if err != nil {
		return 0, unreadable(err)
	}
	defer file.Close()
	_, err = eachLine(file, func(text []byte, _ span) {
		var l line
		if _, content, err := parseLine(text); err == nil && json.Unmarshal(content, &l) == nil {
			take(l)
		}
	})
	return highest, unreadable(err)
}
