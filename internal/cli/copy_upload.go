package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync/atomic"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/client"
)

// upload copies source, a file or directory here, to target in the sandbox. A symbolic link that
// the user names stands for what it points to, and a pipe or device is read to its end.
func (c *copier) upload(ctx context.Context, source, target string) error {
	if source == standard {
		return c.uploadInput(ctx, target)
	}
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
	switch {
	case info.IsDir():
		if absolute, err = filepath.EvalSymlinks(absolute); err != nil {
			return err
		}
		return c.uploadArchive(ctx, target, func(p *packer) error { return p.tree(absolute) })
	case info.Mode().IsRegular() && !utf8.ValidString(path.Base(target)):
		c.noteOddName(target)
		return c.uploadArchive(
			ctx,
			path.Dir(target),
			func(p *packer) error { return p.file(absolute, path.Base(target)) },
		)
	}
	return c.uploadFile(ctx, source, target, info)
}

// uploadInput makes a file of standard input.
func (c *copier) uploadInput(ctx context.Context, target string) error {
	if onTerminal(c.app.stdin) {
		return errors.New("standard input is a terminal: send something to it, or name a file")
	}
	target, err := c.remoteTarget(ctx, target, "")
	if err != nil {
		return err
	}
	input, err := newInputReader(c.app.stdin)
	if err != nil {
		return err
	}
	defer input.close()
	unhook := context.AfterFunc(ctx, input.stop)
	err = c.send(ctx, input, target, client.UploadOptions{User: c.user})
	if unhook() {
		input.stop()
	}
	return err
}

func (c *copier) uploadFile(ctx context.Context, name, to string, info fs.FileInfo) error {
	options := client.UploadOptions{Mode: uint32(info.Mode().Perm()), User: c.user}
	if !info.Mode().IsRegular() {
		options.Mode = 0 // of a pipe, says nothing
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return c.send(ctx, file, to, options)
}

// send writes a file in the sandbox.
func (c *copier) send(ctx context.Context, content io.Reader, to string, options client.UploadOptions) error {
	source := &readFailure{Reader: c.meter(content)}
	_, err := c.server.Upload(ctx, c.sandbox, to, source, options)
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

// uploadArchive unpacks what fill packs in a directory of the sandbox: one stream, however many
// files there are.
func (c *copier) uploadArchive(ctx context.Context, target string, fill func(*packer) error) error {
	reader, writer := io.Pipe()
	p := &packer{copier: c, tar: tar.NewWriter(writer), buffer: make([]byte, 64<<10)}
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		err := fill(p)
		if err == nil {
			err = p.tar.Close()
		}
		writer.CloseWithError(err)
	}()
	unpacked, err := c.server.UploadArchive(ctx, c.sandbox, target, reader, c.user)
	reader.CloseWithError(io.ErrClosedPipe) // whoever packs for nobody ends
	<-packed
	if err != nil {
		p.add(about(target, err))
	}
	for _, failure := range unpacked.Failures {
		p.add(fmt.Errorf("%s: %s", visible(path.Join(target, failure.Name)), printable(failure.Reason)))
	}
	if unnamed := int(unpacked.Failed) - len(unpacked.Failures); unnamed > 0 {
		p.more += unnamed
	}
	return p.join()
}

// packer packs files of this machine. Its methods return errors of the archive; what is wrong with
// a file it collects.
type packer struct {
	*copier
	problems
	tar    *tar.Writer
	buffer []byte
}

// tree packs a directory and all below it.
func (p *packer) tree(source string) error {
	return filepath.WalkDir(source, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			p.add(err)
			return nil // the walk leaves a directory out that cannot be read
		}
		relative, err := filepath.Rel(source, name)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			p.add(err)
			return nil
		}
		relative = filepath.ToSlash(relative)
		p.noteOddName(relative)
		switch {
		case info.IsDir():
			// Its owner must be able to fill it.
			return p.header(
				&tar.Header{Typeflag: tar.TypeDir, Name: relative + "/", Mode: int64(info.Mode().Perm() | 0o700)},
			)
		case info.Mode().IsRegular():
			return p.file(name, relative)
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(name)
			if err != nil {
				p.add(err)
				return nil
			}
			return p.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: relative, Linkname: to, Mode: 0o777})
		}
		p.leaveOut(name, "not a regular file")
		return nil
	})
}

// header writes an entry's header. GNU's format takes names that are no UTF-8.
func (p *packer) header(header *tar.Header) error {
	header.Format = tar.FormatGNU
	return p.tar.WriteHeader(header)
}

// file packs a regular file. Of one that becomes shorter meanwhile the rest is zeros, and that is
// a problem.
func (p *packer) file(name, relative string) error {
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		p.add(err)
		return nil
	}
	defer file.Close()
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: it changed while it was copied", visible(name))
	}
	if err != nil {
		p.add(err)
		return nil
	}
	left := info.Size()
	if err := p.header(
		&tar.Header{Typeflag: tar.TypeReg, Name: relative, Size: left, Mode: int64(info.Mode().Perm())},
	); err != nil {
		return err
	}
	for content := p.meter(file); left > 0; {
		n, err := content.Read(p.buffer[:min(left, int64(len(p.buffer)))])
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("it became shorter while it was copied, and its copy ends in zeros")
			}
			p.add(fmt.Errorf("%s: %w", visible(name), err))
			n = int(min(left, int64(len(p.buffer))))
			clear(p.buffer[:n])
		}
		if _, err := p.tar.Write(p.buffer[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}
