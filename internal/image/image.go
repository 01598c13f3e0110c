// Package image keeps the root file systems that sandboxes start from: the built-in view of this
// machine, and imported images. It knows directories, archives and OCI layouts; it knows nothing
// of engines, workers or networks.
//
// Everything lies in one directory, which several processes may use at once:
//
//	lock          taken (flock) shared by Resolve, exclusive by whatever makes or removes a name
//	host-KEY/     the synthesised part of the built-in image, one per state of the machine's own packages
//	img-HASH/     an imported image: image.json and rootfs/
//	holders/      one symbolic link per holder, which names the directory that it uses
//	tmp-*/        work in progress and what is being removed; its owner holds a flock on it
//
// A root is complete before it gets its name and never changes afterwards, so that sandboxes may
// read it without asking again. What a killed process left is removed by the next Open.
package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Host is the name of the built-in image.
const Host = "host"

// Root is a root file system as the host has it. Everything named here is only read.
type Root struct {
	Dir    string  // the lower directory, absolute
	Mounts []Mount // read-only views of further host directories
	// Env, Workdir and User are what an OCI image asks for; empty without such a wish. User is
	// "name", "uid" or either with ":group".
	Env     map[string]string
	Workdir string
	User    string
}

// Mount shows a host directory, read-only, inside the sandbox.
type Mount struct {
	Source string // absolute host path; empty: an empty directory, to hide what the layer below has there
	Target string // absolute path inside
}

// Image is one line of a list.
type Image struct {
	Name string
	// of the manifest, or of the archive as it came; empty for the built-in image and for copied
	// directories
	Digest    string
	Bytes     int64     // content of its files
	CreatedAt time.Time // when it was imported; zero for a built-in image that was never used
	BuiltIn   bool
	InUse     int     // holders
	LeftOut   LeftOut // by the import that made it; it is not kept
}

// LeftOut tells what an import did not bring because no image can hold it.
type LeftOut struct {
	Count int
	Names []string // the first ones as the source has them, each with the reason
}

// Limits bound what one import may unpack.
type Limits struct {
	Bytes   int64 // content of all files, also of those that a later layer replaces
	Entries int   // files, directories and links, counted alike
}

// DefaultLimits are the limits of a store that was just opened.
var DefaultLimits = Limits{Bytes: 64 << 30, Entries: 1_000_000}

// Store is one image directory. Its methods may be called concurrently, and by several processes.
type Store struct {
	// Limits hold for every import; set them before the first.
	Limits Limits

	dir  string
	host hostSource
}

// Open opens the image directory, made when missing, and removes what interrupted imports left
// there.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{Limits: DefaultLimits, dir: dir, host: hostSource{base: "/"}}
	// Nobody but the owner may reach into an image: it can hold files that are writable or
	// executable for everybody.
	if err := os.MkdirAll(s.path(holdersDir), 0o700); err != nil {
		return nil, ioError(err, "the image directory cannot be made")
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, ioError(err, "the image directory cannot be made private")
	}
	if err := s.sweep(); err != nil {
		return nil, err
	}
	return s, nil
}

// Names of what is in the image directory.
const (
	holdersDir   = "holders"
	lockFile     = "lock"
	recordFile   = "image.json"
	rootDir      = "rootfs"
	hostPrefix   = "host-"
	imagePrefix  = "img-"
	temporaryPat = "tmp-*"
)

func (s *Store) path(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

var names = regexp.MustCompile(`^[a-z0-9][a-z0-9._/:@-]{0,254}$`)

// checkName refuses what cannot be the name of an import.
func checkName(name string) error {
	if name == Host {
		return stacyvm.Invalid("name", "%q is built in", Host)
	}
	if !names.MatchString(name) {
		return stacyvm.Invalid(
			"name",
			"an image name is up to 255 of a-z 0-9 . _ / : @ - and starts with a letter or a digit",
		)
	}
	return nil
}

func notFound(name string) error {
	return stacyvm.Errorf(stacyvm.CodeNotFound, "there is no image %q: add it with `stacyvm image import`", name)
}

// ioError gives a failure of the file system its code. message is for the caller, err for the
// logs.
func ioError(err error, message string) error {
	var known *stacyvm.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", message, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return stacyvm.Wrap(stacyvm.CodeStorageFull, err, message+": no space is left")
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, err, message)
}
