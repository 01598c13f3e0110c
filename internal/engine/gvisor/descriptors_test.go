package gvisor_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestLauncherWithoutDescriptors: a create that the launcher has no file descriptors for is refused
// as unavailable, wherever it meets that, and leaves nothing.
func TestLauncherWithoutDescriptors(t *testing.T) {
	testneed.GVisor(t)
	dir := t.TempDir()
	defer audit(t, dir)
	e := reopen(t, dir)
	defer e.Close()
	first, err := e.Create(t.Context(), spec(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := first.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	pid := launcherOf(t, dir)
	var before unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	free := freeDescriptor(t, pid)
	refused := 0
	for more := range uint64(20) {
		few := unix.Rlimit{Cur: free + 2 + more, Max: before.Max}
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &few, nil); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		i, err := e.Create(ctx, spec(t))
		cancel()
		if unlimited := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil); unlimited != nil {
			t.Fatal(unlimited)
		}
		switch {
		case err == nil:
			if err := i.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
		case stacyvm.CodeOf(err) != stacyvm.CodeUnavailable:
			t.Errorf("with %d more: %v", 2+more, err)
		default:
			refused++
		}
	}
	if refused == 0 {
		t.Error("every create had enough descriptors")
	}
	if list, err := e.List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("left are %v, %v", list, err)
	}
}

// launcherOf gives the process of the launcher that serves a directory.
func launcherOf(t *testing.T, dir string) int {
	t.Helper()
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		line, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(line), "stacyvm-sentry\x00launch\x00") || !strings.Contains(string(line), dir) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Fatal("no launcher")
	return 0
}

// freeDescriptor is the lowest number beyond those of a process's descriptors.
func freeDescriptor(t *testing.T, pid int) uint64 {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	highest := uint64(0)
	for _, entry := range entries {
		if fd, err := strconv.ParseUint(entry.Name(), 10, 64); err == nil {
			highest = max(highest, fd)
		}
	}
	return highest + 1
}
