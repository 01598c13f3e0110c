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

// download copies source in the sandbox to target here. Every name comes from the sandbox and is hostile: all writing
// goes through an os.Root on the target's directory.
func (c *copier) download(ctx context.Context, source, target string) error {
	info, err := c.server.Stat(ctx, c.sandbox, source)
	if err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	if local, err := os.Stat(target); strings.HasSuffix(target, "/") || err == nil && local.IsDir() {
		base := path.Base(path.Clean("/" + source))
		if base == "/" {
			base = "root"
		}
		target = filepath.Join(target, base)
	}
	parent, name := filepath.Split(target)
	if !info.IsDir {
		return c.downloadInto(parent, func(root *os.Root) error { return c.downloadFile(ctx, root, name, source, info) })
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	return c.downloadInto(target, func(root *os.Root) error { return c.downloadTree(ctx, root, ".", source, 0) })
}

func (c *copier) downloadInto(dir string, fill func(*os.Root) error) error {
	root, err := os.OpenRoot(orDefault(dir, "."))
	if err != nil {
		return err
	}
	defer root.Close()
	return fill(root)
}

func (c *copier) downloadTree(ctx context.Context, root *os.Root, local, remote string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories deep", remote, maxDepth)
	}
	infos, err := c.server.ListFiles(ctx, c.sandbox, remote)
	if err != nil {
		return fmt.Errorf("%s: %w", remote, err)
	}
	for _, info := range infos {
		name := path.Base(info.Path)
		if !filepath.IsLocal(name) || name == "." {
			c.leaveOut(info.Path, "impossible name")
			continue
		}
		to, from := filepath.Join(local, name), path.Join(remote, name)
		switch {
		case info.LinkTarget != "":
			c.leaveOut(from, "symbolic link")
		case !info.IsDir:
			err = c.downloadFile(ctx, root, to, from, info)
		default:
			if err = root.Mkdir(to, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
				err = c.downloadTree(ctx, root, to, from, depth+1)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// downloadFile writes beside the target and renames, so that a broken connection leaves no half file.
func (c *copier) downloadFile(ctx context.Context, root *os.Root, to, from string, info client.FileInfo) error {
	body, err := c.server.Download(ctx, c.sandbox, from)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	defer body.Close()
	mode := fs.FileMode(0o644)
	if bits, ok := info.Permissions(); ok {
		mode = fs.FileMode(bits) & fs.ModePerm
	}
	partial := filepath.Join(filepath.Dir(to), ".stacyvm-"+rand.Text())
	file, err := root.OpenFile(partial, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, body)
	err = errors.Join(err, file.Chmod(mode), file.Close())
	if err == nil {
		err = root.Rename(partial, to)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", from, err), root.Remove(partial))
	}
	return nil
}
