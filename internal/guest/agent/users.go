package agent

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	// largestUsers bounds what is read of /etc/passwd and /etc/group: they are the guest's, and it
	// may have made anything of them.
	largestUsers = 1 << 20
	mostGroups   = 1024
)

// user is whom a process runs as.
type user struct {
	name     string
	home     string
	uid, gid uint32
	groups   []uint32
}

var root = user{name: "root", home: "/root"}

// imageUser completes what an image says of its user: container runtimes take ":group" for root's
// and "name:" for the name.
func imageUser(text string) string {
	name, group, _ := strings.Cut(text, ":")
	if name == "" {
		name = root.name
	}
	if group == "" {
		return name
	}
	return name + ":" + group
}

// lookupUser finds a user by name or uid, alone or with a group's name or gid; an empty text is
// the image's user. A uid without an entry is its own group and lives in /. With a group the user
// is in no other.
func (a *Agent) lookupUser(text string) (user, error) {
	if text == "" {
		text = a.user
	}
	name, group, hasGroup := strings.Cut(text, ":")
	u, err := a.account(name)
	if err != nil {
		return user{}, err
	}
	switch {
	case hasGroup:
		u.gid, err = a.groupID(group)
	case u.name != root.name:
		u.groups = a.findGroups(u)
	}
	return u, err
}

// account finds a user by name or uid. root is known without a table.
func (a *Agent) account(name string) (user, error) {
	if name == root.name || name == "0" {
		return root, nil
	}
	if u, found := a.findUser(name); found {
		return u, nil
	}
	id, err := parseID(name)
	if err != nil {
		return user{}, fmt.Errorf("no user %q in the sandbox", name)
	}
	return user{name: name, home: "/", uid: id, gid: id}, nil
}

// groupID finds a group by name, or takes its number.
func (a *Agent) groupID(group string) (id uint32, err error) {
	found := false
	a.readTable("/etc/group", func(fields []string) bool {
		if len(fields) > 2 && fields[0] == group && group != "" {
			id, err = parseID(fields[2])
			found = err == nil
		}
		return !found
	})
	if found {
		return id, nil
	}
	if id, err = parseID(group); err != nil {
		return 0, fmt.Errorf("no group %q in the sandbox", group)
	}
	return id, nil
}

// parseID refuses the number that means "unchanged" to the kernel.
func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err == nil && id == math.MaxUint32 {
		err = strconv.ErrRange
	}
	return uint32(id), err
}

// findUser searches /etc/passwd by name and, for a number, by uid.
func (a *Agent) findUser(name string) (found user, ok bool) {
	a.readTable("/etc/passwd", func(fields []string) bool {
		if len(fields) < 6 || fields[0] != name && fields[2] != name {
			return true
		}
		uid, err := parseID(fields[2])
		gid, errGroup := parseID(fields[3])
		if err != nil || errGroup != nil {
			return true
		}
		found, ok = user{name: fields[0], home: fields[5], uid: uid, gid: gid}, true
		return fields[0] != name // a later entry with that name is better than one with that number
	})
	return found, ok
}

// findGroups gives the supplementary groups of /etc/group.
func (a *Agent) findGroups(u user) []uint32 {
	var groups []uint32
	a.readTable("/etc/group", func(fields []string) bool {
		if len(fields) < 4 || !slices.Contains(strings.Split(fields[3], ","), u.name) {
			return true
		}
		if gid, err := parseID(fields[2]); err == nil && gid != u.gid {
			groups = append(groups, gid)
		}
		return len(groups) < mostGroups
	})
	return groups
}

// readTable gives the lines of a colon-separated file to each until it has enough. A file that is
// missing, not a file or too long ends early.
func (a *Agent) readTable(name string, each func(fields []string) bool) {
	file, err := os.OpenFile(a.path(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return
	}
	for lines := bufio.NewScanner(io.LimitReader(file, largestUsers)); lines.Scan(); {
		if !each(strings.Split(lines.Text(), ":")) {
			return
		}
	}
}

// credential is nil for a user that the agent is already.
func (u user) credential() *syscall.Credential {
	if u.uid == uint32(os.Geteuid()) && u.gid == uint32(os.Getegid()) && len(u.groups) == 0 ||
		u.name == root.name && os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: u.uid, Gid: u.gid, Groups: u.groups}
}
