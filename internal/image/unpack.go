package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Bounds of a single entry.
const (
	maxPath      = 4000 // bytes, before and after links are followed
	maxComponent = 255
	maxDepth     = 256
	maxLinks     = 40 // symbolic links on the way to one entry
	// bytes of names kept: of directories, to set their times at the end, and of what was left out
	lateBudget = 16 << 20
	copyBlock  = 64 << 10
)

// unpacker writes the entries of archives and directories below one root. Names are resolved as
// the image itself would see them: an absolute link starts at the root. os.Root keeps everything
// inside, whatever they say.
//
// Kept: content, permissions, the sticky bit, owners (when this process is root), times of files
// and directories, hard and symbolic links. Dropped: set-user-id and set-group-id bits of files
// (nothing in a sandbox honours them) and extended attributes. Left out, and counted in
// meter.left: device nodes, pipes, sockets, hard links to these, volume labels, entries of unknown
// kinds. Of two entries with one name the last one counts.
type unpacker struct {
	root  *os.Root
	meter *meter

	parent string // the directory of the last entry, resolved
	handle *os.Root
	buffer []byte
	late   []lateTime
	budget int             // bytes of names that late and gone may still take
	gone   map[string]bool // entries that were left out, for the hard links to them
}

type lateTime struct {
	name string
	time time.Time
}

func newUnpacker(dir string, meter *meter) (*unpacker, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &unpacker{
		root:   root,
		meter:  meter,
		buffer: make([]byte, copyBlock),
		budget: lateBudget,
		gone:   map[string]bool{},
	}, nil
}

// close ends the work. The times of directories come last, because each entry changes its
// directory's.
func (u *unpacker) close() error {
	for _, late := range u.late {
		_ = u.root.Chtimes(late.name, late.time, late.time) // it may be gone or replaced
	}
	u.forget()
	return u.root.Close()
}

// add writes one entry. An entry's faults are CodeInvalid errors.
func (u *unpacker) add(header *tar.Header, body io.Reader) error {
	if err := u.meter.entry(); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case typeVolumeLabel:
		u.meter.left.add(header.Name, "volume label")
		return nil
	case typeContinued:
		return invalidEntry(header.Name, "its beginning is in another volume")
	case typeDumpDir:
		header.Typeflag = tar.TypeDir // its content lists what was there: nothing that an image needs
	}
	name, err := u.nameOf(header)
	if err != nil {
		return err
	}
	if !validOwner(header.Uid) || !validOwner(header.Gid) {
		return invalidEntry(header.Name, "its owner is not a valid id")
	}
	if name == "." {
		return u.addTop(header)
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		err = u.addFile(name, header, body)
	case tar.TypeDir:
		err = u.addDir(name, header)
	case tar.TypeSymlink:
		err = u.addSymlink(name, header)
	case tar.TypeLink:
		err = u.addLink(name, header)
	default:
		err = u.leaveOut(name, header)
	}
	return entryError(header.Name, err)
}

// Kinds of entries that GNU tar writes and archive/tar does not know.
const (
	typeDumpDir     = 'D' // a directory of an incremental archive
	typeContinued   = 'M' // the rest of a file that began in another volume
	typeVolumeLabel = 'V'
)

// nameOf gives the path of an entry below the root. Only the name of a directory may end in "..".
func (u *unpacker) nameOf(header *tar.Header) (string, error) {
	name, err := cleanName(header.Name)
	if err != nil {
		return "", err
	}
	if _, base := split(name); base != ".." {
		return name, nil
	}
	if header.Typeflag != tar.TypeDir {
		return "", invalidEntry(header.Name, "its name is not a file name")
	}
	name, err = u.resolve(name, true)
	return name, entryError(header.Name, err)
}

