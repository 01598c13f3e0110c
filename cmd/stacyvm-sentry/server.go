package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/log"

	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// idleTime is how long the launcher stays with no client and no sandbox.
const idleTime = 5 * time.Second

// requestTime bounds reading a request and writing an answer; the peer is our own engine.
const requestTime = 10 * time.Second

// server answers requests. Requests for different sandboxes run in parallel, those for one sandbox one after the other.
type server struct {
	dir    string // absolute; also the working directory
	build  string
	grace  time.Duration // see expiryGrace
	net    *os.File      // network namespace with only lo, held open
	groups groups
	locks  keyed
	score  oomScore

	mu      sync.Mutex
	clients int
	since   time.Time // of the last moment with a client
}

func newServer(dir, build string, grace time.Duration) (*server, error) {
	if err := os.MkdirAll(sandboxes, 0o700); err != nil {
		return nil, err
	}
	network, err := offlineNetwork()
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	groups, err := findGroups(dir)
	if err != nil {
		return nil, err
	}
	return &server{dir: dir, build: build, grace: grace, net: network, groups: groups, since: time.Now()}, nil
}

// serve runs until the launcher is not needed. The process then ends; every sandbox stays.
func (s *server) serve(listener *net.UnixListener) error {
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
			log.Warningf("accept: %v", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors, perhaps; not a reason to die
		}
	}
}

func (s *server) count(change int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients += change
	s.since = time.Now()
}

// idle tells whether there are no sandboxes, no more than the given clients, and that for the given time.
func (s *server) idle(clients int, since time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients > clients || time.Since(s.since) < since {
		return false
	}
	entries, err := os.ReadDir(sandboxes)
	return errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0
}

func (s *server) handle(conn *net.UnixConn) {
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
			log.Warningf("%v", err)
		}
	}
	if err == nil && request.Verb == wire.VerbHello {
		s.hold(conn)
	}
}

// hold keeps a client counted until it goes away, and hears its wish to stop.
func (s *server) hold(conn *net.UnixConn) {
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

// settles tells whether nobody but the asking client needs the launcher. A request whose answer has just been read may still
// count for a moment.
func (s *server) settles() bool {
	for range 100 {
		if s.idle(1, 0) {
			return true
		}
		if entries, err := os.ReadDir(sandboxes); err != nil || len(entries) > 0 {
			return false
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// answer does what is asked. A panic in gVisor's code becomes an error: the other requests go on.
func (s *server) answer(request wire.Request, client *net.UnixConn) (answer wire.Answer, file *os.File) {
	defer func() {
		if problem := recover(); problem != nil {
			log.Warningf("panic: %v\n%s", problem, debug.Stack())
			answer, file = failed(fmt.Errorf("panic: %v", problem)), nil
		}
	}()
	if request.Version != wire.Version {
		return failed(fail(wire.FailureInvalid, fmt.Errorf("protocol version %d, this launcher speaks %d", request.Version, wire.Version))), nil
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
		return failed(fail(wire.FailureInvalid, errors.New("bad sandbox id"))), nil
	}
	return s.answerFor(request, client)
}

// answerFor does what is asked of one sandbox.
func (s *server) answerFor(request wire.Request, client *net.UnixConn) (answer wire.Answer, file *os.File) {
	var err error
	switch request.Verb {
	case wire.VerbCreate:
		answer.Runtimes, file, err = s.create(request.ID, request.Create, client)
	case wire.VerbDial:
		file, err = s.dial(request.ID, request.Port)
	case wire.VerbDestroy:
		err = s.destroy(request.ID)
	case wire.VerbExpire:
		err = s.setExpiry(request.ID, request.Expires)
	case wire.VerbStatus:
		answer.Runtimes, err = s.status(request.ID)
	default:
		err = fail(wire.FailureInvalid, fmt.Errorf("unknown verb %q", request.Verb))
	}
	if err != nil {
		return failed(err), nil
	}
	return answer, file
}

func (s *server) hello() wire.Answer {
	entries, err := os.ReadDir(sandboxes)
	if err != nil {
		return failed(err)
	}
	return wire.Answer{Version: wire.Version, Build: s.build, Enforces: append(s.groups.limits(), "disk"), Sandboxes: len(entries)}
}

// failure is an error with its kind on the wire.
type failure struct {
	kind wire.Failure
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(kind wire.Failure, err error) error { return &failure{kind, err} }

func failed(err error) wire.Answer {
	answer := wire.Answer{Failure: wire.FailureInternal, Error: err.Error()}
	if f, ok := errors.AsType[*failure](err); ok {
		answer.Failure = f.kind
	}
	return answer
}

// keyed is a lock for each name.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	sync.Mutex
	users int
}

func (k *keyed) lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	lock := k.locks[name]
	if lock == nil {
		lock = &keyedLock{}
		k.locks[name] = lock
	}
	lock.users++
	k.mu.Unlock()
	lock.Lock()
	return func() {
		lock.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if lock.users--; lock.users == 0 {
			delete(k.locks, name)
		}
	}
}

// busy tells whether somebody holds or waits for the lock of name.
func (k *keyed) busy(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.locks[name] != nil
}
