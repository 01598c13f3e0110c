package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// hostVersion changes whenever the built-in image is made differently, so that roots of older
// builds are not used again.
const hostVersion = 2

// hostSource is the machine that the built-in image is a view of.
type hostSource struct {
	base string // "/"; tests have a tree of their own
}

// usrViews are the directories of /usr that belong to the package system. What is not named is not
// shown, above all /usr/local and /usr/src: those are the administrator's. A sandbox finds an
// empty /usr/local that it can write to.
var usrViews = []string{"bin", "include", "lib", "lib32", "lib64", "libexec", "libx32", "sbin", "share"}

// rootViews are links into /usr on a system with a merged /usr, and directories on others.
var rootViews = []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"}

// witnesses change when the package system changed something that the synthesised part is made
// from.
var witnesses = []string{
	"usr",
	"etc/ld.so.cache",
	"etc/alternatives",
	"etc/ssl/certs",
	"etc/ssl/certs/ca-certificates.crt",
	"etc/ssl/certs/java",
	"etc/pki/tls/certs/ca-bundle.crt",
	"etc/ssl/ca-bundle.pem",
	"etc/ssl/cert.pem",
	"etc/os-release",
	"usr/lib/os-release",
	"var/lib/dpkg/status",
	"usr/lib32",
	"usr/lib64",
	"usr/libx32",
	"lib32",
	"lib64",
	"libx32",
}

// hostTries is how often a root is built anew when packages are being installed meanwhile.
const hostTries = 5

// resolveHost gives the view of this machine as it is now. When that is known already, it costs
// some stat calls.
func (s *Store) resolveHost(ctx context.Context, holder string) (Root, error) {
	for range hostTries {
		name := s.host.key()
		err := s.locked(flock.Shared, func() error {
			if _, err := os.Lstat(s.path(name)); err != nil {
				return err
			}
			return s.hold(holder, name)
		})
		if err == nil {
			return Root{Dir: s.path(name, rootDir), Mounts: s.host.mounts()}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return Root{}, ioError(err, "the image of this machine cannot be used")
		}
		if err := s.buildHost(ctx, name); err != nil {
			return Root{}, ioError(err, "the image of this machine cannot be made")
		}
	}
	return Root{}, stacyvm.Errorf(stacyvm.CodeUnavailable, "this machine's packages are changing: try again")
}

// buildHost makes the synthesised part under name, unless somebody else was first, or the machine
// changed meanwhile.
func (s *Store) buildHost(ctx context.Context, name string) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	work, err := s.newTemporary()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, work.discard()) }()
	finished := filepath.Join(work.path, hostPrefix)
	if err := s.host.build(filepath.Join(finished, rootDir)); err != nil {
		return err
	}
	if s.host.key() != name {
		return nil // what was read may be half old and half new
	}
	if err := s.publish(finished, name); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.dropOldHosts(name)
}

// dropOldHosts removes the synthesised parts of earlier states of the machine that no sandbox uses
// any more.
func (s *Store) dropOldHosts(current string) error {
	var gone []*temporary
	err := s.locked(flock.Exclusive, func() error {
		uses, err := s.uses()
		if err != nil {
			return err
		}
		paths, err := filepath.Glob(s.path(hostPrefix + "*"))
		if err != nil {
			return err
		}
		for _, path := range paths {
			name := filepath.Base(path)
			if name == current || uses[name] > 0 {
				continue
			}
			t, err := s.retire(name)
			if err != nil {
				return err
			}
			gone = append(gone, t)
		}
		return nil
	})
	for _, t := range gone {
		err = errors.Join(err, t.discard())
	}
	return err
}

