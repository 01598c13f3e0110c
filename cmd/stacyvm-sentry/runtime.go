package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/urpc"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/flag"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/launcher"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// guestDescriptor is where the guest program finds its end of the connection to the host.
const guestDescriptor = 3

// acceptDescriptor is where it finds the socket on which it accepts more of them.
const acceptDescriptor = 5

// boxName is gVisor's name for every container: each has a state directory of its own.
const boxName = "box"

// platformName is gVisor's way to run a guest's code.
const platformName = "systrap"

// gvisor is gVisor as the launcher uses it: launcher.Runtime.
type gvisor struct {
	dir   string   // the engine's, absolute; also the working directory
	net   *os.File // network namespace with only lo, held open
	score oomScore
}

// box is one sandbox as gVisor keeps it.
type box struct{ *container.Container }

// home is a sandbox's directory, short enough for the address of a socket in it, and bundle the
// same with its whole path.
func home(id string) string { return filepath.Join(launcher.Sandboxes, id) }

func (g *gvisor) bundle(id string) string { return filepath.Join(g.dir, home(id)) }

// Load implements launcher.Runtime.
func (g *gvisor) Load(id string) (launcher.Box, error) {
	name := container.FullID{SandboxID: boxName, ContainerID: boxName}
	loaded, err := container.Load(home(id), name, container.LoadOpts{Exact: true, SkipCheck: true})
	if err != nil {
		return nil, err
	}
	return box{loaded}, nil
}

// Running implements launcher.Box.
func (b box) Running() error {
	if b.Status != container.Running {
		return fmt.Errorf("it is %v", b.Status)
	}
	return nil
}

// Processes implements launcher.Box.
func (b box) Processes() (sentry, gofer int) {
	if b.Sandbox != nil {
		sentry = b.Sandbox.Getpid()
	}
	return sentry, b.GoferPid.Load()
}

// Dial implements launcher.Box.
func (b box) Dial(port uint16, guest *os.File) error {
	return b.PortForward(
		&boot.PortForwardOpts{
			FilePayload: urpc.FilePayload{Files: []*os.File{guest}},
			Port:        port,
			ContainerID: boxName,
		},
	)
}

// Start implements launcher.Runtime.
func (g *gvisor) Start(id string, request *wire.Create, guest, acceptor *os.File) (launcher.Box, error) {
	if err := g.writeSpec(id, request.Spec); err != nil {
		return nil, launcher.Fail(wire.FailureInvalid, err)
	}
	conf, err := g.config(id, request.DiskBytes)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	spec, err := specutils.ReadSpec(g.bundle(id), conf)
	if err != nil {
		return nil, launcher.Fail(wire.FailureInvalid, err)
	}
	passed := map[int]*os.File{guestDescriptor: guest}
	if acceptor != nil {
		passed[acceptDescriptor] = acceptor
	}
	made, err := g.newContainer(conf, container.Args{
		ID:        boxName,
		Spec:      spec,
		BundleDir: g.bundle(id),
		PassFiles: passed,
	})
	if err != nil {
		return nil, err
	}
	if err := made.Start(conf); err != nil {
		return nil, err
	}
	return box{made}, nil
}

// newContainer lets gVisor make the sandbox's processes. They inherit their oom_score_adj.
func (g *gvisor) newContainer(conf *config.Config, args container.Args) (*container.Container, error) {
	lower, err := g.score.raise()
	if err != nil {
		return nil, err
	}
	defer lower()
	return container.New(conf, args)
}

// writeSpec stores the spec where gVisor's processes read it, with the shared offline network in
// it.
func (g *gvisor) writeSpec(id string, raw json.RawMessage) error {
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return err
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	network := filepath.Join("/proc/self/fd", strconv.Itoa(int(g.net.Fd())))
	spec.Linux.Namespaces = append(
		spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: network},
	)
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(home(id), "config.json"), text, 0o600)
}

// config is gVisor's configuration for one sandbox. Everything that it keeps is below the
// sandbox's own directory.
func (g *gvisor) config(id string, disk int64) (*config.Config, error) {
	upper := filepath.Join(g.bundle(id), "disk")
	if err := os.Mkdir(upper, 0o700); err != nil {
		return nil, err
	}
	overlay := "root:dir=" + upper
	if disk > 0 {
		overlay += ",size=" + strconv.FormatInt(disk, 10)
	}
	return sandboxConfig(home(id), overlay)
}

// sandboxConfig is the configuration of a sandbox with that state directory and that upper layer.
func sandboxConfig(root, overlay string) (*config.Config, error) {
	flags := flag.NewFlagSet("sandbox", flag.ContinueOnError)
	config.RegisterFlags(flags)
	err := flags.Parse([]string{
		"--root=" + root,
		"--platform=" + platformName,
		"--network=sandbox",
		"--overlay2=" + overlay,
		// The lower directories are only read, and nobody changes them under a sandbox: cached
		// lookups are right.
		"--file-access=exclusive",
		"--file-access-mounts=exclusive",
		"--host-uds=none",
		"--host-settings=ignore",
		"--net-raw=false",
		"--allow-suid=false",
		// gVisor would move this whole process into the sandbox's group and back, which two
		// creates at once cannot share. The sandbox's own processes enter it instead: see
		// limits.Enter.
		"--ignore-cgroups",
	})
	if err != nil {
		return nil, err
	}
	return config.NewFromFlags(flags)
}
