// Package oom keeps a guest within its memory: it decides when a process is ended for it, which
// one, and whom a new process has to wait for.
//
// The kernel that enforces a control group knows the sentry and not the guest's processes: all of
// the guest's memory is one file of the sentry's, and whom it kills when the group is full takes
// the whole sandbox with it. So the sentry itself looks after the limit, below the group's: it
// ends the guest's largest process before the group is full.
package oom

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// fillRate is how many bytes per second a guest can fill at most: it says how often a guard
	// must look.
	fillRate = 4 << 30
	// shortestLook and longestLook bound the time between two looks while a good part of the
	// memory is used.
	shortestLook = time.Millisecond
	longestLook  = 50 * time.Millisecond
	// exitTime is how long a process may take to end before the next one is ended too: a system
	// call that fills memory is not interrupted, and writes up to 2 GiB. settledTime is how long
	// nothing more has to come back after its end. What its files held is freed in the background,
	// in calls to the host that wait for their turn on a busy one: while those that live hold less
	// than the limit, the rest is on its way, and backgroundTime has to pass. A process that held
	// little is not waited for that long.
	exitTime       = 20 * time.Second
	settledTime    = 20 * time.Millisecond
	backgroundTime = 2 * time.Second
	// little is the part of the limit that is not worth waiting for.
	little = 32
	// roomTime is how long a new process waits for room before it is refused, and roomLook how old
	// the answer may be whether there is some: a fork bomb's processes all ask.
	roomTime = 300 * time.Millisecond
	roomLook = 5 * time.Millisecond
	// shrinkPause is the time between two times that the sentry collects its garbage because
	// memory is short, and quickPause the same after the end of a process: its pipes and sockets
	// were garbage of the sentry's.
	shrinkPause = time.Second
	quickPause  = 100 * time.Millisecond
)

// Process is a process of the guest's, without process 1 and what that is just starting.
type Process struct {
	ID     any   // comparable
	Memory any   // comparable; the same for processes that share their memory
	Bytes  int64 // what ends with it
	Dying  bool  // it was killed, by whomever, and will give it back
}

// Guest is what a guard sees of its sandbox, and what it can do.
type Guest interface {
	// Memory is what the guest's processes and memory file systems take.
	Memory() int64
	// Beyond is how many bytes the sandbox uses with all that serves it beyond a limit; negative:
	// less.
	Beyond(limit int64) int64
	// Grown tells whether so much is used that somebody has to look again without being told.
	Grown() bool
	// Wait returns after the time, without end when it is negative, or when the use has changed
	// much.
	Wait(time.Duration)
	// Evict begins to drop the contents of files that are only cached.
	Evict()
	// Shrink gives back what the sentry no longer needs.
	Shrink()
	// Processes lists the processes that have memory.
	Processes() []Process
	// Stop lets a process stand still, with threads that it has made since, Resume lets it go on,
	// and ResumeAll all of them.
	Stop(Process)
	Resume(Process)
	ResumeAll()
	// End kills a process, because so many bytes are missing. A system call that it is in may go
	// on for a while.
	End(p Process, excess int64)
	// Exited tells whether a process has given up all that it had, its files too.
	Exited(Process) bool
}

// Guard keeps one guest within its memory.
type Guard struct {
	guest    Guest
	memory   int64 // limit of the guest; 0: none
	overhead int64 // of what serves it

	relieving atomic.Bool

	shrinking sync.Mutex
	shrunk    time.Time // the last time

	asking sync.Mutex
	asked  time.Time // the last time
	full   bool      // then
}

// New makes a guard. Run it.
func New(guest Guest, memory, overhead int64) *Guard {
	return &Guard{guest: guest, memory: memory, overhead: overhead}
}

// Run watches the memory for as long as the sentry lives.
func (g *Guard) Run() {
	for {
		g.step()
	}
}

func (g *Guard) step() {
	if g.over() > 0 {
		g.relieve()
		if g.over() > 0 {
			time.Sleep(longestLook) // there is nobody left to end
		}
	}
	g.guest.Wait(g.pause())
}

// over is how many bytes are used beyond the limit: by the guest's memory alone, or with what the
// sentry needs to serve it.
func (g *Guard) over() int64 {
	guest := g.guest.Memory() - g.memory
	if guest > 0 {
		return guest
	}
	return max(guest, g.guest.Beyond(g.memory+g.overhead))
}

// pause is the time until the next look: as long as it takes a guest to fill what is left, and
// without end (negative) while the group tells when the use grows.
func (g *Guard) pause() time.Duration {
	if !g.guest.Grown() {
		return -1
	}
	left := -g.over()
	if left < g.memory/8 {
		g.guest.Evict()
	}
	return min(max(time.Duration(float64(left)/fillRate*float64(time.Second)), shortestLook), longestLook)
}

