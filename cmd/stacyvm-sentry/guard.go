package main

import (
	"cmp"
	"encoding/json"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/pipefs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/pipe"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	pb "gvisor.dev/gvisor/pkg/sentry/seccheck/points/points_go_proto"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/usermem"
)

// The kernel that enforces a control group knows the sentry and not the guest's processes: all of the guest's memory is one
// file of the sentry's, and whom it kills when the group is full takes the whole sandbox with it. So the sentry itself
// looks after the limit, below the group's: it ends the guest's largest process before the group is full.

const (
	// reportDescriptor is where the guest program finds the reading end of a pipe that tells of processes that were ended
	// for lack of memory: one JSON array of process ids per line, the ended one first, then its parents up to process 1.
	reportDescriptor = 4
	// fillRate is how many bytes per second a guest can fill at most: it says how often a guard must look.
	fillRate = 4 << 30
	// shortestLook and longestLook bound the time between two looks while a good part of the memory is used.
	shortestLook = time.Millisecond
	longestLook  = 50 * time.Millisecond
	// exitTime is how long a process may take to end before the next one is ended too: a system call that fills memory is
	// not interrupted. settledTime is how long nothing more has to come back after its end. What its files held is freed in
	// the background, in calls to the host that wait for their turn on a busy one: while those that live hold less than the
	// limit, the rest is on its way, and backgroundTime has to pass.
	exitTime       = 5 * time.Second
	settledTime    = 20 * time.Millisecond
	backgroundTime = 2 * time.Second
	// roomTime is how long a new process waits for room before it is refused.
	roomTime = 300 * time.Millisecond
	// shrinkPause is the time between two times that the sentry collects its garbage because memory is short, and
	// quickPause the same after the end of a process: its pipes and sockets were garbage of the sentry's.
	shrinkPause = time.Second
	quickPause  = 100 * time.Millisecond
)

// guard keeps a sandbox within its limits of memory and processes. It is a sink of gVisor's events, for that is how it
// learns of the guest's kernel and how it can refuse a new process.
type guard struct {
	seccheck.SinkDefaults
	limits limits
	group  groupFiles
	begin  sync.Once
	kernel *kernel.Kernel
	report *vfs.FileDescription

	freezer freezer

	relieving atomic.Bool
	shrinking sync.Mutex
	shrunk    time.Time // the last time
}

// startGuard runs in the sentry, before gVisor's own code.
func startGuard() {
	if !slices.Contains(os.Args, "boot") || !slices.Contains(os.Args, "--setup-root=false") {
		return
	}
	g := &guard{group: inheritedFiles()}
	text := make([]byte, 64<<10)
	n, err := unix.Pread(limitsDescriptor, text, 0)
	if err != nil || json.Unmarshal(text[:n], &g.limits) != nil {
		return // it was made by an earlier build: there is nothing to watch
	}
	if g.limits.MemoryBytes > 0 {
		dropPopulate(uint64(g.limits.MemoryBytes / 8))
	}
	g.addFreezeCall()
	seccheck.Global.AppendSink(g, []seccheck.PointReq{{Pt: seccheck.PointClone}})
}

// dropPopulate takes MAP_POPULATE, which is a hint, from calls that map more than this: the host would fill the memory in one
// call that nobody can stop, and at the group's limit refuse memory to whoever asks, process 1 and the sentry included.
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

// Clone implements seccheck.Sink: it refuses a process or thread for which there is no room. What the guest program starts
// is let in, so that somebody can look at a full sandbox and end what fills it.
func (g *guard) Clone(ctx context.Context, _ seccheck.FieldSet, _ *pb.CloneInfo) error {
	task := kernel.TaskFromContext(ctx)
	g.begin.Do(func() { g.start(task) })
	if task.ThreadGroup() == g.kernel.GlobalInit() {
		return nil
	}
	for g.freezer.on.Load() {
		if _, err := task.BlockWithTimeout(nil, true, shortestLook); !linuxerr.Equals(linuxerr.ETIMEDOUT, err) {
			return linuxerr.ERESTARTNOINTR // it is stopped itself
		}
	}
	if g.limits.Pids > 0 && int64(g.kernel.RootPIDNamespace().NumTasks()) > g.limits.Pids {
		return linuxerr.EAGAIN
	}
	return g.room(task)
}

// room refuses when the sentry's tables and the kernel's may not grow further. Their limit is the group's and lies so far
// below the guard's that a fork loop meets it first. It waits a moment, for what has just ended gives its memory back, and
// for as long as the guard works. A signal and a stop interrupt it, and the call is repeated after them.
func (g *guard) room(t *kernel.Task) error {
	limit := g.limits.MemoryBytes + overhead - g.limits.MemoryBytes/16
	for began := time.Now(); g.limits.MemoryBytes > 0 && g.group.beyond(limit) > 0; {
		if g.relieving.Load() {
			began = time.Now()
		}
		if time.Since(began) > roomTime {
			return linuxerr.EAGAIN
		}
		g.shrink(shrinkPause)
		if _, err := t.BlockWithTimeout(nil, true, shortestLook); !linuxerr.Equals(linuxerr.ETIMEDOUT, err) {
			return linuxerr.ERESTARTNOINTR
		}
	}
	return nil
}

