package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func TestIncarnation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "worker")
	want := func(want int64) {
		t.Helper()
		if got, err := Incarnation(dir); got != want || err != nil {
			t.Errorf("got %d, %v, want %d", got, err, want)
		}
	}
	want(0)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("looking made the directory: %v", err)
	}
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	want(0)
	fence := func(incarnation int64) stacyvm.Fence { return stacyvm.Fence{Incarnation: incarnation, Epoch: 3} }
	if err := j.keep(stacyvm.NewSandboxID(), record{Fence: fence(4), Phase: phaseRunning, Engine: "mock", Secret: "s"}); err != nil {
		t.Fatal(err)
	}
	want(4)
	if err := j.writeTombstone(stacyvm.NewSandboxID(), tombstone{Fence: fence(6)}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, string(stacyvm.NewSandboxID())+recordSuffix), []byte(`{"Fence": "rubbish"`), 0o600); err != nil {
		t.Fatal(err)
	}
	want(6)
}
