// Package process finds and ends the processes of sandboxes on this machine.
//
// A sandbox has two that matter, sentry and gofer. Each is the first of a process namespace, so
// that the kernel ends all others with it. They are known by the bundle directory on their command
// line: a number alone can have passed to a stranger.
package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// KillTime is how long a killed process may take to be gone.
const KillTime = 10 * time.Second

// bundleOf gives the bundle directory on the command line of a sentry or gofer, "" for any other
// process and for one that has ended.
func bundleOf(pid int) string {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return ""
	}
	words := strings.Split(string(line), "\x00")
	if !strings.HasPrefix(words[0], "runsc-") {
		return ""
	}
	return BundleArgument(words)
}

// BundleArgument gives the bundle directory on the command line of a sentry or gofer; "" when
// there is none.
func BundleArgument(words []string) string {
	for i, word := range words {
		if bundle, ok := strings.CutPrefix(word, "--bundle="); ok {
			return bundle
		}
		if word == "--bundle" && i+1 < len(words) {
			return words[i+1]
		}
	}
	return ""
}

// Table is the machine's table of processes.
type Table struct{}

// Belongs tells whether pid is a living process of the sandbox with that bundle. A dead one that
// nobody has reaped has no command line.
func (Table) Belongs(pid int, bundle string) bool { return pid > 0 && bundleOf(pid) == bundle }

// Find searches the machine for sentries and gofers of sandboxes below dir.
func (Table) Find(dir string) map[string][]int {
	found := map[string][]int{}
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return found
	}
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		if bundle := bundleOf(pid); bundle != "" && filepath.Dir(bundle) == dir {
			id := filepath.Base(bundle)
			found[id] = append(found[id], pid)
		}
	}
	return found
}

// Kill ends processes and returns when they are gone. A number that passes to a stranger between
// the search and the signal is safe: the handle is taken first and the command line compared
// again.
func (Table) Kill(pids []int) error {
	var handles []handle
	defer func() {
		for _, h := range handles {
			unix.Close(h.fd)
		}
	}()
	for _, pid := range pids {
		bundle := bundleOf(pid)
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open process %d: %w", pid, err)
		}
		if bundle == "" || bundleOf(pid) != bundle {
			unix.Close(fd)
			continue
		}
		handles = append(handles, handle{pid, fd})
	}
	for _, h := range handles {
		if err := unix.PidfdSendSignal(h.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", h.pid, err)
		}
	}
	for _, h := range handles {
		if err := h.wait(time.Now().Add(KillTime)); err != nil {
			return err
		}
	}
	return nil
}

// handle is a process that cannot change its identity.
type handle struct{ pid, fd int }

// wait returns when the process has ended, and reaps it when it is our child.
func (h handle) wait(deadline time.Time) error {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("process %d does not end", h.pid)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n > 0 {
			reap(h.pid)
			return nil
		}
	}
}

// reap collects pid if it is an ended child of ours.
func reap(pid int) { _, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) }
