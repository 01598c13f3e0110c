package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/cgroup"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

const (
	// overhead is what sentry and gofer themselves need, on top of what the guest may use.
	overhead = 64 << 20
	// minReserve is the least that lies between the guard's limit and the kernel's. It is more than most calls can fill: in a
	// full group the kernel refuses memory to calls of the sentry's at once, and process 1 can be ended by that.
	minReserve = 512 << 20
	period     = 100_000 // microseconds, of the CPU quota
	// minTasks and tasksPerPid turn a limit of guest processes into one of host tasks: the group counts the sentry's
	// threads, and every guest process takes some. A sandbox that reaches it dies; that is for fork bombs.
	minTasks    = 2048
	tasksPerPid = 4
)

// groups makes control groups for sandboxes, below those that were delegated to this process and nowhere else. With version 2
// each sandbox has one directory, with version 1 one in every controller's hierarchy.
type groups struct {
	delegated   cgroup.Delegated
	unified     bool
	prefix      string // of directory names, different for every engine directory
	controllers []string
}

// limits is what a sandbox's own processes read when they start.
type limits struct {
	Procs       []string `json:"procs,omitempty"` // files to enter the groups by
	MemoryBytes int64    `json:"memory_bytes,omitempty"`
	MemoryGroup string   `json:"memory_group,omitempty"` // directory
	Unified     bool     `json:"unified,omitempty"`
	CPUs        int      `json:"cpus,omitempty"`
	Pids        int64    `json:"pids,omitempty"`
}

// findGroups enters groups that this process may divide and finds out, by trying, which controllers can be used there.
func findGroups(dir string) (groups, error) {
	sum := sha256.Sum256([]byte(dir))
	name := "stacyvm-" + hex.EncodeToString(sum[:4])
	delegated, err := cgroup.Enter(name+".scope", "stacyvm sandboxes in "+dir)
	if err != nil {
		return groups{}, err
	}
	g := groups{delegated: delegated, unified: delegated.Unified, prefix: name + "-"}
	for _, controller := range cgroup.Controllers {
		if delegated.Dirs[controller] != "" && g.usable(controller) {
			g.controllers = append(g.controllers, controller)
		}
	}
	return g, nil
}

// usable makes and removes a group of one controller.
func (g *groups) usable(controller string) bool {
	trial := g.path(controller, "trial")
	if err := os.Mkdir(trial, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return false
	}
	defer os.Remove(trial)
	for _, name := range g.files(controller) {
		if err := unix.Access(filepath.Join(trial, name), unix.W_OK); err != nil {
			return false
		}
	}
	return true
}

// files names the files that hold a controller's limit.
func (g *groups) files(controller string) []string {
	names := map[string][]string{"memory": {"memory.limit_in_bytes"}, "cpu": {"cpu.cfs_period_us", "cpu.cfs_quota_us"}, "pids": {"pids.max"}}
	if g.unified {
		names = map[string][]string{"memory": {"memory.max"}, "cpu": {"cpu.max"}, "pids": {"pids.max"}}
	}
	return names[controller]
}

func (g *groups) path(controller, id string) string {
	return filepath.Join(g.delegated.Dirs[controller], g.prefix+id)
}

func (g *groups) limits() []string { return slices.Clone(g.controllers) }

// unenforced names the limits that were asked for and that this machine cannot hold.
func (g *groups) unenforced(request *wire.Create) []string {
	asked := map[string]bool{"memory": request.MemoryBytes > 0, "cpu": request.CPUs > 0, "pids": request.Pids > 0}
	var missing []string
	for _, name := range []string{"memory", "cpu", "pids"} {
		if asked[name] && !slices.Contains(g.controllers, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

// make makes a sandbox's groups and writes its limits into them.
func (g *groups) make(id string, request *wire.Create) (limits, error) {
	made := limits{MemoryBytes: request.MemoryBytes, Unified: g.unified, Pids: request.Pids}
	if request.CPUs > 0 {
		// gVisor's own rule: fewer than two make programs leave out locking.
		made.CPUs = min(runtime.NumCPU(), max(2, int(math.Ceil(request.CPUs))))
	}
	for _, controller := range g.controllers {
		dir := g.path(controller, id)
		if err := os.Mkdir(dir, 0o755); err != nil && (!g.unified || !errors.Is(err, os.ErrExist)) {
			return made, err
		}
		if controller == "memory" {
			made.MemoryGroup = dir
		}
		if procs := filepath.Join(dir, "cgroup.procs"); !slices.Contains(made.Procs, procs) {
			made.Procs = append(made.Procs, procs)
		}
		for name, value := range g.values(controller, request) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0); err != nil {
				return made, err
			}
		}
	}
	if request.MemoryBytes > 0 {
		g.forbidSwap(id, hardLimit(request.MemoryBytes))
	}
	return made, nil
}

func (g *groups) values(controller string, request *wire.Create) map[string]string {
	files := g.files(controller)
	switch {
	case controller == "memory" && request.MemoryBytes > 0:
		values := map[string]string{files[0]: strconv.FormatInt(hardLimit(request.MemoryBytes), 10)}
		if g.unified {
			values["memory.high"] = strconv.FormatInt(request.MemoryBytes+overhead, 10)
		}
		return values
	case controller == "cpu" && request.CPUs > 0 && g.unified:
		return map[string]string{files[0]: fmt.Sprintf("%d %d", int64(request.CPUs*period), period)}
	case controller == "cpu" && request.CPUs > 0:
		return map[string]string{files[0]: strconv.Itoa(period), files[1]: strconv.FormatInt(int64(request.CPUs*period), 10)}
	case controller == "pids":
		return map[string]string{files[0]: strconv.FormatInt(minTasks+tasksPerPid*request.Pids, 10)}
	}
	return nil
}

// hardLimit is where the kernel stops a sandbox. The sentry's own guard ends a process long before, at memory and overhead;
// what is between them is what a guest can fill until the guard has acted.
func hardLimit(memory int64) int64 { return memory + overhead + max(memory/2, minReserve) }

// readLimits gives a sandbox's limits.
func readLimits(id string) (own limits, err error) {
	text, err := os.ReadFile(filepath.Join(home(id), limitsFile))
	if err != nil {
		return own, err
	}
	return own, json.Unmarshal(text, &own)
}

// forbidSwap keeps a sandbox from going round its memory limit. Machines without swap accounting lack the file.
func (g *groups) forbidSwap(id string, memory int64) {
	if !slices.Contains(g.controllers, "memory") {
		return
	}
	dir := g.path("memory", id)
	if g.unified {
		_ = os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0)
		return
	}
	_ = os.WriteFile(filepath.Join(dir, "memory.memsw.limit_in_bytes"), []byte(strconv.FormatInt(memory, 10)), 0)
}

