package agent

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

var errNoSpill = errors.New("no file for output")

// spill is the part of a ring that does not fit in memory: a file without a name, so that no
// process of the guest can open or exchange it, used as a circle of size bytes. It is made when it
// is first needed.
type spill struct {
	dir  string
	size uint64 // a multiple of the ring's chunk; 0: none
	file *os.File
}

// write puts chunks at their place, as many as there is room for up to the end of the circle, and
// tells how many that were; at least one without an error. A chunk never crosses the end because
// all are aligned.
func (s *spill) write(offset uint64, chunks [][]byte) (written int, err error) {
	if s.size == 0 {
		return 0, errNoSpill
	}
	if s.file == nil {
		file, err := s.create()
		if err != nil {
			return 0, err
		}
		s.file = file
	}
	at := offset % s.size
	chunks = chunks[:s.upToEnd(offset, uint64(len(chunks[0])), len(chunks))]
	if len(chunks) > 1 && s.writeAtOnce(at, chunks) {
		return len(chunks), nil
	}
	for i, chunk := range chunks {
		if _, err := s.file.WriteAt(chunk, int64(at)); err != nil {
			return i, err
		}
		at += uint64(len(chunk))
	}
	return len(chunks), nil
}

// upToEnd gives how many of n chunks of a size one write takes from offset on: those up to the end of
// the circle.
func (s *spill) upToEnd(offset, chunk uint64, n int) int {
	return int(min(uint64(n), (s.size-offset%s.size)/chunk)) //nolint:gosec // at most n
}

// writeAtOnce needs one system call; false: that did not write everything.
func (s *spill) writeAtOnce(at uint64, chunks [][]byte) (whole bool) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return false
	}
	size := 0
	for _, chunk := range chunks {
		size += len(chunk)
	}
	err = raw.Control(func(fd uintptr) {
		n, err := unix.Pwritev(int(fd), chunks, int64(at))
		whole = err == nil && n == size
	})
	return err == nil && whole
}

func (s *spill) create() (*os.File, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(s.dir, "output-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// read fills at most buf, up to the end of the circle.
func (s *spill) read(offset uint64, buf []byte) (int, error) {
	if s.file == nil {
		return 0, errNoSpill
	}
	at := offset % s.size
	if left := s.size - at; uint64(len(buf)) > left {
		buf = buf[:left]
	}
	return s.file.ReadAt(buf, int64(at))
}

// drop gives the space back.
func (s *spill) drop() {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}
