package cli

import (
	"archive/tar"
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

const (
	// maxDepth and maxName bound a download: the sandbox decides how deep its directories are.
	maxDepth = 200
	maxName  = 4096
)

// download copies source in the sandbox to target here. Every name below source comes from the
// sandbox and is hostile: all writing goes through an os.Root on the target's directory.
func (c *copier) download(ctx context.Context, source, target string) error {
	info, err := c.follow(ctx, source)
	if err != nil {
		return about(source, err)
	}
	if target == standard {
		return c.downloadStream(ctx, source, info, c.app.stdout)
	}
	target, there, err := localTarget(source, target)
	switch {
	case err != nil:
		return err
	case info.IsDir:
		return c.downloadDir(ctx, source, target, info)
	case there != nil && !there.Mode().IsRegular():
		file, err := os.OpenFile(target, os.O_WRONLY, 0) // a pipe or a device, such as /dev/stdout, cannot be replaced
		if err != nil {
			return err
		}
		return errors.Join(c.downloadStream(ctx, source, info, file), file.Close())
	}
	parent, name := filepath.Split(target)
	return inRoot(parent, func(root *os.Root) error { return c.downloadFile(ctx, root, name, source, info) })
}

func isLocalDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// localTarget decides the name that a download of source gets, and tells what has that name now:
// nil for nothing.
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

// downloadStream writes a file's content, or a directory as an archive.
func (c *copier) downloadStream(ctx context.Context, source string, info client.FileInfo, to *os.File) error {
	open := c.server.Download
	if info.IsDir {
		open = c.server.DownloadArchive
		if onTerminal(to) {
			return fmt.Errorf("%s is a directory: a tar archive is nothing for a terminal", printable(source))
		}
	}
	body, err := open(ctx, c.sandbox, source)
	if err != nil {
		return about(source, err)
	}
	defer body.Close()
	_, err = io.Copy(to, c.meter(body))
	return err
}

// downloadFile copies one file.
func (c *copier) downloadFile(ctx context.Context, root *os.Root, to, from string, info client.FileInfo) error {
	body, err := c.server.Download(ctx, c.sandbox, from)
	if err != nil {
		return about(from, err)
	}
	defer body.Close()
	mode, ok := info.Permissions()
	if !ok {
		mode = 0o644
	}
	if err := writeLocal(root, to, fs.FileMode(mode)&fs.ModePerm, c.meter(body)); err != nil {
		return about(from, err)
	}
	return nil
}

// writeLocal writes beside the target and renames, so that a broken connection leaves no half
// file.
func writeLocal(root *os.Root, to string, mode fs.FileMode, content io.Reader) error {
	return replaceLocal(root, to, func(partial string) error {
		file, err := root.OpenFile(partial, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, content)
		return errors.Join(err, file.Close())
	})
}

// replaceLocal makes something beside the target and puts it in its place, or leaves nothing.
func replaceLocal(root *os.Root, to string, make func(partial string) error) error {
	partial := filepath.Join(filepath.Dir(to), ".stacyvm-"+rand.Text())
	err := make(partial)
	if err == nil {
		if err = root.Rename(partial, to); err == nil {
			return nil
		}
	}
	if left := root.Remove(partial); left != nil && !errors.Is(left, fs.ErrNotExist) {
		err = errors.Join(err, left)
	}
	return err
}

// downloadDir copies a directory as one stream.
func (c *copier) downloadDir(ctx context.Context, source, target string, info client.FileInfo) error {
	mode, ok := info.Permissions()
	if !ok {
		mode = 0o755
	}
	archive, err := c.server.DownloadArchive(ctx, c.sandbox, source)
	if err != nil {
		return about(source, err)
	}
	defer archive.Close()
	if err := os.MkdirAll(filepath.Dir(target), 0o777); err != nil {
		return err
	}
	if err := os.Mkdir(target, dirMode(int64(mode))); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return inRoot(target, func(root *os.Root) error {
		u := &unpacker{copier: c, root: root, source: source, tar: tar.NewReader(c.meter(archive))}
		return errors.Join(u.all(ctx), u.join())
	})
}

// dirMode is a directory's mode here: its owner must be able to fill it.
func dirMode(mode int64) fs.FileMode { return fs.FileMode(mode)&fs.ModePerm | 0o700 }

// unpacker unpacks what a sandbox sends, which may be anything.
type unpacker struct {
	*copier
	problems
	root   *os.Root
	source string
	tar    *tar.Reader
	broken error // what reading the archive met
}

// all unpacks to the archive's end. What goes wrong with one entry does not stop the others.
func (u *unpacker) all(ctx context.Context) error {
	for {
		header, err := u.tar.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return about(u.source, fmt.Errorf("the rest of it did not come: %w", err))
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			u.told(header.PAXRecords)
			continue
		}
		err = u.entry(header)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case u.broken != nil:
			return about(path.Join(u.source, header.Name), u.broken)
		case err != nil:
			u.add(about(path.Join(u.source, header.Name), err))
		}
	}
}

// told takes what the sandbox says of entries that are not in the archive.
func (u *unpacker) told(records map[string]string) {
	if name, why, ok := strings.Cut(records[client.OmittedRecord], ": "); ok {
		u.leaveOut(path.Join(u.source, name), printable(why))
	}
	if name, why, ok := strings.Cut(records[client.FailedRecord], ": "); ok {
		u.add(fmt.Errorf("%s: %s", visible(path.Join(u.source, name)), printable(why)))
	}
}

func (u *unpacker) entry(header *tar.Header) error {
	name := path.Clean(header.Name)
	from := path.Join(u.source, name)
	switch {
	case name == ".":
		return nil // the target, which is there
	case !filepath.IsLocal(name), strings.Contains(name, "\x00"):
		u.leaveOut(header.Name, "impossible name")
		return nil
	case strings.Count(name, "/") >= maxDepth, len(name) > maxName:
		return fmt.Errorf("more than %d directories deep", maxDepth)
	}
	u.noteOddName(from)
	switch {
	case header.Typeflag == tar.TypeDir:
		err := u.root.Mkdir(name, dirMode(header.Mode))
		if errors.Is(err, fs.ErrExist) {
			var info fs.FileInfo
			if info, err = u.root.Stat(name); err == nil && !info.IsDir() {
				err = errors.New("here is something that is no directory")
			}
		}
		return err
	case header.Typeflag == tar.TypeReg && !sparse(header):
		return writeLocal(u.root, name, fs.FileMode(header.Mode)&fs.ModePerm, u)
	case header.Typeflag == tar.TypeSymlink:
		return replaceLocal(
			u.root,
			name,
			func(partial string) error { return u.root.Symlink(header.Linkname, partial) },
		)
	}
	u.leaveOut(from, "not a regular file")
	return nil
}

// sparse tells of a file with holes: a few bytes of an archive could become any number of them
// here.
func sparse(header *tar.Header) bool {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// Read reads the content of the entry at hand.
func (u *unpacker) Read(p []byte) (int, error) {
	n, err := u.tar.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		u.broken = err
	}
	return n, err
}
