package image

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// List gives all images, the built-in one first, the others by name.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	uses, err := s.uses()
	if err != nil {
		return nil, err
	}
	records, err := s.records()
	if err != nil {
		return nil, err
	}
	images := make([]Image, 0, len(records)+1)
	for dir, found := range records {
		images = append(images, found.image(uses[dir]))
	}
	slices.SortFunc(images, func(a, b Image) int { return cmp.Compare(a.Name, b.Name) })
	return slices.Insert(images, 0, s.hostImage(uses)), nil
}

// Remove deletes an image. CodeNotFound: no such image. CodeConflict: somebody uses it, or it is
// built in; nothing was changed.
func (s *Store) Remove(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var gone *temporary
	err := s.locked(flock.Exclusive, func() error {
		dir, err := s.removable(name)
		if err == nil {
			gone, err = s.retire(dir)
		}
		return err
	})
	if err != nil {
		return err
	}
	return ioError(gone.discard(), "the image cannot be removed completely")
}

// CheckRemove says whether Remove would refuse, with the same codes, and changes nothing.
func (s *Store) CheckRemove(name string) error {
	return s.locked(flock.Shared, func() error {
		_, err := s.removable(name)
		return err
	})
}

// removable gives the directory of an image that may go; the lock is held.
func (s *Store) removable(name string) (dir string, err error) {
	if name == Host {
		return "", stacyvm.Errorf(stacyvm.CodeConflict, "the image %q is built in and cannot be removed", Host)
	}
	dir = directoryOf(name)
	if _, err := os.Lstat(s.path(dir)); errors.Is(err, fs.ErrNotExist) {
		return "", notFound(name)
	}
	uses, err := s.uses()
	if err == nil && uses[dir] > 0 {
		err = stacyvm.Errorf(
			stacyvm.CodeConflict,
			"the image %q is used by %d of the sandboxes: destroy them first",
			name,
			uses[dir],
		)
	}
	return dir, err
}

// hostImage describes the built-in image.
func (s *Store) hostImage(uses map[string]int) Image {
	image := Image{Name: Host, BuiltIn: true}
	for dir, count := range uses {
		if strings.HasPrefix(dir, hostPrefix) {
			image.InUse += count
		}
	}
	paths, _ := filepath.Glob(s.path(hostPrefix + "*")) // the pattern is a constant
	for _, path := range paths {
		if info, err := os.Lstat(path); err == nil && info.ModTime().After(image.CreatedAt) {
			image.CreatedAt = info.ModTime()
		}
	}
	return image
}
