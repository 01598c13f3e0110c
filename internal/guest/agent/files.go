package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

const (
	maxPath = 4096
	maxMode = 0o7777
	// fileFrame is the most that one data frame holds, in bytes: the host holds one for each
	// reader that does not read.
	fileFrame = 32 << 10
	// mostListed is what the host takes of one listing or glob, in entries.
	mostListed = 100_000
)

// fileService implements the file service on one directory tree: "/" in a sandbox, where
// everything that the kernel allows is right, or a private directory, which no path and no
// symbolic link leads out of.
type fileService struct {
	guestv1connect.UnimplementedFileServiceHandler
	root string
	// most bounds one listing or glob, in entries.
	most int
	// owner finds the user and group that a new file belongs to; an empty user is the image's.
	owner func(user string) (uid, gid int, err error)
}

// newFileService serves the files below root. user owns what is made for a request that names
// nobody.
func newFileService(root, user string) guestv1connect.FileServiceHandler {
	return &fileService{root: root, most: mostListed, owner: ownerIn(root, user)}
}

// tree is what the service needs of a file system. Names are those that fileService.name makes.
// *os.Root is one.
type tree interface {
	OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error)
	Stat(name string) (fs.FileInfo, error)
	Lstat(name string) (fs.FileInfo, error)
	Readlink(name string) (string, error)
	Mkdir(name string, perm fs.FileMode) error
	Lchown(name string, uid, gid int) error
	Chmod(name string, mode fs.FileMode) error
	Rename(from, to string) error
	Symlink(to, name string) error
	Link(from, name string) error
	Remove(name string) error
	RemoveAll(name string) error
	Close() error
}

// whole is the whole file system.
type whole struct{}

func (whole) OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}
func (whole) Stat(name string) (fs.FileInfo, error)     { return os.Stat(name) }
func (whole) Lstat(name string) (fs.FileInfo, error)    { return os.Lstat(name) }
func (whole) Readlink(name string) (string, error)      { return os.Readlink(name) }
func (whole) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }
func (whole) Lchown(name string, uid, gid int) error    { return os.Lchown(name, uid, gid) }
func (whole) Chmod(name string, mode fs.FileMode) error { return os.Chmod(name, mode) }
func (whole) Rename(from, to string) error              { return os.Rename(from, to) }
func (whole) Symlink(to, name string) error             { return os.Symlink(to, name) }
func (whole) Link(from, name string) error              { return os.Link(from, name) }
func (whole) Remove(name string) error                  { return os.Remove(name) }
func (whole) Close() error                              { return nil }

// RemoveAll refuses what the kernel makes. No file is there to be removed, and in gVisor a walk
// through it follows the links of /proc/PID, which lead to the root directory, whatever it says
// about links.
func (whole) RemoveAll(name string) error {
	for _, dir := range []string{name, filepath.Dir(name)} { // a link of /proc says of itself what it leads to
		var disk unix.Statfs_t
		if err := unix.Statfs(dir, &disk); err != nil {
			continue // a link that leads nowhere; RemoveAll says what else is wrong
		}
		switch disk.Type {
		case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC:
			return wrong("%s cannot be removed: the kernel makes what is there", name)
		}
	}
	return os.RemoveAll(name)
}

// on runs an operation on one path. The path that it gets is absolute and clean, the name is for
// the tree.
func (s *fileService) on(asked string, do func(t tree, path, name string) error) error {
	clean, err := cleanPath(asked)
	if err != nil {
		return err
	}
	t, err := s.open()
	if err != nil {
		return fileFailure(clean, err)
	}
	defer t.Close()
	return fileFailure(clean, do(t, clean, s.name(clean)))
}

// open gives the tree. A private root is opened for each operation, so that the service holds
// nothing.
func (s *fileService) open() (tree, error) {
	if s.root == "/" {
		return whole{}, nil
	}
	return os.OpenRoot(s.root)
}

// name makes a tree's name of a clean absolute path.
func (s *fileService) name(clean string) string {
	if s.root == "/" {
		return clean
	}
	return "./" + strings.TrimPrefix(clean, "/")
}

// cleanPath gives the absolute path that a request means.
func cleanPath(asked string) (string, error) {
	switch {
	case asked == "", len(asked) > maxPath, strings.Contains(asked, "\x00"):
		return "", wrong("a path has 1 to %d bytes, none of them zero", maxPath)
	case !path.IsAbs(asked):
		asked = workspace + "/" + asked
	}
	return path.Clean(asked), nil
}

