package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/sandbox"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/launcher"
	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/limits"
	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/process"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
	"github.com/stacyvm/stacyvm/internal/flock"
)

// readyMessage is what a serving launcher writes to descriptor 3 once its socket is open; anything
// else is its error.
const readyMessage = "ready"

// daemonize starts the launcher in a session of its own, as nobody's child, and returns when it
// listens: it must outlive the server that asked for it.
func daemonize(dir, build string, grace time.Duration) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	journal, err := openJournal(dir)
	if err != nil {
		return err
	}
	defer journal.Close()
	//nolint:noctx // it outlives every context
	serve := exec.Command("/proc/self/exe", "launch", "--serve", "--dir", dir, "--build", build,
		"--expire-after", grace.String())
	serve.Args[0] = "stacyvm-sentry" // not /proc/self/exe, which gVisor's helper is called
	serve.Stderr = journal           // for the Go runtime, should it panic
	serve.ExtraFiles = []*os.File{write}
	serve.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	serve.Dir = dir
	if err := serve.Start(); err != nil {
		return err
	}
	write.Close()
	message, err := io.ReadAll(read)
	if err != nil {
		return err
	}
	if string(message) == errServed.Error() {
		return errServed
	}
	if string(message) != readyMessage {
		return fmt.Errorf("launcher did not start: %s", message)
	}
	return serve.Process.Release()
}

// serveDir is the launcher itself.
func serveDir(dir, build string, grace time.Duration) error {
	ready := os.NewFile(3, "ready")
	syscall.CloseOnExec(3)
	// gVisor makes all descriptors private at the first create, and some are meant for a sentry.
	if err := errors.Join(withoutMembarrier(), reserveDescriptors(), sandbox.SetCloExeOnAllFDs()); err != nil {
		fmt.Fprint(ready, err)
		return err
	}
	s, listener, err := open(dir, build, grace)
	if err != nil {
		fmt.Fprint(ready, err)
		return err
	}
	fmt.Fprint(ready, readyMessage)
	ready.Close()
	return s.Serve(listener)
}

// open takes the directory for this launcher alone and clears what a dead one left half done.
func open(dir, build string, grace time.Duration) (*launcher.Server, *net.UnixListener, error) {
	// The true path: sentries are told apart by the path on their command line.
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, nil, err
	}
	// Socket addresses are short; names below the working directory stay short however deep it is.
	if err := os.Chdir(dir); err != nil {
		return nil, nil, err
	}
	if err := lock(); err != nil {
		return nil, nil, err
	}
	if err := quietGVisor(); err != nil {
		return nil, nil, err
	}
	network, err := offlineNetwork()
	if err != nil {
		return nil, nil, fmt.Errorf("make a network namespace: %w", err)
	}
	groups, err := limits.Find(dir, launcher.Sandboxes, log.Warningf)
	if err != nil {
		return nil, nil, err
	}
	s, err := launcher.New(launcher.Config{
		Dir: dir, Build: build, Grace: grace, Runtime: &gvisor{dir: dir, net: network}, Groups: groups,
		Processes: process.Table{}, Warn: log.Warningf,
	})
	if err != nil {
		return nil, nil, err
	}
	if err := os.Remove(wire.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	go func() { // sandboxes that are made before build their own
		if err := shareFilter(); err != nil {
			log.Warningf("build the sentries' system call filters: %v", err)
		}
	}()
	mask := syscall.Umask(0o077)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: wire.Socket, Net: "unix"})
	syscall.Umask(mask)
	return s, listener, err
}

// errServed: another launcher has the directory; one that is dying, or one that comes up.
var errServed = errors.New("another launcher serves this directory")

// lock makes sure that no two launchers serve one directory, the working directory. It is held
// until the process ends.
func lock() error {
	held, err := flock.Try("launcher.lock")
	if errors.Is(err, flock.ErrLocked) {
		return errServed
	}
	served = held
	return err
}

// served keeps the lock's file from being collected.
var served *flock.Lock

// quietGVisor gives gVisor, which hands its maker's standard streams to the first process of every
// sandbox, the null device for them, and its warnings the bounded log.
func quietGVisor() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	os.Stdin, os.Stdout, os.Stderr = null, null, null
	log.SetTarget(&log.GoogleEmitter{Writer: &log.Writer{Next: &journalWriter{file: os.NewFile(2, "log")}}})
	log.SetLevel(log.Warning)
	return nil
}

const maxJournal = 1 << 20

func openJournal(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "launcher.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err == nil && info.Size() > maxJournal {
		err = file.Truncate(0)
		if err != nil {
			return nil, err
		}
	}
	return file, nil
}

// journalWriter bounds the log: when it is full it starts anew.
type journalWriter struct {
	mu   sync.Mutex
	file *os.File
}

func (w *journalWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if info, err := w.file.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > maxJournal {
		_ = w.file.Truncate(0)
	}
	return w.file.Write(line)
}