// leaveOut takes an entry that an image cannot have for the last one of its name.
func (u *unpacker) leaveOut(name string, header *tar.Header) error {
	u.meter.left.add(header.Name, kindOf(header.Typeflag))
	parent, base, err := u.place(name)
	if err != nil {
		return err
	}
	if full := path.Join(u.parent, base); len(full) <= u.budget {
		u.budget -= len(full)
		u.gone[full] = true
	}
	return u.clear(parent, base)
}

func kindOf(flag byte) string {
	switch flag {
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "pipe"
	case tar.TypeLink:
		return "hard link to what was left out"
	case typeSocket:
		return "socket"
	}
	return "unknown kind"
}

// typeSocket is what addTree calls a socket; archives hold none.
const typeSocket = 's'

func validOwner(id int) bool { return id >= 0 && int64(id) < math.MaxUint32 }

// addTop takes owner and mode of the root itself.
func (u *unpacker) addTop(header *tar.Header) error {
	if header.Typeflag != tar.TypeDir {
		return invalidEntry(header.Name, "it would replace the root")
	}
	return entryError(header.Name, u.finish(u.root, ".", header))
}

func (u *unpacker) addDir(name string, header *tar.Header) error {
	parent, base, err := u.place(name)
	if err != nil {
		return err
	}
	err = parent.Mkdir(base, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, statErr := parent.Lstat(base)
		if statErr != nil {
			return statErr
		}
		if err = nil; !info.IsDir() {
			err = errors.Join(u.clear(parent, base), parent.Mkdir(base, 0o700))
		}
	}
	if err != nil {
		return err
	}
	if full := path.Join(u.parent, base); len(full) <= u.budget && !header.ModTime.IsZero() {
		u.budget -= len(full)
		u.late = append(u.late, lateTime{full, header.ModTime})
	}
	return u.finish(parent, base, header)
}

func (u *unpacker) addFile(name string, header *tar.Header, body io.Reader) error {
	parent, base, err := u.place(name)
	if err != nil {
		return err
	}
	if header.Size > u.meter.limits.Bytes-u.meter.content {
		return u.meter.grow(header.Size) // refused before anything is read
	}
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	file, err := parent.OpenFile(base, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err := u.clear(parent, base); err != nil {
			return err
		}
		file, err = parent.OpenFile(base, flags, 0o600)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(u.copy(file, body), file.Close()); err != nil {
		return err
	}
	if err := u.finish(parent, base, header); err != nil || header.ModTime.IsZero() {
		return err
	}
	return parent.Chtimes(base, header.ModTime, header.ModTime)
}

// copy writes body to file, with holes where it is zero.
func (u *unpacker) copy(file *os.File, body io.Reader) error {
	var size int64
	for {
		n, err := readFull(body, u.buffer)
		if err := u.meter.grow(int64(n)); err != nil {
			return err
		}
		if data := u.buffer[:n]; !bytes.Equal(data, zeros[:n]) {
			if _, err := file.WriteAt(data, size); err != nil {
				return err
			}
		}
		size += int64(n)
		if errors.Is(err, io.EOF) {
			return file.Truncate(size)
		} else if err != nil {
			return err
		}
	}
}

// readFull fills buffer unless r ends or fails. Unlike io.ReadFull it keeps apart an end and a
// cut.
func readFull(r io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		var more int
		more, err = r.Read(buffer[n:])
		n += more
	}
	return n, err
}

var zeros [copyBlock]byte

func (u *unpacker) addSymlink(name string, header *tar.Header) error {
	if header.Linkname == "" || len(header.Linkname) > maxPath {
		return invalidEntry(header.Name, "it is a link to nowhere")
	}
	parent, base, err := u.place(name)
	if err != nil {
		return err
	}
	err = parent.Symlink(header.Linkname, base)
	if errors.Is(err, fs.ErrExist) {
		err = errors.Join(u.clear(parent, base), parent.Symlink(header.Linkname, base))
	}
	if err != nil {
		return err
	}
	return chown(parent, base, header)
}

