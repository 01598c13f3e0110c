package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// mostLinks is how many symbolic links in a row are followed, as in the kernel.
const mostLinks = 40

// Write implements the service. The bytes go to a file beside the target, which takes the target's
// place when all of them came. So a reader sees the old content or the new one, and a stream that
// is cut changes nothing.
//
// As with a shell's redirection, a symbolic link is followed and what it points to is written,
// also when that is not there yet; hard links to the old content keep it. Mode and owner of a file
// that is there stay unless a mode is given. Only regular files can be written.
func (s *fileService) Write(
	ctx context.Context,
	stream *connect.ClientStream[guestv1.WriteRequest],
) (*connect.Response[guestv1.WriteResponse], error) {
	if !stream.Receive() {
		if err := stream.Err(); err != nil {
			return nil, err
		}
		return nil, wrong("a write begins with a header")
	}
	header := stream.Msg().GetHeader()
	if header == nil {
		return nil, wrong("a write begins with a header")
	}
	if err := checkMode(header.GetMode()); err != nil {
		return nil, err
	}
	var info *guestv1.FileInfo
	err := s.on(header.GetPath(), func(t tree, path, name string) error {
		w, err := s.place(t, name, header)
		if err != nil {
			return err
		}
		content := io.WriterTo(writeBody{stream})
		if answer := rawAnswer(ctx); answer != nil {
			content = answer.rest()
		}
		if err := w.write(ctx, content); err != nil {
			return err
		}
		info, err = tell(t, path, w.target)
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&guestv1.WriteResponse{Info: info}), nil
}

// writing is one file that is being written.
type writing struct {
	t        tree
	target   string
	mode     uint32
	uid, gid int // -1: the agent's own
}

// place finds what a write is to replace and makes the way there.
func (s *fileService) place(t tree, name string, header *guestv1.WriteHeader) (*writing, error) {
	target, old, err := follow(t, name)
	if err != nil {
		return nil, err
	}
	w := &writing{t: t, target: target, mode: 0o644}
	if old != nil {
		if err := regular(old); err != nil {
			return nil, err
		}
		w.mode, w.uid, w.gid = unixMode(old.Mode()), -1, -1
		if stat, ok := old.Sys().(*syscall.Stat_t); ok {
			w.uid, w.gid = int(stat.Uid), int(stat.Gid)
		}
	} else if w.uid, w.gid, err = s.owner(header.GetUser()); err != nil {
		return nil, wrong("%w", err)
	}
	if header.GetMode() != 0 {
		w.mode = header.GetMode()
	}
	if dir, _ := path.Split(target); old == nil && !header.GetNoParents() {
		if _, err = t.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			err = makeDirs(t, path.Clean(dir), w.uid, w.gid)
		}
	}
	return w, err
}

// follow gives the name that is not a symbolic link at the end of a chain of them, and what is
// there, if anything is.
func follow(t tree, name string) (string, fs.FileInfo, error) {
	for range mostLinks {
		info, err := t.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(name, "/") {
			return name, nil, nil
		}
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			return name, info, err
		}
		link, err := t.Readlink(name)
		if err != nil {
			return "", nil, err
		}
		if !path.IsAbs(link) {
			dir, _ := path.Split(name)
			link = dir + link // not cleaned: what .. means is the kernel's to say
		}
		name = link
	}
	return "", nil, syscall.ELOOP
}

// writeBody is the content that a stream brings.
type writeBody struct {
	*connect.ClientStream[guestv1.WriteRequest]
}

// WriteTo implements io.WriterTo.
func (b writeBody) WriteTo(to io.Writer) (n int64, err error) {
	for b.Receive() {
		written, err := to.Write(b.Msg().GetData())
		if n += int64(written); err != nil {
			return n, err
		}
	}
	return n, b.Err()
}

// beside gives a free name next to a target.
func beside(target string) string {
	dir, _ := path.Split(target)
	return dir + ".stacyvm-" + rand.Text()
}

// write takes the content and puts the file in its place.
func (w *writing) write(ctx context.Context, content io.WriterTo) (err error) {
	beside := beside(w.target)
	file, err := w.t.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		_ = file.Close()
		if err != nil {
			_ = w.t.Remove(beside) // whatever err is, it is what the caller must know
		}
	}()
	if _, err := content.WriteTo(file); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.finish(file); err != nil {
		return err
	}
	return w.t.Rename(beside, w.target)
}

// finish gives the file its owner and mode. The order matters: a new owner clears setuid.
func (w *writing) finish(file *os.File) error {
	if w.uid >= 0 && (w.uid != os.Geteuid() || w.gid != os.Getegid()) {
		if err := file.Chown(w.uid, w.gid); err != nil {
			return err
		}
	}
	if err := file.Chmod(goMode(w.mode)); err != nil {
		return err
	}
	return file.Close()
}

// ownerIn finds users in the tree's own tables, with user for an empty name. A private directory
// of an agent that is not root holds the agent's files.
func ownerIn(dir, user string) func(user string) (uid, gid int, err error) {
	tables := &Agent{config: Config{Root: dir}, user: user}
	return func(name string) (int, int, error) {
		u, err := tables.lookupUser(name)
		if err != nil || u.uid == root.uid && os.Geteuid() != 0 {
			return -1, -1, err
		}
		return int(u.uid), int(u.gid), nil
	}
}
