package testneed

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// Tmpfs needs a file system of so many bytes for the test alone, which only root may mount. It ends with the test.
func Tmpfs(t testing.TB, bytes int) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "root", "a small file system needs root to mount it")
	}
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		missing(t, "root", "a small file system cannot be mounted here: "+err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}
