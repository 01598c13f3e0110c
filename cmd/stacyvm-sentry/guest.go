package main

import (
	"encoding/json"
	"reflect"
	"runtime/debug"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/pipe"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/limits"
	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/oom"
)

// guest is the guest's memory and processes as package oom sees them.
type guest struct {
	kernel  *kernel.Kernel
	group   limits.GroupFiles
	memory  int64 // limit
	report  *vfs.FileDescription
	stopped map[*kernel.Task]bool
}

// Memory implements oom.Guest.
func (g *guest) Memory() int64 {
	used, err := g.kernel.MemoryFile().TotalUsage()
	if err != nil {
		return 0
	}
	return int64(used)
}

// Beyond implements oom.Guest.
func (g *guest) Beyond(limit int64) int64 { return g.group.Beyond(limit) }

// Grown implements oom.Guest.
func (g *guest) Grown() bool { return g.group.Grown(g.memory) }

// Wait implements oom.Guest.
func (g *guest) Wait(limit time.Duration) { g.group.Wait(limit) }

// Evict implements oom.Guest.
func (g *guest) Evict() { g.kernel.MemoryFile().StartEvictions() }

// Shrink implements oom.Guest.
func (g *guest) Shrink() { debug.FreeOSMemory() }

// Processes implements oom.Guest. What process 1 is just starting has its memory until it has its
// own program.
func (g *guest) Processes() []oom.Process {
	var list []oom.Process
	init := g.kernel.GlobalInit()
	own := memoryOf(init)
	for _, group := range g.kernel.RootPIDNamespace().ThreadGroups() {
		if group == init {
			continue
		}
		memory := memoryOf(group)
		if memory == nil || memory == own {
			continue
		}
		p := oom.Process{ID: group, Memory: memory, Dying: dying(group)}
		if !p.Dying {
			p.Bytes = int64(memory.ResidentSetSize() + g.heldByFiles(group))
		}
		list = append(list, p)
	}
	return list
}

// heldByFiles is what is kept for a process's descriptors: in pipes and sockets, and in files in
// memory, which may have no name.
func (g *guest) heldByFiles(group *kernel.ThreadGroup) (bytes uint64) {
	tables := map[*kernel.FDTable]bool{} // threads can have some of their own
	for _, task := range tasksOf(group) {
		task.WithMuLocked(func(t *kernel.Task) {
			if table := t.FDTable(); table != nil {
				tables[table] = true
			}
		})
	}
	ctx := g.kernel.SupervisorContext()
	seen := map[*vfs.Dentry]bool{} // one file has many descriptors, a pipe two ends
	for table := range tables {
		if !table.TryIncRef() {
			continue
		}
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
		table.DecRef(ctx)
	}
	return bytes
}

// tasksOf lists a process's threads. Its first thread may have ended before the others.
func tasksOf(group *kernel.ThreadGroup) (tasks []*kernel.Task) {
	group.ForEachTask(func(t *kernel.Task) bool {
		tasks = append(tasks, t)
		return true
	})
	return tasks
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
	case socket.Socket: // of the network
		if endpoint := endpointOf(impl); endpoint != nil {
			queued, err := endpoint.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
			if _, kind, _ := impl.Type(); err == nil && queued > 0 && kind != linux.SOCK_STREAM {
				queued = int(endpoint.SocketOptions().GetReceiveBufferSize()) // it tells of the first datagram only
			}
			if err == nil {
				return uint64(queued)
			}
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

// dying tells whether a process was killed or is ending by itself.
func dying(group *kernel.ThreadGroup) bool {
	for _, task := range tasksOf(group) {
		if task.ExitState() == kernel.TaskExitNone && task.PendingSignals()&linux.SignalSetOf(linux.SIGKILL) == 0 {
			return false
		}
	}
	return true
}

// memoryOf gives the memory of a process; nil when it has none any more.
func memoryOf(group *kernel.ThreadGroup) (memory *mm.MemoryManager) {
	for _, task := range tasksOf(group) {
		task.WithMuLocked(func(t *kernel.Task) { memory = t.MemoryManager() })
		if memory != nil {
			return memory
		}
	}
	return nil
}

// Stop implements oom.Guest.
func (g *guest) Stop(p oom.Process) { stop(p.ID.(*kernel.ThreadGroup), g.stopped) }

// Resume implements oom.Guest.
func (g *guest) Resume(p oom.Process) {
	p.ID.(*kernel.ThreadGroup).ForEachTask(func(t *kernel.Task) bool {
		if g.stopped[t] {
			delete(g.stopped, t)
			t.EndExternalStop()
		}
		return true
	})
}

// ResumeAll implements oom.Guest.
func (g *guest) ResumeAll() {
	for t := range g.stopped {
		t.EndExternalStop()
	}
	clear(g.stopped)
}

// stop lets a process stand still: those of its threads that are not in stopped yet.
func stop(group *kernel.ThreadGroup, stopped map[*kernel.Task]bool) {
	group.ForEachTask(func(t *kernel.Task) bool {
		if !stopped[t] {
			stopped[t] = true
			t.BeginExternalStop()
		}
		return true
	})
}

// End implements oom.Guest: it kills a process, after the guest program was told why.
func (g *guest) End(p oom.Process, excess int64) {
	group := p.ID.(*kernel.ThreadGroup)
	var line []kernel.ThreadID
	for t := group.Leader(); t != nil && len(line) < 64; t = t.Parent() {
		line = append(line, g.kernel.RootPIDNamespace().IDOfThreadGroup(t.ThreadGroup()))
	}
	log.Warningf("out of memory by %d bytes: ending process %v with %d bytes", excess, line, p.Bytes)
	if text, err := json.Marshal(line); err == nil && g.report != nil {
		ctx := g.kernel.SupervisorContext()
		// A full pipe loses the reason, not the process's end.
		_, _ = g.report.Write(ctx, usermem.BytesIOSequence(append(text, '\n')), vfs.WriteOptions{})
	}
	_ = g.kernel.SendExternalSignalThreadGroup(group, kernel.SignalInfoPriv(linux.SIGKILL))
}

// Exited implements oom.Guest.
func (g *guest) Exited(p oom.Process) bool {
	all := true
	p.ID.(*kernel.ThreadGroup).ForEachTask(func(t *kernel.Task) bool {
		all = t.ExitState() >= kernel.TaskExitZombie
		return all
	})
	return all
}

// endpointOf gives what is behind a socket of the network: a field of a type that gVisor keeps to
// itself.
func endpointOf(s socket.Socket) tcpip.Endpoint {
	value := reflect.Indirect(reflect.ValueOf(s))
	if value.Kind() != reflect.Struct {
		return nil
	}
	field := value.FieldByName("Endpoint")
	if !field.IsValid() || !field.CanInterface() {
		return nil
	}
	endpoint, _ := field.Interface().(tcpip.Endpoint)
	return endpoint
}
