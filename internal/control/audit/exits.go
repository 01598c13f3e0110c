package audit

import (
	"context"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// watchIdle is how long a sandbox's stream of exits stays open when nobody waits for one.
	watchIdle = time.Minute
	// keptExits is how many exits a stream remembers, for a command whose reader leaves after its
	// end: as many as a guest keeps.
	keptExits = 4096
	// reconnectWithin is how long a watch waits for a guest whose connection broke.
	reconnectWithin = 15 * time.Second
)

// Connect opens a client of a sandbox's guest.
type Connect func(context.Context) (*guest.Client, error)

// ExitWatcher waits for commands whose output nobody reads to the end, so that the exec log and
// subscribers learn how they ended. One stream for each sandbox tells of all its exits. Of what
// runs longer than this process the log says that its end is not known, and subscribers are not
// told.
type ExitWatcher struct {
	writer  *Writer
	life    context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex
	closed    bool // no watch begins
	sandboxes map[stacyvm.SandboxID]*exitWatch
}

// exitWatch is the stream of one sandbox. ExitWatcher.mu guards it.
type exitWatch struct {
	pending map[string][]Exec // by process
	last    uint64            // number of the newest exit
	ended   map[string]*stacyvm.Exit
	order   []string // of ended, oldest first
	cancel  context.CancelFunc
	idle    *time.Timer // ends the watch; stopped while anything is pending
}

// NewExitWatcher makes a watcher that records exits with writer. Close ends it.
func NewExitWatcher(writer *Writer) *ExitWatcher {
	e := &ExitWatcher{writer: writer, sandboxes: map[stacyvm.SandboxID]*exitWatch{}}
	e.life, e.stop = context.WithCancel(context.Background())
	return e
}

// Close ends all watches. How the commands ended that they waited for is not known then.
func (e *ExitWatcher) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.stop()
	e.running.Wait()
}

// Watch waits for a command in the background and records its exit then. The values of ctx are
// for connect; its end changes nothing.
func (e *ExitWatcher) Watch(ctx context.Context, command Exec, connect Connect) {
	id, process := command.Sandbox.ID, command.Command.ProcessID
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		e.record([]Exec{command}, nil)
		return
	}
	w := e.sandboxes[id]
	if w == nil {
		watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
		w = &exitWatch{pending: map[string][]Exec{}, ended: map[string]*stacyvm.Exit{}, cancel: cancel}
		w.idle = time.AfterFunc(watchIdle, func() { e.endIdle(id, w) })
		e.sandboxes[id] = w
		kept := context.AfterFunc(e.life, cancel)
		e.running.Go(func() {
			defer func() { kept(); cancel() }()
			e.follow(watching, w, connect)
			e.giveUp(id, w)
		})
	}
	exit, over := w.ended[process]
	if !over {
		w.idle.Stop()
		w.pending[process] = append(w.pending[process], command)
	}
	e.mu.Unlock()
	if over {
		e.record([]Exec{command}, exit)
	}
}

// record records how commands ended; nil: it is not known.
func (e *ExitWatcher) record(commands []Exec, exit *stacyvm.Exit) {
	for _, command := range commands {
		e.writer.RecordExit(e.life, command, exit)
	}
}

// follow reads the stream of a sandbox's exits, and opens it again where it broke, until ctx ends
// or its guest is given up.
func (e *ExitWatcher) follow(ctx context.Context, w *exitWatch, connect Connect) {
	backoff := retry.Backoff{Within: reconnectWithin}
	for {
		asked := time.Now()
		client, err := connect(ctx)
		if err == nil {
			err = client.WatchExits(ctx, w.last, func(number uint64, process string, exit *stacyvm.Exit) {
				if number != w.last+1 {
					e.findMissed(ctx, client, w)
				}
				e.note(w, number, process, exit)
			})
		}
		if !guest.Broken(err) || ctx.Err() != nil {
			return
		}
		if time.Since(asked) > reconnectWithin { // it was well until now
			backoff.Reset()
		}
		if backoff.Over() || backoff.Wait(ctx) != nil {
			return
		}
	}
}

// note takes in one exit.
func (e *ExitWatcher) note(w *exitWatch, number uint64, process string, exit *stacyvm.Exit) {
	e.mu.Lock()
	waited := w.pending[process]
	delete(w.pending, process)
	w.last = number
	w.ended[process] = exit
	if w.order = append(w.order, process); len(w.order) > keptExits {
		delete(w.ended, w.order[0])
		w.order = w.order[1:]
	}
	if len(waited) > 0 && len(w.pending) == 0 {
		w.idle.Reset(watchIdle)
	}
	e.mu.Unlock()
	e.record(waited, exit)
}

// findMissed asks for the commands whose exit may be among those that the guest does not tell of
// any more.
func (e *ExitWatcher) findMissed(ctx context.Context, client *guest.Client, w *exitWatch) {
	processes, err := client.Processes(ctx)
	if err != nil {
		return // the stream breaks as well
	}
	running, exits := map[string]bool{}, map[string]*stacyvm.Exit{}
	for _, p := range processes {
		running[p.ID], exits[p.ID] = p.Exit == nil, p.Exit
	}
	e.mu.Lock()
	missed := map[string][]Exec{}
	for process, waited := range w.pending {
		if !running[process] {
			missed[process] = waited
			delete(w.pending, process)
		}
	}
	e.mu.Unlock()
	for process, waited := range missed {
		e.record(waited, exits[process])
	}
}

// endIdle ends a watch that nobody needs.
func (e *ExitWatcher) endIdle(id stacyvm.SandboxID, w *exitWatch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(w.pending) == 0 && e.sandboxes[id] == w {
		delete(e.sandboxes, id)
		w.cancel()
	}
}

// giveUp ends a watch whose stream is over: how its commands end is not known.
func (e *ExitWatcher) giveUp(id stacyvm.SandboxID, w *exitWatch) {
	e.mu.Lock()
	if e.sandboxes[id] == w {
		delete(e.sandboxes, id)
	}
	w.idle.Stop()
	pending := w.pending
	w.pending = nil
	e.mu.Unlock()
	for _, waited := range pending {
		e.record(waited, nil)
	}
}
