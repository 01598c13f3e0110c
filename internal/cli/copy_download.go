package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/stacyvm/stacyvm/client"
)

// maxDepth bounds a download: the sandbox decides how deep its directories are.
const maxDepth = 200

// download copies source in the sandbox to target here. Every name below source comes from the sandbox and is hostile: all
// writing goes through an os.Root on the target's directory.
func (c *copier) download(ctx context.Context, source, target string) error {
	info, err := c.follow(ctx, source)
	if err != nil {
		return about(source, err)
	}
	target, there, err := localTarget(source, target)
	switch {
	case err != nil:
		return err
	case info.IsDir:
		return c.downloadDir(ctx, source, target, info)
	case there != nil && !there.Mode().IsRegular():
		return c.downloadStream(ctx, source, target)
	}
	parent, name := filepath.Split(target)
	return inRoot(parent, func(root *os.Root) error { return c.downloadFile(ctx, root, name, source, info) })
}

// localTarget decides the name that a download of source gets, and tells what has that name now: nil for nothing.
func localTarget(source, target string) (string, fs.FileInfo, error) {
	there, err := os.Stat(target)
	into := strings.HasSuffix(target, "/")
	if into {
		if err := os.MkdirAll(target, 0o777); err != nil {
			return "", nil, err
		}
	}
	if into || err == nil && there.IsDir() {
		base := path.Base(path.Clean("/" + source))
		if base == "/" {
			base = "root"
		}
		target = filepath.Join(target, base)
		there, err = os.Stat(target)
	}
	if err != nil {
		return target, nil, nil // whatever is wrong with it, writing says so
	}
	// A symbolic link that the user named or put there stands for its file.
	if resolved, err := filepath.EvalSymlinks(target); err == nil {
		target = resolved
	}
	return target, there, nil
}

// inRoot confines fill to a directory.
func inRoot(dir string, fill func(*os.Root) error) error {
	root, err := os.OpenRoot(orDefault(dir, "."))
	if err != nil {
		return err
	}
	defer root.Close()
	return fill(root)
}

// downloadStream writes to what cannot be replaced: a pipe or a device, such as /dev/stdout.
func (c *copier) downloadStream(ctx context.Context, source, target string) error {
	body, err := c.server.Download(ctx, c.sandbox, source)
	if err != nil {
		return about(source, err)
	}
	defer body.Close()
	file, err := os.OpenFile(target, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, body)
	return errors.Join(err, file.Close())
}

func (c *copier) downloadDir(ctx context.Context, source, target string, info client.FileInfo) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o777); err != nil {
		return err
	}
	if err := os.Mkdir(target, dirMode(info)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return inRoot(target, func(root *os.Root) error { return c.downloadTree(ctx, root, ".", source, 0) })
}

// dirMode is a directory's mode here: its owner must be able to fill it.
func dirMode(info client.FileInfo) fs.FileMode { return fileMode(info) | 0o700 }

// fileMode gives the permission bits and nothing that a hostile sandbox could use beyond them.
func fileMode(info client.FileInfo) fs.FileMode {
	bits, ok := info.Permissions()
	if !ok {
		return 0o644
	}
	return fs.FileMode(bits) & fs.ModePerm
}

// downloadTree goes on after files that the sandbox does not give, and reports them all.
func (c *copier) downloadTree(ctx context.Context, root *os.Root, local, remote string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories deep", remote, maxDepth)
	}
	infos, err := c.server.ListFiles(ctx, c.sandbox, remote)
	if err != nil {
		return about(remote, err)
	}
	var refused []error
	for _, info := range infos {
		name := path.Base(info.Path)
		if !filepath.IsLocal(name) || name == "." {
			c.leaveOut(info.Path, "impossible name")
			continue
		}
		err := c.downloadEntry(ctx, root, filepath.Join(local, name), path.Join(remote, name), info, depth)
		if err != nil && client.CodeOf(err) == "" {
			return errors.Join(append(refused, err)...)
		}
		refused = append(refused, err)
	}
	return errors.Join(refused...)
}

func (c *copier) downloadEntry(ctx context.Context, root *os.Root, to, from string, info client.FileInfo, depth int) error {
	if info.LinkTarget != "" {
		c.leaveOut(from, "symbolic link")
		return nil
	}
	if !info.IsDir {
		err := c.downloadFile(ctx, root, to, from, info)
		if client.CodeOf(err) == client.CodeBadRequest {
			c.leaveOut(from, "not a regular file")
			return nil
		}
		return err
	}
	if err := root.Mkdir(to, dirMode(info)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return c.downloadTree(ctx, root, to, from, depth+1)
}

// downloadFile writes beside the target and renames, so that a broken connection leaves no half file.
func (c *copier) downloadFile(ctx context.Context, root *os.Root, to, from string, info client.FileInfo) error {
	body, err := c.server.Download(ctx, c.sandbox, from)
	if err != nil {
		return about(from, err)
	}
	defer body.Close()
	partial := filepath.Join(filepath.Dir(to), ".stacyvm-"+rand.Text())
	file, err := root.OpenFile(partial, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode(info))
	if err != nil {
		return err
	}
	_, err = io.Copy(file, body)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = root.Rename(partial, to)
	}
	if err != nil {
		return errors.Join(about(from, err), root.Remove(partial))
	}
	return nil
}