// key names the present state of the machine.
func (h hostSource) key() string {
	hash := sha256.New()
	fmt.Fprintln(hash, hostVersion, os.Geteuid())
	for _, name := range witnesses {
		var stat unix.Stat_t
		if err := unix.Stat(h.path(name), &stat); err == nil {
			fmt.Fprintln(hash, name, stat.Ino, stat.Size, stat.Mtim.Nano(), stat.Ctim.Nano())
		}
	}
	for _, name := range rootViews {
		if info, err := os.Lstat(h.path(name)); err == nil {
			fmt.Fprintln(hash, name, info.Mode().Type())
		}
	}
	return hostPrefix + hex.EncodeToString(hash.Sum(nil)[:12])
}

func (h hostSource) path(name string) string { return filepath.Join(h.base, name) }

// mounts lists the read-only views: real directories only, links are in the synthesised part.
func (h hostSource) mounts() []Mount {
	var mounts []Mount
	for _, name := range h.views() {
		if info, err := os.Lstat(h.path(name)); err == nil && info.IsDir() && h.linksIn(name) == nil {
			mounts = append(mounts, Mount{Source: h.path(name), Target: "/" + name})
		}
	}
	return mounts
}

// linksIn gives the content of a lib32, lib64 or libx32 that holds links only, mostly the dynamic
// loader: to repeat them is cheaper for each sandbox than one more mount. Nil: it is not such a
// directory.
func (h hostSource) linksIn(name string) map[string]string {
	switch path.Base(name) {
	default:
		return nil
	case "lib32", "lib64", "libx32":
	}
	entries, err := os.ReadDir(h.path(name))
	if err != nil || len(entries) > 20 {
		return nil
	}
	links := make(map[string]string, len(entries))
	for _, entry := range entries {
		to, err := os.Readlink(h.path(path.Join(name, entry.Name())))
		if err != nil {
			return nil
		}
		links[entry.Name()] = to
	}
	return links
}

func (h hostSource) views() []string {
	all := append([]string{}, rootViews...)
	for _, name := range usrViews {
		all = append(all, "usr/"+name)
	}
	return all
}

// build writes the part of the image that is ours: an /etc that is made up, links, and empty
// directories.
func (h hostSource) build(dir string) error {
	t, err := newTree(dir)
	if err != nil {
		return err
	}
	defer t.root.Close()
	h.directories(t)
	h.links(t)
	h.accounts(t)
	h.settings(t)
	h.certificates(t)
	h.alternatives(t)
	h.conffiles(t)
	return t.err
}

// directories makes what a program expects to find, empty. /workspace belongs to `user`; root may
// write there as anywhere.
func (h hostSource) directories(t *tree) {
	for _, name := range []string{
		"usr", "usr/local", "usr/local/bin", "usr/local/lib", "usr/local/sbin", "usr/local/share", "usr/src", "dev", "etc", "home",
		"media", "mnt", "opt", "proc", "run", "run/lock", "srv", "sys", "var", "var/cache", "var/lib", "var/local", "var/log", "var/opt", "var/spool",
	} {
		t.dir(name, 0o755)
	}
	t.dir("root", 0o700)
	for _, name := range []string{"tmp", "var/tmp"} {
		t.dir(name, 0o777|fs.ModeSticky)
	}
	for _, name := range []string{"home/user", "workspace"} {
		t.dir(name, 0o755)
		t.own(name, userID)
	}
	t.link("/run", "var/run")
	t.link("/run/lock", "var/lock")
}

// links repeats the links of the file system's top, and makes mount points for its directories.
func (h hostSource) links(t *tree) {
	for _, name := range h.views() {
		info, err := os.Lstat(h.path(name))
		if err != nil {
			continue
		}
		if info.IsDir() {
			t.dir(name, 0o755)
			for link, to := range h.linksIn(name) {
				t.link(to, name+"/"+link)
			}
			continue
		}
		if to, err := os.Readlink(h.path(name)); err == nil && staysInViews(to) {
			t.link(to, name)
		}
	}
}

// staysInViews tells whether a link of the file system's top leads to something that the sandbox
// has too.
func staysInViews(to string) bool {
	return !strings.Contains(to, "..") && !strings.HasPrefix(strings.TrimPrefix(to, "/"), "usr/local")
}