// Room is whether there is any for a new process.
type Room int

// The answers of Guard.Room.
const (
	Free        Room = iota
	Refused          // there is none
	Interrupted      // it was waited for, and something else has to be done first
)

// Room refuses when the sentry's tables and the kernel's may not grow further. Their limit is the
// group's and lies so far below the guard's that a fork loop meets it first. It waits a moment,
// for what has just ended gives its memory back, and for as long as the guard works. wait tells
// whether it was interrupted.
func (g *Guard) Room(wait func(time.Duration) (interrupted bool)) Room {
	for began := time.Now(); g.memory > 0 && g.crowded(); {
		if g.relieving.Load() {
			began = time.Now()
		}
		waited := time.Since(began)
		if waited > roomTime {
			return Refused
		}
		pause := shrinkPause
		if waited > roomTime/2 { // what a process left in the sentry since the last time is garbage now
			pause = waited
		}
		g.shrink(pause)
		if wait(roomLook) {
			return Interrupted
		}
	}
	return Free
}

// crowded tells whether there is room, as it was at most roomLook ago.
func (g *Guard) crowded() bool {
	g.asking.Lock()
	defer g.asking.Unlock()
	if now := time.Now(); g.asked.IsZero() || now.Sub(g.asked) >= roomLook {
		g.asked, g.full = now, g.guest.Beyond(g.memory+g.overhead-g.memory/16) > 0
	}
	return g.full
}

// shrink gives back what the sentry's own tables no longer need, unless it did that within the
// pause.
func (g *Guard) shrink(pause time.Duration) {
	if !g.shrinking.TryLock() {
		return // somebody else does
	}
	defer g.shrinking.Unlock()
	if g.shrunk.IsZero() || time.Since(g.shrunk) > pause {
		g.guest.Shrink()
		g.shrunk = time.Now()
	}
}

// relieve ends the largest processes, one after the other, until there is room. All others stand
// still meanwhile: they would use up what is given back. What is dying already is waited for
// first.
func (g *Guard) relieve() {
	if g.guest.Memory() <= g.memory {
		g.shrink(shrinkPause)
	}
	excess := g.over()
	if excess <= 0 {
		return
	}
	ended, began := map[any]bool{}, time.Now()
	g.relieving.Store(true)
	defer func() {
		g.relieving.Store(false)
		g.guest.ResumeAll()
	}()
	for g.over() > -g.memory/32 {
		list := slices.DeleteFunc(g.guest.Processes(), func(p Process) bool { return ended[p.ID] })
		dying := g.part(&list)
		if dying && time.Since(began) < exitTime {
			g.guest.Evict()
			time.Sleep(settledTime)
			continue
		}
		if len(list) == 0 {
			return
		}
		slices.SortStableFunc(list, func(a, b Process) int { return cmp.Compare(b.Bytes, a.Bytes) })
		var rest int64
		for _, p := range list {
			if p.Memory != list[0].Memory {
				rest += p.Bytes
				continue
			}
			ended[p.ID] = true
			g.guest.End(p, excess)
			g.guest.Resume(p)
		}
		g.await(list[0], rest)
	}
}

// part takes the dying from a list and tells whether there were any. They go on, so that they end;
// the others stand still.
func (g *Guard) part(list *[]Process) (dying bool) {
	*list = slices.DeleteFunc(*list, func(p Process) bool {
		if p.Dying {
			dying = true
			g.guest.Resume(p)
		} else {
			g.guest.Stop(p)
		}
		return p.Dying
	})
	return dying
}

// await waits until there is room, or until an ended process has nothing more to give. That is
// soon should it have held little, or should those that live, which hold rest, hold too much
// themselves.
func (g *Guard) await(ended Process, rest int64) {
	settled := backgroundTime
	if rest > g.memory || ended.Bytes < g.memory/little {
		settled = settledTime
	}
	before, changed := g.guest.Memory(), time.Now()
	for deadline := time.Now().Add(exitTime); time.Now().Before(deadline) && time.Since(changed) < settled; {
		if g.over() <= -g.memory/32 {
			return
		}
		time.Sleep(shortestLook)
		now := g.guest.Memory()
		switch {
		case !g.guest.Exited(ended):
			changed = time.Now()
		case now < before:
			changed = time.Now() // something came back
		case now <= g.memory:
			g.shrink(quickPause)
		}
		g.guest.Evict()
		before = now
	}
}
