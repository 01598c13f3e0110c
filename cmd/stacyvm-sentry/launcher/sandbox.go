package launcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

const (
	// Sandboxes is the directory, in the engine's, that holds one for each sandbox with all that
	// there is of it: the runtime's state and control socket, the spec, the disk.
	Sandboxes = "sandboxes"
	aboutFile = "about.json"
)

// homes is the directory of all sandboxes.
func (s *Server) homes() string { return filepath.Join(s.Dir, Sandboxes) }

// home is a sandbox's directory, with its whole path. It is on the command line of the sandbox's
// processes, which are known by it.
func (s *Server) home(id string) string { return filepath.Join(s.homes(), id) }

// about is what we keep of a sandbox beside gVisor's own state.
type about struct {
	Labels     map[string]string `json:"labels,omitempty"`
	Created    time.Time         `json:"created"`
	Boot       string            `json:"boot,omitempty"` // the machine's, in which it was made
	Unenforced []string          `json:"unenforced,omitempty"`
}

func (a about) runtime(id string, running bool, detail string) wire.Runtime {
	return wire.Runtime{
		ID:         id,
		Labels:     a.Labels,
		Created:    a.Created,
		Running:    running,
		Detail:     detail,
		Unenforced: a.Unenforced,
	}
}

// status tells of one sandbox.
func (s *Server) status(id string) ([]wire.Runtime, error) {
	if _, err := os.Stat(s.home(id)); err != nil {
		return nil, Fail(wire.FailureNotFound, err)
	}
	return []wire.Runtime{s.examine(id)}, nil
}

// list tells of every sandbox that has a directory; one that cannot be examined is listed with the
// reason.
func (s *Server) list() ([]wire.Runtime, error) {
	entries, err := os.ReadDir(s.homes())
	if err != nil {
		return nil, err
	}
	runtimes := make([]wire.Runtime, 0, len(entries))
	for _, entry := range entries {
		runtimes = append(runtimes, s.examine(entry.Name()))
	}
	return runtimes, nil
}

func (s *Server) examine(id string) wire.Runtime {
	var kept about
	if text, err := os.ReadFile(filepath.Join(s.home(id), aboutFile)); err != nil {
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
func (s *Server) running(id string) (Box, error) {
	if _, err := os.Stat(s.home(id)); err != nil {
		return nil, Fail(wire.FailureNotFound, err)
	}
	box, err := s.Runtime.Load(id)
	if err != nil {
		return nil, Fail(wire.FailureDead, err)
	}
	if err := box.Running(); err != nil {
		return nil, Fail(wire.FailureDead, fmt.Errorf("never started: %w", err))
	}
	if !s.alive(id, box) {
		return nil, Fail(wire.FailureDead, errors.New("its sentry or its gofer is gone"))
	}
	return box, nil
}

// alive tells whether both processes of a sandbox live.
func (s *Server) alive(id string, box Box) bool {
	sentry, gofer := box.Processes()
	return s.Processes.Belongs(sentry, s.home(id)) && s.Processes.Belongs(gofer, s.home(id))
}

// dial connects to a TCP port on the sandbox's loopback and gives the host's end.
func (s *Server) dial(id string, port uint16) (*os.File, error) {
	box, err := s.running(id)
	if err != nil {
		return nil, err
	}
	host, guest, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer guest.Close()
	err = box.Dial(port, guest)
	if err != nil {
		host.Close()
		if strings.Contains(err.Error(), "refused") { // error types do not cross gVisor's control socket
			return nil, Fail(wire.FailureRefused, err)
		}
		return nil, err
	}
	return host, nil
}

// destroy removes a sandbox. One that is being created just now loses its processes first, so that
// a create that hangs ends and lets go of the lock.
func (s *Server) destroy(id string) error {
	if s.locks.busy(id) {
		if err := s.Processes.Kill(s.search(id)); err != nil {
			return err
		}
	}
	defer s.locks.lock(id)()
	return s.remove(id)
}

// remove ends every process of the sandbox and then takes away its control groups and its
// directory, in this order: as long as anything is left it is listed.
func (s *Server) remove(id string) error {
	if _, err := os.Lstat(s.home(id)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := s.terminate(id); err != nil {
		return err
	}
	s.acceptors.remove(id)
	return removeAll(s.home(id))
}

// removeAll removes a directory while others may look into it. gVisor makes a lock file for each
// look, also where the last one was removed just now; one who looks makes one.
func removeAll(dir string) error {
	const tries = 100
	for range tries {
		if err := os.RemoveAll(dir); !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return fmt.Errorf("files were made in %s while it was removed, %d times", dir, tries)
}

// terminate ends every process of the sandbox and then takes away its control groups.
func (s *Server) terminate(id string) error {
	if err := s.Processes.Kill(s.known(id)); err != nil {
		return err
	}
	return s.Groups.Remove(id)
}

// known gives the sandbox's processes from gVisor's state, which names them once a create is
// through, and otherwise from a search.
func (s *Server) known(id string) []int {
	box, err := s.Runtime.Load(id)
	if err != nil {
		return s.search(id)
	}
	sentry, gofer := box.Processes()
	if sentry == 0 {
		return s.search(id)
	}
	var pids []int
	for _, pid := range []int{sentry, gofer} {
		if s.Processes.Belongs(pid, s.home(id)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// search finds a sandbox's processes among all of the machine's.
func (s *Server) search(id string) []int { return s.Processes.Find(s.homes())[id] }

// recover clears what an earlier launcher left half done: creates that were not through, processes
// and control groups of sandboxes that have no directory any more. Sandboxes that were started are
// left alone, dead ones too: they are listed until somebody destroys them.
func (s *Server) recover() error {
	entries, err := os.ReadDir(s.homes())
	if err != nil {
		return err
	}
	exists := map[string]bool{}
	for _, entry := range entries {
		id := entry.Name()
		if box, err := s.Runtime.Load(id); err == nil && box.Running() == nil {
			exists[id] = true
			if s.alive(id, box) {
				if err := s.watch(id, box); err != nil { // it ends just now, perhaps
					s.Warn("nobody will know how %s ends: %v", id, err)
				}
			}
			continue
		}
		if s.hasEnd(id) { // an earlier launcher ended it when it had expired
			exists[id] = true
			continue
		}
		s.Warn("removing %s: its create was interrupted", id)
		if err := s.remove(id); err != nil {
			return err
		}
	}
	for id, pids := range s.Processes.Find(s.homes()) {
		if exists[id] {
			continue
		}
		if err := s.Processes.Kill(pids); err != nil {
			return err
		}
	}
	for _, id := range s.Groups.List() {
		if exists[id] {
			continue
		}
		if err := s.Groups.Remove(id); err != nil {
			return err
		}
	}
	return nil
}

// writeJSON makes a file of the sandbox's appear whole, in place of the one before.
func (s *Server) writeJSON(id, name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	path := filepath.Join(s.home(id), name)
	if err := os.WriteFile(path+".tmp", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
