package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// place says where one server keeps what. Programs and images are shared by all servers of a data directory.
type place struct {
	programs string // unpacked programs, by content
	images   string
	worker   string
	engines  string // one directory per engine
	database string
}

// sharedPlace is where `serve` keeps things.
func sharedPlace(dataDir, database string) place {
	return place{
		programs: filepath.Join(dataDir, "bin"),
		images:   filepath.Join(dataDir, "images"),
		worker:   filepath.Join(dataDir, "worker"),
		engines:  filepath.Join(dataDir, "engines"),
		database: database,
	}
}

// privatePlace keeps everything but programs and images in a directory of its own.
func privatePlace(dataDir, own string) place {
	p := sharedPlace(own, filepath.Join(own, "stacyvm.db"))
	shared := sharedPlace(dataDir, "")
	p.programs, p.images = shared.programs, shared.images
	return p
}

// lock is held as long as its process lives.
type lock struct{ file *os.File }

// errLocked: another process holds the lock.
var errLocked = errors.New("locked by another process")

// lockFile takes the lock that path stands for, or gives errLocked at once.
func lockFile(path string) (*lock, error) { return flock(path, syscall.LOCK_EX|syscall.LOCK_NB) }

// waitLock takes the lock when it is free; its holders keep it for moments only.
func waitLock(path string) (*lock, error) { return flock(path, syscall.LOCK_EX) }

func flock(path string, how int) (*lock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), how)
	for errors.Is(err, syscall.EINTR) {
		err = syscall.Flock(int(file.Fd()), how)
	}
	if err == nil {
		return &lock{file}, nil
	}
	_ = file.Close() // nothing was written
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, err
}

func (l *lock) release() { _ = l.file.Close() } // the kernel lets go of the lock whatever close says

// makeDataDir makes the data directory, for its owner alone.
func makeDataDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return stacyvm.Wrap(stacyvm.CodeInvalid, err, fmt.Sprintf("data_dir: %s cannot be made", dir))
	}
	return nil
}