// remove takes a sandbox's groups away. The kernel may need a moment after the last process's end; a process that is still
// in a group belongs to the sandbox and is killed.
func (g *groups) remove(id string) error {
	deadline := time.Now().Add(killTime)
	for _, dir := range g.dirs(id) {
		for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
			err := unix.Rmdir(dir)
			if err == nil || errors.Is(err, unix.ENOENT) {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("remove %s: %w", dir, err)
			}
			killMembers(dir)
			time.Sleep(wait)
		}
	}
	return nil
}

// dirs gives the directories of a sandbox's groups: those that it was made with, which are others where an earlier launcher was
// started in another group, and those that a launcher here would make.
func (g *groups) dirs(id string) []string {
	var dirs []string
	var made limits
	if text, err := os.ReadFile(filepath.Join(home(id), limitsFile)); err == nil && json.Unmarshal(text, &made) == nil {
		for _, procs := range made.Procs {
			dirs = append(dirs, filepath.Dir(procs))
		}
	}
	for _, controller := range g.controllers {
		if dir := g.path(controller, id); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func killMembers(dir string) {
	members, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for word := range strings.FieldsSeq(string(members)) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// list names the sandboxes that have a group.
func (g *groups) list() []string {
	var ids []string
	for _, controller := range g.controllers {
		found, err := filepath.Glob(g.path(controller, "*"))
		if err != nil {
			continue
		}
		for _, dir := range found {
			if id := strings.TrimPrefix(filepath.Base(dir), g.prefix); !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// enterLimits runs in every process that gVisor starts for a sandbox, before gVisor's own code: it moves the process into
// the sandbox's groups and tells the sentry what the guest shall see. gVisor re-executes each process once it has given up
// the host's files; only the first time there is something to do.
func enterLimits() {
	command := slices.IndexFunc(os.Args, func(word string) bool { return word == "boot" || word == "gofer" })
	bundle := bundleArgument(os.Args)
	if command < 0 || bundle == "" || slices.Contains(os.Args, "--setup-root=false") {
		return
	}
	if err := enter(bundle, command); err != nil {
		fmt.Fprintln(os.Stderr, "enter limits:", err)
		os.Exit(1)
	}
}

func enter(bundle string, command int) error {
	text, err := os.ReadFile(filepath.Join(bundle, limitsFile))
	if err != nil {
		return err
	}
	var own limits
	if err := json.Unmarshal(text, &own); err != nil {
		return err
	}
	for _, procs := range own.Procs {
		if err := os.WriteFile(procs, []byte("0"), 0); err != nil {
			return err
		}
	}
	if os.Args[command] != "boot" {
		return nil
	}
	os.Args = guestLimits(os.Args, command, own)
	return keepGroupFiles(bundle, own)
}

// guestLimits puts the size of the machine that the guest shall see on the sentry's command line.
func guestLimits(args []string, command int, own limits) []string {
	var extra []string
	if own.CPUs > 0 {
		extra = append(extra, "--cpu-num", strconv.Itoa(own.CPUs))
	}
	// The second decides how large a memory file system may be that has no size: half of it.
	for _, name := range []string{"--total-memory", "--total-host-memory"} {
		if memory := slices.Index(args, name); memory >= 0 && own.MemoryBytes > 0 {
			args[memory+1] = strconv.FormatInt(own.MemoryBytes, 10)
		}
	}
	return slices.Insert(slices.Clone(args), command+1, extra...)
}
