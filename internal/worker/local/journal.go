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
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// phase is how far a sandbox has come, as the journal has it.
type phase string

const (
	phaseCreating phase = "creating" // intended; what is there may be a part
	phaseRunning  phase = "running"  // its create was finished
)

// record is what is kept of a sandbox that is here, or may be.
type record struct {
	Fence     stacyvm.Fence
	Phase     phase
	Engine    string
	Secret    string
	Request   worker.CreateRequest
	Created   worker.Created
	CreatedAt time.Time
}

// ending is the part of a record that is known at the end of a create.
type ending struct {
	Phase   phase
	Created worker.Created
}

// tombstone is what is kept of a sandbox that is gone: calls with an older fence stay refused.
type tombstone struct {
	Fence stacyvm.Fence
	// Destroyed: the sandbox was destroyed with this fence, so that a create which carries it came
	// too late. Otherwise a create failed, and another may follow.
	Destroyed bool `json:"Spent"` // the word that is on disk
}

// journalEntry is one record as it was read.
type journalEntry struct {
	record  *record
	damaged error
}

const (
	recordSuffix    = ".json"
	tombstoneSuffix = ".gone"
	tempSuffix      = ".tmp"
	// maxFile bounds what is read back. A request's environment is the largest part; control lets
	// 64 KiB of it through.
	maxFile = 1 << 20
	// tombstoneLife is how long a tombstone is kept: far longer than any call can be on its way.
	tombstoneLife = 7 * 24 * time.Hour
)

// journal is a directory with a file for each sandbox: a record, then a tombstone. Files appear
// whole or not at all, and are on disk when a call returns. A record may have a second line with
// how its create ended: making a second file would cost a create more than everything else that it
// does on disk. Calls for one sandbox must not overlap.
type journal struct {
	root *os.Root
	dir  *os.File // for syncing
}

func openJournal(path string) (*journal, error) {
	if path == "" {
		return nil, stacyvm.Invalid("data_dir", "must be a directory")
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be made")
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be opened")
	}
	dir, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be opened"), root.Close())
	}
	return &journal{root, dir}, nil
}

func (j *journal) close() error { return errors.Join(j.dir.Close(), j.root.Close()) }

// load reads every record. What a crash left of an unfinished write is removed.
func (j *journal) load() (map[stacyvm.SandboxID]journalEntry, error) {
	names, err := j.names()
	if err != nil {
		return nil, err
	}
	entries := map[stacyvm.SandboxID]journalEntry{}
	for _, name := range names {
		id, isRecord := sandboxOf(name, recordSuffix)
		if isRecord {
			if e := j.readEntry(id); e.record != nil || e.damaged != nil {
				entries[id] = e
				continue
			}
		}
		if isRecord || strings.HasSuffix(name, tempSuffix) {
			if err := j.remove(name); err != nil {
				return nil, err
			}
		}
	}
	return entries, nil
}

// readEntry reads one record. A crash between a tombstone and the removal of the record before it
// leaves both: the newer counts, and the tombstone when they are the same age. The zero value: the
// sandbox is gone.
func (j *journal) readEntry(id stacyvm.SandboxID) journalEntry {
	r := new(record)
	if err := j.read(string(id)+recordSuffix, r); err != nil {
		return journalEntry{damaged: err}
	}
	if r.Fence.Compare(stacyvm.Fence{}) <= 0 || r.Engine == "" || r.Secret == "" ||
		r.Phase != phaseCreating && r.Phase != phaseRunning {
		return journalEntry{damaged: errors.New("fields are missing")}
	}
	g, err := j.tombstone(id)
	if err != nil {
		return journalEntry{damaged: err}
	}
	if g != nil && g.Fence.Compare(r.Fence) >= 0 {
		return journalEntry{}
	}
	return journalEntry{record: r}
}

// tombstone reads a sandbox's tombstone; nil: there is none.
func (j *journal) tombstone(id stacyvm.SandboxID) (*tombstone, error) {
	g := new(tombstone)
	err := j.read(string(id)+tombstoneSuffix, g)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return g, err
}

// keep writes a record in place of what was there.
func (j *journal) keep(id stacyvm.SandboxID, r record) error {
	if err := j.write(string(id)+recordSuffix, r); err != nil {
		return err
	}
	return j.remove(string(id) + tombstoneSuffix)
}

// extend adds to a record that was just kept how its create ended. What a crash leaves of the line
// says nothing.
func (j *journal) extend(id stacyvm.SandboxID, r record) error {
	line, err := json.Marshal(ending{r.Phase, r.Created})
	if err == nil {
		err = j.fill(string(id)+recordSuffix, os.O_APPEND, line)
	}
	return unwritten(err)
}

// writeTombstone writes a tombstone in place of what was there.
func (j *journal) writeTombstone(id stacyvm.SandboxID, g tombstone) error {
	if err := j.write(string(id)+tombstoneSuffix, g); err != nil {
		return err
	}
	return j.remove(string(id) + recordSuffix)
}

// old lists the sandboxes whose tombstone was written before the given time.
func (j *journal) old(before time.Time) ([]stacyvm.SandboxID, error) {
	names, err := j.names()
	if err != nil {
		return nil, err
	}
	var ids []stacyvm.SandboxID
	for _, name := range names {
		id, isTombstone := sandboxOf(name, tombstoneSuffix)
		if !isTombstone {
			continue
		}
		info, err := j.root.Lstat(name)
		if err == nil && info.ModTime().Before(before) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// removeTombstone removes a tombstone.
func (j *journal) removeTombstone(id stacyvm.SandboxID) error {
	return j.remove(string(id) + tombstoneSuffix)
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

func (j *journal) read(name string, into any) error {
	file, err := j.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return unreadable(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = fmt.Errorf("it is larger than %d bytes", maxFile)
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

// write makes a file appear whole, on disk.
func (j *journal) write(name string, content any) error {
	encoded, err := json.Marshal(content)
	if err != nil {
		return unwritten(err)
	}
	temporary := name + tempSuffix
	if err := j.fill(temporary, os.O_CREATE|os.O_TRUNC, encoded); err != nil {
		return errors.Join(unwritten(err), j.remove(temporary))
	}
	if err := j.root.Rename(temporary, name); err != nil {
		return errors.Join(unwritten(err), j.remove(temporary))
	}
	return unwritten(j.dir.Sync())
}

// fill writes a line to a file that is opened with how, and syncs it.
func (j *journal) fill(name string, how int, line []byte) error {
	file, err := j.root.OpenFile(name, os.O_WRONLY|how, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(line, '\n'))
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// remove removes a file; one that is not there is a success.
func (j *journal) remove(name string) error {
	if err := j.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unwritten(err)
	}
	return nil
}

func unreadable(err error) error {
	if err == nil {
		return nil
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, err, "the worker's journal cannot be read")
}

func unwritten(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return stacyvm.Wrap(stacyvm.CodeStorageFull, err, "the worker's journal cannot be written: no space is left")
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, err, "the worker's journal cannot be written")
}
