package image

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// addTree copies a directory. Links are copied, not followed; other file systems that are mounted
// in it, and the directory that is being written to, are left out.
func (u *unpacker) addTree(source *os.Root, skip fs.FileInfo) error {
	top, err := source.Stat(".")
	if err != nil {
		return ioError(err, "the source cannot be read")
	}
	return fs.WalkDir(source.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return treeError(err)
		}
		info, err := source.Lstat(name)
		if err != nil {
			return treeError(err)
		}
		if os.SameFile(info, skip) {
			return fs.SkipDir
		}
		if err := u.addFrom(source, name, info); err != nil {
			return err
		}
		if info.IsDir() && deviceOf(info) != deviceOf(top) {
			u.meter.left.add(name, "another file system") // its mount point stays
			return fs.SkipDir
		}
		return nil
	})
}

// addFrom copies one entry of source.
func (u *unpacker) addFrom(source *os.Root, name string, info fs.FileInfo) error {
	header := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Size: info.Size()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		header.Uid, header.Gid, header.Mode = int(stat.Uid), int(stat.Gid), int64(stat.Mode&0o7777)
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		header.Typeflag, header.Size = tar.TypeDir, 0
	case fs.ModeSymlink:
		target, err := source.Readlink(name)
		if err != nil {
			return treeError(err)
		}
		header.Typeflag, header.Linkname, header.Size = tar.TypeSymlink, target, 0
	case 0:
		header.Typeflag = tar.TypeReg
		file, err := source.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			return treeError(err)
		}
		defer file.Close()
		if now, err := file.Stat(); err != nil || !os.SameFile(info, now) {
			return treeError(fs.ErrNotExist)
		}
		return u.add(header, u.meter.source(file))
	case fs.ModeNamedPipe:
		header.Typeflag = tar.TypeFifo
	case fs.ModeSocket:
		header.Typeflag = typeSocket
	default:
		header.Typeflag = tar.TypeChar
	}
	return u.add(header, nil)
}

func deviceOf(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Dev
	}
	return 0
}

func treeError(err error) error {
	var bad *stacyvm.Error
	switch {
	case errors.Is(err, fs.ErrNotExist):
		bad = stacyvm.Invalid("source", "it changed while it was copied")
	case errors.Is(err, fs.ErrPermission):
		bad = stacyvm.Invalid("source", "a part of it may not be read by this user")
	default:
		return ioError(err, "the source cannot be read")
	}
	bad.Err = err
	return bad
}
