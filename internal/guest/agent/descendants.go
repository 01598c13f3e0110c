package agent

import (
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// freezeTime bounds the search for a command's processes before the first of them is killed, and killTime the killing: a program
	// that forks as fast as it can is not waited for longer.
	freezeTime = 2 * time.Second
	killTime   = 5 * time.Second
	// killPause lets killed processes end before the next look.
	killPause = time.Millisecond
)

// marked is the clone flag that gives each command a UTS namespace of its own. All descendants of the command inherit the namespace,
// whatever they do to their parents, groups, sessions, descriptors and environment, and /proc shows it. Nobody in a sandbox may
// change a host name anyhow.
const marked = unix.CLONE_NEWUTS

// mark gives the UTS namespace of a process; "" when the process has ended.
func mark(pid string) string {
	name, _ := os.Readlink(filepath.Join("/proc", pid, "ns", "uts"))
	return name
}

// ownMark gives this program's own UTS namespace; "" when it may not make others, and descendants are found by their parents alone.
func ownMark() string {
	var set [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &set[0]); err != nil || set[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return ""
	}
	return mark("self")
}

// descendants are a command and the processes that it started, directly or not.
type descendants struct {
	own    string            // the agent's mark: it tells nothing
	ever   map[int]bool      // numbers of all that were found
	marks  map[string]bool   // their marks
	living map[int]procStat  // as found at the last look
	frozen map[int]startTime // the ones that were stopped
}

// startTime tells two processes with the same number apart.
type startTime = uint64

// newDescendants begins with a process that was not collected yet, or with the group and the session that one has left.
func newDescendants(leader int, gone bool, own string) *descendants {
	d := &descendants{
		own: own, ever: map[int]bool{leader: true}, marks: map[string]bool{}, living: map[int]procStat{}, frozen: map[int]startTime{},
	}
	if stat, ok := readStat(leader); ok && !gone {
		d.living[leader] = stat
		d.note(leader)
	}
	return d
}

func (d *descendants) note(pid int) {
	d.ever[pid] = true
	if d.own == "" {
		return
	}
	if m := mark(strconv.Itoa(pid)); m != "" && m != d.own {
		d.marks[m] = true
	}
}

// look finds the descendants that live now.
func (d *descendants) look() {
	all := map[int]procStat{}
	for _, pid := range processes() {
		if stat, ok := readStat(pid); ok && stat.alive() && pid != os.Getpid() {
			all[pid] = stat
		}
	}
	before := d.living
	d.living = map[int]procStat{}
	take := func(pid int) {
		d.living[pid] = all[pid]
		delete(all, pid)
		d.note(pid)
	}
	for pid, stat := range all {
		if was, ok := before[pid]; ok && was.start == stat.start {
			take(pid)
		}
	}
	for grown := true; grown; {
		grown = false
		for pid, stat := range all {
			if d.related(pid, stat) {
				take(pid)
				grown = true
			}
		}
	}
}

// related tells whether a process descends from one that is known: its parent or its mark says so, or it is in a group or session
// that one of them made.
func (d *descendants) related(pid int, stat procStat) bool {
	if _, ok := d.living[stat.parent]; ok || d.ever[stat.group] || d.ever[stat.session] {
		return true
	}
	return len(d.marks) > 0 && d.marks[mark(strconv.Itoa(pid))]
}

// kill ends all of them. It stops them first, so that none starts another one, and none loses its parent, while the others are
// searched for.
func (d *descendants) kill() {
	began := time.Now()
	for time.Since(began) < freezeTime {
		d.look()
		fresh := maps.Clone(d.living)
		maps.DeleteFunc(fresh, func(pid int, stat procStat) bool {
			at, ok := d.frozen[pid]
			return ok && at == stat.start
		})
		if len(fresh) == 0 {
			break
		}
		for pid, stat := range fresh {
			d.frozen[pid] = stat.start
			_ = unix.Kill(pid, unix.SIGSTOP)
		}
	}
	for len(d.living) > 0 && time.Since(began) < killTime {
		for pid := range d.living {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(killPause)
		d.look()
	}
}
