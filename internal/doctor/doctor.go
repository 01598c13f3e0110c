// Package doctor looks at a machine for its operator: what works, what does not and what to do,
// before a server starts, while none answers, and before an upgrade. It changes nothing.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/space"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// littleSpace is the free space, in bytes, below which Run warns.
const littleSpace = 2 << 30

// Run looks at this machine: what works, what does not and what to do. It runs a trial sandbox on
// each engine and leaves nothing behind. With production, what only trying out may do without
// fails.
func Run(ctx context.Context, c config.Config, production bool) []config.Check {
	checks := config.DoctorKeys(c, production)
	place := checkDataDir(c)
	if checks = append(checks, place); place.Level == config.Fail {
		return checks
	}
	checks = append(checks, checkRuns(c.DataDir))
	checks = append(checks, doctorDatabase(ctx, c, production)...)
	checks = append(checks, doctorTrust(c, time.Now())...)
	checks = append(checks, checkOwnWorker(c)...)
	if !c.Server.Worker {
		return append(
			checks,
			config.Passed("engines", "none is needed: a server here is a control plane alone (server.worker)"),
		)
	}
	checks = append(checks, checkHostImage(ctx, c))
	if c.Providers.GVisor.Enabled {
		checks = append(checks, checkGVisor(ctx, c)...)
	}
	if c.Providers.Mock.Enabled {
		checks = append(
			checks,
			config.Warned(
				"engine.mock",
				"the engine mock is enabled; it isolates nothing",
				"set providers.mock.enabled to false",
			),
		)
	}
	return checks
}

func checkDataDir(c config.Config) config.Check {
	const name = "data_dir"
	dir := c.DataDir
	fix := "run as root, or set STACYVM_DATA_DIR to a directory that you may write"
	if err := node.MakeDataDir(dir); err != nil {
		return config.Failed(name, plain(err), fix)
	}
	watch, err := space.New(space.Config{Dirs: []string{dir}, MinFree: int64(c.Disk.MinFreeMB) << 20})
	if err != nil {
		return config.Failed(name, plain(err), fix)
	}
	trial, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		if problems := watch.Problems(); len(problems) > 0 {
			return config.Failed(name, strings.Join(problems, "; "), "make room"+largest(dir))
		}
		return config.Failed(name, dir+" cannot be written", fix)
	}
	_ = errors.Join(trial.Close(), os.Remove(trial.Name())) // an empty file
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return config.Failed(name, fmt.Sprintf("%s: %v", dir, err), fix)
	}
	free := int64(stat.Bavail) * stat.Bsize
	message := fmt.Sprintf("%s, %.1f GiB free", dir, float64(free)/(1<<30))
	switch problems := watch.Problems(); {
	case len(problems) > 0:
		return config.Warned(
			name,
			message+": "+strings.Join(problems, "; "),
			"make room: creates and writes of files are refused until then"+largest(dir),
		)
	case free < littleSpace:
		return config.Warned(name, message, "sandboxes keep their files there: make room"+largest(dir))
	}
	return config.Passed(name, message)
}

// largestShown is how many sandboxes Run names on a disk that is nearly full.
const largestShown = 5

// largest names the sandboxes that take most of a data directory; "": there are none.
func largest(dataDir string) string {
	type use struct {
		id    string
		bytes int64
	}
	var uses []use
	homes, _ := filepath.Glob(filepath.Join(dataDir, "engines", "*", "sandboxes", "*")) // the pattern is good
	removed := removedFiles(dataDir)
	for _, home := range homes {
		uses = append(uses, use{filepath.Base(home), taken(home) + removed[filepath.Base(home)]})
	}
	slices.SortFunc(uses, func(a, b use) int { return cmp.Compare(b.bytes, a.bytes) })
	if len(uses) == 0 {
		return ""
	}
	var named []string
	for _, u := range uses[:min(largestShown, len(uses))] {
		named = append(named, fmt.Sprintf("%s (%d MiB)", u.id, u.bytes>>20))
	}
	return "; the largest sandboxes are " + strings.Join(named, ", ") + ": `stacyvm kill` those that are not needed"
}

// taken is what a directory takes on its disk, in bytes; what cannot be looked at counts nothing.
func taken(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes += stat.Blocks * 512
			}
		}
		return nil
	})
	return bytes
}

