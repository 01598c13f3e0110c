package agent

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"syscall"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/guest"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// mostUnsized bounds what is read of a file that says that it is empty, in bytes: those of /proc
// say so and are not.
const mostUnsized = 1 << 20

// Pack implements the service.
func (s *fileService) Pack(
	ctx context.Context,
	request *connect.Request[guestv1.PackRequest],
	stream *connect.ServerStream[guestv1.PackResponse],
) error {
	return s.on(request.Msg.GetPath(), func(t tree, _, name string) error {
		info, err := t.Stat(name)
		if err == nil {
			err = directory(info)
		}
		if err != nil {
			return err
		}
		frames := bufio.NewWriterSize(frameWriter{stream}, guest.FrameOf(request.Header(), fileFrame))
		p := &packer{ctx: ctx, service: s, t: t, tar: tar.NewWriter(frames), buffer: make([]byte, fileFrame)}
		if err := p.directory(name, ".", info); err != nil {
			return err
		}
		return errors.Join(p.tar.Close(), frames.Flush())
	})
}

// frameWriter sends what is written to it.
type frameWriter struct {
	stream *connect.ServerStream[guestv1.PackResponse]
}

func (w frameWriter) Write(data []byte) (int, error) {
	return len(data), w.stream.Send(&guestv1.PackResponse{Data: data})
}

// packer writes one archive. Its methods return errors of the archive; what is wrong with a file
// is told in the archive.
type packer struct {
	ctx     context.Context
	service *fileService
	t       tree
	tar     *tar.Writer
	buffer  []byte
}

// directory packs a directory, whose entries are called relative in the archive, and all below it.
func (p *packer) directory(name, relative string, info fs.FileInfo) error {
	if err := p.header(relative+"/", info, &tar.Header{Typeflag: tar.TypeDir}); err != nil {
		return err
	}
	names, err := p.service.namesIn(p.ctx, p.t, name)
	if err != nil {
		return p.tell(guest.FailedRecord, relative, err)
	}
	for _, entry := range names {
		if err := p.entry(name+"/"+entry, path.Join(relative, entry)); err != nil {
			return err
		}
	}
	return nil
}

// entry packs whatever has that name.
func (p *packer) entry(name, relative string) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	info, err := p.t.Lstat(name)
	switch kind := info; {
	case errors.Is(err, fs.ErrNotExist):
		return nil // gone since
	case err != nil:
		return p.tell(guest.FailedRecord, relative, err)
	case kind.IsDir():
		if clean := path.Clean(name); p.service.root == "/" && (clean == "/proc" || clean == "/sys") {
			return p.tell(guest.OmittedRecord, relative, errors.New("is the kernel's"))
		}
		return p.directory(name, relative, info)
	case kind.Mode().IsRegular():
		return p.file(name, relative)
	}
	return p.special(name, relative, info)
}

// special packs what has no content.
func (p *packer) special(name, relative string, info fs.FileInfo) error {
	header := &tar.Header{}
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		to, err := p.t.Readlink(name)
		if err != nil {
			return p.tell(guest.FailedRecord, relative, err)
		}
		header.Typeflag, header.Linkname = tar.TypeSymlink, to
	case fs.ModeNamedPipe:
		header.Typeflag = tar.TypeFifo
	case fs.ModeDevice:
		header.Typeflag = tar.TypeBlock
	case fs.ModeDevice | fs.ModeCharDevice:
		header.Typeflag = tar.TypeChar
	default:
		return p.tell(guest.OmittedRecord, relative, errors.New("is a socket"))
	}
	return p.header(relative, info, header)
}

// file packs a regular file. Of one that becomes shorter meanwhile the rest is zeros, and it is
// told.
func (p *packer) file(name, relative string) error {
	file, info, err := openToRead(p.t, name, regular)
	if err != nil {
		return p.tell(guest.FailedRecord, relative, err)
	}
	defer file.Close()
	content, size := io.Reader(file), info.Size()
	if size == 0 {
		all, err := io.ReadAll(io.LimitReader(file, mostUnsized))
		if err != nil {
			return p.tell(guest.FailedRecord, relative, err)
		}
		content, size = bytes.NewReader(all), int64(len(all))
	}
	if err := p.header(relative, info, &tar.Header{Typeflag: tar.TypeReg, Size: size}); err != nil {
		return err
	}
	for content = io.LimitReader(content, size); size > 0; {
		n, err := content.Read(p.buffer)
		if _, err := p.tar.Write(p.buffer[:n]); err != nil {
			return err
		}
		if size -= int64(n); err == nil || size == 0 {
			continue
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("became shorter while it was read")
		}
		if _, err := io.CopyN(p.tar, zeros{}, size); err != nil {
			return err
		}
		return p.tell(guest.FailedRecord, relative, err)
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// header writes an entry's header. GNU's format takes names that are no UTF-8.
func (p *packer) header(name string, info fs.FileInfo, header *tar.Header) error {
	header.Format, header.Name, header.Mode, header.ModTime = tar.FormatGNU, name, int64(
		unixMode(info.Mode()),
	), info.ModTime()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		header.Uid, header.Gid = int(stat.Uid), int(stat.Gid)
	}
	return p.tar.WriteHeader(header)
}

// tell tells of an entry that is missing or not whole, unless nobody listens any more.
func (p *packer) tell(record, relative string, why error) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	for inner := errors.Unwrap(why); inner != nil; inner = errors.Unwrap(why) {
		why = inner // the innermost names no path
	}
	return p.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{record: relative + ": " + why.Error()},
	})
}
