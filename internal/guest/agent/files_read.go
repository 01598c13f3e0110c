package agent

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"syscall"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/guest"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// openToRead opens without waiting for a fifo's writer and without waking a device. kind is what
// must be there.
func openToRead(t tree, name string, kind func(fs.FileInfo) error) (*os.File, fs.FileInfo, error) {
	info, err := t.Stat(name)
	if err == nil {
		err = kind(info)
	}
	if err != nil {
		return nil, nil, err
	}
	file, err := t.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err = file.Stat() // it may have become another thing in between
	if err == nil {
		err = kind(info)
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

func regular(info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return syscall.EISDIR
	case !info.Mode().IsRegular():
		return errors.New("is not a regular file")
	}
	return nil
}

func directory(info fs.FileInfo) error {
	if !info.IsDir() {
		return syscall.ENOTDIR
	}
	return nil
}

// Read implements the service. The size in the info may be wrong, for a file that changes and for
// those in /proc, which say 0: what counts is what comes.
func (s *fileService) Read(
	ctx context.Context,
	request *connect.Request[guestv1.ReadRequest],
	stream *connect.ServerStream[guestv1.ReadResponse],
) error {
	return s.on(request.Msg.GetPath(), func(t tree, path, name string) error {
		file, info, err := openToRead(t, name, regular)
		if err != nil {
			return err
		}
		defer file.Close()
		defer context.AfterFunc(ctx, func() { _ = file.Close() })() // also from a read that waits
		if err := seek(file, request.Msg.GetOffset()); err != nil {
			return err
		}
		left := int64(math.MaxInt64)
		if length := request.Msg.GetLength(); length != 0 {
			left = int64(min(length, math.MaxInt64))
		}
		about, frame := describe(path, info), guest.FrameOf(request.Header(), fileFrame)
		if about.GetSize() < guest.LargeFrame { // a small one, or one of /proc
			frame = fileFrame
		}
		return sendFile(ctx, stream, about, io.LimitReader(file, left), frame)
	})
}

func seek(file *os.File, offset uint64) error {
	if offset == 0 {
		return nil
	}
	if offset > math.MaxInt64 {
		return wrong("offset %d is too large", offset)
	}
	_, err := file.Seek(int64(offset), io.SeekStart)
	return err
}

// sendFile sends a file's info, and its bytes in frames. A file that cannot be read at all, as
// some of /proc, fails before anything is sent.
func sendFile(
	ctx context.Context,
	stream *connect.ServerStream[guestv1.ReadResponse],
	info *guestv1.FileInfo,
	from io.Reader,
	size int,
) error {
	f, answer := newFrame(size), rawAnswer(ctx)
	for begun := false; ; begun = true {
		n, err := from.Read(f.data())
		if !begun && (n > 0 || errors.Is(err, io.EOF)) {
			if err := stream.Send(&guestv1.ReadResponse{Part: &guestv1.ReadResponse_Info{Info: info}}); err != nil {
				return err
			}
		}
		if n > 0 {
			failed := error(nil)
			if answer != nil {
				failed = answer.send(f, beforeBytes(nil, 2, n), n)
			} else {
				failed = stream.Send(&guestv1.ReadResponse{Part: &guestv1.ReadResponse_Data{Data: f.data()[:n]}})
			}
			if failed != nil {
				return failed
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case !begun && info.GetSize() == 0 && errors.Is(err, syscall.EIO): // of /proc: no disk has failed
			return wrong("%s cannot be read", sound(info.GetPath()))
		case err != nil:
			return err
		}
	}
}

// listBatch is the number of files in one message: with the longest names it stays under 4 MiB.
const listBatch = 256

// List implements the service.
func (s *fileService) List(
	ctx context.Context,
	request *connect.Request[guestv1.ListFilesRequest],
	stream *connect.ServerStream[guestv1.ListFilesResponse],
) error {
	return s.on(request.Msg.GetPath(), func(t tree, dir, name string) error {
		names, err := s.namesIn(ctx, t, name)
		if err != nil {
			return err
		}
		for batch := range slices.Chunk(names, listBatch) {
			answer := &guestv1.ListFilesResponse{}
			for _, entry := range batch {
				info, err := tell(t, path.Join(dir, entry), name+"/"+entry)
				if errors.Is(err, fs.ErrNotExist) {
					continue // gone since
				}
				if err != nil {
					return err
				}
				answer.Files = append(answer.Files, info)
			}
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
		return nil
	})
}

// namesIn gives the names in a directory, sorted.
func (s *fileService) namesIn(ctx context.Context, t tree, dir string) ([]string, error) {
	file, _, err := openToRead(t, dir, directory)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var names []string
	for {
		some, err := file.Readdirnames(1024)
		names = append(names, some...)
		switch {
		case errors.Is(err, io.EOF):
			slices.Sort(names)
			return names, nil
		case err != nil:
			return nil, err
		case len(names) > s.most:
			return nil, tooMany()
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
	}
}

func tooMany() error {
	return connect.NewError(connect.CodeOutOfRange, errors.New("there are too many files"))
}
