package main

import (
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// offlineNetwork makes a network namespace that has a loopback interface and nothing else, shared
// by all sandboxes: gVisor copies the interfaces into its own network stack, and no packet of a
// guest ever enters the namespace. It has no name; it ends with the last process that uses it.
func offlineNetwork() (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result)
	go func() {
		// Never unlocked: the thread is in the wrong namespace now and ends with this goroutine.
		runtime.LockOSThread()
		file, err := enterNewNetwork()
		done <- result{file, err}
	}()
	r := <-done
	return r.file, r.err
}

func enterNewNetwork() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	// gVisor's port forwards need it up.
	if err := netlink.LinkSetUp(loopback); err != nil {
		return nil, err
	}
	return os.Open("/proc/thread-self/ns/net")
}
