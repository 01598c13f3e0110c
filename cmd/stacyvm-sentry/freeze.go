package main

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// freezeOption is the prctl(2) by which the guest program stops all processes but itself, with
// argument 1, and lets them go on, with 0. It searches for a fork bomb's processes meanwhile:
// beside them it gets no processor. The guest program has the same number.
const freezeOption = 0x53564d01

// frozenLook is the time between two looks of what would make a process and may not.
const frozenLook = 10 * time.Millisecond

// freezer stops all of the guest's processes but process 1. Nobody in the guest can tell that from
// a busy machine.
type freezer struct {
	on      atomic.Bool
	mu      sync.Mutex
	stopped map[*kernel.Task]bool
}

// addFreezeCall teaches prctl(2) the option, for process 1 alone.
func (g *guard) addFreezeCall() {
	replaceCall("prctl", func(prctl kernel.SyscallFn) kernel.SyscallFn {
		return func(t *kernel.Task, number uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
			if args[0].Int() != freezeOption || t.ThreadGroup() != t.Kernel().GlobalInit() {
				return prctl(t, number, args)
			}
			switch args[1].Int() {
			case 1:
				g.freezer.freeze(t.Kernel())
			case 0:
				g.freezer.thaw()
			default:
				return 0, nil, linuxerr.EINVAL
			}
			return 0, nil, nil
		}
	})
}

// freeze stops the processes that there are; none is made until thaw: see guard.Clone. What
// process 1 is just starting has its memory and makes it wait, and goes on.
func (f *freezer) freeze(k *kernel.Kernel) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on.Store(true) // a process that was not there for the list finds it
	if f.stopped == nil {
		f.stopped = map[*kernel.Task]bool{}
	}
	init := k.GlobalInit()
	own := memoryOf(init)
	for _, group := range k.RootPIDNamespace().ThreadGroups() {
		if group != init && memoryOf(group) != own && !dying(group) {
			stop(group, f.stopped)
		}
	}
}

// thaw lets the processes go on.
func (f *freezer) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on.Store(false)
	for t := range f.stopped {
		t.EndExternalStop()
	}
	f.stopped = nil
}
