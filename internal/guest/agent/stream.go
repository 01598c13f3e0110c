package agent

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
)

const (
	// frameSize is the largest piece of output in one event, where the caller takes no larger one.
	frameSize = 64 << 10
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

var (
	// frames holds buffers of frameSize bytes: one is taken only when there is something to read.
	frames = sync.Pool{New: func() any { return newFrame(frameSize) }}
	// largeFrames holds larger ones.
	largeFrames = sync.Pool{New: func() any { return newFrame(guest.LargeFrame) }}
)

// stream collects one output of a process: it reads the pipe, or the terminal, until nobody holds
// its other end.
type stream struct {
	ring  *ring
	lines lines

	ended   chan struct{} // nobody can write any more, or the agent closes
	drained chan struct{} // everything that the process itself wrote is in the ring
	after   atomic.Bool   // the process has ended: close as soon as the pipe is empty
	late    int           // bytes that were read since
	killed  chan struct{} // closed when the process was killed: nobody's reading is waited for any more
	grown   func()        // called for each mebibyte that comes after the process's end
	// leader, of a terminal, is closed when the process has ended. Its program may close all of
	// its descriptors before, as cat does, and may open the terminal again by its name; a terminal
	// that we give up hangs up on it.
	leader   <-chan struct{}
	terminal bool

	// Those of the pump.
	had   int       // bytes that were read, up to much
	last  time.Time // when it read
	gave  uint64    // where the reader stood that was waited for in vain, plus one
	alone *alone    // nil: file is read

	mu     sync.Mutex
	file   *os.File // nil: never opened, or alone is read
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
func (s *stream) pump(stop <-chan struct{}) {
	defer close(s.ended)
	defer s.lines.end()
	defer s.closeAlone()
	defer s.close()
	for {
		frame, n, err := s.read()                   // frame is nil when n is not above 0
		if errors.Is(err, os.ErrDeadlineExceeded) { // see processEnded
			_ = s.file.SetReadDeadline(time.Time{})
			continue
		}
		if n <= 0 && s.mayComeBack(stop) {
			continue
		}
		if n <= 0 {
			return
		}
		s.lines.write(frame.data()[:n])
		kept := s.keep(frame.data()[:n], stop)
		putFrame(frame)
		if !kept {
			return
		}
		s.count(n)
		s.gather(n)
	}
}

// frameFor gives room for so many bytes, or as many as a frame has.
func frameFor(n int) *frame {
	if n > frameSize {
		return largeFrames.Get().(*frame)
	}
	return frames.Get().(*frame)
}

// putFrame gives a frame back to where it came from.
func putFrame(f *frame) {
	if len(f.data()) > frameSize {
		largeFrames.Put(f)
		return
	}
	frames.Put(f)
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
func (s *stream) read() (f *frame, n int, err error) {
	if s.alone != nil {
		if s.isClosed() {
			return nil, 0, os.ErrClosed
		}
		if f, n, err = s.tryRead(s.alone.fd); !errors.Is(err, unix.EAGAIN) {
			return f, n, err
		}
		if !s.watch() {
			return nil, 0, os.ErrClosed
		}
	}
	raw, err := s.file.SyscallConn()
	if err != nil {
		return nil, 0, err
	}
	waited := raw.Read(func(fd uintptr) bool {
		after := s.after.Load() // before the pipe is found empty
		f, n, err = s.tryRead(int(fd))
		if !errors.Is(err, unix.EAGAIN) {
			return true // of a terminal the end is an error
		}
		if after {
			s.markDrained()
		}
		return false
	})
	if waited != nil {
		return nil, 0, waited
	}
	return f, n, err
}

// tryRead reads what there is; EAGAIN: nothing.
func (s *stream) tryRead(fd int) (f *frame, n int, err error) {
	size := frameSize
	if s.alone != nil {
		size = widePipe
	}
	f = frameFor(size)
	n, err = unix.Read(fd, f.data())
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(fd, f.data())
	}
	if n > 0 {
		return f, n, nil
	}
	putFrame(f)
	return nil, n, err
}

// keep puts data into the ring. A lossless ring may let it wait, and with it the process, unless
// that was killed: then the rest is only counted when nobody reads.
func (s *stream) keep(data []byte, stop <-chan struct{}) bool {
	s.letReaderFollow(len(data), stop)
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

// close gives up the stream: the pump ends, and with it what it alone reads.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil && !s.closed {
		s.file.Close()
	}
	s.closed = true
}

func (s *stream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
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
