package local

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

var errDisk = errors.New("the disk failed")

// file is the log as it is found by its name.
func logFile(t *testing.T, dir string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, logName))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// TestFailedSync: after a sync that failed the kernel takes what it could not write for written, and
// the next sync of the file succeeds. Nobody is told of such a success.
func TestFailedSync(t *testing.T) {
	dir := t.TempDir()
	j, _ := opened(t, dir)
	early, first, second, third := stacyvm.NewSandboxID(), stacyvm.NewSandboxID(), stacyvm.NewSandboxID(), stacyvm.NewSandboxID()
	if err := j.keep(early, sampleRecord()); err != nil {
		t.Fatal(err)
	}
	before := logFile(t, dir)
	began, goOn := make(chan struct{}), make(chan struct{})
	fail := sync.OnceValue(func() error { close(began); <-goOn; return errDisk })
	syncs := 0
	j.log.flush = func(file *os.File) error {
		if syncs++; syncs == 1 {
			return fail()
		}
		return flush(file)
	}
	var writers sync.WaitGroup
	for _, id := range []stacyvm.SandboxID{first, second} {
		writers.Go(func() {
			if err := j.keep(id, sampleRecord()); err == nil && os.SameFile(before, logFile(t, dir)) {
				t.Error("a line whose sync failed is said to be on disk")
			}
		})
		<-began
	}
	for written := 0; written < 3; {
		j.log.mu.Lock()
		written = len(j.here)
		j.log.mu.Unlock()
	}
	close(goOn)
	writers.Wait()
	if err := j.keep(third, sampleRecord()); err != nil {
		t.Fatal(err)
	}
	if os.SameFile(before, logFile(t, dir)) {
		t.Error("the file whose sync failed is still in use")
	}
	_, entries := opened(t, dir)
	for _, id := range []stacyvm.SandboxID{early, third} {
		if entries[id].record == nil {
			t.Errorf("%+v", entries[id])
		}
	}
}

// TestFailedTombstone: a destroy that is repeated after its tombstone could not be synced succeeds
// when it is.
func TestFailedTombstone(t *testing.T) {
	dir := t.TempDir()
	j, _ := opened(t, dir)
	w := &Worker{journal: j, log: slog.New(slog.DiscardHandler)}
	b := &entry{id: stacyvm.NewSandboxID(), fence: sampleRecord().Fence, destroyed: true, read: true}
	before := logFile(t, dir)
	j.log.flush = func(*os.File) error { return errDisk }
	if err := w.writeTombstone(b); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	j.log.flush = flush
	if err := w.writeTombstone(b); err != nil || os.SameFile(before, logFile(t, dir)) {
		t.Errorf("%v, and the tombstone is where it could not be synced", err)
	}
	if again, _ := opened(t, dir); again.tombstone(b.id) == nil {
		t.Error("the tombstone is not there")
	}
}

// largeLog is a log that is due to be written anew, with lines at its end.
func largeLog(t *testing.T, lines ...[]byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	text := []byte(strings.Repeat("nobody's\n", 2*logSpare/9))
	for _, line := range lines {
		text = append(text, line...)
	}
	if err := os.WriteFile(filepath.Join(dir, logName), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestLargeLogOnAFullDisk: a log that cannot be written anew is read as it is.
func TestLargeLogOnAFullDisk(t *testing.T) {
	dir := largeLog(t)
	if err := os.Mkdir(filepath.Join(dir, logName+tempSuffix), 0o700); err != nil {
		t.Fatal(err)
	}
	j, _ := opened(t, dir)
	if err := j.keep(fuzzID, sampleRecord()); err != nil {
		t.Error(err)
	}
	if _, entries := opened(t, dir); entries[fuzzID].record == nil {
		t.Errorf("%+v", entries)
	}
}

// TestDamageStays: a damaged line after a tombstone is damage also in a log that was written anew.
func TestDamageStays(t *testing.T) {
	gone := lineOf(fuzzID, []byte(`{"Gone":{"Fence":{"incarnation":1,"epoch":1},"At":1}}`))
	dir := largeLog(t, gone, []byte(fuzzID+" cut\n"))
	for range 2 {
		if _, entries := opened(t, dir); entries[fuzzID].damaged == nil {
			t.Errorf("%+v", entries)
		}
	}
	if size := logFile(t, dir).Size(); size > logSpare {
		t.Errorf("the log has %d bytes", size)
	}
}
