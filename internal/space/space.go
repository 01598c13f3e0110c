// Package space watches the file systems that the product writes to, and holds some room on them
// back: what frees room, a destroy above all, needs some itself.
package space

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// slices is in how many parts a reserve is given up.
	slices = 8
	// sliceFiles is how many files a part has: a file system may run out of them, too.
	sliceFiles = 16
	// fewFiles is the number of free inodes below which a file system counts as full.
	fewFiles = 1024
	// A watermark is at most this part of its file system, and a reserve at most that one.
	watermarkPart, reservePart = 20, 50
	// remakeEvery is how often it is looked whether a reserve can be made again.
	remakeEvery = 10 * time.Second
	// lookEvery is how often it is looked whether there is a problem.
	lookEvery = 2 * time.Second
)

// Config is what a Guard is made from.
type Config struct {
	Dirs    []string // which must be there; those on one file system count once
	MinFree int64    // bytes below which a file system counts as full; at most a twentieth of it
	Reserve int64    // bytes that are held back on each; at most a fiftieth of it; 0: none
	Logger  *slog.Logger
}

// Guard watches. It is safe for concurrent use; a nil one watches nothing.
type Guard struct {
	places  []*place
	minFree int64
	reserve int64
	log     *slog.Logger
	changed chan struct{} // gets one when there is a problem, or none any more

	mu     sync.Mutex // held while reserves are changed
	failed error      // the last write that found no room, and whether one succeeded since: nil
}

// place is one file system.
type place struct {
	dir string
	dev uint64
}

// reserveDir is where a reserve is, below a watched directory.
const reserveDir = "reserve"

// New looks at the directories and changes nothing.
func New(config Config) (*Guard, error) {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Guard{minFree: config.MinFree, reserve: config.Reserve, log: config.Logger, changed: make(chan struct{}, 1)}
	seen := map[uint64]bool{}
	for _, dir := range config.Dirs {
		var stat syscall.Stat_t
		if err := syscall.Stat(dir, &stat); err != nil {
			return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be looked at")
		}
		if !seen[stat.Dev] {
			seen[stat.Dev] = true
			g.places = append(g.places, &place{dir, stat.Dev})
		}
	}
	return g, nil
}

// state is how full a place is.
type state struct {
	free, total int64 // bytes
	files       int64 // free inodes; -1: without a limit
	readOnly    bool
}

func (p *place) look() (s state, err error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(p.dir, &fs); err != nil {
		return s, err
	}
	s = state{int64(fs.Bavail) * fs.Bsize, int64(fs.Blocks) * fs.Bsize, -1, fs.Flags&syscall.MS_RDONLY != 0}
	if fs.Files > 0 {
		s.files = int64(fs.Ffree)
		if int64(fs.Files)/watermarkPart < fewFiles { // a small one
			s.files = s.files * fewFiles / max(int64(fs.Files)/watermarkPart, 1)
		}
	}
	return s, nil
}

// lacks says what a place lacks; "": nothing.
func (g *Guard) lacks(p *place) string {
	s, err := p.look()
	switch {
	case err != nil:
		return fmt.Sprintf("%s cannot be looked at: %v", p.dir, err)
	case s.readOnly:
		return p.dir + " is read-only"
	case s.free < g.watermark(s.total):
		return fmt.Sprintf(
			"%s has %d MiB free, less than the %d MiB that are to stay free",
			p.dir,
			s.free>>20,
			g.watermark(s.total)>>20,
		)
	case s.files >= 0 && s.files < fewFiles:
		return p.dir + " has hardly any free inodes"
	}
	return ""
}

func (g *Guard) watermark(total int64) int64 { return min(g.minFree, total/watermarkPart) }

