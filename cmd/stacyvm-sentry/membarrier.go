package main

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Values of seccomp(2) and of its filter's data, linux/seccomp.h and linux/audit.h.
const (
	seccompSetModeFilter  = 1
	seccompFilterSync     = 1 // for all threads
	seccompAllow          = 0x7fff0000
	seccompErrno          = 0x00050000
	offsetCall            = 0
	offsetArchitecture    = 4
	architectureX86_64    = 0xc000003e
	architectureAArch64   = 0xc00000b7
	loadWord, jumpIfEqual = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	answer                = unix.BPF_RET | unix.BPF_K
)

// withoutMembarrier makes membarrier(2) look absent to this process and to all that it starts.
// gVisor registers for it in each process that it executes, five for a sandbox, and every time the
// kernel lets a process with threads wait for a grace period: together a quarter of the time that
// a create takes. Guests then find no membarrier either, as on older kernels, and programs that
// can use it do without.
func withoutMembarrier() error {
	architecture := map[string]uint32{"amd64": architectureX86_64, "arm64": architectureAArch64}[runtime.GOARCH]
	filter := []unix.SockFilter{
		{Code: loadWord, K: offsetArchitecture},
		{Code: jumpIfEqual, K: architecture, Jf: 3},
		{Code: loadWord, K: offsetCall},
		{Code: jumpIfEqual, K: unix.SYS_MEMBARRIER, Jf: 1},
		{Code: answer, K: seccompErrno | uint32(unix.ENOSYS)},
		{Code: answer, K: seccompAllow},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, err := unix.Syscall(
		unix.SYS_SECCOMP,
		seccompSetModeFilter,
		seccompFilterSync,
		uintptr(unsafe.Pointer(&program)),
	)
	if err != 0 {
		return fmt.Errorf("hide membarrier: %w", err)
	}
	return nil
}
