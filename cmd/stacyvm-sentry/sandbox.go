package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/urpc"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/container"

	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

const (
	// sandboxes holds one directory per sandbox with all that there is of it: gVisor's state and control socket, the spec,
	// the disk. The path is relative to the launcher's working directory.
	sandboxes = "sandboxes"
	// boxName is gVisor's name for every container: each has a state directory of its own.
	boxName    = "box"
	aboutFile  = "about.json"
	limitsFile = "limits.json"
)

// home is a sandbox's directory, short enough for the address of a socket in it.
func home(id string) string { return filepath.Join(sandboxes, id) }

// bundle is the same with its whole path. It is on the command line of the sandbox's processes, which are known by it.
func (s *server) bundle(id string) string { return filepath.Join(s.dir, sandboxes, id) }

// about is what we keep of a sandbox beside gVisor's own state.
type about struct {
	Labels     map[string]string `json:"labels,omitempty"`
	Created    time.Time         `json:"created"`
	Boot       string            `json:"boot,omitempty"` // the machine's, in which it was made
	Unenforced []string          `json:"unenforced,omitempty"`
}

func (a about) runtime(id string, running bool, detail string) wire.Runtime {
	return wire.Runtime{ID: id, Labels: a.Labels, Created: a.Created, Running: running, Detail: detail, Unenforced: a.Unenforced}
}

func load(id string) (*container.Container, error) {
	name := container.FullID{SandboxID: boxName, ContainerID: boxName}
	return container.Load(home(id), name, container.LoadOpts{Exact: true, SkipCheck: true})
}

// status tells of one sandbox.
func (s *server) status(id string) ([]wire.Runtime, error) {
	if _, err := os.Stat(home(id)); err != nil {
		return nil, fail(wire.FailureNotFound, err)
	}
	return []wire.Runtime{s.examine(id)}, nil
}

// list tells of every sandbox that has a directory; one that cannot be examined is listed with the reason.
func (s *server) list() ([]wire.Runtime, error) {
	entries, err := os.ReadDir(sandboxes)
	if err != nil {
		return nil, err
	}
	runtimes := make([]wire.Runtime, 0, len(entries))
	for _, entry := range entries {
		runtimes = append(runtimes, s.examine(entry.Name()))
	}
	return runtimes, nil
}

func (s *server) examine(id string) wire.Runtime {
	var kept about
	if text, err := os.ReadFile(filepath.Join(home(id), aboutFile)); err != nil {
		return kept.runtime(id, false, "no record: "+err.Error())
	} else if err := json.Unmarshal(text, &kept); err != nil {
		return kept.runtime(id, false, "damaged record: "+err.Error())
	}
	if _, err := s.running(id); err != nil {
		runtime := kept.runtime(id, false, err.Error())
		runtime.End = s.end(id, kept)
		return runtime
	}
	return kept.runtime(id, true, "")
}

// running gives the sandbox if it was started and its processes live.
func (s *server) running(id string) (*container.Container, error) {
	if _, err := os.Stat(home(id)); err != nil {
		return nil, fail(wire.FailureNotFound, err)
	}
	box, err := load(id)
	if err != nil {
		return nil, fail(wire.FailureDead, err)
	}
	if box.Status != container.Running {
		return nil, fail(wire.FailureDead, fmt.Errorf("never started: %v", box.Status))
	}
	if !s.alive(id, box) {
		return nil, fail(wire.FailureDead, errors.New("its sentry or its gofer is gone"))
	}
	return box, nil
}

// alive tells whether both processes of a sandbox live.
func (s *server) alive(id string, box *container.Container) bool {
	return belongs(box.Sandbox.Getpid(), s.bundle(id)) && belongs(box.GoferPid.Load(), s.bundle(id))
}

// dial connects to a TCP port on the sandbox's loopback and gives the host's end.
func (s *server) dial(id string, port uint16) (*os.File, error) {
	box, err := s.running(id)
	if err != nil {
		return nil, err
	}
	host, guest, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer guest.Close()
	err = box.PortForward(&boot.PortForwardOpts{FilePayload: urpc.FilePayload{Files: []*os.File{guest}}, Port: port, ContainerID: boxName})
	if err != nil {
		host.Close()
		if strings.Contains(err.Error(), "refused") { // error types do not cross gVisor's control socket
			return nil, fail(wire.FailureRefused, err)
		}
		return nil, err
	}
	return host, nil
}

// destroy removes a sandbox. One that is being created just now loses its processes first, so that a create that hangs
// ends and lets go of the lock.
func (s *server) destroy(id string) error {
	if s.locks.busy(id) {
		if err := killAll(s.processes(id)); err != nil {
			return err
		}
	}
	defer s.locks.lock(id)()
	return s.remove(id)
}

// remove ends every process of the sandbox and then takes away its control groups and its directory, in this order: as
// long as anything is left it is listed.
func (s *server) remove(id string) error {
	if _, err := os.Lstat(home(id)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := s.terminate(id); err != nil {
		return err
	}
	return os.RemoveAll(home(id))
}

// terminate ends every process of the sandbox and then takes away its control groups.
func (s *server) terminate(id string) error {
	if err := killAll(s.known(id)); err != nil {
		return err
	}
	return s.groups.remove(id)
}

// known gives the sandbox's processes from gVisor's state, which names them once a create is through, and otherwise from
// a search.
func (s *server) known(id string) []int {
	box, err := load(id)
	if err != nil || box.Sandbox == nil {
		return s.processes(id)
	}
	var pids []int
	for _, pid := range []int{box.Sandbox.Getpid(), box.GoferPid.Load()} {
		if belongs(pid, s.bundle(id)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// recover clears what an earlier launcher left half done: creates that were not through, processes and control groups of
// sandboxes that have no directory any more. Sandboxes that were started are left alone, dead ones too: they are listed
// until somebody destroys them.
func (s *server) recover() error {
	entries, err := os.ReadDir(sandboxes)
	if err != nil {
		return err
	}
	exists := map[string]bool{}
	for _, entry := range entries {
		id := entry.Name()
		if box, err := load(id); err == nil && box.Status == container.Running {
			exists[id] = true
			if s.alive(id, box) {
				if err := s.watch(id, box); err != nil {
					return err
				}
			}
			continue
		}
		if hasEnd(id) { // an earlier launcher ended it when it had expired
			exists[id] = true
			continue
		}
		log.Warningf("removing %s: its create was interrupted", id)
		if err := s.remove(id); err != nil {
			return err
		}
	}
	for id, pids := range findProcesses(filepath.Join(s.dir, sandboxes)) {
		if exists[id] {
			continue
		}
		if err := killAll(pids); err != nil {
			return err
		}
	}
	for _, id := range s.groups.list() {
		if exists[id] {
			continue
		}
		if err := s.groups.remove(id); err != nil {
			return err
		}
	}
	return nil
}

// writeJSON makes a file of the sandbox's appear whole, in place of the one before.
func writeJSON(id, name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	path := filepath.Join(home(id), name)
	if err := os.WriteFile(path+".tmp", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
