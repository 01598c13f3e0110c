package image

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// place opens the directory of an entry, made when missing, and gives the entry's name in it. The
// directory of the last entry stays open, because archives come directory by directory.
func (u *unpacker) place(name string) (*os.Root, string, error) {
	dir, base := split(name)
	dir, err := u.resolve(dir, true)
	if err != nil {
		return nil, "", err
	}
	if u.handle == nil || u.parent != dir {
		handle, err := u.root.OpenRoot(dir)
		if err != nil {
			return nil, "", err
		}
		u.forget()
		u.parent, u.handle = dir, handle
	}
	return u.handle, base, nil
}

func (u *unpacker) forget() {
	if u.handle != nil {
		u.handle.Close()
	}
	u.parent, u.handle = "", nil
}

// clear removes whatever has an entry's name.
func (u *unpacker) clear(parent *os.Root, base string) error { return parent.RemoveAll(base) }

// resolve follows the symbolic links of a directory as a process inside the image would. Missing
// directories are made, or are an fs.ErrNotExist error.
func (u *unpacker) resolve(dir string, make bool) (string, error) {
	done, links := ".", 0
	for rest := dir; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		if len(next) > maxPath {
			return "", unix.ENAMETOOLONG
		}
		info, err := u.root.Lstat(next)
		switch {
		case make && errors.Is(err, fs.ErrNotExist):
			err = errors.Join(u.meter.entry(), u.root.Mkdir(next, 0o755))
			done = next
		case err == nil && info.Mode().Type() == fs.ModeSymlink:
			if links++; links > maxLinks {
				return "", unix.ELOOP
			}
			done, rest, err = u.follow(done, next, rest)
		case err == nil && !info.IsDir():
			err = unix.ENOTDIR
		default:
			done = next
		}
		if err != nil {
			return "", err
		}
	}
	return done, nil
}

// follow continues at the target of the link next, which lies in done.
func (u *unpacker) follow(done, next, rest string) (string, string, error) {
	target, err := u.root.Readlink(next)
	if err != nil {
		return "", "", err
	}
	if path.IsAbs(target) {
		done = "."
	}
	return done, target + "/" + rest, nil
}
