package gvisor_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// audit fails the test when anything of the engine in dir is left: a process, a mount, a control
// group, a sandbox's files.
func audit(t *testing.T, dir string) {
	t.Helper()
	// A launcher that counts one more client at the moment when it is asked to stop ends when it
	// has been idle.
	deadline := time.Now().Add(10 * time.Second)
	left := leftovers(dir)
	for len(left) > 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
		left = leftovers(dir)
	}
	for _, what := range left {
		t.Errorf("left on the machine: %s", what)
	}
}

func leftovers(dir string) []string {
	var left []string
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range processes {
		if line, err := os.ReadFile(name); err == nil && strings.Contains(string(line), dir) {
			left = append(left, fmt.Sprintf("process %s %q", name, line))
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err == nil && strings.Contains(string(mounts), dir) {
		left = append(left, "a mount")
	}
	// A launcher's groups carry a hash of its directory: other servers of this machine have
	// theirs.
	sum := sha256.Sum256([]byte(dir))
	prefix := fmt.Sprintf("stacyvm-%x-", sum[:4])
	// groups come and go meanwhile
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.HasPrefix(entry.Name(), prefix) {
			left = append(left, path)
		}
		return nil
	})
	files, _ := filepath.Glob(filepath.Join(dir, "sandboxes", "*"))
	return append(left, files...)
}