// ofSandbox is what /proc shows of an open file of a sandbox that was removed; the way to the data
// directory depends on the process.
var ofSandbox = regexp.MustCompile(`/engines/[^/]+/sandboxes/([^/]+)/.* \(deleted\)$`)

// removedFiles is what files that were removed and are still open take on the disk of a data
// directory, in bytes by sandbox: gVisor removes the file of a sandbox's disk as soon as it has
// opened it. What cannot be looked at counts nothing.
func removedFiles(dataDir string) map[string]int64 {
	taken := map[string]int64{}
	var disk syscall.Stat_t
	if syscall.Stat(dataDir, &disk) != nil {
		return taken
	}
	counted := map[uint64]bool{}                  // by inode: several processes have one file open
	open, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is good
	for _, path := range open {
		target, err := os.Readlink(path)
		if err != nil {
			continue
		}
		var stat syscall.Stat_t
		match := ofSandbox.FindStringSubmatch(target)
		if match == nil || syscall.Stat(path, &stat) != nil || stat.Dev != disk.Dev || counted[stat.Ino] {
			continue
		}
		counted[stat.Ino] = true
		taken[match[1]] += stat.Blocks * 512
	}
	return taken
}

// checkRuns tells of the server and of what killed private servers left.
func checkRuns(dataDir string) config.Check {
	const name = "server"
	held, err := flock.Try(filepath.Join(dataDir, node.ServeLock))
	switch {
	case errors.Is(err, flock.ErrLocked):
		return config.Passed(name, "a server runs on this data directory")
	case err != nil:
		return config.Failed(name, plain(err), "")
	}
	held.Release()
	entries, err := os.ReadDir(filepath.Join(dataDir, node.PrivateDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return config.Failed(name, plain(err), "")
	}
	left := 0
	for _, entry := range entries {
		gone, err := node.TakeAbandoned(dataDir, filepath.Join(dataDir, node.PrivateDir, entry.Name()))
		if err == nil && gone != nil {
			gone.Release()
			left++
		}
	}
	if left > 0 {
		return config.Warned(
			name,
			fmt.Sprintf("no server runs; %d killed `stacyvm run` left something", left),
			"the next `stacyvm run` or `stacyvm serve` removes it",
		)
	}
	return config.Passed(name, "no server runs on this data directory")
}

func checkHostImage(ctx context.Context, c config.Config) config.Check {
	const name, holder = "image.host", "doctor"
	images, err := image.Open(node.SharedPlace(c.DataDir, "").Images)
	if err == nil {
		if _, err = images.Resolve(ctx, "host", holder); err == nil {
			err = images.Release(holder)
		}
	}
	if err != nil {
		return config.Failed(
			name,
			"the built-in image cannot be made: "+plain(err),
			"import another image: `stacyvm image import`",
		)
	}
	return config.Passed(name, "the built-in image host can be used")
}

func checkGVisor(ctx context.Context, c config.Config) []config.Check {
	const name = "engine.gvisor"
	dir, held, err := node.ClaimDir(c.DataDir)
	if err != nil {
		return []config.Check{config.Failed(name, plain(err), "")}
	}
	defer held.Release()
	g, err := node.OpenGVisor(node.PrivatePlace(c.DataDir, dir))
	if err != nil {
		return []config.Check{config.Failed(name, plain(errors.Join(err, os.RemoveAll(dir))), "")}
	}
	found, err := g.Probe(ctx)
	if err = errors.Join(err, g.Close()); err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return []config.Check{config.Failed(name, plain(err), "")}
	}
	return engineChecks(name, found)
}

// engineChecks tells what a probe has found.
func engineChecks(name string, found engine.Capabilities) []config.Check {
	var checks []config.Check
	if found.Usable {
		checks = append(checks, config.Passed(name, "a trial sandbox started, answered and was removed"))
	}
	for i, problem := range found.Problems {
		level, suffix := config.Fail, ""
		if found.Usable {
			level, suffix = config.Warn, ".limits"
		}
		if i > 0 {
			suffix += fmt.Sprintf(".%d", i+1)
		}
		checks = append(
			checks,
			config.Check{Name: name + suffix, Level: level, Message: problem.What, Fix: problem.Fix},
		)
	}
	if found.Usable && len(found.Problems) == 0 {
		checks = append(
			checks,
			config.Passed(
				name+".limits",
				"limits that are enforced: "+strings.Join(stacyvm.Retype[string](found.Enforces), ", "),
			),
		)
	}
	return checks
}
