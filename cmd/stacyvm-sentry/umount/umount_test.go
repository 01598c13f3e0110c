package umount

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
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

func TestUnmount(t *testing.T) {
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(pipe[0])
	defer syscall.Close(pipe[1])
	if _, err := syscall.Write(pipe[1], []byte{0}); err != nil {
		t.Fatal(err)
	}
	if err := unmount(pipe[0], t.TempDir()); err == nil {
		t.Error("no file system is mounted there")
	}
}
