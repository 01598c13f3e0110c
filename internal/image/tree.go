package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// tree writes a directory tree. It keeps the first error and does nothing after it.
type tree struct {
	root *os.Root
	keep bool // files that are there stay as they are
	err  error
}

// newTree makes dir and its parents. Close root at the end.
func newTree(dir string) (*tree, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &tree{root: root}, nil
}

func (t *tree) do(what string, steps ...func() error) {
	for _, step := range steps {
		if t.err != nil {
			return
		}
		if err := step(); err != nil {
			t.err = fmt.Errorf("%s: %w", what, err)
		}
	}
}

// dir makes a directory whose parents are there, or changes the mode of one.
func (t *tree) dir(name string, mode fs.FileMode) {
	t.do(name, func() error {
		if err := t.root.Mkdir(name, 0o700); !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	}, func() error { return t.root.Chmod(name, mode) })
}

// file writes a file; its parents are made.
func (t *tree) file(name string, mode fs.FileMode, content []byte) {
	if t.keep && isThere(t.root, name) {
		return
	}
	t.parents(name)
	t.do(name, func() error { return t.root.WriteFile(name, content, 0o600) },
		func() error { return t.root.Chmod(name, mode) })
}

// link makes a symbolic link; its parents are made.
func (t *tree) link(to, name string) {
	t.parents(name)
	t.do(name, func() error { return t.root.Symlink(to, name) })
}

// own gives a directory to a user, as far as this process may.
func (t *tree) own(name string, id int) {
	if os.Geteuid() == 0 {
		t.do(name, func() error { return t.root.Lchown(name, id, id) })
	}
}

// parents makes the directories above name. A umask does not matter to them.
func (t *tree) parents(name string) {
	for i := range name {
		if name[i] == '/' {
			if _, err := t.root.Lstat(name[:i]); errors.Is(err, fs.ErrNotExist) {
				t.dir(name[:i], 0o755)
			}
		}
	}
}
