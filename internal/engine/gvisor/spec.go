package gvisor

import (
	"cmp"
	"encoding/json"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// guestDir is where the guest program's directory is mounted: a mount point cannot be renamed
	// or replaced by the guest, as a file or a directory could be.
	guestDir = "/.stacyvm"
	// openFiles is the limit of open files per process.
	openFiles = 65536
	// reserved is an empty mount in /tmp: gVisor puts a memory file system over a /tmp that is
	// empty at the start, and what is written there would count as memory and not as disk.
	reserved = "/tmp/.stacyvm"
)

// capabilities is what root in a sandbox needs to act as root on its own files and processes. No
// tracing, no mounting, no network administration, no device nodes.
var capabilities = []string{
	"CAP_CHOWN",
	"CAP_DAC_OVERRIDE",
	"CAP_FOWNER",
	"CAP_FSETID",
	"CAP_KILL",
	"CAP_NET_BIND_SERVICE",
	"CAP_SETGID",
	"CAP_SETUID",
	"CAP_SYS_CHROOT",
}

// guestCapabilities are what process 1 begins with besides. It gives each command a UTS namespace,
// by which it finds the command's descendants, and takes both from its bounding set first, so that
// no command inherits them.
var guestCapabilities = append([]string{"CAP_SYS_ADMIN", "CAP_SETPCAP"}, capabilities...)

// request translates a spec for the launcher.
func (e *Engine) request(spec engine.Spec) (*wire.Create, error) {
	if err := check(spec.Root); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(e.oci(spec))
	if err != nil {
		return nil, err
	}
	return &wire.Create{
		Spec: raw, Labels: spec.Labels,
		MemoryBytes: spec.MemoryBytes, DiskBytes: spec.DiskBytes, CPUs: spec.CPUs, Pids: spec.Pids,
		Accepts: true,
	}, nil
}

func check(root engine.Root) error {
	if !filepath.IsAbs(root.Dir) {
		return stacyvm.Invalid("root", "the directory must be absolute")
	}
	for _, mount := range root.Mounts {
		if mount.Source != "" && !filepath.IsAbs(mount.Source) || !filepath.IsAbs(mount.Target) ||
			filepath.Clean(mount.Target) == "/" {
			return stacyvm.Invalid("root", "mounts must be absolute and not on the root itself")
		}
	}
	return nil
}

// oci builds the runtime spec. Limits are not in it: the launcher writes them.
func (e *Engine) oci(spec engine.Spec) *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: spec.Hostname,
		Root:     &specs.Root{Path: spec.Root.Dir},
		Mounts:   e.mounts(spec.Root.Mounts),
		Process: &specs.Process{
			Args:            []string{filepath.Join(guestDir, filepath.Base(e.config.Guest))},
			Cwd:             "/",
			Env:             []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{
				Bounding: guestCapabilities, Effective: guestCapabilities, Permitted: guestCapabilities,
			},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: openFiles, Soft: openFiles}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
			},
		},
	}
}

// mounts lists the file systems below the root: the usual kernel ones, the image's read-only
// views, parents before children, and the guest program.
func (e *Engine) mounts(views []engine.Mount) []specs.Mount {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		// nodes and links
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=1m"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777"}},
		empty(reserved),
	}
	views = slices.Clone(views)
	slices.SortStableFunc(
		views,
		func(a, b engine.Mount) int { return cmp.Compare(filepath.Clean(a.Target), filepath.Clean(b.Target)) },
	)
	for _, view := range views {
		if view.Source == "" {
			mounts = append(mounts, empty(view.Target))
			continue
		}
		mounts = append(mounts, readOnly(view.Source, view.Target))
	}
	return append(mounts, readOnly(filepath.Dir(e.config.Guest), guestDir))
}

func readOnly(source, target string) specs.Mount {
	return specs.Mount{
		Destination: target,
		Type:        "bind",
		Source:      source,
		Options:     []string{"rbind", "ro", "nosuid", "nodev"},
	}
}

func empty(target string) specs.Mount {
	return specs.Mount{
		Destination: target,
		Type:        "tmpfs",
		Source:      "tmpfs",
		Options:     []string{"ro", "nosuid", "nodev", "noexec", "mode=755"},
	}
}
