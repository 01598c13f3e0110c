package local

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
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

// line is the content of one line of the log. One of its fields is set; what is kept of a sandbox
// is its last record with the endings that follow it, or its last tombstone.
type line struct {
	Record *record   `json:",omitempty"`
	Ending *ending   `json:",omitempty"`
	Gone   *goneLine `json:",omitempty"`
}

// goneLine is a tombstone with the time at which it was written, in Unix seconds.
type goneLine struct {
	tombstone
	At int64
}

// journalEntry is one record as it was read.
type journalEntry struct {
	record  *record
	damaged error
}

const (
	tempSuffix = ".tmp"
	// maxLine bounds what is read back. A request's environment is the largest part; control lets
	// 64 KiB of it through.
	maxLine = 1 << 20
	// tombstoneLife is how long a tombstone is kept: far longer than any call can be on its way.
	tombstoneLife = 7 * 24 * time.Hour
	// logSpare is how large the log may become before it is looked at whether it holds more that
	// is of no use any more than what is.
	logSpare = 1 << 20
	// goneBytes is about the length of a tombstone's line.
	goneBytes = 128
)

// journal is a log of what becomes of each sandbox: an intent to make it, how that ended, and that
// it is gone. What a call writes is on disk when it returns, but for the end of a create, which
// promises nothing to anybody. Now and then the log is written anew with what still counts. Calls
// for one sandbox must not overlap.
type journal struct {
	root *os.Root
	dir  *os.File // for syncing
	log  *lineLog

	// log.mu guards what follows.
	here map[stacyvm.SandboxID]place // sandboxes with a record
	gone map[goneKey]goneLine        // the others
	most int64                       // the log's size at which it is written anew
}

// place is where the log has a sandbox's record, and the end of its create.
type place struct{ record, ending span }

// goneKey is a sandbox's id: there may be very many tombstones.
type goneKey [12]byte

func keyOf(id stacyvm.SandboxID) (key goneKey) {
	_, _ = hex.Decode(key[:], []byte(strings.TrimPrefix(string(id), "sb-"))) // the id is valid
	return key
}

func (k goneKey) id() stacyvm.SandboxID { return stacyvm.SandboxID("sb-" + hex.EncodeToString(k[:])) }

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
	log, err := openLog(root, dir)
	if err != nil {
		return nil, errors.Join(err, dir.Close(), root.Close())
	}
	return &journal{
		root: root,
		dir:  dir,
		log:  log,
		here: map[stacyvm.SandboxID]place{},
		gone: map[goneKey]goneLine{},
	}, nil
}

func (j *journal) close() error { return errors.Join(j.log.close(), j.dir.Close(), j.root.Close()) }

// load reads everything, what an earlier program wrote into files of its own too, and gives the
// records. It comes before anything else.
func (j *journal) load() (map[stacyvm.SandboxID]journalEntry, error) {
	entries := map[stacyvm.SandboxID]journalEntry{}
	err := j.log.each(func(text []byte, at span) {
		id, content, err := parseLine(text)
		if id == "" {
			return // nobody knows whose it was: its runtime has labels
		}
		j.take(entries, id, content, err, at)
	})
	if err != nil {
		return nil, unreadable(err)
	}
	if err := j.adopt(entries); err != nil {
		return nil, err
	}
	useful := int64(len(j.gone)) * goneBytes
	for _, p := range j.here {
		useful += int64(p.record.length + p.ending.length)
	}
	j.most = 2*useful + logSpare
	_ = j.shrink() // a log that is too large can be read, also when the disk is full
	return entries, nil
}

// take takes in one line that was read.
func (j *journal) take(
	entries map[stacyvm.SandboxID]journalEntry,
	id stacyvm.SandboxID,
	content []byte,
	bad error,
	at span,
) {
	var l line
	if bad == nil {
		bad = json.Unmarshal(content, &l)
	}
	before := entries[id]
	switch {
	case bad == nil && l.Gone != nil:
		delete(entries, id)
		delete(j.here, id)
		j.gone[keyOf(id)] = *l.Gone
		return
	case bad == nil && l.Record != nil && l.Record.whole():
		entries[id] = journalEntry{record: l.Record}
		j.here[id] = place{record: at}
		delete(j.gone, keyOf(id))
		return
	case bad == nil && l.Ending != nil && before.record != nil:
		r := *before.record
		r.Phase, r.Created = l.Ending.Phase, l.Ending.Created
		if r.whole() {
			entries[id] = journalEntry{record: &r}
			j.here[id] = place{j.here[id].record, at}
			return
		}
	case bad == nil && l.Ending != nil && before.damaged != nil:
		return
	}
	if bad == nil {
		bad = errors.New("fields are missing")
	}
	entries[id] = journalEntry{damaged: unreadable(bad)}
	j.here[id] = place{record: at}
}

// whole reports whether a record that was read has what every record has.
func (r *record) whole() bool {
	return r.Fence.Compare(stacyvm.Fence{}) > 0 && r.Engine != "" && r.Secret != "" &&
		(r.Phase == phaseCreating || r.Phase == phaseRunning)
}

// tombstone finds a sandbox's tombstone; nil: there is none.
func (j *journal) tombstone(id stacyvm.SandboxID) *tombstone {
	j.log.mu.Lock()
	defer j.log.mu.Unlock()
	if g, ok := j.gone[keyOf(id)]; ok {
		return &g.tombstone
	}
	return nil
}

