package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Earlier programs kept a file for each sandbox: a record with a second line for the end of its
// create, or a tombstone.
const (
	recordSuffix    = ".json"
	tombstoneSuffix = ".gone"
)

// adopt takes over the files of an earlier program, and removes them once the log has what they
// say.
func (j *journal) adopt(entries map[stacyvm.SandboxID]journalEntry) error {
	names, err := j.names()
	if err != nil {
		return err
	}
	var files []string
	lines := j.log.next
	for _, name := range names {
		id, adopted, ours := j.fileLine(name)
		if !ours {
			continue
		}
		files = append(files, name)
		if !j.newer(entries, id, adopted) {
			continue
		}
		content, err := json.Marshal(adopted)
		if err != nil {
			return unwritten(err)
		}
		text := lineOf(id, content)
		if adopted == (line{}) { // damaged, and it stays so
			text = append(text[:idBytes], '\n')
		}
		if lines, err = j.log.append(text, func(at span) {
			_, content, bad := parseLine(bytes.TrimSuffix(text, []byte("\n")))
			j.take(entries, id, content, bad, at)
		}); err != nil {
			return unwritten(err)
		}
	}
	if err := j.log.sync(lines); err != nil {
		return unwritten(err)
	}
	for _, name := range files {
		if err := j.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return unwritten(err)
		}
	}
	if len(files) > 0 {
		err = j.dir.Sync()
	}
	return unwritten(err)
}

// fileLine is what a file of an earlier program says; the zero line: it is damaged. An unfinished
// file, which has no id, says nothing.
func (j *journal) fileLine(name string) (id stacyvm.SandboxID, l line, ours bool) {
	if id, ours := sandboxOf(name, tombstoneSuffix); ours {
		g := new(goneLine)
		info, err := j.root.Lstat(name)
		if err == nil {
			g.At = info.ModTime().Unix()
			err = readFile(j.root, name, &g.tombstone)
		}
		if err != nil {
			return id, line{}, true
		}
		return id, line{Gone: g}, true
	}
	if id, ours := sandboxOf(name, recordSuffix); ours {
		r := new(record)
		if err := readFile(j.root, name, r); err != nil || !r.whole() {
			return id, line{}, true
		}
		return id, line{Record: r}, true
	}
	_, ours = sandboxOf(strings.TrimSuffix(name, tempSuffix), recordSuffix)
	if !ours {
		_, ours = sandboxOf(strings.TrimSuffix(name, tempSuffix), tombstoneSuffix)
	}
	return "", line{}, ours && strings.HasSuffix(name, tempSuffix)
}

// newer reports whether a file says more of a sandbox than what is known: a crash, or a program
// that came and went, left both. The newer fence counts, and of the same age the tombstone.
func (j *journal) newer(entries map[stacyvm.SandboxID]journalEntry, id stacyvm.SandboxID, l line) bool {
	if id == "" {
		return false
	}
	known, tombstoned := j.gone[keyOf(id)]
	fence := known.Fence
	if r := entries[id].record; r != nil {
		fence = r.Fence
	}
	switch {
	case l.Record != nil:
		return l.Record.Fence.Compare(fence) > 0
	case l.Gone != nil:
		return l.Gone.Fence.Compare(fence) >= 0
	}
	return !tombstoned && entries[id].record == nil
}

func (j *journal) names() ([]string, error) {
	dir, err := j.root.Open(".")
	if err != nil {
		return nil, unreadable(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, unreadable(err)
	}
	return names, nil
}

func sandboxOf(name, suffix string) (stacyvm.SandboxID, bool) {
	stem, ok := strings.CutSuffix(name, suffix)
	id := stacyvm.SandboxID(stem)
	return id, ok && id.Valid()
}

func readFile(root *os.Root, name string, into any) error {
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return unreadable(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxLine+1))
	if err == nil && len(content) > maxLine {
		err = fmt.Errorf("it is larger than %d bytes", maxLine)
	}
	first, second, _ := bytes.Cut(content, []byte("\n"))
	if err == nil {
		err = json.Unmarshal(first, into)
	}
	if err == nil && bytes.HasSuffix(second, []byte("\n")) { // else it was not finished
		err = json.Unmarshal(second, into)
	}
	return unreadable(err)
}