// Problems tells what is wrong now, for operators.
func (g *Guard) Problems() (problems []string) {
	if g == nil {
		return nil
	}
	for _, p := range g.places {
		if lack := g.lacks(p); lack != "" {
			problems = append(problems, lack)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed != nil && len(problems) == 0 {
		problems = append(problems, "the database has no space left")
	}
	return problems
}

// Full is a CodeStorageFull error while there is less room than is to stay free: nothing that
// takes room should begin then.
func (g *Guard) Full() error {
	if g == nil {
		return nil
	}
	for _, p := range g.places {
		if lack := g.lacks(p); lack != "" {
			return stacyvm.Wrap(
				stacyvm.CodeStorageFull,
				errors.New(lack),
				"there is no room on the machine's disk: end sandboxes that are not needed, or tell the operator",
			)
		}
	}
	return nil
}

// Spare does what frees room, or is small and must not fail. When there is no room for it parts of
// the reserve are given up, one after the other, and it is tried again.
func (g *Guard) Spare(do func() error) error {
	err := do()
	for noRoom(err) && g.release() {
		err = do()
	}
	if g != nil {
		g.mu.Lock()
		g.failed = nil
		if noRoom(err) {
			g.failed = err
		}
		g.mu.Unlock()
	}
	return err
}

// noRoom reports whether something failed for lack of space. Errors of programs on the other side
// of a socket are text.
func noRoom(err error) bool {
	return err != nil &&
		(stacyvm.CodeOf(err) == stacyvm.CodeStorageFull || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
			strings.Contains(err.Error(), syscall.ENOSPC.Error()))
}

// Start gives up half of the reserve of each place that is full, so that a server can start there,
// and makes what is missing where there is room.
func (g *Guard) Start() {
	for _, p := range g.places {
		if g.lacks(p) == "" {
			continue
		}
		g.log.Warn(
			"the disk is full: creates and writes of files are refused until there is room",
			"directory",
			p.dir,
			"problem",
			g.lacks(p),
		)
		for range slices / 2 {
			g.releaseAt(p)
		}
	}
	g.remake()
}

// Run makes reserves again, when there is room, until ctx ends.
func (g *Guard) Run(ctx context.Context) error {
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	said := ""
	for n := 1; ; n++ {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil
		}
		if n%int(remakeEvery/lookEvery) == 0 {
			g.remake()
		}
		now := strings.Join(g.Problems(), "; ")
		switch {
		case now != "" && said == "":
			g.log.Warn("the disk is full: creates and writes of files are refused until there is room", "problem", now)
		case now == "" && said != "":
			g.log.Info("there is room on the disk again")
		}
		if (now == "") != (said == "") {
			select {
			case g.changed <- struct{}{}:
			default: // nobody has asked since the last one
			}
		}
		said = now
	}
}

// Changed gives a value when Run finds a problem after there was none, or none any more.
func (g *Guard) Changed() <-chan struct{} { return g.changed }

// release gives up a part of the reserve of each place that is full; false: there is none any
// more, or it is another machine's disk that is full.
func (g *Guard) release() (released bool) {
	if g == nil {
		return false
	}
	for _, p := range g.places {
		if g.lacks(p) != "" {
			released = g.releaseAt(p) || released
		}
	}
	return released
}

func (g *Guard) releaseAt(p *place) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range slices {
		dir := p.slice(i)
		if _, err := os.Lstat(dir); err != nil {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			g.log.Warn("the reserve cannot be given up", "error", err)
			continue
		}
		g.log.Warn("a part of the reserve is given up: the disk is full", "directory", p.dir)
		return true
	}
	return false
}

func (p *place) slice(i int) string { return filepath.Join(p.dir, reserveDir, strconv.Itoa(i)) }

// remake makes the missing parts of the reserves, as long as a place stays above its watermark
// with them.
func (g *Guard) remake() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.places {
		s, err := p.look()
		if err != nil || s.readOnly || g.reserve <= 0 {
			continue
		}
		size := min(g.reserve, s.total/reservePart) / slices
		for i := range slices {
			if _, err := os.Lstat(p.slice(i)); err == nil {
				continue
			}
			if s, err = p.look(); err != nil || s.free-size < g.watermark(s.total) ||
				s.files >= 0 && s.files < 2*fewFiles {
				break
			}
			if err := makeSlice(p.slice(i), size); err != nil {
				g.log.Warn("the reserve cannot be made", "directory", p.dir, "error", err)
				_ = os.RemoveAll(p.slice(i)) // what was made of it
				break
			}
		}
	}
}

// makeSlice makes a directory that takes up room and inodes. A slice that a crash left half-made
// is as good as a smaller one.
func makeSlice(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for i := range sliceFiles {
		file, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(i)), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if i == 0 {
			err = occupy(file, size)
		}
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// occupy gives a file room on the disk. Where a file system cannot promise it, bytes that it
// cannot compress are written.
func occupy(file *os.File, size int64) error {
	err := syscall.Fallocate(int(file.Fd()), 0, 0, size)
	for errors.Is(err, syscall.EINTR) {
		err = syscall.Fallocate(int(file.Fd()), 0, 0, size)
	}
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		if _, err = io.CopyN(file, rand.Reader, size); err == nil {
			err = file.Sync()
		}
	}
	return err
}
