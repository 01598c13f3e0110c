package launcher

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/process"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// fakes are what a server works with in these tests.
type fakes struct {
	t         *testing.T
	server    *Server
	runtime   *fakeRuntime
	groups    *fakeGroups
	processes *fakeProcesses
	client    *net.UnixConn
}

const grace = 2 * time.Minute

// newServer makes a server on fakes in a directory of its own.
func newServer(t *testing.T) (*Server, *fakes) {
	f := &fakes{t: t, groups: &fakeGroups{made: map[string]bool{}}, client: connection(t)}
	f.processes = &fakeProcesses{living: map[int]string{}, exits: map[string]chan process.Exit{}, watched: map[int]string{}}
	f.runtime = &fakeRuntime{dir: t.TempDir(), processes: f.processes, boxes: map[string]*fakeBox{}}
	return f.restart(), f
}

// restart makes a server anew, as after the end of its process.
func (f *fakes) restart() *Server {
	f.t.Helper()
	s, err := New(Config{
		Dir: f.runtime.dir, Build: "build", Grace: grace, Runtime: f.runtime, Groups: f.groups, Processes: f.processes, Warn: f.t.Logf,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.server = s
	return s
}

func (f *fakes) ask(request wire.Request) wire.Answer {
	request.Version = wire.Version
	answer, file := f.server.answer(request, f.client)
	if file != nil {
		file.Close()
	}
	return answer
}

// create makes a sandbox that expires at the time of a label.
func (f *fakes) create(id string, labels ...string) {
	f.t.Helper()
	create := &wire.Create{Labels: map[string]string{}}
	for _, expires := range labels {
		create.Labels[wire.LabelExpires] = expires
	}
	if answer := f.ask(wire.Request{Verb: wire.VerbCreate, ID: id, Create: create}); answer.Failure != "" {
		f.t.Fatal(answer.Error)
	}
}

// finish ends what still runs, so that nobody waits for it when the bubble of the test ends.
func (f *fakes) finish() {
	defer synctest.Wait()
	f.processes.mu.Lock()
	defer f.processes.mu.Unlock()
	for _, exits := range f.processes.exits {
		select {
		case exits <- process.Exit{Status: unix.WaitStatus(unix.SIGKILL), Known: true}:
		default:
		}
	}
}

// connection gives a client's connection that stays open.
func connection(t *testing.T) *net.UnixConn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	peer := os.NewFile(uintptr(pair[1]), "peer")
	file := os.NewFile(uintptr(pair[0]), "client")
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		peer.Close()
	})
	return conn.(*net.UnixConn)
}

// fakeRuntime keeps its boxes in memory; each takes two numbers of processes.
type fakeRuntime struct {
	dir       string
	processes *fakeProcesses
	fails     error
	panics    bool
	hangs     chan struct{} // closed when a create hangs; it goes on once its processes have been killed

	mu       sync.Mutex
	boxes    map[string]*fakeBox
	acceptor *os.File // of the newest guest
}

type fakeBox struct {
	started       error
	sentry, gofer int
}

func (r *fakeRuntime) home(id string) string { return filepath.Join(r.dir, Sandboxes, id) }

func (r *fakeRuntime) Start(id string, _ *wire.Create, _, acceptor *os.File) (Box, error) {
	if r.panics {
		panic("in the runtime")
	}
	sentry, gofer := r.processes.start(r.home(id), id)
	if r.hangs != nil {
		close(r.hangs)
		r.processes.untilDead(sentry)
		return nil, errors.New("its processes are gone")
	}
	if r.fails != nil {
		return nil, r.fails
	}
	box := &fakeBox{sentry: sentry, gofer: gofer}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.boxes[id] = box
	if acceptor != nil { // its own, as a process has
		fd, err := unix.FcntlInt(acceptor.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		r.acceptor = os.NewFile(uintptr(fd), "acceptor")
	}
	return box, os.WriteFile(filepath.Join(r.home(id), "state"), nil, 0o600)
}

func (r *fakeRuntime) Load(id string) (Box, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := os.Stat(filepath.Join(r.home(id), "state")); err != nil {
		return nil, err
	}
	// gVisor's, too, opens a lock beside the state, and makes it where it is not.
	lock, err := os.OpenFile(filepath.Join(r.home(id), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return r.boxes[id], lock.Close()
}

func (b *fakeBox) Running() error                 { return b.started }
func (b *fakeBox) Processes() (sentry, gofer int) { return b.sentry, b.gofer }

func (b *fakeBox) Dial(port uint16, _ *os.File) error {
	if port != 80 {
		return errors.New("connection refused")
	}
	return nil
}

type fakeGroups struct {
	ooms   int64
	marked error
	mu     sync.Mutex
	made   map[string]bool
}

func (g *fakeGroups) Enforced() []string               { return []string{"memory"} }
func (g *fakeGroups) Unenforced(*wire.Create) []string { return []string{"cpu"} }
func (g *fakeGroups) OOMKills(string) int64            { return g.ooms }
func (g *fakeGroups) Marked(string) error              { return g.marked }
func (g *fakeGroups) Watch(string) error               { return nil }

func (g *fakeGroups) Make(id string, _ *wire.Create) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.made[id] = true
	return nil
}

func (g *fakeGroups) Remove(id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.made, id)
	return nil
}

func (g *fakeGroups) List() (ids []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id := range g.made {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// fakeProcesses is a machine's table of processes.
type fakeProcesses struct {
	mu      sync.Mutex
	last    int
	living  map[int]string // bundles
	watched map[int]string // ids, by the sentry's number
	exits   map[string]chan process.Exit
	died    sync.Cond
	blind   bool // nothing can be watched
}

func (p *fakeProcesses) start(bundle, id string) (sentry, gofer int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last += 2
	p.living[p.last], p.living[p.last+1] = bundle, bundle
	p.watched[p.last], p.exits[id] = id, make(chan process.Exit, 2)
	return p.last, p.last + 1
}

// end takes a sandbox's processes from the table.
func (p *fakeProcesses) end(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pid, bundle := range p.living {
		if filepath.Base(bundle) == id {
			delete(p.living, pid)
		}
	}
}

func (p *fakeProcesses) untilDead(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.died.L = &p.mu
	for p.living[pid] != "" {
		p.died.Wait()
	}
}

func (p *fakeProcesses) Belongs(pid int, bundle string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.living[pid] == bundle
}

func (p *fakeProcesses) Find(dir string) map[string][]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := map[string][]int{}
	for pid, bundle := range p.living {
		if filepath.Dir(bundle) == dir {
			found[filepath.Base(bundle)] = append(found[filepath.Base(bundle)], pid)
		}
	}
	return found
}

func (p *fakeProcesses) Kill(pids []int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pid := range pids {
		delete(p.living, pid)
	}
	p.died.Broadcast()
	return nil
}

func (p *fakeProcesses) Watch(sentry, _ int) (<-chan process.Exit, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.blind {
		return nil, unix.ESRCH
	}
	return p.exits[p.watched[sentry]], nil
}
