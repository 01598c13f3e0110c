package pki

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestCheckPrivate: a file that its owner alone may read, or the user of this process beside the
// owner, and nobody else.
func TestCheckPrivate(t *testing.T) {
	me, other := uint32(os.Geteuid()), uint32(os.Geteuid()+4711)
	const read = 4
	list := func(entries ...[3]uint32) []byte {
		text := binary.LittleEndian.AppendUint32(nil, listVersion)
		for _, e := range entries {
			text = binary.LittleEndian.AppendUint16(text, uint16(e[0]))
			text = binary.LittleEndian.AppendUint16(text, uint16(e[1]))
			text = binary.LittleEndian.AppendUint32(text, e[2])
		}
		return text
	}
	const none = 0xffffffff
	owner, group, mask, rest := [3]uint32{tagOwner, read, none}, [3]uint32{4, 0, none}, [3]uint32{tagMask, read, none}, [3]uint32{0x20, 0, none}
	for name, c := range map[string]struct {
		mode os.FileMode
		list []byte
		good bool
	}{
		"the owner's":                        {mode: 0o600, good: true},
		"the owner's, not to be written":     {mode: 0o400, good: true},
		"the group's":                        {mode: 0o640},
		"everybody's":                        {mode: 0o604},
		"a credential of systemd":            {mode: 0o400, list: list(owner, [3]uint32{tagUser, read, me}, group, mask, rest), good: true},
		"on another user's list":             {mode: 0o400, list: list(owner, [3]uint32{tagUser, read, other}, group, mask, rest)},
		"on both users' lists":               {mode: 0o400, list: list(owner, [3]uint32{tagUser, read, me}, [3]uint32{tagUser, read, other}, group, mask, rest)},
		"listed for its group":               {mode: 0o400, list: list(owner, [3]uint32{tagUser, read, me}, [3]uint32{4, read, none}, mask, rest)},
		"listed for another group":           {mode: 0o400, list: list(owner, group, [3]uint32{8, read, other}, mask, rest)},
		"listed for everybody":               {mode: 0o400, list: list(owner, [3]uint32{tagUser, read, me}, group, mask, [3]uint32{0x20, read, none})},
		"a list that is the owner's entries": {mode: 0o400, list: list(owner, group, rest), good: true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			if c.list != nil {
				err := unix.Setxattr(path, listAttribute, c.list, 0)
				if errors.Is(err, unix.EOPNOTSUPP) {
					testneed.Missing(t, "acl", "the file system of the temporary directory has no access control lists")
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckPrivate(path, info); (err == nil) != c.good {
				t.Errorf("mode %v: %v", info.Mode(), err)
			}
		})
	}
}
