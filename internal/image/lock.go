package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/flock"
)

// locked runs do under the store's lock, which take takes: flock.Shared or flock.Exclusive. The
// lock is held for a few system calls only; what takes long is done in a temporary directory
// outside of it.
func (s *Store) locked(take func(*os.File) error, do func() error) error {
	file, err := os.OpenFile(s.path(lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return ioError(err, "the image directory cannot be locked")
	}
	defer file.Close()
	if err := take(file); err != nil {
		return ioError(err, "the image directory cannot be locked")
	}
	return do()
}

// temporary is a directory that nobody sees yet, or no more. Its lock tells other processes that
// it is being worked on.
type temporary struct {
	path string
	lock *os.File
}

// newTemporary makes one. Call discard whatever happens; after a rename of path it removes
// nothing.
func (s *Store) newTemporary() (t *temporary, err error) {
	err = s.locked(flock.Shared, func() error { // not while sweep looks: it must not find one that is not locked yet
		path, err := os.MkdirTemp(s.dir, temporaryPat)
		if err != nil {
			return ioError(err, "no working directory can be made")
		}
		if t, err = takeTemporary(path); err != nil {
			_ = os.Remove(path) // empty; sweep removes it otherwise
			return ioError(err, "the working directory cannot be locked")
		}
		return nil
	})
	return t, err
}

// takeTemporary locks a directory, or fails when its owner lives.
func takeTemporary(path string) (*temporary, error) {
	lock, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := flock.TryExclusive(lock); err != nil {
		lock.Close()
		return nil, err
	}
	return &temporary{path, lock}, nil
}

func (t *temporary) discard() error {
	defer t.lock.Close()
	if err := os.RemoveAll(t.path); err != nil {
		return fmt.Errorf("remove a working directory: %w", err)
	}
	return nil
}

// sweep removes temporary directories whose owners are gone.
func (s *Store) sweep() error {
	var dead []*temporary
	err := s.locked(flock.Exclusive, func() error {
		paths, err := filepath.Glob(s.path(temporaryPat))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if t, err := takeTemporary(path); err == nil { // otherwise it is in use, or just gone
				dead = append(dead, t)
			}
		}
		return nil
	})
	for _, t := range dead {
		err = errors.Join(err, t.discard())
	}
	return err
}

// retire takes a published directory out of sight. Call it under the exclusive lock, and discard
// after it.
func (s *Store) retire(name string) (*temporary, error) {
	path, err := os.MkdirTemp(s.dir, temporaryPat)
	if err != nil {
		return nil, ioError(err, "no working directory can be made")
	}
	t, err := takeTemporary(path)
	if err != nil {
		return nil, ioError(err, "the working directory cannot be locked")
	}
	if err := os.Rename(s.path(name), filepath.Join(path, name)); err != nil {
		return nil, errors.Join(ioError(err, "the image cannot be taken away"), t.discard())
	}
	return t, nil
}

// publish makes a finished directory durable and gives it its name. fs.ErrExist: the name is
// taken.
func (s *Store) publish(finished, name string) error {
	dir, err := os.Open(s.dir)
	if err != nil {
		return ioError(err, "the image directory cannot be opened")
	}
	defer dir.Close()
	// All of its files at once: a sync for each would take minutes.
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return ioError(err, "the image cannot be written to disk")
	}
	err = s.locked(flock.Exclusive, func() error {
		err := os.Rename(finished, s.path(name))
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
			return os.ErrExist
		}
		return ioError(err, "the image cannot be put in its place")
	})
	if err != nil {
		return err
	}
	return ioError(dir.Sync(), "the image cannot be written to disk")
}
