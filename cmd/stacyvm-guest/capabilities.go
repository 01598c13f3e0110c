package main

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withholdCapabilities leaves CAP_SYS_ADMIN, which makes namespaces, to this process alone:
// programs that it starts cannot have it. CAP_SETPCAP, which that needs, nobody has afterwards.
func withholdCapabilities() error {
	for _, capability := range []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP} {
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0); errno != 0 {
			return fmt.Errorf("withhold capability %d from programs: %w", capability, errno)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	sets[0].Effective &^= 1 << unix.CAP_SETPCAP
	sets[0].Permitted &^= 1 << unix.CAP_SETPCAP
	_, _, errno := syscall.AllThreadsSyscall(
		unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)),
		uintptr(unsafe.Pointer(&sets)),
		0,
	)
	if errno != 0 {
		return fmt.Errorf("give up CAP_SETPCAP: %w", errno)
	}
	return nil
}
