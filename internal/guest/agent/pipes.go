package agent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// files are the descriptors of one start: our ends, and those that the program gets as 0, 1 and 2.
type files struct {
	stdout, stderr *os.File // ours, to read
	stdin          *os.File // ours, to write
	theirStdin     int
	theirStdout    int
	theirStderr    int
	toClose        []int    // descriptors of theirs
	slave          *os.File // theirs, in place of the three
}

// open makes the pipes or the terminal.
func (p *process) open(req *guestv1.StartRequest, who user, null *os.File) (f files, err error) {
	if req.Terminal != nil {
		f.stdout, f.slave, err = openTerminal(req.Terminal, who.uid)
		if err != nil {
			return f, err
		}
		p.terminal = f.stdout
		p.input.file, p.input.terminal = f.stdout, true
		return f, nil
	}
	defer func() {
		if err != nil {
			f.closeTheirs()
			f.closeOurs()
		}
	}()
	f.theirStdin = int(null.Fd())
	if req.Stdin {
		if f.theirStdin, f.stdin, err = pipe(true); err != nil {
			return f, err
		}
		f.toClose = append(f.toClose, f.theirStdin)
		p.input.file = f.stdin
	}
	if f.theirStdout, f.stdout, err = pipe(false); err != nil {
		return f, err
	}
	f.toClose = append(f.toClose, f.theirStdout)
	if f.theirStderr, f.stderr, err = pipe(false); err != nil {
		return f, err
	}
	f.toClose = append(f.toClose, f.theirStderr)
	return f, nil
}

// pipe gives the program's end and ours. Only ours does not block.
func pipe(write bool) (theirs int, ours *os.File, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return 0, nil, fmt.Errorf("make a pipe: %w", err)
	}
	theirs, mine := ends[1], ends[0]
	if write {
		theirs, mine = ends[0], ends[1]
	}
	if err := unix.SetNonblock(mine, true); err != nil {
		unix.Close(theirs)
		unix.Close(mine)
		return 0, nil, fmt.Errorf("make a pipe: %w", err)
	}
	return theirs, os.NewFile(uintptr(mine), "pipe"), nil
}

func (f files) theirs() []uintptr {
	if f.slave != nil {
		fd := f.slave.Fd()
		return []uintptr{fd, fd, fd}
	}
	return []uintptr{uintptr(f.theirStdin), uintptr(f.theirStdout), uintptr(f.theirStderr)}
}

func (f files) closeTheirs() {
	for _, fd := range f.toClose {
		unix.Close(fd)
	}
	if f.slave != nil {
		f.slave.Close()
	}
}

func (f files) closeOurs() {
	for _, file := range []*os.File{f.stdin, f.stdout, f.stderr} {
		if file != nil {
			file.Close()
		}
	}
}
