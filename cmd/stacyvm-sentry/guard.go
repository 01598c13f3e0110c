package main

import (
	"os"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/pipefs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	pb "gvisor.dev/gvisor/pkg/sentry/seccheck/points/points_go_proto"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/limits"
	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/oom"
)

// reportDescriptor is where the guest program finds the reading end of a pipe that tells of
// processes that were ended for lack of memory: one JSON array of process ids per line, the ended
// one first, then its parents up to process 1.
const reportDescriptor = 4

// guard keeps a sandbox within its limits of memory and processes. It is a sink of gVisor's
// events, for that is how it learns of the guest's kernel and how it can refuse a new process.
type guard struct {
	seccheck.SinkDefaults
	limits  limits.Limits
	begin   sync.Once
	guest   *guest
	oom     *oom.Guard
	freezer freezer
}

// startGuard runs in the sentry, before gVisor's own code.
func startGuard() {
	if !slices.Contains(os.Args, "boot") || !slices.Contains(os.Args, "--setup-root=false") {
		return
	}
	own, group, err := limits.Inherited()
	if err != nil {
		return // it was made by an earlier build: there is nothing to watch
	}
	g := &guard{limits: own, guest: &guest{group: group, memory: own.MemoryBytes, stopped: map[*kernel.Task]bool{}}}
	g.oom = oom.New(g.guest, own.MemoryBytes, limits.Overhead)
	if g.limits.MemoryBytes > 0 {
		dropPopulate(uint64(g.limits.MemoryBytes / 8))
	}
	g.addFreezeCall()
	seccheck.Global.AppendSink(g, []seccheck.PointReq{{Pt: seccheck.PointClone}})
}

// dropPopulate takes MAP_POPULATE, which is a hint, from calls that map more than this: the host
// would fill the memory in one call that nobody can stop, and at the group's limit refuse memory
// to whoever asks, process 1 and the sentry included.
func dropPopulate(largest uint64) {
	replaceCall("mmap", func(mmap kernel.SyscallFn) kernel.SyscallFn {
		return func(t *kernel.Task, number uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
			if args[1].Uint64() > largest {
				args[3].Value &^= linux.MAP_POPULATE
			}
			return mmap(t, number, args)
		}
	})
}

// replaceCall puts another function in place of a system call's.
func replaceCall(name string, replacement func(kernel.SyscallFn) kernel.SyscallFn) {
	for _, table := range kernel.SyscallTables() {
		number, err := table.LookupNo(name)
		if err != nil {
			continue
		}
		call := table.Table[number]
		call.Fn = replacement(call.Fn)
		table.Table[number] = call
		table.Init()
	}
}

// Name implements seccheck.Sink.
func (g *guard) Name() string { return "limits" }

// Clone implements seccheck.Sink: it refuses a process or thread for which there is no room. What
// the guest program starts is let in, so that somebody can look at a full sandbox and end what
// fills it.
func (g *guard) Clone(ctx context.Context, _ seccheck.FieldSet, _ *pb.CloneInfo) error {
	task := kernel.TaskFromContext(ctx)
	g.begin.Do(func() { g.start(task) })
	if task.ThreadGroup() == g.guest.kernel.GlobalInit() {
		return nil
	}
	for g.freezer.on.Load() {
		if interrupted(task, frozenLook) {
			return linuxerr.ERESTARTNOINTR // it is stopped itself
		}
	}
	if g.limits.Pids > 0 && int64(g.guest.kernel.RootPIDNamespace().NumTasks()) > g.limits.Pids {
		return linuxerr.EAGAIN
	}
	switch g.oom.Room(func(pause time.Duration) bool { return interrupted(task, pause) }) {
	case oom.Refused:
		return linuxerr.EAGAIN
	case oom.Interrupted:
		return linuxerr.ERESTARTNOINTR // a signal and a stop come first, and the call is repeated after them
	default:
		return nil
	}
}

// interrupted lets a task wait and tells whether something interrupted it.
func interrupted(t *kernel.Task, pause time.Duration) bool {
	_, err := t.BlockWithTimeout(nil, true, pause)
	return !linuxerr.Equals(linuxerr.ETIMEDOUT, err)
}

// start takes the first thread that process 1 makes, which is before its first statement, as the
// guard's own beginning.
func (g *guard) start(init *kernel.Task) {
	g.guest.kernel = init.Kernel()
	read, write, err := pipefs.NewConnectedPipeFDs(init, g.guest.kernel.PipeMount(), linux.O_NONBLOCK)
	if err != nil {
		log.Warningf("no pipe for reports: %v", err)
	} else {
		g.guest.report = write
		replaced, err := init.NewFDAt(reportDescriptor, read, kernel.FDFlags{CloseOnExec: true})
		if err != nil {
			log.Warningf("pass the pipe for reports: %v", err)
		}
		if replaced != nil {
			replaced.DecRef(init)
		}
		read.DecRef(init)
	}
	if g.limits.MemoryBytes > 0 {
		go g.oom.Run()
	}
}
