package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"regexp"

	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

var holders = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

// Resolve gives the root of an image and marks it as used by holder, a word such as a sandbox id,
// until Release. The mark survives this process; it need not survive the machine, because no
// sandbox does. A holder that resolves again holds the newer root only. CodeNotFound: no such
// image. CodeInvalid: not a holder's name.
func (s *Store) Resolve(ctx context.Context, name, holder string) (Root, error) {
	if !holders.MatchString(holder) {
		return Root{}, stacyvm.Invalid("holder", "it must be up to 200 of A-Z a-z 0-9 . _ -")
	}
	if err := ctx.Err(); err != nil {
		return Root{}, err
	}
	if name == Host {
		return s.resolveHost(ctx, holder)
	}
	if !names.MatchString(name) {
		return Root{}, notFound(name)
	}
	dir := directoryOf(name)
	var found record
	err := s.locked(flock.Shared, func() (err error) {
		if found, err = s.readRecord(dir); err != nil {
			return err
		}
		return s.hold(holder, dir)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return Root{}, notFound(name)
	} else if err != nil {
		return Root{}, ioError(err, "the image cannot be read")
	}
	return Root{Dir: s.path(dir, rootDir), Env: found.Env, Workdir: found.Workdir, User: found.User}, nil
}

// Release ends a holder's use of its root. A holder that holds nothing is a success.
func (s *Store) Release(holder string) error {
	if !holders.MatchString(holder) {
		return nil // it cannot hold anything
	}
	if err := os.Remove(s.path(holdersDir, holder)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ioError(err, "the image cannot be released")
	}
	return nil
}

// Holders lists everybody who resolved an image and did not release it.
func (s *Store) Holders() ([]string, error) {
	entries, err := os.ReadDir(s.path(holdersDir))
	if err != nil {
		return nil, ioError(err, "the users of images cannot be read")
	}
	all := make([]string, 0, len(entries))
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all, nil
}

// hold marks dir as used. A symbolic link is made with its content in one step, so that no crash
// leaves half a mark.
func (s *Store) hold(holder, dir string) error {
	mark := s.path(holdersDir, holder)
	for range 10 {
		err := os.Symlink(dir, mark)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if held, err := os.Readlink(mark); err == nil && held == dir {
			return nil
		}
		if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return stacyvm.Errorf(stacyvm.CodeConflict, "%s is resolving another image at the same time", holder)
}

// uses counts the holders of each directory. Under the exclusive lock nobody can become one
// meanwhile.
func (s *Store) uses() (map[string]int, error) {
	all, err := s.Holders()
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, holder := range all {
		dir, err := os.Readlink(s.path(holdersDir, holder))
		if errors.Is(err, fs.ErrNotExist) {
			continue // released just now
		} else if err != nil {
			return nil, ioError(err, "the users of images cannot be read")
		}
		count[dir]++
	}
	return count, nil
}
