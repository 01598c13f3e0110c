package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/testneed"
)

const (
	legacyMounts = `30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:13 - cgroup cgroup rw,memory
35 30 0:31 / /sys/fs/cgroup/pids rw,nosuid shared:14 - cgroup cgroup rw,pids
`
	unifiedMounts = "30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
)

func all(dir string) map[string]string {
	return map[string]string{"memory": dir, "cpu": dir, "pids": dir}
}

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		groups, mounts string
		want           Delegated
	}{
		"version 1, in a scope": {
			"9:name=systemd:/stacyvm.slice/a.scope\n4:memory:/stacyvm.slice/a.scope\n2:cpu,cpuacct:/stacyvm.slice/a.scope\n3:pids:/stacyvm.slice\n0::/stacyvm.slice/a.scope\n",
			legacyMounts,
			Delegated{Dirs: map[string]string{
				"memory": "/sys/fs/cgroup/memory/stacyvm.slice/a.scope",
				"cpu":    "/sys/fs/cgroup/cpu,cpuacct/stacyvm.slice/a.scope",
				"pids":   "/sys/fs/cgroup/pids/stacyvm.slice",
			}, Own: "/sys/fs/cgroup/pids/stacyvm.slice"},
		},
		"version 1, the machine's own group": {
			"4:memory:/\n2:cpu,cpuacct:/\n3:pids:/\n0::/\n", legacyMounts,
			Delegated{Dirs: map[string]string{
				"memory": "/sys/fs/cgroup/memory", "cpu": "/sys/fs/cgroup/cpu,cpuacct", "pids": "/sys/fs/cgroup/pids",
			}, Own: "/sys/fs/cgroup/pids"},
		},
		"version 1, a container that sees its own part": {
			"4:memory:/docker/abc/inner\n0::/\n",
			"34 30 0:30 /docker/abc /sys/fs/cgroup/memory rw shared:13 - cgroup cgroup rw,memory\n",
			Delegated{Dirs: map[string]string{"memory": "/sys/fs/cgroup/memory/inner"}, Own: "/sys/fs/cgroup/memory/inner"},
		},
		"version 1, a controller that is not mounted": {
			"4:memory:/\n3:pids:/\n", "34 30 0:30 / /cg/memory rw - cgroup cgroup rw,memory\n",
			Delegated{Dirs: map[string]string{"memory": "/cg/memory"}, Own: "/cg/memory"},
		},
		"version 2, in a scope":              {"0::/stacyvm.slice/a.scope\n", unifiedMounts, Delegated{true, all("/sys/fs/cgroup/stacyvm.slice/a.scope"), "/sys/fs/cgroup/stacyvm.slice/a.scope"}},
		"version 2, in the leaf already":     {"0::/stacyvm.slice/a.scope/launcher\n", unifiedMounts, Delegated{true, all("/sys/fs/cgroup/stacyvm.slice/a.scope"), "/sys/fs/cgroup/stacyvm.slice/a.scope/launcher"}},
		"version 2, a container":             {"0::/\n", unifiedMounts, Delegated{true, all("/sys/fs/cgroup"), "/sys/fs/cgroup"}},
		"version 2, outside of what it sees": {"0::/../other\n", unifiedMounts, Delegated{true, all("/sys/fs/cgroup"), ""}},
		"none":                               {"", "", Delegated{true, map[string]string{}, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, parse(c.groups, c.mounts)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDivide divides a real group of version 2: this process and another one are in it, and
// afterwards it passes controllers on.
func TestDivide(t *testing.T) {
	if os.Getenv("STACYVM_TEST_DIVIDE") != "" {
		divideOwn()
		return
	}
	dir := unifiedGroup(t)
	other := exec.CommandContext(t.Context(), "sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	if err := enter(dir, other.Process.Pid); err != nil {
		t.Fatal(err)
	}
	program := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDivide$")
	program.Env = append(os.Environ(), "STACYVM_TEST_DIVIDE=1")
	program.Stderr = os.Stderr
	input, err := program.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		input.Close()
		if err := program.Wait(); err != nil {
			t.Error(err)
		}
	}()
	if err := enter(dir, program.Process.Pid); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(input, "go")
	lines := bufio.NewScanner(output)
	if !lines.Scan() || lines.Text() != dir {
		t.Errorf("the group is %q, want %q", lines.Text(), dir)
	}
	left, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil || len(left) > 0 {
		t.Errorf("still in the group: %q, %v", left, err)
	}
	moved, err := os.ReadFile(filepath.Join(dir, leaf, "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	in, want := strings.Fields(string(moved)), []string{strconv.Itoa(other.Process.Pid), strconv.Itoa(program.Process.Pid)}
	slices.Sort(in)
	slices.Sort(want)
	if !slices.Equal(in, want) {
		t.Errorf("in the leaf are %q, want %q", in, want)
	}
}

// divideOwn is another process of TestDivide: it waits until it is in the group.
func divideOwn() {
	input := bufio.NewReader(os.Stdin)
	if _, err := input.ReadString('\n'); err != nil {
		panic(err)
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		panic(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		panic(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	own := parse(lines[len(lines)-1], string(mounts)) // of version 2 alone: this machine may have both
	if err := own.divide(); err != nil {
		panic(err)
	}
	fmt.Println(own.Dirs["memory"])
	_, _ = io.Copy(io.Discard, input)
}

// unifiedGroup makes an empty group of version 2, which the test's end removes.
func unifiedGroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	top, _ := directory(string(mounts), "", "/")
	if top == "" || unix.Access(top, unix.W_OK) != nil {
		testneed.Missing(t, "cgroup2", "no hierarchy of cgroup version 2 is mounted, or it is not writable")
	}
	dir, err := os.MkdirTemp(top, "stacyvm-test-") //nolint:usetesting // a control group, which is made in its hierarchy
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, group := range []string{filepath.Join(dir, leaf), dir} {
			if err := unix.Rmdir(group); err != nil && !errors.Is(err, unix.ENOENT) {
				t.Error(err)
			}
		}
	})
	return dir
}
