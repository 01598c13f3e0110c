// Package reload keeps what files hold, and reads them anew when they change.
package reload

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

const (
	// Look is how often a Value looks whether its files changed, at most.
	Look = time.Second
	// readAnyway is after how long files are read whatever their times say: some file systems tell
	// them coarsely.
	readAnyway = 30 * time.Second
)

// Config says what a Value keeps. Load and Failed must not call the Value back.
type Config[T any] struct {
	Paths []string          // regular files
	Load  func() (T, error) // reads them
	// Failed hears of it when changed files cannot be used, once per reason. nil: nobody does.
	Failed func(error)
	Now    func() time.Time // nil: time.Now
}

// Value is what files hold now, or held when they could last be used: half a rotation must not
// lock everybody out. It is safe for concurrent use.
type Value[T any] struct {
	config Config[T]

	mu     sync.Mutex
	value  T
	seen   []fs.FileInfo
	read   time.Time
	looked time.Time
	failed string
}

// Open reads the files for the first time. Its errors name the paths, for who started the program.
func Open[T any](config Config[T]) (*Value[T], error) {
	if config.Now == nil {
		config.Now = time.Now
	}
	v := &Value[T]{config: config}
	seen, err := v.look()
	if err != nil {
		return nil, err
	}
	if err := v.load(seen, config.Now()); err != nil {
		return nil, err
	}
	return v, nil
}

// Get gives the present value.
func (v *Value[T]) Get() T {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now := v.config.Now(); now.Sub(v.looked) >= Look || now.Before(v.looked) {
		v.tell(v.refresh(now))
	}
	return v.value
}

func (v *Value[T]) refresh(now time.Time) error {
	v.looked = now
	seen, err := v.look()
	if err != nil {
		return err
	}
	if unchanged(seen, v.seen) && now.Sub(v.read) < readAnyway && !now.Before(v.read) {
		return nil
	}
	return v.load(seen, now)
}

// load reads the files. Their states come first, so that a change meanwhile is seen the next time.
func (v *Value[T]) load(seen []fs.FileInfo, now time.Time) error {
	value, err := v.config.Load()
	if err != nil {
		return err
	}
	v.value, v.seen, v.read, v.looked = value, seen, now, now
	return nil
}

func (v *Value[T]) look() ([]fs.FileInfo, error) {
	seen := make([]fs.FileInfo, len(v.config.Paths))
	for i, path := range v.config.Paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is not a regular file", path)
		}
		seen[i] = info
	}
	return seen, nil
}

func (v *Value[T]) tell(err error) {
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	if err != nil && reason != v.failed && v.config.Failed != nil {
		v.config.Failed(err)
	}
	v.failed = reason
}

func unchanged(a, b []fs.FileInfo) bool {
	for i := range a {
		if !os.SameFile(a[i], b[i]) || !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() ||
			a[i].Mode() != b[i].Mode() {
			return false
		}
	}
	return true
}