// keep writes a record in place of what was there.
func (j *journal) keep(id stacyvm.SandboxID, r record) error {
	return j.write(id, line{Record: &r}, true, func(at span) {
		j.here[id] = place{record: at}
		delete(j.gone, keyOf(id))
	})
}

// extend adds to a record that was just kept how its create ended. It is on disk with the next
// line that is: a machine that loses its power loses the runtime as well.
func (j *journal) extend(id stacyvm.SandboxID, r record) error {
	return j.write(id, line{Ending: &ending{r.Phase, r.Created}}, false, func(at span) {
		j.here[id] = place{j.here[id].record, at}
	})
}

// writeTombstone writes a tombstone in place of what was there.
func (j *journal) writeTombstone(id stacyvm.SandboxID, t tombstone) error {
	g := goneLine{t, time.Now().Unix()}
	return j.write(id, line{Gone: &g}, true, func(span) {
		delete(j.here, id)
		j.gone[keyOf(id)] = g
	})
}

// write appends a line. note is called with its place while log.mu is held.
func (j *journal) write(id stacyvm.SandboxID, l line, durable bool, note func(span)) error {
	content, err := json.Marshal(l)
	if err == nil {
		err = j.restore()
	}
	if err != nil {
		return unwritten(err)
	}
	due := false
	lines, err := j.log.append(lineOf(id, content), func(at span) {
		note(at)
		due = at.at > j.most
	})
	if err == nil && durable {
		err = j.log.sync(lines)
	}
	if err == nil && due {
		_ = j.shrink() // the line is there: a log that is too large is looked at again later
	}
	return unwritten(err)
}

// restore writes the log anew after a sync that failed. What is noted is on disk when it returns
// nil.
func (j *journal) restore() error {
	j.log.mu.Lock()
	failed := j.log.failed
	j.log.mu.Unlock()
	if failed == nil {
		return nil
	}
	return j.shrink()
}

// shrink writes the log anew with what still counts, when it is due.
func (j *journal) shrink() error {
	return j.log.alone(func() error {
		if j.log.size <= j.most && j.log.failed == nil {
			return nil
		}
		j.most = 2*j.log.size + logSpare // when it fails
		moved := make(map[stacyvm.SandboxID]place, len(j.here))
		file := j.log.file
		err := j.log.rewrite(func(old io.ReaderAt, into io.Writer) error { return j.copyTo(old, into, moved) })
		if j.log.file != file {
			j.here, j.most = moved, 2*j.log.size+logSpare
		}
		return unwritten(err)
	})
}

// copyTo writes what still counts, and notes where each record is then. Tombstones come first: what
// is damaged may have been written over one.
func (j *journal) copyTo(old io.ReaderAt, into io.Writer, moved map[stacyvm.SandboxID]place) error {
	to := int64(0)
	add := func(text []byte) (span, error) {
		n, err := into.Write(text)
		to += int64(n)
		return span{to - int64(n), n}, err
	}
	move := func(id stacyvm.SandboxID, from span) (span, error) {
		text := make([]byte, from.length)
		if _, err := old.ReadAt(text, from.at); err != nil {
			return span{}, err
		}
		if at := bytes.IndexByte(text, '\n'); at != len(text)-1 { // a sync of it failed
			text = []byte(id + "\n")
		}
		return add(text)
	}
	for key, g := range j.gone {
		content, err := json.Marshal(line{Gone: &g})
		if err == nil {
			_, err = add(lineOf(key.id(), content))
		}
		if err != nil {
			return err
		}
	}
	for _, id := range j.inOrder() {
		record, err := move(id, j.here[id].record)
		if err != nil {
			return err
		}
		end, err := move(id, j.here[id].ending)
		if err != nil {
			return err
		}
		moved[id] = place{record, end}
	}
	return nil
}

// inOrder lists the sandboxes with a record in the order in which the log has them.
func (j *journal) inOrder() []stacyvm.SandboxID {
	ids := make([]stacyvm.SandboxID, 0, len(j.here))
	for id := range j.here {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b stacyvm.SandboxID) int {
		return int(j.here[a].record.at - j.here[b].record.at)
	})
	return ids
}

// old lists the sandboxes whose tombstone was written before the given time.
func (j *journal) old(before time.Time) (ids []stacyvm.SandboxID) {
	j.log.mu.Lock()
	defer j.log.mu.Unlock()
	for key, g := range j.gone {
		if g.At < before.Unix() {
			ids = append(ids, key.id())
		}
	}
	return ids
}

// forget lets go of a tombstone. It is out of the log when that is next written anew.
func (j *journal) forget(id stacyvm.SandboxID) {
	j.log.mu.Lock()
	defer j.log.mu.Unlock()
	delete(j.gone, keyOf(id))
}

func unreadable(err error) error {
	if err == nil {
		return nil
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, err, "the worker's journal cannot be read")
}

func unwritten(err error) error {
	var coded *stacyvm.Error
	switch {
	case err == nil || errors.As(err, &coded):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return stacyvm.Wrap(stacyvm.CodeStorageFull, err, "the worker's journal cannot be written: no space is left")
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, err, "the worker's journal cannot be written")
}
