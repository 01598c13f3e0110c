// Package agent is the guest program: it starts processes, keeps their output, serves files and
// ports to its host. It is the code nearest to the enemy, who shares its kernel, its files and its
// memory limit, and it must stay small. It knows the protocol and nothing else of the product.
package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/guest"
)

const (
	defaultRing  = 1 << 20
	defaultSpill = 64 << 20
	// ringMemory bounds what all output together takes in memory: beyond, each stream keeps two
	// chunks there.
	ringMemory = 48 << 20
	// closeTime is how long killed processes may take to be gone.
	closeTime = 10 * time.Second
)

// Config says where the agent works.
type Config struct {
	// Root is "/" inside a sandbox and a private directory for the mock engine: work directories
	// and file paths are taken below it.
	Root string
	// SpillDir holds output that does not fit in memory, in files without a name. Made when it is
	// missing, with mode 0700.
	SpillDir string
	Version  string
	// Init says that this is process 1: it collects orphans. No other part of the program may wait
	// for children.
	Init bool
	// OOMReports is a pipe that tells of processes that were ended for lack of memory; 0: there is
	// none.
	OOMReports int
	// Freeze lets all other processes of the sandbox stand still, or go on; nil: that is not
	// possible.
	Freeze func(bool) error
}

// Agent is one guest program's state. All methods may be called concurrently.
type Agent struct {
	config     Config
	env        map[string]string
	user       string // whom requests mean that name nobody
	workdir    string // where processes start that name no directory
	ringBytes  uint64
	spillBytes uint64
	bootID     string
	began      time.Time
	ownMark    string // see descendants
	freezer    freezer

	secret  atomic.Pointer[digest]
	handler http.Handler
	server  *http.Server
	direct  *http.Server // of connections that the host alone makes
	reaper  *reaper
	table   *table
	tail    tail
	oom     oomReports
	exits   exitLog
	memory  atomic.Int64 // of all rings
	null    *os.File

	ctx    context.Context // of all requests
	cancel context.CancelFunc
	stop   chan struct{}  // closed when streams must not wait any more
	work   sync.WaitGroup // streams and exits

	mu       sync.Mutex
	closed   bool
	requests sync.WaitGroup
}

// New makes an agent that answers who knows boot's secret. It must be closed.
func New(config Config, boot guest.Boot) (*Agent, error) {
	if err := checkEnv("boot environment", boot.Env); err != nil {
		return nil, err
	}
	a := &Agent{
		config:     config,
		env:        maps.Clone(boot.Env),
		bootID:     rand.Text(),
		began:      time.Now(),
		ownMark:    ownMark(),
		freezer:    newFreezer(config.Freeze),
		user:       imageUser(boot.User),
		workdir:    imageWorkdir(boot.Workdir),
		ringBytes:  defaultRing,
		spillBytes: defaultSpill,
		table:      newTable(),
		oom:        oomReports{fd: config.OOMReports},
		stop:       make(chan struct{}),
	}
	if boot.RingBytes > 0 {
		a.ringBytes = boot.RingBytes
	}
	if boot.SpillBytes > 0 {
		a.spillBytes = boot.SpillBytes
	}
	if err := a.setSecret(string(boot.Secret)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.SpillDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory for output: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	a.null = null
	a.ctx, a.cancel = context.WithCancel(context.Background())
	if config.Init {
		a.prepare()
	}
	a.handler = a.newHandler()
	a.server, a.direct = a.newServer(false), a.newServer(true)
	a.reaper = newReaper(config.Init)
	return a, nil
}

// Handler serves all services; every request must carry `authorization: Bearer <secret>`.
func (a *Agent) Handler() http.Handler { return a.handler }

// Close ends the requests, kills all processes with their descendants, waits for them and removes
// the spill directory. What an ended process left behind outside its group, and cannot be told
// from others therefore, goes on without its output being read.
func (a *Agent) Close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil
	}
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	processes := a.table.close()
	var problems []error
	killAll(processes, a.ownMark, a.freezer)
	problems = append(problems, waitDead(processes))
	close(a.stop)
	for _, p := range processes {
		p.stdout.close()
		p.stderr.close()
	}
	a.server.Close()
	a.direct.Close()
	a.requests.Wait()
	if problems[0] == nil {
		a.work.Wait()
		a.reaper.close()
	}
	for _, p := range processes {
		p.forget()
	}
	problems = append(problems, a.null.Close(), os.RemoveAll(a.config.SpillDir))
	return errors.Join(problems...)
}

// killAll ends processes, their descendants and what they left behind.
func killAll(processes []*process, own string, freeze freezer) {
	all := newDescendants(own, freeze)
	for _, p := range processes {
		<-p.ready
		if p.addTo(all, func() {}) {
			defer p.kills.Done()
		} else {
			p.addLeftTo(all)
		}
	}
	all.kill()
}

// waitDead waits for processes that were killed.
func waitDead(processes []*process) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	for _, p := range processes {
		select {
		case <-p.dead:
		case <-ctx.Done():
			return fmt.Errorf("process %s does not end", p.id)
		}
	}
	return nil
}

// enter admits one request unless the agent closes.
func (a *Agent) enter() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.requests.Add(1)
	return true
}
