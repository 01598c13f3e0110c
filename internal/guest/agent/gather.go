package agent

import (
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
)

const (
	// much is after how many bytes a program counts as one that prints much.
	much = 128 << 10
	// widePipe is the room in its pipe, in bytes; usually it is 64 KiB.
	widePipe = guest.LargeFrame
	// quick is how soon after one another its pieces come.
	quick = 2 * time.Millisecond
	// gatherTime is how long its pipe may fill after a piece of gatherSize to gatherMost bytes: few
	// large pieces are far fewer system calls. What was read is with its readers by then.
	gatherTime = 500 * time.Microsecond
	gatherSize = 4 << 10
	gatherMost = widePipe / 2
	// mostAlone bounds the pipes that are read alone: each has a thread while it fills, and a large
	// frame while its ring takes nothing.
	mostAlone = 32
	// readerTime is how long a reader of a lossless stream that falls behind is waited for while it
	// reads nothing. It is not stallTime: nothing is lost then.
	readerTime = 20 * time.Millisecond
)

// alone is a pipe that the runtime's poller does not watch: that wakes a thread at each write of
// the program, also while we let the pipe fill.
type alone struct{ fd int }

// pipesAlone counts them.
var pipesAlone atomic.Int32

// gather lets the pipe of a program that prints much fill, after a piece of n bytes.
func (s *stream) gather(n int) {
	if s.terminal {
		return // somebody looks at it
	}
	before := s.last
	s.last = time.Now()
	switch {
	case s.had < much:
		if s.had += n; s.had >= much {
			s.widen()
		}
	case n < gatherSize, s.after.Load(), s.last.Sub(before) > quick:
	case s.alone == nil && !s.unwatch():
	case n < gatherMost:
		// Not by a timer: for that the poller is woken, and waits anew.
		_ = unix.Nanosleep(&unix.Timespec{Nsec: gatherTime.Nanoseconds()}, nil)
	}
}

func (s *stream) widen() {
	if raw, err := s.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, widePipe) })
	}
}

// unwatch takes the pipe away from the poller, for a descriptor of our own.
func (s *stream) unwatch() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	raw, err := s.file.SyscallConn()
	if err != nil {
		return false
	}
	if pipesAlone.Add(1) > mostAlone {
		pipesAlone.Add(-1)
		return false
	}
	fd := -1
	if raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }) != nil || err != nil {
		pipesAlone.Add(-1)
		return false
	}
	s.file.Close()
	s.file, s.alone = nil, &alone{fd}
	return true
}

// watch gives the pipe back to the poller; false: the stream was closed.
func (s *stream) watch() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.file, s.alone = os.NewFile(uintptr(s.alone.fd), "pipe"), nil
	pipesAlone.Add(-1)
	return true
}

// closeAlone is for the pump's end.
func (s *stream) closeAlone() {
	if s.alone != nil {
		unix.Close(s.alone.fd)
		s.alone = nil
		pipesAlone.Add(-1)
	}
}

// letReaderFollow waits before n bytes would have to leave memory that a reader of a lossless
// stream has not had: it would have to read them from the file. It waits as long as the reader
// reads on; the program waits then, as it must sooner or later. A reader that stands still is
// waited for again when it has moved.
func (s *stream) letReaderFollow(n int, stop <-chan struct{}) {
	timer := (*time.Timer)(nil)
	for {
		room := s.ring.room.listen()
		at, behind := s.ring.behind(uint64(n)) //nolint:gosec // of a frame
		if !behind || at+1 == s.gave {
			return
		}
		if timer == nil {
			timer = time.NewTimer(readerTime)
			defer timer.Stop()
		} else {
			timer.Reset(readerTime)
		}
		select {
		case <-room:
		case <-stop:
			return
		case <-timer.C:
			s.gave = at + 1
		}
	}
}
