package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
)

// A sentry's guard acts long before its group is full. Should the guest be faster, on a machine that is busy, the kernel
// must not choose whom to kill: with version 1 the launcher forbids it that. What needs more memory then stands still, the
// sentry too, until the launcher has raised the limit for a moment, in which the guard ends the largest process. With
// version 2 memory.high slows the guest down in the same place, and nobody needs to raise anything.

const (
	// raises is how often the limit is raised, each time by a quarter of the guest's memory, before the kernel may kill: one
	// call of the guest's can write 2 GiB. spareShare is the part of the machine's memory that must be free for that.
	raises     = 32
	raiseStep  = 64 << 20 // at least
	spareShare = 8
	// raiseTime is how long a raise may take to help.
	raiseTime = time.Second
	// pressureLook is the time between two looks at a group whose limit is raised.
	pressureLook = 5 * time.Millisecond
)

// watchPressure forbids the kernel to kill in a sandbox's group and has the group tell when it is full. It does nothing where
// the sandbox has no limit or the group is of version 2.
func watchPressure(id string) error {
	own, err := readLimits(id)
	if err != nil || own.MemoryBytes <= 0 || own.MemoryGroup == "" || own.Unified {
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
	events := os.NewFile(uintptr(fd), "memory events")
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	err = errors.Join(
		os.WriteFile(filepath.Join(own.MemoryGroup, "cgroup.event_control"), []byte(line), 0),
		os.WriteFile(filepath.Join(own.MemoryGroup, "memory.oom_control"), []byte("1"), 0))
	if err != nil {
		events.Close()
		return fmt.Errorf("watch the memory group: %w", err)
	}
	go func() {
		defer events.Close()
		var counter [8]byte
		for full(own.MemoryGroup) || read(events, counter[:]) { // it may have been full before anybody watched
			if _, err := os.Stat(own.MemoryGroup); err != nil {
				return // the end of the group tells too
			}
			raise(id, own)
		}
	}()
	return nil
}

func read(events *os.File, counter []byte) bool {
	_, err := events.Read(counter)
	return err == nil
}

// full tells whether something in the group stands still for lack of memory.
func full(dir string) bool {
	return readCounter(filepath.Join(dir, "memory.oom_control"), "under_oom") > 0
}

// raise gives the sentry the memory that its guard needs, and takes it back when the guard has made room. When that does
// not help, the kernel may kill.
func raise(id string, own limits) {
	limit := hardLimit(own.MemoryBytes)
	for n := int64(1); n <= raises; n++ {
		if !spare() {
			log.Warningf("the machine has no memory to lend to sandbox %s", id)
			break
		}
		raised := limit + n*max(own.MemoryBytes/4, raiseStep)
		log.Warningf("sandbox %s has filled its group: the limit is %d bytes for a moment", id, raised)
		if err := setLimit(own.MemoryGroup, raised, true); err != nil {
			log.Warningf("raise the limit of sandbox %s: %v", id, err)
			break
		}
		for deadline := time.Now().Add(raiseTime); time.Now().Before(deadline); time.Sleep(pressureLook) {
			if setLimit(own.MemoryGroup, limit, false) == nil {
				return // the kernel refuses to go below the use
			}
			if full(own.MemoryGroup) {
				break
			}
		}
	}
	log.Warningf("sandbox %s stays full: the kernel may end it", id)
	_ = os.WriteFile(filepath.Join(own.MemoryGroup, "memory.oom_control"), []byte("0"), 0)
	_ = setLimit(own.MemoryGroup, limit, false)
}

// spare tells whether the machine has memory left to lend.
func spare() bool {
	free, total := readCounter("/proc/meminfo", "MemAvailable:"), readCounter("/proc/meminfo", "MemTotal:")
	return free > total/spareShare
}

// setLimit writes a group's limit. That of memory with swap is never the lower of the two; machines without swap accounting
// lack it.
func setLimit(dir string, limit int64, up bool) error {
	names := []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}
	if up {
		slices.Reverse(names)
	}
	for _, name := range names {
		err := os.WriteFile(filepath.Join(dir, name), []byte(strconv.FormatInt(limit, 10)), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
