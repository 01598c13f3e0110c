// Package umount is gVisor's helper that unmounts /proc for a sandbox's process once that needs it
// no more. gVisor re-executes the whole program for it, twice for a sandbox, and waits for its end.
// The helper runs while the program's packages are initialized, before those of gVisor, which take
// most of the time of a start: Go initializes a package as soon as what it imports is, and of two
// that are ready the one whose path comes first. Later it would do the same, only slower.
package umount

import (
	"os"
	"slices"
	"syscall"
)

// arguments are those of the helper, as gVisor gives them.
var arguments = []string{"/proc/self/exe", "umount", "--sync-fd=3", "/proc"}

func init() {
	if slices.Equal(os.Args, arguments) {
		if err := unmount(3, "/proc"); err != nil {
			os.Stderr.WriteString("unmount /proc: " + err.Error() + "\n")
			os.Exit(128) // as gVisor's
		}
		os.Exit(0)
	}
}

// unmount detaches a directory's file system once there is one byte to read.
func unmount(sync int, dir string) error {
	var word [1]byte
	for {
		n, err := syscall.Read(sync, word[:])
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return err
		case n != len(word):
			return syscall.EPIPE // who asked is gone
		}
		return syscall.Unmount(dir, syscall.MNT_DETACH)
	}
}
