package agent

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// openTerminal makes a terminal of the given size, owned by uid. The program gets slave.
func openTerminal(size *guestv1.Terminal, uid uint32) (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "terminal")
	slave, err = openSlave(fd, uid)
	if err == nil {
		err = resize(master, size)
	}
	if err != nil {
		master.Close()
		if slave != nil {
			slave.Close()
		}
		return nil, nil, err
	}
	return master, slave, nil
}

func openSlave(master int, uid uint32) (*os.File, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("find the terminal: %w", err)
	}
	name := "/dev/pts/" + strconv.Itoa(number)
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the terminal: %w", err)
	}
	if uid != uint32(os.Geteuid()) {
		_ = unix.Fchown(fd, int(uid), -1) // so that the program can open it again by its name
	}
	return os.NewFile(uintptr(fd), name), nil
}

// resize sets the window's size; nothing is 24 by 80.
func resize(master *os.File, size *guestv1.Terminal) error {
	window := unix.Winsize{Row: 24, Col: 80}
	if size.GetRows() > 0 {
		window.Row = uint16(min(size.GetRows(), math.MaxUint16))
	}
	if size.GetCols() > 0 {
		window.Col = uint16(min(size.GetCols(), math.MaxUint16))
	}
	return control(master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &window) })
}

func control(file *os.File, act func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = act(int(fd)) }); err != nil {
		return err
	}
	return result
}

// foregroundGroup gives the terminal's foreground process group when it is not the process's own;
// otherwise 0. A shell gives each of its jobs a group.
func (p *process) foregroundGroup() int {
	foreground := 0
	_ = control(p.terminal, func(fd int) (err error) {
		foreground, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		return err
	})
	if foreground <= 1 || foreground == p.pid {
		return 0
	}
	return foreground
}

// processes gives the numbers of all processes that /proc shows.
func processes() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// procStat is what we use of /proc/pid/stat.
type procStat struct {
	state                  byte
	parent, group, session int
	ticks                  uint64    // of processor time, with that of its collected children
	start                  startTime // in ticks since the machine's start
}

// alive tells whether the process is more than its status.
func (s procStat) alive() bool { return s.state != 'Z' && s.state != 'X' }

// stopped tells whether the process runs no further.
func (s procStat) stopped() bool { return s.state == 'T' }

func readStat(pid int) (procStat, bool) {
	text, err := readBounded(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, rest, found := cutLast(text, ") ") // the program's name may hold anything
	fields := strings.Fields(rest)
	if err != nil || !found || len(fields) < 20 {
		return procStat{}, false
	}
	stat := procStat{state: fields[0][0]}
	stat.parent, _ = strconv.Atoi(fields[1])
	stat.group, _ = strconv.Atoi(fields[2])
	stat.session, _ = strconv.Atoi(fields[3])
	stat.start, _ = strconv.ParseUint(fields[19], 10, 64)
	for _, field := range fields[11:15] {
		ticks, _ := strconv.ParseUint(field, 10, 64)
		stat.ticks += ticks
	}
	return stat, true
}

func cutLast(text, sep string) (before, after string, found bool) {
	at := strings.LastIndex(text, sep)
	if at < 0 {
		return text, "", false
	}
	return text[:at], text[at+len(sep):], true
}
