package launcher

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// connectionBuffer is what the kernel holds of each direction of a connection that nobody reads,
// in bytes: each system call of the guest's moves as much at most.
const connectionBuffer = 512 << 10

// acceptors are the host's ends of the sockets on which guest programs accept connections. They
// are lost with this process; connections then go through the sandbox's network.
type acceptors struct {
	mu    sync.Mutex
	files map[string]*os.File
}

// add makes a sandbox's socket and gives the guest's end, nil when the guest wants none.
func (a *acceptors) add(id string, wanted bool) (*os.File, error) {
	if !wanted {
		return nil, nil
	}
	host, guest, err := socketPair()
	if err != nil {
		return nil, err
	}
	a.remove(id)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.files == nil {
		a.files = map[string]*os.File{}
	}
	a.files[id] = host
	return guest, nil
}

// remove forgets a sandbox.
func (a *acceptors) remove(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if file := a.files[id]; file != nil {
		file.Close()
		delete(a.files, id)
	}
}

// pass hands conn to a guest program, false where it takes none. It does not wait: a guest that
// takes none of many is an error.
func (a *acceptors) pass(id string, conn *os.File) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	file := a.files[id]
	if file == nil {
		return false, nil
	}
	rights := unix.UnixRights(int(conn.Fd()))
	return true, unix.Sendmsg(int(file.Fd()), []byte{0}, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// connect makes a connection to a guest program and gives the host's end.
func (s *Server) connect(id string) (*os.File, error) {
	host, guest, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer guest.Close()
	for _, end := range []*os.File{host, guest} {
		// Beyond the machine's limit for others; with less it is only slower.
		_ = unix.SetsockoptInt(int(end.Fd()), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, connectionBuffer)
	}
	taken, err := s.acceptors.pass(id, guest)
	if taken && err == nil {
		return host, nil
	}
	host.Close()
	if _, failed := s.running(id); failed != nil {
		return nil, failed
	}
	if !taken {
		return nil, Fail(wire.FailureUnsupported, errors.New("the guest program accepts no connections"))
	}
	return nil, fmt.Errorf("hand a connection to the guest program: %w", err)
}
