package launcher

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// create makes and starts a sandbox and gives the host's end of its guest descriptor. After an
// error nothing is left. A client that left has its sandbox removed on another connection, perhaps
// before this request had its turn: nothing is made for it any more.
func (s *Server) create(id string, request *wire.Create, client *net.UnixConn) ([]wire.Runtime, *os.File, error) {
	if request == nil {
		return nil, nil, Fail(wire.FailureInvalid, errors.New("no create request"))
	}
	defer s.locks.lock(id)()
	if wire.Closed(client) {
		return nil, nil, errors.New("the client left before its turn")
	}
	if err := os.Mkdir(s.home(id), 0o700); errors.Is(err, os.ErrExist) {
		return nil, nil, Fail(wire.FailureExists, errors.New("the sandbox exists"))
	} else if err != nil {
		return nil, nil, err
	}
	runtime, file, err := s.assemble(id, request)
	if err != nil {
		if failed := s.remove(id); failed != nil {
			s.Warn("%v", failed)
		}
		return nil, nil, err
	}
	return []wire.Runtime{runtime}, file, nil
}

// assemble does the steps of create; its caller undoes them all by removing the sandbox.
func (s *Server) assemble(id string, request *wire.Create) (runtime wire.Runtime, host *os.File, err error) {
	about := about{
		Labels:     request.Labels,
		Created:    time.Now().UTC(),
		Boot:       bootID(),
		Unenforced: s.Groups.Unenforced(request),
	}
	if err := s.writeJSON(id, aboutFile, about); err != nil {
		return runtime, nil, err
	}
	if err := s.Groups.Make(id, request); err != nil {
		return runtime, nil, fmt.Errorf("limits: %w", err)
	}
	host, guest, err := socketPair()
	if err != nil {
		return runtime, nil, err
	}
	defer guest.Close()
	acceptor, err := s.acceptors.add(id, request.Accepts)
	if err != nil {
		host.Close()
		return runtime, nil, err
	}
	defer acceptor.Close() // of nil it is an error and nothing else
	box, err := s.Runtime.Start(id, request, guest, acceptor)
	if err == nil {
		err = s.marked(id)
	}
	if err == nil {
		err = s.watch(id, box)
	}
	if err != nil {
		host.Close()
		return runtime, nil, err
	}
	return about.runtime(id, true, ""), host, nil
}

// marked waits until a sandbox's group tells of its memory: without that nobody would keep its
// limit.
func (s *Server) marked(id string) error {
	if err := s.Groups.Marked(id); err != nil {
		return Fail(wire.FailureLimits, fmt.Errorf("limits: %w", err))
	}
	return nil
}

// socketPair gives two connected stream sockets.
func socketPair() (*os.File, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(pair[0]), "host end"), os.NewFile(uintptr(pair[1]), "guest end"), nil
}
