package gvisor_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestOwnGroup shows that a launcher makes groups below the one that it was started in and nowhere
// else. With version 2 the groups of cmd/stacyvm-sentry/cgroup and the virtual machine's test show
// it.
func TestOwnGroup(t *testing.T) {
	testneed.GVisor(t)
	group := enterMemoryGroup(t)
	s := spec(t)
	create(t, open(t), s)

	mine := filepath.Join(group, "stacyvm-*-"+string(s.ID))
	made, err := filepath.Glob(mine)
	if err != nil || len(made) != 1 {
		t.Fatalf("groups that match %s: %q, %v", mine, made, err)
	}
	limit, err := os.ReadFile(filepath.Join(made[0], "memory.limit_in_bytes"))
	if err != nil || strings.TrimSpace(string(limit)) == "" {
		t.Errorf("its limit: %q, %v", limit, err)
	}
	members, err := os.ReadFile(filepath.Join(made[0], "cgroup.procs"))
	if err != nil || len(members) == 0 {
		t.Errorf("its processes: %q, %v", members, err)
	}
}

// enterMemoryGroup moves this process into a new group of the memory controller until the test
// ends.
func enterMemoryGroup(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	own := ""
	for line := range strings.Lines(string(text)) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ":memory:"); ok {
			own = filepath.Join("/sys/fs/cgroup/memory", path)
		}
	}
	if _, err := os.Stat(filepath.Join(own, "cgroup.procs")); own == "" || err != nil {
		testneed.Missing(t, "cgroup1", "this machine has no memory controller of cgroup version 1")
	}
	group, err := os.MkdirTemp(own, "test-") //nolint:usetesting // a control group, which is made in its hierarchy
	if err != nil {
		t.Fatal(err)
	}
	move := func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		move(own)
		if err := unix.Rmdir(group); err != nil {
			t.Error(err)
		}
	})
	move(group)
	return group
}
