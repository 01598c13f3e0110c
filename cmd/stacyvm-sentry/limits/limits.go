// Package limits keeps sandboxes within their limits by control groups: it makes and removes the
// groups, moves a sandbox's processes into them, and lends memory to a group that is full.
package limits

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
	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/process"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

const (
	// file is in a sandbox's directory: its Limits.
	file = "limits.json"
	// Overhead is what sentry and gofer themselves need, on top of what the guest may use.
	Overhead = 64 << 20
	// minReserve is the least that lies between the guard's limit and the kernel's. It is more
	// than most calls can fill: in a full group the kernel refuses memory to calls of the sentry's
	// at once, and process 1 can be ended by that.
	minReserve = 512 << 20
	period     = 100_000 // microseconds, of the CPU quota
	// minTasks and tasksPerPid turn a limit of guest processes into one of host tasks: the group
	// counts the sentry's threads, and every guest process takes some. A sandbox that reaches it
	// dies; that is for fork bombs.
	minTasks    = 2048
	tasksPerPid = 4
)

// Groups makes control groups for sandboxes, below those that were delegated to this process and
// nowhere else. With version 2 each sandbox has one directory, with version 1 one in every
// controller's hierarchy.
type Groups struct {
	// Warn writes to the log.
	Warn func(format string, values ...any)

	delegated   cgroup.Delegated
	unified     bool
	homes       string // holds a directory for each sandbox, in which file says with which groups it was made
	prefix      string // of directory names, different for every engine directory
	controllers []string
	marks       marks
}

// Limits is what a sandbox's own processes read when they start.
type Limits struct {
	Procs       []string `json:"procs,omitempty"` // files to enter the groups by
	MemoryBytes int64    `json:"memory_bytes,omitempty"`
	MemoryGroup string   `json:"memory_group,omitempty"` // directory
	Unified     bool     `json:"unified,omitempty"`
	CPUs        int      `json:"cpus,omitempty"`
	Pids        int64    `json:"pids,omitempty"`
	// Wake is the launcher's descriptor, which the sentry inherits, of an event that comes when the
	// memory group's use passes the first mark; 0: there is none.
	Wake int `json:"wake,omitempty"`
}

// Find enters groups that this process may divide and finds out, by trying, which controllers can
// be used there. dir is the engine's directory, homes the one with those of the sandboxes.
func Find(dir, homes string, warn func(string, ...any)) (*Groups, error) {
	sum := sha256.Sum256([]byte(dir))
	name := "stacyvm-" + hex.EncodeToString(sum[:4])
	delegated, err := cgroup.Enter(name+".scope", "stacyvm sandboxes in "+dir)
	if err != nil {
		return nil, err
	}
	g := &Groups{Warn: warn, delegated: delegated, unified: delegated.Unified, homes: homes, prefix: name + "-"}
	for _, controller := range cgroup.Controllers {
		if delegated.Dirs[controller] != "" && g.usable(controller) {
			g.controllers = append(g.controllers, controller)
		}
	}
	return g, nil
}

// usable makes and removes a group of one controller.
func (g *Groups) usable(controller string) bool {
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
func (g *Groups) files(controller string) []string {
	names := map[string][]string{
		"memory": {"memory.limit_in_bytes"},
		"cpu":    {"cpu.cfs_period_us", "cpu.cfs_quota_us"},
		"pids":   {"pids.max"},
	}
	if g.unified {
		names = map[string][]string{"memory": {"memory.max"}, "cpu": {"cpu.max"}, "pids": {"pids.max"}}
	}
	return names[controller]
}

func (g *Groups) home(id string) string { return filepath.Join(g.homes, id) }

func (g *Groups) path(controller, id string) string {
	return filepath.Join(g.delegated.Dirs[controller], g.prefix+id)
}

// Enforced names the limits that this machine can hold.
func (g *Groups) Enforced() []string { return slices.Clone(g.controllers) }

// Unenforced names the limits that were asked for and that this machine cannot hold.
func (g *Groups) Unenforced(request *wire.Create) []string {
	asked := map[string]bool{"memory": request.MemoryBytes > 0, "cpu": request.CPUs > 0, "pids": request.Pids > 0}
	var missing []string
	for _, name := range []string{"memory", "cpu", "pids"} {
		if asked[name] && !slices.Contains(g.controllers, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

// Make makes a sandbox's groups, writes its limits into them, and into its directory what its own
// processes read of them.
func (g *Groups) Make(id string, request *wire.Create) error {
	made, err := g.make(id, request)
	if err != nil {
		return err
	}
	go g.delegated.PrepareMoves() // before the sandbox's processes come: see Enter
	if made.watchable() && !made.Unified {
		if made.Wake, err = g.marks.add(id, made); err != nil {
			return err
		}
	}
	text, err := json.Marshal(made)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(g.home(id), file), text, 0o600)
}

func (g *Groups) make(id string, request *wire.Create) (Limits, error) {
	made := Limits{MemoryBytes: request.MemoryBytes, Unified: g.unified, Pids: request.Pids}
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

// watchable tells whether there is a memory limit to watch, and a group to watch it by.
func (l Limits) watchable() bool { return l.MemoryBytes > 0 && l.MemoryGroup != "" }

func (g *Groups) values(controller string, request *wire.Create) map[string]string {
	files := g.files(controller)
	switch {
	case controller == "memory" && request.MemoryBytes > 0:
		values := map[string]string{files[0]: strconv.FormatInt(hardLimit(request.MemoryBytes), 10)}
		if g.unified {
			values["memory.high"] = strconv.FormatInt(request.MemoryBytes+Overhead, 10)
		}
		return values
	case controller == "cpu" && request.CPUs > 0 && g.unified:
		return map[string]string{files[0]: fmt.Sprintf("%d %d", int64(request.CPUs*period), period)}
	case controller == "cpu" && request.CPUs > 0:
		return map[string]string{
			files[0]: strconv.Itoa(period),
			files[1]: strconv.FormatInt(int64(request.CPUs*period), 10),
		}
	case controller == "pids":
		return map[string]string{files[0]: strconv.FormatInt(minTasks+tasksPerPid*request.Pids, 10)}
	}
	return nil
}

// hardLimit is where the kernel stops a sandbox. The sentry's own guard ends a process long
// before, at memory and Overhead; what is between them is what a guest can fill until the guard
// has acted.
func hardLimit(memory int64) int64 { return memory + Overhead + max(memory/2, minReserve) }

// read gives a sandbox's limits.
func (g *Groups) read(id string) (own Limits, err error) {
	text, err := os.ReadFile(filepath.Join(g.home(id), file))
	if err != nil {
		return own, err
	}
	err = json.Unmarshal(text, &own)
	return own, err
}

// forbidSwap keeps a sandbox from going round its memory limit. Machines without swap accounting
// lack the file.
func (g *Groups) forbidSwap(id string, memory int64) {
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

// Remove takes a sandbox's groups away. The kernel may need a moment after the last process's end;
// a process that is still in a group belongs to the sandbox and is killed.
func (g *Groups) Remove(id string) error {
	_ = g.marks.finish(id) // the group goes
	deadline := time.Now().Add(process.KillTime)
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

// dirs gives the directories of a sandbox's groups: those that it was made with, which are others
// where an earlier launcher was started in another group, and those that a launcher here would
// make.
func (g *Groups) dirs(id string) []string {
	var dirs []string
	var made Limits
	if text, err := os.ReadFile(filepath.Join(g.home(id), file)); err == nil && json.Unmarshal(text, &made) == nil {
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

// List names the sandboxes that have a group.
func (g *Groups) List() []string {
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
