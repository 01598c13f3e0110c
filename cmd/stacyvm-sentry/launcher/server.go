// Package launcher makes, finds and removes sandboxes for the server, over a Unix socket. What a
// sandbox is made of, gVisor, control groups and processes, it knows by interfaces. It keeps no
// state that is not on disk: after its death a new launcher finds every sandbox again.
package launcher

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/process"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// idleTime is how long the launcher stays with no client and no sandbox.
const idleTime = 5 * time.Second

// requestTime bounds reading a request and writing an answer; the peer is our own engine.
const requestTime = 10 * time.Second

// Config is what a server works with.
type Config struct {
	Dir       string        // the engine's directory, absolute
	Build     string        // content hash of the program, told to clients
	Grace     time.Duration // see ExpiryGrace
	Runtime   Runtime
	Groups    Groups
	Processes Processes
	Warn      func(format string, values ...any) // writes to the log
}

// Runtime is gVisor.
type Runtime interface {
	// Start makes a sandbox's processes and runs its first program, with guest as its descriptor
	// 3 and acceptor, if it is not nil, as its descriptor 5. What it keeps is in the sandbox's
	// directory.
	Start(id string, request *wire.Create, guest, acceptor *os.File) (Box, error)
	// Load finds a sandbox by what Start has kept.
	Load(id string) (Box, error)
}

// Box is a sandbox as the runtime has it.
type Box interface {
	// Running tells whether it was started; its processes may have ended. An error says what it is
	// else.
	Running() error
	// Processes gives the numbers of its sentry and its gofer; 0: there was none yet.
	Processes() (sentry, gofer int)
	// Dial connects guest to a TCP port on the sandbox's loopback.
	Dial(port uint16, guest *os.File) error
}

// Groups are the control groups of sandboxes.
type Groups interface {
	Enforced() []string
	Unenforced(*wire.Create) []string
	Make(id string, request *wire.Create) error
	Remove(id string) error
	List() []string
	OOMKills(id string) int64
	// Marked waits until the group of a sandbox that was just made tells of its use.
	Marked(id string) error
	Watch(id string) error
}

// Processes are those of this machine. A sandbox's have its directory on their command line.
type Processes interface {
	Belongs(pid int, bundle string) bool
	Find(dir string) map[string][]int
	Kill(pids []int) error
	Watch(sentry, gofer int) (<-chan process.Exit, error)
}

// Server answers requests. Requests for different sandboxes run in parallel, those for one sandbox
// one after the other.
type Server struct {
	Config
	locks     keyed
	acceptors acceptors

	mu      sync.Mutex
	clients int
	since   time.Time // of the last moment with a client
}

// New makes a server and clears what an earlier launcher left half done.
func New(config Config) (*Server, error) {
	s := &Server{Config: config, since: time.Now()}
	if err := os.MkdirAll(s.homes(), 0o700); err != nil {
		return nil, err
	}
	if err := s.recover(); err != nil {
		return nil, fmt.Errorf("look for sandboxes of an earlier launcher: %w", err)
	}
	return s, nil
}

// Serve runs until the launcher is not needed. The process then ends; every sandbox stays.
func (s *Server) Serve(listener *net.UnixListener) error {
	go s.expireLoop()
	for {
		_ = listener.SetDeadline(time.Now().Add(time.Second))
		conn, err := listener.AcceptUnix()
		switch {
		case err == nil:
			s.count(1)
			go s.handle(conn)
		case errors.Is(err, os.ErrDeadlineExceeded):
			if s.idle(0, idleTime) {
				return nil
			}
		default:
			s.Warn("accept: %v", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors, perhaps; not a reason to die
		}
	}
}

func (s *Server) count(change int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients += change
	s.since = time.Now()
}

// idle tells whether there are no sandboxes, no more than the given clients, and that for the
// given time.
func (s *Server) idle(clients int, since time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients > clients || time.Since(s.since) < since {
		return false
	}
	entries, err := os.ReadDir(s.homes())
	return errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0
}

func (s *Server) handle(conn *net.UnixConn) {
	defer s.count(-1)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(requestTime))
	request, err := wire.ReadRequest(conn)
	if err != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{}) // a create may take its time
	answer, file := s.answer(request, conn)
	_ = conn.SetDeadline(time.Now().Add(requestTime))
	err = wire.WriteAnswer(conn, answer, file)
	if file != nil {
		file.Close()
	}
	if err != nil && request.Verb == wire.VerbCreate && answer.Failure == "" {
		// Nobody knows of this sandbox.
		if err := s.destroy(request.ID); err != nil {
			s.Warn("%v", err)
		}
	}
	if err == nil && request.Verb == wire.VerbHello {
		s.hold(conn)
	}
}

