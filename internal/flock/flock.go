// Package flock locks files and directories between processes (flock(2)). The kernel lets go of a
// lock when its file is closed, which the end of a process does, too. A lock is of an open file:
// the same process that opens it again waits like any other.
package flock

import (
	"errors"
	"os"
	"syscall"
)

// ErrLocked means that somebody else holds the lock.
var ErrLocked = errors.New("locked by another process")

// Shared waits for a lock that others may hold at the same time.
func Shared(file *os.File) error { return lock(file, syscall.LOCK_SH) }

// Exclusive waits for a lock that nobody else holds.
func Exclusive(file *os.File) error { return lock(file, syscall.LOCK_EX) }

// TryExclusive takes a lock that nobody else holds, or gives ErrLocked at once.
func TryExclusive(file *os.File) error {
	err := lock(file, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

func lock(file *os.File, how int) error {
	for {
		if err := syscall.Flock(int(file.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// Lock is held until Release, or as long as its process lives.
type Lock struct{ file *os.File }

// Try takes the exclusive lock that path stands for, or gives ErrLocked at once. The file is made
// when there is none, and stays.
func Try(path string) (*Lock, error) { return open(path, TryExclusive) }

// Wait takes it when it is free. It is for locks whose holders keep them for moments only.
func Wait(path string) (*Lock, error) { return open(path, Exclusive) }

func open(path string, take func(*os.File) error) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := take(file); err != nil {
		_ = file.Close() // nothing was written
		return nil, err
	}
	return &Lock{file}, nil
}

// Release lets the next one have it.
func (l *Lock) Release() { _ = l.file.Close() } // the kernel lets go of the lock whatever close says
