package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const fuzzID = stacyvm.SandboxID("sb-0123456789abcdef01234567")

func sampleRecord() record {
	return record{
		Fence: stacyvm.Fence{Incarnation: 2, Epoch: 5}, Phase: phaseCreating, Engine: "mock", Secret: "s",
		Request: worker.CreateRequest{Cluster: "ours", OwnerID: "anne"}, CreatedAt: time.Unix(1, 0).UTC(),
	}
}

// opened is a journal that is closed with the test, and what it has.
func opened(t testing.TB, dir string) (*journal, map[stacyvm.SandboxID]journalEntry) {
	t.Helper()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.close() })
	entries, err := j.load()
	if err != nil {
		t.Fatal(err)
	}
	return j, entries
}

// FuzzJournal reads logs of any content. A record is whole or damaged, and one that is whole is
// read again as it is kept.
func FuzzJournal(f *testing.F) {
	text := func(l line) []byte {
		content, err := json.Marshal(l)
		if err != nil {
			f.Fatal(err)
		}
		return lineOf(fuzzID, content)
	}
	kept := sampleRecord()
	record, end := text(line{Record: &kept}), text(line{Ending: &ending{Phase: phaseRunning}})
	gone := text(line{Gone: &goneLine{tombstone{Fence: kept.Fence, Destroyed: true}, 1}})
	f.Add(record)
	f.Add(bytes.Join([][]byte{record, end}, nil))
	f.Add(bytes.Join([][]byte{record, end, gone}, nil))
	f.Add(bytes.Join([][]byte{record[:len(record)/2], []byte("\n"), end, gone[:9]}, nil))
	f.Add(lineOf(fuzzID, []byte("{}")))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, logName), content, 0o600); err != nil {
			t.Fatal(err)
		}
		j, entries := opened(t, dir)
		for id, read := range entries {
			if read.damaged != nil {
				continue
			}
			r := *read.record
			if r.Fence.Compare(stacyvm.Fence{}) <= 0 || r.Engine == "" || r.Secret == "" {
				t.Fatalf("a record without its fields: %+v", r)
			}
			if err := j.keep(id, r); err != nil {
				t.Fatal(err)
			}
			_, again := opened(t, dir)
			if again[id].record == nil || !reflect.DeepEqual(normal(t, *again[id].record), normal(t, r)) {
				t.Fatalf("kept %+v\nread %+v", r, again[id])
			}
		}
	})
}

// normal is a record as JSON has it: no map and an empty one are the same.
func normal(t *testing.T, r record) (fields any) {
	t.Helper()
	text, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fields
}

// TestCutAnywhere ends the log at each of its bytes, as a crash may: what was written before the
// cut line is there, and the next line follows it.
func TestCutAnywhere(t *testing.T) {
	dir := t.TempDir()
	j, _ := opened(t, dir)
	first, second := stacyvm.NewSandboxID(), stacyvm.NewSandboxID()
	for _, err := range []error{
		j.keep(first, sampleRecord()), j.extend(first, record{Phase: phaseRunning}), j.keep(second, sampleRecord()),
		j.writeTombstone(first, tombstone{Fence: stacyvm.Fence{Incarnation: 2, Epoch: 5}, Destroyed: true}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(filepath.Join(dir, logName))
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		at := t.TempDir()
		if err := os.WriteFile(filepath.Join(at, logName), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, entries := opened(t, at)
		lines := bytes.Count(whole[:cut], []byte("\n"))
		if got, want := entries[first].record != nil, lines >= 1 && lines < 4; got != want || entries[first].damaged != nil {
			t.Fatalf("cut at %d: %+v", cut, entries[first])
		}
		if r := entries[first].record; r != nil && (r.Phase == phaseRunning) != (lines >= 2) {
			t.Fatalf("cut at %d: %+v", cut, r)
		}
		if got := entries[second].record != nil; got != (lines >= 3) {
			t.Fatalf("cut at %d: %+v", cut, entries[second])
		}
		if err := j.keep(second, sampleRecord()); err != nil {
			t.Fatal(err)
		}
		if _, again := opened(t, at); again[second].record == nil || again[second].damaged != nil {
			t.Fatalf("cut at %d, what is written after it: %+v", cut, again[second])
		}
	}
}

// TestShrink writes the log anew when most of it is of no use any more, while others write.
func TestShrink(t *testing.T) {
	dir := t.TempDir()
	j, _ := opened(t, dir)
	large := sampleRecord()
	large.Request.OwnerID = strings.Repeat("anne", 16<<10)
	stays, ended := stacyvm.NewSandboxID(), stacyvm.NewSandboxID()
	if err := errors.Join(j.keep(stays, large), j.extend(stays, record{Phase: phaseRunning})); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			id := stacyvm.NewSandboxID()
			for range 40 {
				if err := errors.Join(j.keep(id, large), j.writeTombstone(id, tombstone{Fence: large.Fence})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if err := errors.Join(j.keep(ended, large), j.writeTombstone(ended, tombstone{Fence: large.Fence, Destroyed: true})); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, logName)); err != nil || info.Size() > 4*logSpare {
		t.Errorf("160 records of 64 KiB came and went, and the log has %d bytes, %v", info.Size(), err)
	}
	again, entries := opened(t, dir)
	if r := entries[stays].record; len(entries) != 1 || r == nil || r.Phase != phaseRunning || r.Request.OwnerID != large.Request.OwnerID {
		t.Errorf("%d records", len(entries))
	}
	if g := again.tombstone(ended); g == nil || !g.Destroyed || len(again.gone) != 5 {
		t.Errorf("tombstone %+v, %d in all", g, len(again.gone))
	}
}

// TestSyncsAreShared holds up one sync: whoever writes meanwhile is on disk with the next one.
func TestSyncsAreShared(t *testing.T) {
	j, _ := opened(t, t.TempDir())
	began, goOn := make(chan struct{}), make(chan struct{})
	var syncs atomic.Int64
	var fail atomic.Bool
	j.log.flush = func(file *os.File) error {
		if syncs.Add(1) == 1 {
			close(began)
			<-goOn
		}
		if fail.Load() {
			return errors.New("the disk is gone")
		}
		return flush(file)
	}
	var writers sync.WaitGroup
	keep := func() {
		if err := j.keep(stacyvm.NewSandboxID(), sampleRecord()); (err != nil) != fail.Load() {
			t.Error(err)
		}
	}
	writers.Go(keep)
	<-began
	const others = 20
	for range others {
		writers.Go(keep)
	}
	for written := 0; written <= others; runtime.Gosched() {
		j.log.mu.Lock()
		written = len(j.here)
		j.log.mu.Unlock()
	}
	close(goOn)
	writers.Wait()
	if n := syncs.Load(); n != 2 {
		t.Errorf("%d lines took %d syncs, want 2", others+1, n)
	}
	fail.Store(true)
	keep()
	fail.Store(false)
	keep()
}
