package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/limits"
)

// reserveDescriptors occupies the numbers below limits.LowDescriptors, for the launcher's life.
// gVisor was written for one create in a process: it opens control sockets and event descriptors
// without close-on-exec, and a create that runs beside it hands them to the processes of another
// sandbox, under the number that they have here. Those numbers are high, so that a sandbox's
// process can tell them from its own and closes them. Left open, they would lead from one
// sandbox's sentry to another's, and they would be in the way of the numbers from 256 on, which
// gVisor needs: creates failed beyond about 110 sandboxes.
func reserveDescriptors() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for {
		fd, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("the limit of open files is below 1024 (ulimit -n, LimitNOFILE): %w", err)
		}
		if fd >= limits.LowDescriptors {
			return unix.Close(fd)
		}
	}
}

// closeStrangers closes what a sandbox's process was not meant to inherit.
func closeStrangers() error {
	if err := unix.CloseRange(limits.LowDescriptors, ^uint(0)>>1, 0); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	return nil
}
