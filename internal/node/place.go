// Package node is one machine's part, which a server, a worker process and the tools share: the data directory and its locks, the
// engines, the images, the worker over them and the guard of its disk. It knows neither a store nor a control plane.
package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Place says where one server keeps what. Programs and images are shared by all servers of a data directory.
type Place struct {
	Programs string // unpacked programs, by content
	Images   string
	Worker   string
	Engines  string // one directory per engine
	Database string
}

// SharedPlace is where `serve` keeps things.
func SharedPlace(dataDir, database string) Place {
	return Place{
		Programs: filepath.Join(dataDir, "bin"),
		Images:   filepath.Join(dataDir, "images"),
		Worker:   filepath.Join(dataDir, "worker"),
		Engines:  filepath.Join(dataDir, "engines"),
		Database: database,
	}
}

// PrivatePlace keeps everything but programs and images in a directory of its own.
func PrivatePlace(dataDir, own string) Place {
	p := SharedPlace(own, filepath.Join(own, "stacyvm.db"))
	shared := SharedPlace(dataDir, "")
	p.Programs, p.Images = shared.Programs, shared.Images
	return p
}

// ServeLock is the file that the server or worker process of a data directory has locked.
const ServeLock = "serve.lock"

// Lock is held as long as its process lives.
type Lock struct{ file *os.File }

// ErrLocked means that another process holds the lock.
var ErrLocked = errors.New("locked by another process")

// LockFile takes the lock that path stands for, or gives ErrLocked at once.
func LockFile(path string) (*Lock, error) { return flock(path, syscall.LOCK_EX|syscall.LOCK_NB) }

// WaitLock takes the lock when it is free; its holders keep it for moments only.
func WaitLock(path string) (*Lock, error) { return flock(path, syscall.LOCK_EX) }

func flock(path string, how int) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), how)
	for errors.Is(err, syscall.EINTR) {
		err = syscall.Flock(int(file.Fd()), how)
	}
	if err == nil {
		return &Lock{file}, nil
	}
	_ = file.Close() // nothing was written
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, ErrLocked
	}
	return nil, err
}

// Release lets the next process have it.
func (l *Lock) Release() { _ = l.file.Close() } // the kernel lets go of the lock whatever close says

// MakeDataDir makes the data directory, for its owner alone.
func MakeDataDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return stacyvm.Wrap(stacyvm.CodeInvalid, err, fmt.Sprintf("data_dir: %s cannot be made", dir))
	}
	return nil
}
