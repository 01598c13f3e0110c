package agent

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// mostFailures is how many entries that could not be unpacked are named; the others are counted.
const mostFailures = 100

// Unpack implements the service. A file, link or pipe that has an entry's name is replaced and not
// written through; a directory, or a link to one, stays with what is in it. No entry goes through
// a symbolic link that the archive itself brought.
func (s *fileService) Unpack(
	ctx context.Context,
	stream *connect.ClientStream[guestv1.UnpackRequest],
) (*connect.Response[guestv1.UnpackResponse], error) {
	if !stream.Receive() || stream.Msg().GetHeader() == nil {
		if err := stream.Err(); err != nil {
			return nil, err
		}
		return nil, wrong("an archive begins with a header")
	}
	header := stream.Msg().GetHeader()
	answer := &guestv1.UnpackResponse{}
	err := s.on(header.GetPath(), func(t tree, _, name string) error {
		uid, gid, err := s.owner(header.GetUser())
		if err != nil {
			return wrong("%w", err)
		}
		body := &archiveBody{stream: stream}
		u := &unpacker{
			ctx:    ctx,
			t:      t,
			dir:    name,
			uid:    uid,
			gid:    gid,
			body:   body,
			tar:    tar.NewReader(body),
			answer: answer,
			buffer: make([]byte, fileFrame),
			links:  map[inode]bool{},
		}
		return u.all()
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// archiveBody is the archive that a stream brings. It keeps why the stream ended.
type archiveBody struct {
	stream *connect.ClientStream[guestv1.UnpackRequest]
	rest   []byte
	err    error
}

// Read implements io.Reader.
func (b *archiveBody) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if !b.stream.Receive() {
			if b.err = b.stream.Err(); b.err != nil {
				return 0, b.err
			}
			return 0, io.EOF
		}
		b.rest = b.stream.Msg().GetData()
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// unpacker unpacks one archive below dir.
type unpacker struct {
	ctx      context.Context
	t        tree
	dir      string // of the tree
	uid, gid int    // of what is new; -1: the agent's own
	body     *archiveBody
	tar      *tar.Reader
	answer   *guestv1.UnpackResponse
	buffer   []byte
	parent   string         // a directory that is known to be there
	links    map[inode]bool // symbolic links that the archive brought
	damaged  error          // what reading the archive met
}

// inode names a file, whichever way leads to it.
type inode struct{ device, number uint64 }

// all unpacks to the end of the archive. What is wrong with one entry goes into the answer.
func (u *unpacker) all() error {
	for {
		header, err := u.tar.Next()
		switch {
		case errors.Is(err, io.EOF):
			_, err := io.Copy(io.Discard, u.body) // padding
			return err
		case u.body.err != nil:
			return u.body.err
		case err != nil:
			return wrong("this is no tar archive, or it is damaged")
		case header.Typeflag == tar.TypeXGlobalHeader:
			continue
		}
		err = u.entry(header)
		switch {
		case errors.Join(u.body.err, u.ctx.Err()) != nil:
			return errors.Join(u.body.err, u.ctx.Err())
		case u.damaged != nil:
			return wrong("the archive ends in the middle of %s", sound(header.Name))
		case err == nil:
			u.answer.Entries++
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
			return err
		default:
			u.fail(header.Name, err)
		}
	}
}

func (u *unpacker) fail(name string, err error) {
	if u.answer.Failed++; len(u.answer.Failures) == mostFailures {
		return
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner // the innermost names no path
	}
	u.answer.Failures = append(
		u.answer.Failures,
		&guestv1.UnpackFailure{Name: sound(name), Reason: sound(err.Error())},
	)
}

// entry unpacks one entry.
func (u *unpacker) entry(header *tar.Header) error {
	target, err := u.target(header.Name)
	if err != nil {
		return err
	}
	if err := u.makeParent(path.Dir(target)); err != nil {
		return err
	}
	// it may be a link itself, and every entry would go through the new one
	if target == u.dir && header.Typeflag != tar.TypeDir {
		return errors.New("its name is that of the directory itself")
	}
	mode := uint32(header.Mode & maxMode)
	switch header.Typeflag {
	case tar.TypeDir:
		return makeDir(u.t, target, mode, u.uid, u.gid)
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(target, mode)
	case tar.TypeSymlink:
		return u.symlink(header.Linkname, target)
	case tar.TypeLink:
		from, err := u.target(header.Linkname)
		if err == nil {
			err = u.checkWay(path.Dir(from))
		}
		if err != nil {
			return err
		}
		return u.replace(target, func(name string) error { return u.t.Link(from, name) })
	}
	return errors.New("is not a file, a directory or a link")
}

// target gives the tree's name of an entry. An absolute one starts at the directory that is
// unpacked to.
func (u *unpacker) target(name string) (string, error) {
	switch {
	case len(name) > maxPath, strings.Contains(name, "\x00"):
		return "", syscall.ENAMETOOLONG
	case strings.Contains("/"+name+"/", "/../"):
		return "", errors.New("its name leads out of the directory")
	}
	if clean := strings.TrimPrefix(path.Clean("/"+name), "/"); clean != "" {
		return strings.TrimSuffix(u.dir, "/") + "/" + clean, nil
	}
	return u.dir, nil
}

// symlink makes a symbolic link and remembers it.
func (u *unpacker) symlink(to, target string) error {
	return u.replace(target, func(name string) error {
		if err := u.t.Symlink(to, name); err != nil {
			return err
		}
		info, err := u.t.Lstat(name)
		if err != nil {
			return err
		}
		if at, ok := inodeOf(info); ok {
			u.links[at] = true
		}
		if u.uid < 0 {
			return nil
		}
		return u.t.Lchown(name, u.uid, u.gid)
	})
}

func inodeOf(info fs.FileInfo) (inode, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, false
	}
	return inode{uint64(stat.Dev), stat.Ino}, true
}

var errThroughLink = errors.New("its name leads through a symbolic link of the archive")

// checkWay refuses a directory below the one that is unpacked to, when a symbolic link that the
// archive brought is on the way to it.
func (u *unpacker) checkWay(dir string) error {
	if len(u.links) == 0 {
		return nil
	}
	top := path.Clean(u.dir)
	for dir = path.Clean(dir); dir != top && dir != "." && dir != "/"; dir = path.Dir(dir) {
		info, err := u.t.Lstat(dir)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			continue // what is not there yet is made
		}
		if at, ok := inodeOf(info); !ok || u.links[at] {
			return errThroughLink
		}
	}
	return nil
}

// makeParent makes an entry's directory, which is mostly that of the entry before.
func (u *unpacker) makeParent(dir string) error {
	if dir == u.parent {
		return nil
	}
	err := u.checkWay(dir)
	if err == nil {
		err = makeDirs(u.t, dir, u.uid, u.gid)
	}
	if err == nil {
		u.parent = dir
	}
	return err
}

// file unpacks a regular file. One that is there keeps its owner.
func (u *unpacker) file(target string, mode uint32) error {
	w := &writing{t: u.t, target: target, mode: mode, uid: u.uid, gid: u.gid}
	old, err := u.t.Lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case old.IsDir():
		return syscall.EISDIR
	case old.Mode().IsRegular():
		if stat, ok := old.Sys().(*syscall.Stat_t); ok && u.uid >= 0 {
			w.uid, w.gid = int(stat.Uid), int(stat.Gid)
		}
	}
	return w.write(u.ctx, u)
}

// WriteTo implements io.WriterTo for the entry at hand.
func (u *unpacker) WriteTo(to io.Writer) (n int64, err error) {
	for {
		some, readErr := u.tar.Read(u.buffer)
		if some > 0 {
			if _, err := to.Write(u.buffer[:some]); err != nil {
				return n, err
			}
			n += int64(some)
		}
		if errors.Is(readErr, io.EOF) {
			return n, nil
		} else if readErr != nil {
			u.damaged = readErr
			return n, readErr
		}
	}
}

// replace makes something beside the target and puts it in its place.
func (u *unpacker) replace(target string, make func(name string) error) error {
	u.parent = "" // it may be what is replaced
	name := beside(target)
	if err := make(name); err != nil {
		return err
	}
	err := u.t.Rename(name, target)
	// two names of one file: both stay
	if left := u.t.Remove(name); err == nil && left != nil && !errors.Is(left, fs.ErrNotExist) {
		err = left
	}
	return err
}