// shrink gives back what the sentry's own tables no longer need, unless it did that within the pause.
func (g *guard) shrink(pause time.Duration) {
	g.shrinking.Lock()
	defer g.shrinking.Unlock()
	if time.Since(g.shrunk) > pause {
		debug.FreeOSMemory()
		g.shrunk = time.Now()
	}
}

// start takes the first thread that process 1 makes, which is before its first statement, as the guard's own beginning.
func (g *guard) start(init *kernel.Task) {
	g.kernel = init.Kernel()
	read, write, err := pipefs.NewConnectedPipeFDs(init, g.kernel.PipeMount(), linux.O_NONBLOCK)
	if err != nil {
		log.Warningf("no pipe for reports: %v", err)
	} else {
		g.report = write
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
		go g.run()
	}
}

// run watches the sandbox's memory for as long as the sentry lives.
func (g *guard) run() {
	for {
		if g.over() > 0 {
			g.relieve()
			if g.over() > 0 {
				time.Sleep(longestLook) // there is nobody left to end
			}
		}
		g.group.wait(g.pause())
	}
}

// guestMemory is what the guest's processes and memory file systems take.
func (g *guard) guestMemory() int64 {
	used, err := g.kernel.MemoryFile().TotalUsage()
	if err != nil {
		return 0
	}
	return int64(used)
}

// over is how many bytes are used beyond the limit: by the guest's memory alone, or with what the sentry needs to serve it.
func (g *guard) over() int64 {
	if g.limits.MemoryBytes <= 0 {
		return 0
	}
	guest := g.guestMemory() - g.limits.MemoryBytes
	if guest > 0 {
		return guest
	}
	return max(guest, g.group.beyond(g.limits.MemoryBytes+overhead))
}

// pause is the time until the next look: as long as it takes a guest to fill what is left, and without end (negative)
// while the group tells when the use grows.
func (g *guard) pause() time.Duration {
	if !g.group.grown(g.limits.MemoryBytes) {
		return -1
	}
	left := -g.over()
	if left < g.limits.MemoryBytes/8 {
		g.kernel.MemoryFile().StartEvictions() // cached files' contents
	}
	return min(max(time.Duration(float64(left)/fillRate*float64(time.Second)), shortestLook), longestLook)
}

// candidate is a process of the guest's.
type candidate struct {
	group  *kernel.ThreadGroup
	memory *mm.MemoryManager
	bytes  uint64
}

// candidates lists the guest's processes that have memory, the largest first, without process 1 and what it is just
// starting: that has the memory of process 1 until it has its own program.
func (g *guard) candidates() []candidate {
	var list []candidate
	init := g.kernel.GlobalInit()
	own := memoryOf(init)
	for _, group := range g.kernel.RootPIDNamespace().ThreadGroups() {
		if group == init {
			continue
		}
		c := candidate{group: group, memory: memoryOf(group)}
		if c.memory == nil || c.memory == own {
			continue
		}
		c.bytes = c.memory.ResidentSetSize() + g.heldByFiles(group)
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return cmp.Compare(b.bytes, a.bytes) })
	return list
}

// heldByFiles is what is kept for a process's descriptors: in pipes and sockets, and in files in memory, which may have no name.
func (g *guard) heldByFiles(group *kernel.ThreadGroup) (bytes uint64) {
	var table *kernel.FDTable
	if leader := group.Leader(); leader != nil {
		leader.WithMuLocked(func(t *kernel.Task) { table = t.FDTable() })
	}
	if table == nil || !table.TryIncRef() {
		return 0
	}
	ctx := g.kernel.SupervisorContext()
	defer table.DecRef(ctx)
	seen := map[*vfs.Dentry]bool{} // one file has many descriptors, a pipe two ends
	for _, fd := range table.GetFDs(ctx) {
		file, _ := table.Get(fd)
		if file == nil {
			continue
		}
		if dentry := file.VirtualDentry().Dentry(); !seen[dentry] {
			seen[dentry] = true
			bytes += held(ctx, file)
		}
		file.DecRef(ctx)
	}
	return bytes
}

