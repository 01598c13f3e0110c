package limits

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// LowDescriptors is the number below which the launcher itself opens nothing, so that a sandbox's
// process can tell what it was meant to inherit.
const LowDescriptors = 512

// Descriptors that a sentry opens while it still sees the host's files and keeps when gVisor
// re-executes it without them. They are below LowDescriptors, so that they are not taken for
// strangers, and above all that gVisor opens.
const (
	limitsDescriptor = LowDescriptors - 1 - iota
	usageDescriptor
	statDescriptor
	wakeDescriptor
	// FreeDescriptor is for what else a sentry has to inherit.
	FreeDescriptor
)

// GroupFiles is what a sentry reads of its own memory group. It may write to none of them.
type GroupFiles struct {
	usage, stat, wake int  // -1: not there
	told              bool // the group has told once, or does so for sure
}

// keepGroupFiles opens them for the sentry. Version 1 tells by an event descriptor, the launcher's,
// when the use passes the first mark, version 2 by a change of memory.events when it passes
// memory.high.
func keepGroupFiles(bundle string, own Limits) error {
	if err := keep(filepath.Join(bundle, file), limitsDescriptor); err != nil {
		return err
	}
	if !own.watchable() {
		return nil
	}
	usage := "memory.usage_in_bytes"
	if own.Unified {
		usage = "memory.current"
	}
	if err := keep(filepath.Join(own.MemoryGroup, usage), usageDescriptor); err != nil {
		return err
	}
	if err := keep(filepath.Join(own.MemoryGroup, "memory.stat"), statDescriptor); err != nil {
		return err
	}
	if own.Unified {
		return keepNotifier(filepath.Join(own.MemoryGroup, "memory.events"))
	}
	return unix.Dup3(own.Wake, wakeDescriptor, 0)
}

// keep opens a file under a number, for this process and its successors.
func keep(path string, number int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	return unix.Dup3(fd, number, 0)
}

func keepNotifier(path string) error {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		return err
	}
	return unix.Dup3(fd, wakeDescriptor, 0)
}

// firstMark is the use below which nobody looks.
func firstMark(memory int64) int64 { return memory / 2 }

// Inherited finds what keepGroupFiles left, in the sentry. An error: an earlier build made it, and
// there is nothing to watch.
func Inherited() (own Limits, files GroupFiles, err error) {
	text := make([]byte, 64<<10)
	n, err := unix.Pread(limitsDescriptor, text, 0)
	if err == nil {
		err = json.Unmarshal(text[:n], &own)
	}
	if err != nil {
		return own, files, err
	}
	inherited := func(number int) int {
		if _, err := unix.FcntlInt(uintptr(number), unix.F_GETFD, 0); err != nil {
			return -1
		}
		return number
	}
	return own, GroupFiles{
		usage: inherited(usageDescriptor),
		stat:  inherited(statDescriptor),
		wake:  inherited(wakeDescriptor),
		told:  own.Unified,
	}, nil
}

// Beyond is how many bytes the group uses beyond limit without files that the kernel can forget,
// negative when it uses less.
func (f GroupFiles) Beyond(limit int64) int64 {
	used := f.used()
	if used <= limit || f.stat < 0 {
		return used - limit
	}
	var text [8 << 10]byte
	n, err := unix.Pread(f.stat, text[:], 0)
	if err != nil {
		return used - limit
	}
	for line := range bytes.Lines(text[:n]) {
		for _, name := range []string{"inactive_file ", "active_file "} {
			if value, ok := bytes.CutPrefix(line, []byte(name)); ok {
				used -= number(value)
			}
		}
	}
	return used - limit
}

// used is the group's use; 0 where it cannot be read.
func (f GroupFiles) used() int64 {
	if f.usage < 0 {
		return 0
	}
	var text [32]byte
	n, err := unix.Pread(f.usage, text[:], 0)
	if err != nil {
		return 0
	}
	return number(text[:n])
}

// Grown tells whether the use is beyond the first mark, where one has to look again, also without
// a word from the group.
func (f GroupFiles) Grown(memory int64) bool {
	return f.usage < 0 || f.wake < 0 || f.used() >= firstMark(memory)
}

// Wait returns after the time, without end when it is negative, or when the group tells that the
// use has changed much. As long as it is not known that the group will tell, the wait is never
// longer than untoldLook.
func (f *GroupFiles) Wait(limit time.Duration) {
	limit = f.bound(limit)
	if f.wake < 0 {
		time.Sleep(max(limit, time.Millisecond))
		return
	}
	timeout := (*unix.Timespec)(nil)
	if limit >= 0 {
		t := unix.NsecToTimespec(int64(limit))
		timeout = &t
	}
	_, _ = unix.Ppoll([]unix.PollFd{{Fd: int32(f.wake), Events: unix.POLLIN}}, timeout, nil)
	var events [4 << 10]byte
	n, err := unix.Read(f.wake, events[:]) // takes them, so that the next wait waits
	f.told = f.told || err == nil && n > 0
}

// untoldLook is the time between two looks at a group that has never told of its use: its launcher
// may have died before it set the mark.
const untoldLook = time.Second

// bound is how long a wait lasts at most; negative: without end.
func (f *GroupFiles) bound(limit time.Duration) time.Duration {
	if limit < 0 && !f.told {
		return untoldLook
	}
	return limit
}

func number(text []byte) int64 {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
