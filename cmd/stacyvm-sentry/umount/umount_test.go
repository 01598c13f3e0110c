package umount

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestInit: a program with the helper's arguments is the helper.
func TestInit(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	helper := exec.Command(arguments[0])
	helper.Args = slices.Clone(arguments)
	helper.ExtraFiles = []*os.File{read}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	read.Close()
	write.Close() // without a byte nothing is unmounted
	exit, ok := errors.AsType[*exec.ExitError](helper.Wait())
	if !ok || exit.ExitCode() != 128 {
		t.Fatalf("%v", exit)
	}
	if _, err := os.Stat("/proc/self/exe"); err != nil {
		t.Error(err)
	}
}

// TestUnmount unmounts a file system, and then there is none.
func TestUnmount(t *testing.T) {
	testneed.Root(t, "to mount a file system")
	runtime.LockOSThread() // for good: the thread ends with the test, and its mounts do
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	below := filepath.Join(dir, "below")
	if err := os.WriteFile(below, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(below); !os.IsNotExist(err) {
		t.Fatalf("nothing is mounted: %v", err)
	}
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(pipe[0])
	defer syscall.Close(pipe[1])
	if _, err := syscall.Write(pipe[1], []byte{0, 0}); err != nil {
		t.Fatal(err)
	}
	if err := unmount(pipe[0], dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(below); err != nil {
		t.Errorf("it is still mounted: %v", err)
	}
	if err := unmount(pipe[0], dir); err == nil {
		t.Error("no file system is mounted there")
	}
}
