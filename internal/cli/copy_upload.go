package cli

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync/atomic"

	"github.com/stacyvm/stacyvm/client"
)

// upload copies source, a file or directory here, to target in the sandbox. A symbolic link that the user names stands for
// what it points to, and a pipe or device is read to its end.
func (c *copier) upload(ctx context.Context, source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	absolute, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	target, err = c.remoteTarget(ctx, target, filepath.Base(absolute))
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return c.uploadFile(ctx, source, target, info)
	}
	if absolute, err = filepath.EvalSymlinks(absolute); err != nil {
		return err
	}
	return c.uploadTree(ctx, absolute, target)
}

func (c *copier) uploadTree(ctx context.Context, source, target string) error {
	return filepath.WalkDir(source, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(source, name)
		if err != nil {
			return err
		}
		to := path.Join(target, filepath.ToSlash(relative))
		info, err := entry.Info()
		switch {
		case err != nil:
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			c.leaveOut(name, "symbolic link")
		case info.IsDir():
			return c.makeDir(ctx, to, info.Mode().Perm())
		case !info.Mode().IsRegular():
			c.leaveOut(name, "not a regular file")
		default:
			return c.uploadFile(ctx, name, to, info)
		}
		return nil
	})
}

func (c *copier) makeDir(ctx context.Context, to string, mode fs.FileMode) error {
	if err := c.server.MakeDir(ctx, c.sandbox, to, uint32(mode|0o700)); err != nil { // its owner must be able to fill it
		return about(to, err)
	}
	return nil
}

func (c *copier) uploadFile(ctx context.Context, name, to string, info fs.FileInfo) error {
	options := client.UploadOptions{Mode: uint32(info.Mode().Perm())}
	if !info.Mode().IsRegular() {
		options.Mode = 0 // of a pipe, says nothing
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	source := &readFailure{Reader: file}
	_, err = c.server.Upload(ctx, c.sandbox, to, source, options)
	failed := source.failed.Load()
	switch {
	case failed != nil && ctx.Err() == nil:
		return *failed
	case err != nil:
		return about(to, err)
	}
	return nil
}

// readFailure keeps what went wrong here apart from what went wrong on the way.
type readFailure struct {
	io.Reader
	failed atomic.Pointer[error]
}

func (r *readFailure) Read(buffer []byte) (int, error) {
	n, err := r.Reader.Read(buffer)
	if err != nil && err != io.EOF {
		r.failed.Store(&err)
	}
	return n, err
}
