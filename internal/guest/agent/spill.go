package agent

import (
	"errors"
	"os"
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

// write puts a chunk at its place. It never crosses the end of the circle because chunks are
// aligned.
func (s *spill) write(offset uint64, chunk []byte) error {
	if s.size == 0 {
		return errNoSpill
	}
	if s.file == nil {
		file, err := s.create()
		if err != nil {
			return err
		}
		s.file = file
	}
	_, err := s.file.WriteAt(chunk, int64(offset%s.size))
	return err
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