// held is what is kept for one open file.
func held(ctx context.Context, file *vfs.FileDescription) uint64 {
	switch impl := file.Impl().(type) {
	case *pipe.VFSPipeFD:
		var queued [4]byte
		var args arch.SyscallArguments
		args[1].Value = linux.FIONREAD
		if _, err := impl.Ioctl(ctx, &usermem.BytesIO{Bytes: queued[:]}, 0, args); err == nil {
			return uint64(hostarch.ByteOrder.Uint32(queued[:]))
		}
	case interface{ Endpoint() transport.Endpoint }:
		if queued, err := impl.Endpoint().GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil {
			return uint64(queued)
		}
	default:
		if file.Mount().Filesystem().FilesystemType().Name() != "tmpfs" {
			return 0
		}
		stat, err := file.Stat(ctx, vfs.StatOptions{Mask: linux.STATX_TYPE | linux.STATX_BLOCKS})
		if err == nil && stat.Mode&linux.S_IFMT == linux.S_IFREG {
			return stat.Blocks * 512
		}
	}
	return 0
}

// memoryOf gives the memory of a process; nil when it has none any more. Its first thread may have ended before the others.
func memoryOf(group *kernel.ThreadGroup) (memory *mm.MemoryManager) {
	var tasks []*kernel.Task
	group.ForEachTask(func(t *kernel.Task) bool {
		tasks = append(tasks, t)
		return true
	})
	for _, task := range tasks {
		task.WithMuLocked(func(t *kernel.Task) { memory = t.MemoryManager() })
		if memory != nil {
			return memory
		}
	}
	return nil
}

// relieve ends the largest processes, one after the other, until there is room. All others stand still meanwhile: they
// would use up what is given back.
func (g *guard) relieve() {
	if g.guestMemory() <= g.limits.MemoryBytes {
		g.shrink(shrinkPause)
	}
	excess := g.over()
	if excess <= 0 {
		return
	}
	stopped := map[*kernel.Task]bool{}
	ended := map[*kernel.ThreadGroup]bool{}
	g.relieving.Store(true)
	defer func() {
		g.relieving.Store(false)
		for t := range stopped {
			t.EndExternalStop()
		}
	}()
	for g.over() > -g.limits.MemoryBytes/32 {
		list := slices.DeleteFunc(g.candidates(), func(c candidate) bool { return ended[c.group] })
		if len(list) == 0 {
			return
		}
		var rest uint64
		for _, c := range list {
			if c.memory != list[0].memory {
				rest += c.bytes
				stop(c.group, stopped)
				continue
			}
			ended[c.group] = true
			g.end(c, excess)
			resume(c.group, stopped)
		}
		g.await(list[0].group, int64(rest) > g.limits.MemoryBytes)
	}
}

// stop lets a process stand still.
func stop(group *kernel.ThreadGroup, stopped map[*kernel.Task]bool) {
	group.ForEachTask(func(t *kernel.Task) bool {
		if !stopped[t] {
			stopped[t] = true
			t.BeginExternalStop()
		}
		return true
	})
}

// resume lets a stopped process go on.
func resume(group *kernel.ThreadGroup, stopped map[*kernel.Task]bool) {
	group.ForEachTask(func(t *kernel.Task) bool {
		if stopped[t] {
			delete(stopped, t)
			t.EndExternalStop()
		}
		return true
	})
}

// end kills a process, after the guest program was told why.
func (g *guard) end(c candidate, excess int64) {
	var line []kernel.ThreadID
	for t := c.group.Leader(); t != nil && len(line) < 64; t = t.Parent() {
		line = append(line, g.kernel.RootPIDNamespace().IDOfThreadGroup(t.ThreadGroup()))
	}
	log.Warningf("out of memory by %d bytes: ending process %v with %d bytes", excess, line, c.bytes)
	if text, err := json.Marshal(line); err == nil && g.report != nil {
		ctx := g.kernel.SupervisorContext()
		// A full pipe loses the reason, not the process's end.
		_, _ = g.report.Write(ctx, usermem.BytesIOSequence(append(text, '\n')), vfs.WriteOptions{})
	}
	_ = g.kernel.SendExternalSignalThreadGroup(c.group, kernel.SignalInfoPriv(linux.SIGKILL))
}

// await waits until there is room, or until an ended process has nothing more to give. Should those that live hold too much
// themselves, that is soon.
func (g *guard) await(ended *kernel.ThreadGroup, held bool) {
	settled := backgroundTime
	if held {
		settled = settledTime
	}
	before, changed := g.guestMemory(), time.Now()
	for deadline := time.Now().Add(exitTime); time.Now().Before(deadline) && time.Since(changed) < settled; {
		if g.over() <= -g.limits.MemoryBytes/32 {
			return
		}
		time.Sleep(shortestLook)
		now := g.guestMemory()
		switch {
		case !exited(ended):
			changed = time.Now()
		case now < before:
			changed = time.Now() // something came back
		case now <= g.limits.MemoryBytes:
			g.shrink(quickPause)
		}
		g.kernel.MemoryFile().StartEvictions() // cached files' contents
		before = now
	}
}

// exited tells whether a process has given up all that it had, its files too.
func exited(group *kernel.ThreadGroup) bool {
	all := true
	group.ForEachTask(func(t *kernel.Task) bool {
		all = t.ExitState() >= kernel.TaskExitZombie
		return all
	})
	return all
}
