// Package cgroup finds the control groups that this process may write below. With systemd it asks
// for a scope of its own, which outlives the service that started the process; without, it is the
// group that the process was started in.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// leaf is the group, with version 2, of the processes that are in no group of a sandbox: a group
// with processes of its own cannot pass controllers on.
const leaf = "launcher"

// Controllers are the ones that hold a sandbox's limits.
var Controllers = []string{"memory", "cpu", "pids"}

// Delegated is the group that this process may divide.
type Delegated struct {
	// Unified tells that it is of version 2: then all controllers have one directory.
	Unified bool
	// Dirs is the group's directory for each controller that the machine has.
	Dirs map[string]string
	// Own is the group that this process is in, in one hierarchy; "": it cannot be seen.
	Own string
}

// PrepareMoves makes moves of processes into groups fast for a moment. The kernel lets the first
// move wait for a grace period, some 10 ms, and others that come soon after it not: here this
// process moves to where it is.
func (d Delegated) PrepareMoves() {
	if d.Own != "" {
		_ = enter(d.Own, 0) // later moves would wait themselves
	}
}

// Enter makes sure that this process is in groups that it may divide, and gives them. name is that
// of the scope to ask systemd for.
func Enter(name, description string) (Delegated, error) {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		if err := enterScope(name, description); err != nil {
			return Delegated{}, fmt.Errorf("systemd gives no scope %s: %w", name, err)
		}
	}
	own, err := find()
	if err != nil || !own.Unified {
		return own, err
	}
	if err := own.divide(); err != nil {
		return own, err
	}
	return find() // it may be in the leaf now
}

func find() (Delegated, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return Delegated{}, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Delegated{}, err
	}
	return parse(string(groups), string(mounts)), nil
}

// parse reads /proc/self/cgroup and /proc/self/mountinfo. A controller whose hierarchy is not
// mounted is left out.
func parse(groups, mounts string) Delegated {
	own := Delegated{Unified: true, Dirs: map[string]string{}}
	unified := ""
	for line := range strings.Lines(groups) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if fields[0] == "0" && fields[1] == "" {
			unified = fields[2]
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			if !slices.Contains(Controllers, controller) {
				continue
			}
			own.Unified = false
			if dir, exact := directory(mounts, controller, fields[2]); dir != "" {
				own.Dirs[controller] = dir
				if exact {
					own.Own = dir
				}
			}
		}
	}
	if !own.Unified {
		return own
	}
	if dir, exact := directory(mounts, "", unified); dir != "" {
		if exact {
			own.Own = dir
		}
		if filepath.Base(dir) == leaf {
			dir = filepath.Dir(dir)
		}
		for _, controller := range Controllers {
			own.Dirs[controller] = dir
		}
	}
	return own
}

// directory gives where the group at path is to be seen in the hierarchy of the controller; with
// "" in that of version 2. Inside a container the mount may show a part of the hierarchy only; a
// group outside of that part is represented by its top, which is not exactly that group.
func directory(mounts, controller, path string) (dir string, exact bool) {
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			if controller != "" {
				continue
			}
		case "cgroup":
			if controller == "" || !slices.Contains(strings.Split(kind[2], ","), controller) {
				continue
			}
		default:
			continue
		}
		root, point := strings.TrimSuffix(fields[3], "/"), fields[4]
		if below, ok := strings.CutPrefix(path, root); ok && !strings.HasPrefix(below, "/..") {
			return filepath.Join(point, below), true
		}
		return point, false
	}
	return "", false
}

// divide makes it possible to make groups with limits below a group of version 2: its processes
// move into a leaf, and its controllers are passed on. A controller that cannot be passed on is
// found missing by whoever uses it.
func (d Delegated) divide() error {
	dir := d.Dirs[Controllers[0]]
	if dir == "" {
		return nil
	}
	// the hierarchy's root has none, and may have processes
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); err == nil {
		if err := os.Mkdir(filepath.Join(dir, leaf), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := moveAll(dir, filepath.Join(dir, leaf)); err != nil {
			return err
		}
	}
	for _, controller := range Controllers {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
	}
	return nil
}

// moveAll moves this process, and then whatever else is in the group: in a container without
// systemd that is also the server.
func moveAll(from, to string) error {
	if err := enter(to, os.Getpid()); err != nil {
		return err
	}
	for range 10 { // others may start processes meanwhile
		members, err := os.ReadFile(filepath.Join(from, "cgroup.procs"))
		if err != nil || len(members) == 0 {
			return err
		}
		for word := range strings.FieldsSeq(string(members)) {
			pid, err := strconv.Atoi(word)
			if err != nil || pid == 0 { // 0 is outside of this process namespace
				continue
			}
			if err := enter(to, pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}

func enter(dir string, pid int) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}
