package limits

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/cgroup"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// newGroups makes groups in plain directories.
func newGroups(t *testing.T, unified bool, controllers ...string) *Groups {
	t.Helper()
	dir := t.TempDir()
	g := &Groups{
		Warn: t.Logf, delegated: cgroup.Delegated{Unified: unified, Dirs: map[string]string{}}, unified: unified, prefix: "p-",
		homes: filepath.Join(dir, "homes"), controllers: controllers,
	}
	for _, controller := range cgroup.Controllers {
		g.delegated.Dirs[controller] = filepath.Join(dir, "groups")
		if !unified {
			g.delegated.Dirs[controller] = filepath.Join(dir, "groups", controller)
		}
		if err := os.MkdirAll(g.delegated.Dirs[controller], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(g.home("sb"), 0o755); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestMake says what is written for both versions.
func TestMake(t *testing.T) {
	request := &wire.Create{MemoryBytes: 256 << 20, CPUs: 1.5, Pids: 100}
	const hard = "872415232" // 256 MiB, 64 for the sentry and 512 in reserve
	for _, test := range []struct {
		unified bool
		want    map[string]string
	}{
		{false, map[string]string{
			"memory/p-sb/memory.limit_in_bytes": hard, "memory/p-sb/memory.memsw.limit_in_bytes": hard,
			"cpu/p-sb/cpu.cfs_period_us": "100000", "cpu/p-sb/cpu.cfs_quota_us": "150000", "pids/p-sb/pids.max": "2448",
		}},
		{true, map[string]string{
			"p-sb/memory.max": hard, "p-sb/memory.high": "335544320", "p-sb/memory.swap.max": "0",
			"p-sb/cpu.max": "150000 100000", "p-sb/pids.max": "2448",
		}},
	} {
		g := newGroups(t, test.unified, cgroup.Controllers...)
		if err := g.Make("sb", request); err != nil {
			t.Fatal(err)
		}
		for name, want := range test.want {
			text, err := os.ReadFile(filepath.Join(filepath.Dir(g.homes), "groups", name))
			if err != nil || string(text) != want {
				t.Errorf("%s: %q, %v; want %s", name, text, err, want)
			}
		}
		own, err := g.read("sb")
		if err != nil || own.MemoryBytes != request.MemoryBytes || own.MemoryGroup != g.path("memory", "sb") || own.Pids != 100 || own.Unified != test.unified {
			t.Errorf("%+v, %v", own, err)
		}
		groups := 3
		if test.unified {
			groups = 1
		}
		if len(own.Procs) != groups {
			t.Errorf("%v", own.Procs)
		}
		if ids := g.List(); !slices.Equal(ids, []string{"sb"}) {
			t.Errorf("%v", ids)
		}
	}
}

// TestMakePreparesMoves: a sandbox's processes do not wait for the kernel's first move.
func TestMakePreparesMoves(t *testing.T) {
	g := newGroups(t, false, cgroup.Controllers...)
	g.delegated.Own = t.TempDir()
	procs := filepath.Join(g.delegated.Own, "cgroup.procs")
	moves := fifo(t, procs)
	if err := g.Make("sb", &wire.Create{}); err != nil {
		t.Fatal(err)
	}
	if text, err := written(moves); err != nil || text != "0" { // waits for it
		t.Errorf("%q, %v", text, err)
	}
}

// fifo makes a file that keeps what is written into it until it is read.
func fifo(t *testing.T, path string) *os.File {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// written is what was written into a fifo, or will be within moments.
func written(file *os.File) (string, error) {
	if err := file.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	var text [1 << 10]byte
	n, err := file.Read(text[:])
	return string(text[:n]), err
}

// TestMark says how the kernel is asked to tell of a group's use, that the sentry hears when it
// has been, and that the launcher hears when it cannot be.
func TestMark(t *testing.T) {
	g := newGroups(t, false, cgroup.Controllers...)
	if err := g.Make("sb", &wire.Create{MemoryBytes: 1000}); err != nil {
		t.Fatal(err)
	}
	own, err := g.read("sb")
	if err != nil || own.Wake <= 0 {
		t.Fatalf("%+v, %v", own, err)
	}
	if flags, err := unix.FcntlInt(uintptr(own.Wake), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
		t.Errorf("a sentry does not inherit the event: %v", err)
	}
	if err := g.Marked("sb"); !os.IsNotExist(err) {
		t.Errorf("without a file of the use: %v", err)
	}
	if _, err := unix.FcntlInt(uintptr(own.Wake), unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("the launcher keeps the event: %v", err)
	}
	if err := os.WriteFile(filepath.Join(own.MemoryGroup, "memory.usage_in_bytes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	control := fifo(t, filepath.Join(own.MemoryGroup, "cgroup.event_control"))
	event, err := g.marks.add("sb", own)
	if err != nil {
		t.Fatal(err)
	}
	wake, err := unix.Dup(event) // the sentry's
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(wake)
	if err := g.Marked("sb"); err != nil {
		t.Fatal(err)
	}
	text, err := written(control)
	var fd, usage, limit int
	if _, failed := fmt.Sscanf(text, "%d %d %d", &fd, &usage, &limit); err != nil || failed != nil || fd != event || limit != 500 {
		t.Errorf("%q, %v, %v", text, err, failed)
	}
	f := GroupFiles{usage: -1, stat: -1, wake: wake}
	if f.Wait(0); f.bound(-1) != -1 {
		t.Error("the sentry was not told that the mark is set")
	}
}

// TestUntold: a sentry whose group has never told of its use does not wait for that without end.
func TestUntold(t *testing.T) {
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(event)
	f := GroupFiles{usage: -1, stat: -1, wake: event}
	for range 2 {
		if got := f.bound(-1); got != untoldLook {
			t.Fatalf("it waits %v", got)
		}
		if got := f.bound(time.Millisecond); got != time.Millisecond {
			t.Errorf("it waits %v", got)
		}
		f.Wait(0) // nothing comes
	}
	f.Wait(-1) // returns
}

// TestRemove: also groups that an earlier launcher made elsewhere are removed.
func TestRemove(t *testing.T) {
	g := newGroups(t, false, "memory")
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(g.path("memory", "sb"), 0o755); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(Limits{Procs: []string{filepath.Join(elsewhere, "cgroup.procs")}})
	if err == nil {
		err = os.WriteFile(filepath.Join(g.home("sb"), file), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := g.Remove("sb"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(elsewhere); !os.IsNotExist(err) || len(g.List()) > 0 {
			t.Errorf("%v, %v", g.List(), err)
		}
	}
}

func TestUnenforced(t *testing.T) {
	g := newGroups(t, true, "memory")
	all := &wire.Create{MemoryBytes: 1, CPUs: 1, Pids: 1}
	if missing := g.Unenforced(all); !slices.Equal(missing, []string{"cpu", "pids"}) || !slices.Equal(g.Enforced(), []string{"memory"}) {
		t.Errorf("%v, %v", missing, g.Enforced())
	}
	if missing := g.Unenforced(&wire.Create{MemoryBytes: 1}); len(missing) > 0 {
		t.Errorf("%v", missing)
	}
}

// TestGuestLimits: the guest sees a machine of the size of its limits.
func TestGuestLimits(t *testing.T) {
	args := []string{"runsc-sandbox", "--root=r", "boot", "--total-memory", "1", "--total-host-memory", "2", "--bundle=b", "box"}
	for _, test := range []struct {
		own  Limits
		want string
	}{
		{Limits{}, "runsc-sandbox --root=r boot --total-memory 1 --total-host-memory 2 --bundle=b box"},
		{Limits{CPUs: 2, MemoryBytes: 7}, "runsc-sandbox --root=r boot --cpu-num 2 --total-memory 7 --total-host-memory 7 --bundle=b box"},
	} {
		if got := strings.Join(guestLimits(slices.Clone(args), 2, test.own), " "); got != test.want {
			t.Errorf("%s", got)
		}
	}
}

// TestGroupFiles reads files as the kernel writes them.
func TestGroupFiles(t *testing.T) {
	dir := t.TempDir()
	open := func(name, text string) int {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return int(f.Fd())
	}
	f := GroupFiles{usage: open("usage", "1000\n"), stat: open("stat", "cache 5\ninactive_file 200\nactive_file 100\ntotal_active_file 7\n"), wake: -1}
	for limit, want := range map[int64]int64{1000: 0, 2000: -1000, 900: -200, 500: 200} {
		if got := f.Beyond(limit); got != want {
			t.Errorf("beyond %d: %d, want %d", limit, got, want)
		}
	}
	f.wake = open("wake", "")
	if !f.Grown(2000) || f.Grown(2002) || !(GroupFiles{usage: -1, stat: -1, wake: -1}).Grown(1<<40) {
		t.Error("half of the limit is where somebody looks")
	}
	if got := (GroupFiles{usage: -1, stat: -1, wake: -1}).Beyond(5); got != -5 {
		t.Errorf("without files: %d", got)
	}
}
