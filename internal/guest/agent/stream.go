package agent

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// frameSize is the largest piece of output in one event.
	frameSize = 64 << 10
	// widePipe is the room in the pipe of a program that filled the usual 64 KiB, in bytes.
	widePipe = 256 << 10
	// mostInPipe is what a pipe can hold at most without privileges.
	mostInPipe = 1 << 20
	// retryRoom is when a lossless stream tries again although nobody read: the disk may have
	// space again.
	retryRoom = time.Second
	// stallTime is how long the reader of a killed command may read nothing at all.
	stallTime = 10 * time.Second
	// retryTerminal is when a terminal that nobody holds is looked at again.
	retryTerminal = 50 * time.Millisecond
)

// frames holds buffers of frameSize bytes: one is taken only when there is something to read.
var frames = sync.Pool{New: func() any { return new([frameSize]byte) }}

// stream collects one output of a process: it reads the pipe, or the terminal, until nobody holds
// its other end.
type stream struct {
	ring  *ring
	lines lines

	ended   chan struct{} // nobody can write any more, or the agent closes
	drained chan struct{} // everything that the process itself wrote is in the ring
	after   atomic.Bool   // the process has ended: close as soon as the pipe is empty
	widened bool          // the pipe holds as much as it may
	late    int           // bytes that were read since
	killed  chan struct{} // closed when the process was killed: nobody's reading is waited for any more
	grown   func()        // called for each mebibyte that comes after the process's end
	// leader, of a terminal, is closed when the process has ended. Its program may close all of
	// its descriptors before, as cat does, and may open the terminal again by its name; a terminal
	// that we give up hangs up on it.
	leader <-chan struct{}

	mu     sync.Mutex
	file   *os.File // nil: never opened
	closed bool
}

func newStream(ring *ring, log *tail) *stream {
	return &stream{
		ring:    ring,
		lines:   lines{to: log},
		ended:   make(chan struct{}),
		drained: make(chan struct{}),
		killed:  make(chan struct{}),
	}
}

// pump runs until the stream ends or stop is closed.
func (s *stream) pump(file *os.File, stop <-chan struct{}) {
	defer close(s.ended)
	defer s.lines.end()
	defer s.close()
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	for {
		frame, n, err := s.read(raw.Read)
		if errors.Is(err, os.ErrDeadlineExceeded) { // see processEnded
			_ = file.SetReadDeadline(time.Time{})
			continue
		}
		if n <= 0 && s.mayComeBack(stop) {
			continue
		}
		if n <= 0 {
			return
		}
		if n == frameSize && !s.widened { // a program that prints much waits less often for us
			s.widened = true
			_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, widePipe) })
		}
		s.lines.write(frame[:n])
		kept := s.keep(frame[:n], stop)
		frames.Put(frame)
		if !kept {
			return
		}
		s.count(n)
	}
}

// mayComeBack waits a little when the process can still open its terminal again.
func (s *stream) mayComeBack(stop <-chan struct{}) bool {
	if s.leader == nil {
		return false
	}
	retry := time.NewTimer(retryTerminal)
	defer retry.Stop()
	select {
	case <-s.leader: // what it wrote last is still there
		s.leader = nil
		return true
	case <-stop:
		return false
	case <-retry.C:
		return true
	}
}

// read waits for output. It sees every time when there is none.
func (s *stream) read(wait func(func(fd uintptr) bool) error) (frame *[frameSize]byte, n int, err error) {
	err = wait(func(fd uintptr) bool {
		after := s.after.Load() // before the pipe is found empty
		frame = frames.Get().(*[frameSize]byte)
		n, err = unix.Read(int(fd), frame[:])
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Read(int(fd), frame[:])
		}
		if n > 0 {
			return true
		}
		frames.Put(frame)
		frame = nil
		if !errors.Is(err, unix.EAGAIN) {
			return true // the end; of a terminal it is an error
		}
		if after {
			s.markDrained()
		}
		return false
	})
	return frame, n, err
}

// keep puts data into the ring. A lossless ring may let it wait, and with it the process, unless
// that was killed: then the rest is only counted when nobody reads.
func (s *stream) keep(data []byte, stop <-chan struct{}) bool {
	killed := s.killed
	for stalled := time.Duration(0); ; {
		room := s.ring.room.listen()
		taken := s.ring.write(data)
		data = data[taken:]
		if taken > 0 {
			stalled = 0
		}
		if len(data) == 0 {
			return true
		}
		retry := time.NewTimer(retryRoom)
		select {
		case <-room:
		case <-killed:
			killed = nil // once
			s.cutUnread()
		case <-retry.C:
			stalled += retryRoom
			if killed == nil && stalled >= stallTime {
				s.ring.cutOff()
			}
		case <-stop:
			retry.Stop()
			return false
		}
		retry.Stop()
	}
}

// cutUnread gives up the rest of the output when it has no reader at all.
func (s *stream) cutUnread() {
	if !s.ring.hasReaders() {
		s.ring.cutOff()
	}
}

// count closes a stream that a child keeps full: after a whole pipe of bytes none is the
// process's own.
func (s *stream) count(n int) {
	if !s.after.Load() {
		return
	}
	if s.late += n; s.late > mostInPipe {
		s.late = 0
		s.markDrained()
		s.grown()
	}
}

func (s *stream) markDrained() {
	select {
	case <-s.drained:
	default:
		close(s.drained)
	}
}

// processEnded tells the stream that its process has ended; the pump is woken to look whether
// anything is left.
func (s *stream) processEnded() {
	s.after.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil && !s.closed {
		_ = s.file.SetReadDeadline(time.Unix(1, 0))
	}
}

// close gives up the stream: the pump ends.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil && !s.closed {
		s.file.Close()
	}
	s.closed = true
}

// hasEnded tells whether the stream is complete.
func (s *stream) hasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}
