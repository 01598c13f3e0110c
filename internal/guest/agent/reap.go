package agent

import (
	"encoding/binary"
	"errors"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reaper starts children and learns of their end. As process 1 it also collects orphans: processes
// that lost their parent and became its children. Nobody else in the program may wait for a child,
// or one would take the other's.
//
// An ended process keeps its number until it is collected. The reaper only looks who has ended; a
// child's owner collects it, under the lock under which it sends signals, so that no signal goes
// to a stranger with the same number.
type reaper struct {
	init bool

	mu       sync.RWMutex // held for reading from a fork until the child is known
	known    sync.Mutex   // guards children among those who hold mu for reading
	children map[int]func()
	began    chan struct{} // holds a token when a child was started since the last one was missed
	stop     chan struct{}
	done     sync.WaitGroup
}

func newReaper(init bool) *reaper {
	r := &reaper{init: init, children: map[int]func(){}, began: make(chan struct{}, 1), stop: make(chan struct{})}
	if init {
		go r.run() // not waited for: it ends with the last child
	}
	return r
}

// start runs a program. ended is called once when it has ended and must collect it with collect.
func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr, started func(pid int), ended func()) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return err
	}
	started(pid)
	if r.init {
		r.known.Lock()
		r.children[pid] = ended
		r.known.Unlock()
		select {
		case r.began <- struct{}{}:
		default:
		}
		return nil
	}
	r.done.Go(func() {
		waitFor(unix.P_PID, pid, 0)
		ended()
	})
	return nil
}

// collect takes an ended child's status and frees its number. It fails when the process around the
// agent collects children too.
func collect(pid int) (syscall.WaitStatus, error) {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
		if !errors.Is(err, syscall.EINTR) {
			return status, err
		}
	}
}

// run collects whoever ends. It waits in the kernel: a signal would have to be caught, be handed
// from goroutine to goroutine and be reset in every child. Whoever has no child has no orphans.
func (r *reaper) run() {
	for {
		for r.next() {
		}
		select {
		case <-r.began:
		case <-r.stop:
			return
		}
	}
}

// next waits for a child's end and handles it; false: there is no child.
func (r *reaper) next() bool {
	pid := waitFor(unix.P_ALL, 0, 0)
	if pid <= 0 {
		return false
	}
	r.mu.Lock() // a child that is just being started becomes known
	defer r.mu.Unlock()
	ended, ok := r.children[pid]
	if !ok {
		_, _ = collect(pid) // an orphan, or a child that could not start: then its starter has collected it
		return true
	}
	delete(r.children, pid)
	ended()
	return true
}

// waitFor gives the number of a child that has ended, and leaves it to be collected.
func waitFor(kind, id, options int) int {
	var info unix.Siginfo
	for {
		err := unix.Waitid(kind, id, &info, unix.WEXITED|unix.WNOWAIT|options, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0
		}
		// The number follows three integers and their padding, on all 64-bit machines.
		raw := (*[unsafe.Sizeof(info)]byte)(unsafe.Pointer(&info))
		return int(int32(binary.NativeEndian.Uint32(raw[16:20])))
	}
}

// close ends the reaper once its children have ended. As process 1 it goes on for orphans.
func (r *reaper) close() {
	close(r.stop)
	r.done.Wait()
}
