package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/flag"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// guestDescriptor is where the guest program finds its end of the connection to the host.
const guestDescriptor = 3

// create makes and starts a sandbox and gives the host's end of its guest descriptor. After an error nothing is left. A client that
// left has its sandbox removed on another connection, perhaps before this request had its turn: nothing is made for it any more.
func (s *server) create(id string, request *wire.Create, client *net.UnixConn) ([]wire.Runtime, *os.File, error) {
	if request == nil {
		return nil, nil, fail(wire.FailureInvalid, errors.New("no create request"))
	}
	defer s.locks.lock(id)()
	if wire.Closed(client) {
		return nil, nil, errors.New("the client left before its turn")
	}
	if err := os.Mkdir(home(id), 0o700); errors.Is(err, os.ErrExist) {
		return nil, nil, fail(wire.FailureExists, errors.New("the sandbox exists"))
	} else if err != nil {
		return nil, nil, err
	}
	runtime, file, err := s.assemble(id, request)
	if err != nil {
		if failed := s.remove(id); failed != nil {
			log.Warningf("%v", failed)
		}
		return nil, nil, err
	}
	return []wire.Runtime{runtime}, file, nil
}

// assemble does the steps of create; its caller undoes them all by removing the sandbox.
func (s *server) assemble(id string, request *wire.Create) (runtime wire.Runtime, host *os.File, err error) {
	about := about{Labels: request.Labels, Created: time.Now().UTC(), Boot: bootID(), Unenforced: s.groups.unenforced(request)}
	if err := writeJSON(id, aboutFile, about); err != nil {
		return runtime, nil, err
	}
	limits, err := s.groups.make(id, request)
	if err != nil {
		return runtime, nil, fmt.Errorf("limits: %w", err)
	}
	if err := writeJSON(id, limitsFile, limits); err != nil {
		return runtime, nil, err
	}
	host, guest, err := socketPair()
	if err != nil {
		return runtime, nil, err
	}
	defer guest.Close()
	if err := s.start(id, request, guest); err != nil {
		host.Close()
		return runtime, nil, err
	}
	return about.runtime(id, true, ""), host, nil
}

// start lets gVisor make the sandbox's processes and run its first program.
func (s *server) start(id string, request *wire.Create, guest *os.File) error {
	if err := s.writeSpec(id, request.Spec); err != nil {
		return fail(wire.FailureInvalid, err)
	}
	conf, err := s.config(id, request.DiskBytes)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	spec, err := specutils.ReadSpec(s.bundle(id), conf)
	if err != nil {
		return fail(wire.FailureInvalid, err)
	}
	box, err := s.newContainer(conf, container.Args{
		ID:        boxName,
		Spec:      spec,
		BundleDir: s.bundle(id),
		PassFiles: map[int]*os.File{guestDescriptor: guest},
	})
	if err != nil {
		return err
	}
	if err := box.Start(conf); err != nil {
		return err
	}
	return s.watch(id, box)
}

// newContainer lets gVisor make the sandbox's processes. They inherit their oom_score_adj.
func (s *server) newContainer(conf *config.Config, args container.Args) (*container.Container, error) {
	lower, err := s.score.raise()
	if err != nil {
		return nil, err
	}
	defer lower()
	return container.New(conf, args)
}

// writeSpec stores the spec where gVisor's processes read it, with the shared offline network in it.
func (s *server) writeSpec(id string, raw json.RawMessage) error {
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return err
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	network := filepath.Join("/proc/self/fd", strconv.Itoa(int(s.net.Fd())))
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: network})
	return writeJSON(id, "config.json", spec)
}

// config is gVisor's configuration for one sandbox. Everything that it keeps is below the sandbox's own directory.
func (s *server) config(id string, disk int64) (*config.Config, error) {
	upper := filepath.Join(s.bundle(id), "disk")
	if err := os.Mkdir(upper, 0o700); err != nil {
		return nil, err
	}
	overlay := "root:dir=" + upper
	if disk > 0 {
		overlay += ",size=" + strconv.FormatInt(disk, 10)
	}
	flags := flag.NewFlagSet("sandbox", flag.ContinueOnError)
	config.RegisterFlags(flags)
	err := flags.Parse([]string{
		"--root=" + home(id),
		"--platform=systrap",
		"--network=sandbox",
		"--overlay2=" + overlay,
		// The lower directories are only read, and nobody changes them under a sandbox: cached lookups are right.
		"--file-access=exclusive",
		"--file-access-mounts=exclusive",
		"--host-uds=none",
		"--host-settings=ignore",
		"--net-raw=false",
		"--allow-suid=false",
		// gVisor would move this whole process into the sandbox's group and back, which two creates at once cannot share.
		// The sandbox's own processes enter it instead: see enterLimits.
		"--ignore-cgroups",
	})
	if err != nil {
		return nil, err
	}
	return config.NewFromFlags(flags)
}

// socketPair gives two connected stream sockets.
func socketPair() (*os.File, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(pair[0]), "host end"), os.NewFile(uintptr(pair[1]), "guest end"), nil
}
