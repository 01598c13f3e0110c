package cli

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/stacyvm/stacyvm/client"
)

// upload copies source, a file or directory here, to target in the sandbox.
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
	if info.IsDir() {
		return c.uploadTree(ctx, absolute, target)
	}
	return c.uploadFile(ctx, absolute, target, info)
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
		info, err := os.Stat(name)
		switch {
		case entry.Type()&fs.ModeSymlink != 0 && name != source:
			c.leaveOut(name, "symbolic link")
			return nil
		case err != nil:
			return err
		case info.IsDir():
			return c.makeDir(ctx, to, uint32(info.Mode().Perm()))
		default:
			return c.uploadFile(ctx, name, to, info)
		}
	})
}

func (c *copier) makeDir(ctx context.Context, to string, mode uint32) error {
	err := c.server.MakeDir(ctx, c.sandbox, to, mode|0o700) // its owner must be able to fill it
	if err != nil && client.CodeOf(err) != client.CodeConflict {
		return fmt.Errorf("%s: %w", to, err)
	}
	return nil
}

func (c *copier) uploadFile(ctx context.Context, name, to string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		c.leaveOut(name, "not a regular file")
		return nil
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := c.server.Upload(ctx, c.sandbox, to, file, client.UploadOptions{Mode: uint32(info.Mode().Perm())}); err != nil {
		return fmt.Errorf("%s: %w", to, err)
	}
	return nil
}
