package node

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// PrivateDir is where in a data directory private servers have one directory each, locked as long
// as their process lives.
const PrivateDir = "run"

const (
	privateLock = "lock"
	claimLock   = "run.lock"
)

// ClaimDir makes a directory that belongs to this process until its lock is released.
func ClaimDir(dataDir string) (dir string, held *flock.Lock, err error) {
	top := filepath.Join(dataDir, PrivateDir)
	if err := os.MkdirAll(top, 0o700); err != nil {
		return "", nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be written")
	}
	// No sweep may look at the directory before it is locked.
	claiming, err := flock.Wait(filepath.Join(dataDir, claimLock))
	if err != nil {
		return "", nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be written")
	}
	defer claiming.Release()
	dir = filepath.Join(top, strings.ToLower(rand.Text()[:10]))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be written")
	}
	if held, err = flock.Try(filepath.Join(dir, privateLock)); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, held, nil
}

// TakeAbandoned takes over a private server's directory if its process is gone; nil when it lives.
func TakeAbandoned(dataDir, dir string) (*flock.Lock, error) {
	claiming, err := flock.Wait(filepath.Join(dataDir, claimLock))
	if err != nil {
		return nil, err
	}
	defer claiming.Release()
	held, err := flock.Try(filepath.Join(dir, privateLock))
	if errors.Is(err, flock.ErrLocked) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it lives, or somebody has just removed it
	}
	return held, err
}
