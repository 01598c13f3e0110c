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
	// freezeTime bounds the search for a command's processes before the first of them is killed,
	// and killTime the killing: a program that forks as fast as it can is not waited for longer.
	freezeTime = 2 * time.Second
	killTime   = 5 * time.Second
	// settleTime is how long signalled processes may take to stop before the others are looked
	// for.
	settleTime = 50 * time.Millisecond
	// settlePause is the time between the first two looks at a process that was signalled. Each
	// one after that takes twice as long, up to mostPause: whoever waits for many must not take
	// the processors that they need to end.
	settlePause = 200 * time.Microsecond
	mostPause   = 20 * time.Millisecond
	// crowd is how many processes take so much of the processors that a search takes too long
	// beside them.
	crowd = 32
)

// marked is the clone flag that gives each command a UTS namespace of its own. All descendants of
// the command inherit the namespace, whatever they do to their parents, groups, sessions,
// descriptors and environment, and /proc shows it. Nobody in a sandbox may change a host name
// anyhow.
const marked = unix.CLONE_NEWUTS

// mark gives the UTS namespace of a process; "" when the process has ended.
func mark(pid string) string {
	name, _ := os.Readlink(filepath.Join("/proc", pid, "ns", "uts"))
	return name
}

// ownMark gives this program's own UTS namespace; "" when it may not make others, and descendants
// are found by their parents alone.
func ownMark() string {
	var set [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &set[0]); err != nil || set[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return ""
	}
	return mark("self")
}

// descendants are commands and the processes that they started, directly or not.
type descendants struct {
	own    string // the agent's mark: it tells nothing
	freeze freezer
	ever   map[int]bool      // numbers of all that were found
	marks  map[string]bool   // their marks
	living map[int]procStat  // as found at the last look
	frozen map[int]startTime // the ones that were stopped
}

// startTime tells two processes with the same number apart.
type startTime = uint64

func newDescendants(own string, freeze freezer) *descendants {
	return &descendants{
		own:    own,
		freeze: freeze,
		ever:   map[int]bool{},
		marks:  map[string]bool{},
		living: map[int]procStat{},
		frozen: map[int]startTime{},
	}
}

// add adds a command that was not collected yet.
func (d *descendants) add(leader int) {
	if stat, ok := readStat(leader); ok {
		d.living[leader] = stat
	}
	d.note(leader)
}

// addGroup adds the group and the session that a command has left.
func (d *descendants) addGroup(number int) { d.ever[number] = true }

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

// related tells whether a process descends from one that is known: its parent or its mark says so,
// or it is in a group or a session that one of them made.
func (d *descendants) related(pid int, stat procStat) bool {
	if _, ok := d.living[stat.parent]; ok || d.ever[stat.group] || d.ever[stat.session] {
		return true
	}
	return len(d.marks) > 0 && d.marks[mark(strconv.Itoa(pid))]
}

// kill ends all of them.
func (d *descendants) kill() {
	began := time.Now()
	whole := len(processes()) <= crowd && d.stop(began) || d.killFrozen(began)
	for len(d.living) > 0 && time.Since(began) < killTime {
		for pid := range d.living {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		ended := d.await(began.Add(killTime), func(procStat) bool { return false })
		if whole && ended {
			return
		}
		d.look()
	}
}

// killFrozen ends all of them while no process of the sandbox runs: a program that forks as fast
// as it can takes the processors from whoever searches for its processes. It reports whether it
// found them all.
func (d *descendants) killFrozen(began time.Time) bool {
	thaw, ok := d.freeze.freeze()
	if !ok {
		return d.stop(began)
	}
	defer thaw()
	d.look()
	for pid := range d.living {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	return true
}

// stop stops all of them, so that none starts another one, and none loses its parent, while the
// others are searched for. It reports whether there is no other. That takes two looks: when the
// numbers of processes begin anew, one that does not stand still yet can have a child behind the
// first look's back, and end before that comes to it.
func (d *descendants) stop(began time.Time) bool {
	quiet := 0
	for fresh := d.living; quiet < 2 && time.Since(began) < freezeTime; {
		for pid, stat := range fresh {
			d.frozen[pid] = stat.start
			_ = unix.Kill(pid, unix.SIGSTOP)
		}
		stopped := d.await(time.Now().Add(settleTime), procStat.stopped)
		d.look()
		fresh = maps.Clone(d.living)
		maps.DeleteFunc(fresh, func(pid int, stat procStat) bool {
			at, ok := d.frozen[pid]
			return ok && at == stat.start
		})
		if quiet++; !stopped || len(fresh) > 0 {
			quiet = 0
		}
	}
	return quiet == 2
}

// await waits until each of the living has ended or is in a state; false: not all are in time.
func (d *descendants) await(deadline time.Time, is func(procStat) bool) bool {
	for pid, stat := range d.living {
		for pause := settlePause; ; pause = min(2*pause, mostPause) {
			now, ok := readStat(pid)
			if !ok || !now.alive() || now.start != stat.start || is(now) {
				break
			}
			if time.Now().After(deadline) {
				return false
			}
			time.Sleep(pause)
		}
	}
	return true
}
