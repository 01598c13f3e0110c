package process

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Exit is the end of one of a sandbox's processes.
type Exit struct {
	Process string
	At      time.Time
	Status  unix.WaitStatus
	Known   bool // Status is; of a process that an earlier launcher started it is not
}

// Watch tells when a sandbox's sentry and its gofer end, and collects them, so that no dead one
// stays in the machine's table. It parks on process handles: no thread waits. The channel takes
// both ends.
func (Table) Watch(sentry, gofer int) (<-chan Exit, error) {
	first, err := open(sentry)
	if err != nil {
		return nil, err
	}
	second, err := open(gofer)
	if err != nil {
		first.Close()
		return nil, err
	}
	exits := make(chan Exit, 2)
	go func() { exits <- first.wait("sentry") }()
	go func() { exits <- second.wait("gofer") }()
	return exits, nil
}

// watched is a handle that the Go runtime polls.
type watched struct {
	*os.File
	pid int
}

func open(pid int) (*watched, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &watched{os.NewFile(uintptr(fd), "process"), pid}, nil
}

// wait returns when the process has ended, and collects it.
func (w *watched) wait(name string) Exit {
	defer w.Close()
	raw, err := w.SyscallConn()
	if err == nil {
		_ = raw.Read(func(fd uintptr) bool {
			n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0
		})
	}
	e := Exit{Process: name, At: time.Now().UTC()}
	got, err := unix.Wait4(w.pid, &e.Status, unix.WNOHANG, nil)
	e.Known = err == nil && got == w.pid
	return e
}
