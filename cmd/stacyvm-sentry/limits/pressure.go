package limits

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A sentry's guard acts long before its group is full. Should the guest be faster, on a machine
// that is busy, the kernel must not choose whom to kill: with version 1 the launcher forbids it
// that. What needs more memory then stands still, the sentry too, until the launcher has raised
// the limit for a moment, in which the guard ends the largest process. With version 2 memory.high
// slows the guest down in the same place, and nobody needs to raise anything.

const (
	// raises is how often the limit is raised, each time by a quarter of the guest's memory,
	// before the kernel may kill: one call of the guest's can write 2 GiB. spareShare is the part
	// of the machine's memory that must be free for that.
	raises     = 32
	raiseStep  = 64 << 20 // at least
	spareShare = 8
	// raiseTime is how long a raise may take to help.
	raiseTime = time.Second
	// pressureLook is the time between two looks at a group whose limit is raised, and lowerLook
	// the same once the kernel may kill.
	pressureLook = 5 * time.Millisecond
	lowerLook    = time.Second
	// nearlyFull is what the kernel keeps for each processor of what a full group has been
	// charged, and more than one call asks for.
	nearlyFull = 4 << 20
)

// Watch forbids the kernel to kill in a sandbox's group and lends it memory whenever it is full.
// It does nothing where the sandbox has no limit or the group is of version 2.
func (g *Groups) Watch(id string) error {
	own, err := g.read(id)
	if err != nil || !own.watchable() || own.Unified {
		return err
	}
	control, err := os.Open(filepath.Join(own.MemoryGroup, "memory.oom_control"))
	if err != nil {
		return err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	group := memoryGroup{dir: own.MemoryGroup, events: os.NewFile(uintptr(fd), "memory events")}
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	err = errors.Join(
		os.WriteFile(filepath.Join(own.MemoryGroup, "cgroup.event_control"), []byte(line), 0),
		group.letKill(false))
	if err != nil {
		group.events.Close()
		return fmt.Errorf("watch the memory group: %w", err)
	}
	go func() {
		defer group.events.Close()
		lend(group, id, own.MemoryBytes, g.Warn)
	}()
	return nil
}

// pressured is a group whose guest can fill it.
type pressured interface {
	// setLimit fails below what the group uses. up: it is more than before.
	setLimit(limit int64, up bool) error
	// full tells whether something in the group stands still for lack of memory.
	full() bool
	// letKill says whether the kernel may kill in the group when it is full.
	letKill(may bool) error
	// wait returns when the group has become full, or after the time, which is without end when it
	// is zero; false: it is gone.
	wait(time.Duration) bool
	// spare tells whether the machine has memory left to lend.
	spare() bool
}

// lend raises the limit of a group whenever it is full, until the group is gone. A limit that
// stays raised, because nothing was given back or because an earlier launcher died meanwhile, is
// lowered as soon as that is possible.
func lend(group pressured, id string, memory int64, warn func(string, ...any)) {
	for raised, hopeless := true, false; ; {
		patience := time.Duration(0)
		switch full := group.full(); { // it may have been before anybody watched
		case full && !hopeless:
			hopeless = !raise(group, id, memory, warn)
			raised = hopeless
		case !full && raised:
			raised = !lower(group, memory)
			hopeless = hopeless && raised
		}
		if raised {
			patience = lowerLook
		}
		if !group.wait(patience) {
			return
		}
	}
}

// raise gives the sentry the memory that its guard needs, and takes it back when the guard has
// made room. When that does not help, the kernel may kill. It reports whether the limit is as
// before.
func raise(group pressured, id string, memory int64, warn func(string, ...any)) bool {
	for n := int64(1); n <= raises; n++ {
		if !group.spare() {
			warn("the machine has no memory to lend to sandbox %s", id)
			break
		}
		limit := hardLimit(memory) + n*max(memory/4, raiseStep)
		warn("sandbox %s has filled its group: the limit is %d bytes for a moment", id, limit)
		if err := group.setLimit(limit, true); err != nil {
			warn("raise the limit of sandbox %s: %v", id, err)
			break
		}
		for deadline := time.Now().Add(raiseTime); time.Now().Before(deadline); {
			time.Sleep(pressureLook) // what stands still has to go on, and the guard has to see it
			if lower(group, memory) {
				return true
			}
			if group.full() {
				break
			}
		}
	}
	warn("sandbox %s stays full: the kernel may end it", id)
	_ = group.letKill(true)
	return false
}

// lower takes back what was lent, if the group uses less by now, and forbids the kernel to kill.
func lower(group pressured, memory int64) bool {
	return group.setLimit(hardLimit(memory), false) == nil && group.letKill(false) == nil
}

// memoryGroup is a memory group of version 1.
type memoryGroup struct {
	dir    string
	events *os.File
}

// full does not believe under_oom alone: it stays set until what stood still has had its turn.
func (m memoryGroup) full() bool {
	used, limit := m.number("memory.usage_in_bytes"), m.number("memory.limit_in_bytes")
	return counter(filepath.Join(m.dir, "memory.oom_control"), "under_oom") > 0 && used > limit-nearlyFull
}

func (m memoryGroup) number(name string) int64 {
	text, err := os.ReadFile(filepath.Join(m.dir, name))
	if err != nil {
		return 0
	}
	return number(text)
}

func (m memoryGroup) letKill(may bool) error {
	value := "1"
	if may {
		value = "0"
	}
	return os.WriteFile(filepath.Join(m.dir, "memory.oom_control"), []byte(value), 0)
}

func (m memoryGroup) wait(limit time.Duration) bool {
	deadline := time.Time{}
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	var count [8]byte
	if err := m.events.SetReadDeadline(deadline); err != nil {
		return false
	}
	if _, err := m.events.Read(count[:]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	_, err := os.Stat(m.dir) // the end of the group tells too
	return err == nil
}

func (m memoryGroup) spare() bool {
	free, total := counter("/proc/meminfo", "MemAvailable:"), counter("/proc/meminfo", "MemTotal:")
	return free > total/spareShare
}

// setLimit writes also the limit of memory with swap, which is never the lower of the two;
// machines without swap accounting lack it.
func (m memoryGroup) setLimit(limit int64, up bool) error {
	names := []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}
	if up {
		slices.Reverse(names)
	}
	for _, name := range names {
		err := os.WriteFile(filepath.Join(m.dir, name), []byte(strconv.FormatInt(limit, 10)), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// OOMKills is how many processes of a sandbox's group the kernel has ended for lack of memory.
func (g *Groups) OOMKills(id string) int64 {
	file := "memory.oom_control"
	if g.unified {
		file = "memory.events"
	}
	return counter(filepath.Join(g.path("memory", id), file), "oom_kill")
}

// counter reads one "name value" line of a file of the kernel's; 0 when it is not there.
func counter(path, name string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			if n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64); err == nil {
				return n
			}
		}
	}
	return 0
}
