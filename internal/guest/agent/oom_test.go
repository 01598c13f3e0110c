package agent

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOOMReports has the kernel's part played by the test: whatever a report names first of the
// table's processes has the mark in its exit, and no other.
func TestOOMReports(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	write := os.NewFile(uintptr(pipe[1]), "reports")
	defer write.Close()

	a := &Agent{table: newTable(), oom: oomReports{fd: pipe[0]}}
	add := func(id string, pid int, collected bool) *process {
		p, _, err := a.table.claim(id, func(id string) *process { return &process{id: id, pid: pid, collected: collected} })
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	gone, shell, other := add("gone", 30, true), add("shell", 20, false), add("other", 40, false)
	fmt.Fprint(write, "[31,30,20,1]\nno report\n[99,1]\n[4")
	a.noteOOM()
	if gone.oom || !shell.oom || other.oom {
		t.Errorf("marked: ended before %v, parent %v, another %v", gone.oom, shell.oom, other.oom)
	}
	if fmt.Fprint(write, "0]\n"); other.oom {
		t.Error("half a line was taken")
	}
	a.noteOOM()
	if !other.oom || !other.outcome(false).Oom {
		t.Error("the rest of a line was lost")
	}
}
