package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// maxFile bounds a PEM file, in bytes.
const maxFile = 1 << 20

const (
	authorityFile = "ca.pem"
	bundleFile    = "ca-bundle.pem"
	formerFiles   = "ca-former-*.pem"
)

// directory is a pki directory that one process at a time changes. Close it.
type directory struct {
	path string
	lock *os.File
}

// openDirectory takes the directory's lock; others wait. It refuses a directory into which others
// may write.
func openDirectory(path string) (*directory, error) {
	lock, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, stacyvm.Errorf(
			stacyvm.CodeNotFound,
			"%s does not exist: make it with `stacyvm pki init %s`",
			path,
			path,
		)
	} else if err != nil {
		return nil, unusable(err)
	}
	d := &directory{path: path, lock: lock}
	info, err := lock.Stat()
	switch {
	case err != nil:
	case !info.IsDir():
		err = fmt.Errorf("%s is not a directory", path)
	case info.Mode().Perm()&0o022 != 0:
		err = fmt.Errorf("others may write into %s (mode %04o): chmod 700 it", path, info.Mode().Perm())
	default:
		err = flock.Exclusive(lock)
	}
	if err != nil {
		d.Close()
		return nil, unusable(err)
	}
	return d, nil
}

// Close lets the next process in.
func (d *directory) Close() { d.lock.Close() }

func (d *directory) join(name string) string { return filepath.Join(d.path, name) }

// place makes a file that is whole or not there, also after a crash. An existing one stays, with a
// CodeConflict error, unless replace is set.
func (d *directory) place(name string, content []byte, mode fs.FileMode, replace bool) error {
	temporary, err := os.CreateTemp(d.path, "."+name+".part-*") // mode 0600
	if err != nil {
		return unusable(err)
	}
	defer os.Remove(temporary.Name()) // fails after the rename
	_, err = temporary.Write(content)
	if err := errors.Join(err, temporary.Chmod(mode), temporary.Sync(), temporary.Close()); err != nil {
		return unusable(err)
	}
	if replace {
		err = os.Rename(temporary.Name(), d.join(name))
	} else {
		err = os.Link(temporary.Name(), d.join(name)) // unlike a rename it never replaces
	}
	if errors.Is(err, fs.ErrExist) {
		return taken(d.join(name))
	}
	if err := errors.Join(err, d.lock.Sync()); err != nil {
		return unusable(err)
	}
	return nil
}

// vacant gives a CodeConflict error when the file exists and may not be replaced.
func (d *directory) vacant(name string, replace bool) error {
	if _, err := os.Lstat(d.join(name)); err == nil && !replace {
		return taken(d.join(name))
	}
	return nil
}

// taken is the error of a key that would be overwritten.
func taken(path string) error {
	return stacyvm.Errorf(stacyvm.CodeConflict, "%s exists and holds a key: --force replaces it", path)
}

// unusable is of a directory or file that cannot be read or written, or is not what it should be.
// It names the path: who uses a pki directory sits at the machine.
func unusable(err error) error {
	return stacyvm.Errorf(stacyvm.CodeUnavailable, "%w", err)
}

// readPEM reads a file. A private one must be its owner's alone.
func readPEM(path string, private bool) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if private {
		if err := CheckPrivate(path, info); err != nil {
			return nil, err
		}
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = fmt.Errorf("%s is over %d bytes", path, maxFile)
	}
	return bytes.TrimSpace(content), err
}
