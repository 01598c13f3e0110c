package local

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// FuzzRecord reads journal files of any content. A record is whole or damaged, and one that is
// whole is read again as it is kept.
func FuzzRecord(f *testing.F) {
	const id = stacyvm.SandboxID("sb-0123456789abcdef01234567")
	if !id.Valid() {
		f.Fatal("the id is none")
	}
	kept := record{
		Fence: stacyvm.Fence{Incarnation: 2, Epoch: 5}, Phase: phaseCreating, Engine: "mock", Secret: "s",
		Request: worker.CreateRequest{Cluster: "ours", OwnerID: "anne"}, CreatedAt: time.Unix(1, 0).UTC(),
	}
	line, err := json.Marshal(kept)
	if err != nil {
		f.Fatal(err)
	}
	end, err := json.Marshal(ending{Phase: phaseRunning})
	if err != nil {
		f.Fatal(err)
	}
	gone, err := json.Marshal(tombstone{Fence: kept.Fence, Destroyed: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(line, '\n'), []byte(nil))
	f.Add(append(bytes.Join([][]byte{line, end}, []byte("\n")), '\n'), []byte(nil))
	f.Add(append(line, '\n'), append(gone, '\n'))
	f.Add(line[:len(line)/2], gone[:3])
	dir := f.TempDir()
	j, err := openJournal(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = j.close() })
	f.Fuzz(func(t *testing.T, content, gone []byte) {
		for suffix, text := range map[string][]byte{recordSuffix: content, tombstoneSuffix: gone} {
			path := filepath.Join(dir, string(id)+suffix)
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if len(text) > 0 {
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		entries, err := j.load()
		if err != nil {
			t.Fatal(err)
		}
		read, there := entries[id]
		if !there || read.damaged != nil {
			return
		}
		r := *read.record
		if r.Fence.Compare(stacyvm.Fence{}) <= 0 || r.Engine == "" || r.Secret == "" {
			t.Fatalf("a record without its fields: %+v", r)
		}
		if err := j.keep(id, r); err != nil {
			t.Fatal(err)
		}
		again := j.readEntry(id)
		if again.record == nil || !reflect.DeepEqual(normal(t, *again.record), normal(t, r)) {
			t.Fatalf("kept %+v\nread %+v", r, again)
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
