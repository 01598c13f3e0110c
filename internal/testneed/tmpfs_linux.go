package testneed

import (
	"fmt"
	"syscall"
	"testing"
)

// Tmpfs needs a file system of so many bytes for the test alone, which only root may mount. It
// ends with the test.
func Tmpfs(t testing.TB, bytes int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	Mount(t, dir, bytes)
	return dir
}

// Mount is Tmpfs at a directory of the test's choice.
func Mount(t testing.TB, dir string, bytes int) {
	t.Helper()
	Root(t, "mount a small file system")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		Missing(t, "root", "a small file system cannot be mounted here: "+err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}