// hold keeps a client counted until it goes away, and hears its wish to stop.
func (s *Server) hold(conn *net.UnixConn) {
	_ = conn.SetDeadline(time.Time{})
	for {
		request, err := wire.ReadRequest(conn)
		if err != nil || request.Verb != wire.VerbStop {
			return
		}
		stop := s.settles()
		if err := wire.WriteAnswer(conn, wire.Answer{Stopping: stop}, nil); err != nil {
			return
		}
		if stop {
			os.Exit(0)
		}
	}
}

// settles tells whether nobody but the asking client needs the launcher. A request whose answer
// has just been read may still count for a moment.
func (s *Server) settles() bool {
	for range 100 {
		if s.idle(1, 0) {
			return true
		}
		if entries, err := os.ReadDir(s.homes()); err != nil || len(entries) > 0 {
			return false
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// answer does what is asked. A panic in gVisor's code becomes an error: the other requests go on.
func (s *Server) answer(request wire.Request, client *net.UnixConn) (answer wire.Answer, file *os.File) {
	defer func() {
		if problem := recover(); problem != nil {
			s.Warn("panic: %v\n%s", problem, debug.Stack())
			answer, file = failed(fmt.Errorf("panic: %v", problem)), nil
		}
	}()
	if request.Version != wire.Version {
		return failed(
			Fail(
				wire.FailureInvalid,
				fmt.Errorf("protocol version %d, this launcher speaks %d", request.Version, wire.Version),
			),
		), nil
	}
	if request.Verb == wire.VerbHello {
		return s.hello(), nil
	}
	if request.Verb == wire.VerbList {
		runtimes, err := s.list()
		if err != nil {
			return failed(err), nil
		}
		return wire.Answer{Runtimes: runtimes}, nil
	}
	if !wire.ValidID(request.ID) {
		return failed(Fail(wire.FailureInvalid, errors.New("bad sandbox id"))), nil
	}
	return s.answerFor(request, client)
}

// answerFor does what is asked of one sandbox.
func (s *Server) answerFor(request wire.Request, client *net.UnixConn) (answer wire.Answer, file *os.File) {
	var err error
	switch request.Verb {
	case wire.VerbCreate:
		answer.Runtimes, file, err = s.create(request.ID, request.Create, client)
	case wire.VerbDial:
		file, err = s.dial(request.ID, request.Port)
	case wire.VerbConnect:
		file, err = s.connect(request.ID)
	case wire.VerbDestroy:
		err = s.destroy(request.ID)
	case wire.VerbExpire:
		err = s.setExpiry(request.ID, request.Expires)
	case wire.VerbStatus:
		answer.Runtimes, err = s.status(request.ID)
	default:
		err = Fail(wire.FailureInvalid, fmt.Errorf("unknown verb %q", request.Verb))
	}
	if err != nil {
		return failed(err), nil
	}
	return answer, file
}

func (s *Server) hello() wire.Answer {
	entries, err := os.ReadDir(s.homes())
	if err != nil {
		return failed(err)
	}
	return wire.Answer{
		Version:   wire.Version,
		Build:     s.Build,
		Enforces:  append(s.Groups.Enforced(), "disk"),
		Sandboxes: len(entries),
	}
}

// failure is an error with its kind on the wire.
type failure struct {
	kind wire.Failure
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// Fail gives an error its kind on the wire.
func Fail(kind wire.Failure, err error) error { return &failure{kind, err} }

func failed(err error) wire.Answer {
	answer := wire.Answer{Failure: wire.FailureInternal, Error: err.Error()}
	if f, ok := errors.AsType[*failure](err); ok {
		answer.Failure = f.kind
	}
	if noDescriptors(err) { // the cause, whatever it looks like
		answer.Failure = wire.FailureDescriptors
	}
	return answer
}

// noDescriptors tells whether something failed because this process or the machine has no file
// descriptor left. gVisor gives the text alone of some errors.
func noDescriptors(err error) bool {
	for _, cause := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, cause) || strings.Contains(err.Error(), cause.Error()) {
			return true
		}
	}
	return false
}
