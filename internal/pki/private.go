package pki

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// CheckPrivate refuses a file that somebody besides its owner and this process's user may read.
// Group bits alone do not tell: of a file with an access control list they are the list's mask: a
// service manager may hand over root's files in this way, with the service's user on their list.
func CheckPrivate(path string, info fs.FileInfo) error {
	mode := info.Mode().Perm()
	if mode&0o077 == 0 || mode&0o007 == 0 && listedAlone(path) {
		return nil
	}
	return fmt.Errorf("%s can be read by others than its owner (mode %04o): chmod 600 it", path, mode)
}

// Entries of a file's access control list, as the kernel keeps them: after a version of four bytes
// each has a tag, permissions and an id.
const (
	listAttribute = "system.posix_acl_access"
	listVersion   = 2
	listEntry     = 8

	tagOwner = 0x01
	tagUser  = 0x02
	tagMask  = 0x10
)

// listedAlone tells whether a file has an access control list that lets in its owner and this
// process's user and nobody else.
func listedAlone(path string) bool {
	var list [4 << 10]byte
	n, err := unix.Getxattr(path, listAttribute, list[:])
	if err != nil || n < 4 || binary.LittleEndian.Uint32(list[:]) != listVersion {
		return false
	}
	for entry := list[4:n]; len(entry) >= listEntry; entry = entry[listEntry:] {
		tag, permissions := binary.LittleEndian.Uint16(entry), binary.LittleEndian.Uint16(entry[2:])
		id := binary.LittleEndian.Uint32(entry[4:])
		own := tag == tagOwner || tag == tagMask || tag == tagUser && int(id) == os.Geteuid()
		if !own && permissions != 0 {
			return false
		}
	}
	return true
}
