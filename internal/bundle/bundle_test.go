package bundle

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func compress(t *testing.T, content []byte) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer encoder.Close()
	return encoder.EncodeAll(content, nil)
}

// program is what a stripped launcher looks like: content, a long hole, content.
func program() []byte {
	content := make([]byte, 4<<20)
	rand.Read(content[:100_000])
	rand.Read(content[len(content)-100_000:])
	return content
}

func TestUnpack(t *testing.T) {
	content := program()
	packed := compress(t, content)
	dir := t.TempDir()
	path, err := unpack(dir, "tool", packed)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("content differs (%d bytes, %v)", len(got), err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v", info.Mode())
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 1<<20 {
		t.Errorf("%d bytes on disk: the zeros are not a hole", used)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("the program is not alone in its directory: %v", entries)
	}
	again, err := unpack(dir, "tool", packed)
	if err != nil || again != path {
		t.Fatalf("second unpack: %q, %v", again, err)
	}
	if after, _ := os.Stat(path); !os.SameFile(info, after) {
		t.Error("a complete program was unpacked again")
	}
}

func TestUnpackRepairs(t *testing.T) {
	content := program()
	packed := compress(t, content)
	dir := t.TempDir()
	path, err := unpack(dir, "tool", packed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(dir, "tool", packed); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, content) {
		t.Fatal("the broken program was kept")
	}
}

func TestUnpackRefusesCorruption(t *testing.T) {
	packed := compress(t, program())
	packed[len(packed)/2] ^= 1
	dir := t.TempDir()
	if path, err := unpack(dir, "tool", packed); err == nil {
		t.Fatalf("corrupt content was unpacked to %s", path)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, ".tool-*")); len(found) != 0 {
		t.Errorf("left behind: %v", found)
	}
}

func TestUnpackConcurrently(t *testing.T) {
	content := program()
	packed := compress(t, content)
	dir := t.TempDir()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			path, err := unpack(dir, "tool", packed)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
				t.Errorf("content differs: %v", err)
			}
		})
	}
	group.Wait()
}

func TestUnpackUnknown(t *testing.T) {
	if _, err := Unpack(t.TempDir(), "no-such-program"); stacyvm.CodeOf(err) != stacyvm.CodeUnsupported {
		t.Fatalf("got %v", err)
	}
}