// addLink makes a hard link to a file that came before.
func (u *unpacker) addLink(name string, header *tar.Header) error {
	target, err := cleanName(header.Linkname)
	if err != nil {
		return err
	}
	dir, base := split(target)
	if dir, err = u.resolve(dir, false); err != nil {
		return err
	}
	target = path.Join(dir, base)
	info, err := u.root.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) && u.gone[target] {
		return u.leaveOut(name, header)
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() && info.Mode().Type() != fs.ModeSymlink {
		return invalidEntry(header.Name, "it is a hard link to something that is no file")
	}
	parent, base, err := u.place(name)
	if err != nil {
		return err
	}
	full := path.Join(u.parent, base)
	if full == target {
		return nil
	}
	err = u.root.Link(target, full)
	if errors.Is(err, fs.ErrExist) {
		err = errors.Join(u.clear(parent, base), u.root.Link(target, full))
	}
	return err
}

// finish gives an entry its owner and mode.
func (u *unpacker) finish(parent *os.Root, base string, header *tar.Header) error {
	if err := chown(parent, base, header); err != nil {
		return err
	}
	mode := fs.FileMode(header.Mode & 0o777)
	if header.Typeflag == tar.TypeDir {
		if header.Mode&unix.S_ISVTX != 0 {
			mode |= fs.ModeSticky
		}
		if header.Mode&unix.S_ISGID != 0 {
			mode |= fs.ModeSetgid
		}
	}
	if os.Geteuid() != 0 { // whoever serves the files must be able to read them
		mode |= 0o400
		if header.Typeflag == tar.TypeDir {
			mode |= 0o700
		}
	}
	return parent.Chmod(base, mode)
}

func chown(parent *os.Root, base string, header *tar.Header) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return parent.Lchown(base, header.Uid, header.Gid)
}

// cleanName turns an entry's name into a path below the root. An absolute name starts at the root.
// ".." stays in it, because only the file system knows what is above a symbolic link.
func cleanName(name string) (string, error) {
	if len(name) > maxPath {
		return "", invalidEntry(name, "its name is too long")
	}
	var parts []string
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			if depth--; depth < 0 {
				return "", invalidEntry(name, "its name leads out of the image")
			}
			parts = append(parts, part)
			continue
		case len(part) > maxComponent || strings.ContainsRune(part, 0):
			return "", invalidEntry(name, "its name is not a file name")
		}
		parts = append(parts, part)
		depth++
	}
	if len(parts) > maxDepth {
		return "", invalidEntry(name, "it lies too deep")
	}
	if len(parts) == 0 {
		return ".", nil
	}
	return strings.Join(parts, "/"), nil
}

// split cuts a clean name into its directory and what it is called there. Unlike path.Split it
// leaves ".." alone.
func split(name string) (dir, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return ".", name
}

func invalidEntry(name, why string) error {
	return stacyvm.Invalid("source", "the entry %q cannot be unpacked: %s", shown(name), why)
}

// shown cuts a name for a message.
func shown(name string) string {
	if len(name) > 120 {
		return name[:120] + "…"
	}
	return name
}

// entryError gives an error of the file system its code: most of them are the archive's fault.
func entryError(name string, err error) error {
	var known *stacyvm.Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return ioError(err, "the image cannot be unpacked")
	case errors.Is(err, fs.ErrNotExist),
		errors.Is(err, fs.ErrExist),
		errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, tar.ErrHeader),
		errors.Is(
			err,
			unix.ENOTDIR,
		),
		errors.Is(err, unix.ENAMETOOLONG),
		errors.Is(err, unix.ELOOP),
		errors.Is(err, unix.EMLINK),
		errors.Is(err, unix.EINVAL):
		wrapped := stacyvm.Invalid("source", "the entry %q does not fit into the image", shown(name))
		wrapped.Err = err
		return wrapped
	}
	return ioError(err, "the image cannot be unpacked")
}