func checkMode(mode uint32) error {
	if mode > maxMode {
		return wrong("mode %#o is over 7777", mode)
	}
	return nil
}

// Stat implements the service.
func (s *fileService) Stat(
	_ context.Context,
	request *connect.Request[guestv1.StatRequest],
) (*connect.Response[guestv1.StatResponse], error) {
	var info *guestv1.FileInfo
	err := s.on(request.Msg.GetPath(), func(t tree, path, name string) (err error) {
		info, err = tell(t, path, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&guestv1.StatResponse{Info: info}), nil
}

// Mkdir implements the service.
func (s *fileService) Mkdir(
	_ context.Context,
	request *connect.Request[guestv1.MkdirRequest],
) (*connect.Response[guestv1.MkdirResponse], error) {
	mode := request.Msg.GetMode()
	if mode == 0 {
		mode = 0o755
	}
	err := checkMode(mode)
	if err == nil {
		err = s.on(request.Msg.GetPath(), func(t tree, _, name string) error {
			uid, gid, err := s.owner("")
			if err != nil {
				return wrong("%w", err)
			}
			if err := makeDirs(t, path.Dir(name), uid, gid); err != nil {
				return err
			}
			return makeDir(t, name, mode, uid, gid)
		})
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&guestv1.MkdirResponse{}), nil
}

// Move implements the service.
func (s *fileService) Move(
	_ context.Context,
	request *connect.Request[guestv1.MoveRequest],
) (*connect.Response[guestv1.MoveResponse], error) {
	to, err := cleanPath(request.Msg.GetTo())
	if err == nil {
		err = s.on(request.Msg.GetFrom(), func(t tree, from, name string) error {
			if from == "/" || to == "/" {
				return wrong("/ cannot be moved")
			}
			if _, err := t.Lstat(name); err != nil {
				return err // before anything is made
			}
			target := s.name(to)
			uid, gid, err := s.owner("")
			if err != nil {
				return wrong("%w", err)
			}
			if err := makeDirs(t, path.Dir(target), uid, gid); err != nil {
				return fileFailure(to, err)
			}
			return t.Rename(name, target)
		})
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&guestv1.MoveResponse{}), nil
}

// Chmod implements the service. It follows links, as chmod(1) does.
func (s *fileService) Chmod(
	_ context.Context,
	request *connect.Request[guestv1.ChmodRequest],
) (*connect.Response[guestv1.ChmodResponse], error) {
	mode := request.Msg.GetMode()
	err := checkMode(mode)
	if err == nil {
		err = s.on(request.Msg.GetPath(), func(t tree, _, name string) error { return t.Chmod(name, goMode(mode)) })
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&guestv1.ChmodResponse{}), nil
}

// Remove implements the service. It removes a link and not what it points to.
func (s *fileService) Remove(
	_ context.Context,
	request *connect.Request[guestv1.RemoveRequest],
) (*connect.Response[guestv1.RemoveResponse], error) {
	err := s.on(request.Msg.GetPath(), func(t tree, path, name string) error {
		if path == "/" {
			return wrong("/ cannot be removed")
		}
		if _, err := t.Lstat(name); err != nil {
			return err // RemoveAll takes a missing file for a success
		}
		if request.Msg.GetRecursive() {
			return t.RemoveAll(name)
		}
		return t.Remove(name)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&guestv1.RemoveResponse{}), nil
}

// makeDirs makes a directory and its parents, each with mode 0755 and the owner, -1 for the
// agent's own.
func makeDirs(t tree, name string, uid, gid int) error {
	info, err := t.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return syscall.ENOTDIR
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if parent := path.Dir(name); parent != name {
		if err := makeDirs(t, parent, uid, gid); err != nil {
			return err
		}
	}
	return makeDir(t, name, 0o755, uid, gid)
}

// makeDir makes one directory, whatever the umask. One that is there stays as it is.
func makeDir(t tree, name string, mode uint32, uid, gid int) error {
	err := t.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, err := t.Stat(name)
		if err == nil && !info.IsDir() {
			err = syscall.ENOTDIR
		}
		return err
	}
	if err == nil && uid >= 0 {
		err = t.Lchown(name, uid, gid)
	}
	if err == nil {
		err = t.Chmod(name, goMode(mode))
	}
	return err
}
