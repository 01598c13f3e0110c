// Package bundle holds the two programs that the product runs beside itself, compressed inside its
// own binary: the gVisor launcher and the guest program. It only unpacks them; it does not know
// what they do.
package bundle

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Names of the programs.
const (
	Sentry = "stacyvm-sentry" // the gVisor launcher
	Guest  = "stacyvm-guest"  // runs inside every sandbox
)

//go:embed files
var files embed.FS

// unpacking serialises this process's own unpacking; between processes the rename decides.
var unpacking sync.Mutex

// Unpack writes the named program below dir, once per content, and returns its path:
// dir/NAME-HASH/NAME, alone in its directory, mode 0755. A file that is there is used when its
// size is right; a broken one is replaced. CodeUnsupported: this build holds no such program.
func Unpack(dir, name string) (string, error) {
	packed, err := files.ReadFile("files/" + name + ".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return "", stacyvm.Errorf(
			stacyvm.CodeUnsupported,
			"this build does not contain %s: build with `make build`",
			name,
		)
	}
	if err != nil {
		return "", err
	}
	unpacking.Lock()
	defer unpacking.Unlock()
	return unpack(dir, name, packed)
}

// Hash names the content of a program as Unpack does; "" when this build does not hold it.
func Hash(name string) string {
	packed, err := files.ReadFile("files/" + name + ".zst")
	if err != nil {
		return ""
	}
	return hash(packed)
}

func hash(packed []byte) string {
	sum := sha256.Sum256(packed)
	return hex.EncodeToString(sum[:6])
}

func unpack(dir, name string, packed []byte) (string, error) {
	home := filepath.Join(dir, name+"-"+hash(packed))
	path := filepath.Join(home, name)
	if complete(path) {
		return path, nil
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", err
	}
	temporary, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(temporary.Name()) // fails once it is renamed
	defer temporary.Close()
	size, err := decompress(temporary, packed)
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	if err := errors.Join(temporary.Chmod(0o755), temporary.Sync(), temporary.Close()); err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	if err := os.Rename(temporary.Name(), path); err != nil {
		return "", err
	}
	// The mark is written last: without it the program counts as half unpacked.
	return path, os.WriteFile(mark(path), fmt.Appendf(nil, "%d\n", size), 0o644)
}

// mark is beside the program's directory and not in it, because that directory is shown to
// sandboxes.
func mark(path string) string { return filepath.Dir(path) + ".size" }

// complete tells whether path was unpacked fully: its mark is there and gives its size.
func complete(path string) bool {
	want, err := os.ReadFile(mark(path))
	if err != nil {
		return false
	}
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm() == 0o755 &&
		fmt.Sprintf("%d\n", info.Size()) == string(want)
}

// decompress writes the content of packed, whose checksum zstd verifies, and leaves holes where it
// has long runs of zeros.
func decompress(file *os.File, packed []byte) (int64, error) {
	decoder, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		return 0, err
	}
	defer decoder.Close()
	sparse := &sparseWriter{file: file}
	if _, err := io.CopyBuffer(sparse, struct{ io.Reader }{decoder}, make([]byte, block)); err != nil {
		return 0, err
	}
	return sparse.size, file.Truncate(sparse.size)
}

const block = 64 << 10

var zeros [block]byte

// sparseWriter skips writes that are all zeros.
type sparseWriter struct {
	file *os.File
	size int64
}

func (w *sparseWriter) Write(data []byte) (int, error) {
	if len(data) > block || !bytes.Equal(data, zeros[:len(data)]) {
		if _, err := w.file.WriteAt(data, w.size); err != nil {
			return 0, err
		}
	}
	w.size += int64(len(data))
	return len(data), nil
}
