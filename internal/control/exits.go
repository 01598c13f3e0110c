package control

import (
	"context"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// watchIdle is how long a sandbox's stream of ends stays open when nobody waits for one.
	watchIdle = time.Minute
	// keptEnds is how many ends a stream remembers, for a command whose reader leaves after its end: as many as a guest keeps.
	keptEnds = 4096
)

// exitWatcher waits for commands whose output nobody reads to the end, so that the exec log and subscribers learn how they ended.
// One stream for each sandbox tells of all its ends. Of what runs longer than this process the log says that its end is not
// known, and subscribers are not told.
type exitWatcher struct {
	life    context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex
	closed    bool // no watch begins
	sandboxes map[stacyvm.SandboxID]*exitWatch
}

// exitWatch is the stream of one sandbox. exitWatcher.mu guards it.
type exitWatch struct {
	pending map[string][]func(*stacyvm.Exit) // by process; called once, nil: the end is not known
	last    uint64                           // number of the newest end
	ended   map[string]*stacyvm.Exit
	order   []string // of ended, oldest first
	cancel  context.CancelFunc
	idle    *time.Timer // ends the watch; stopped while anything is pending
}

func newExitWatcher() *exitWatcher {
	e := &exitWatcher{sandboxes: map[stacyvm.SandboxID]*exitWatch{}}
	e.life, e.stop = context.WithCancel(context.Background())
	return e
}

// close gives all of them up.
func (e *exitWatcher) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.stop()
	e.running.Wait()
}

// logEnd waits for a command in the background, writes its exec log line then and tells how it ended. ctx names the caller;
// its end changes nothing.
func (s *Service) logEnd(ctx context.Context, sandbox stacyvm.Sandbox, command stacyvm.Command, began time.Time) {
	e := s.exits
	told := func(exit *stacyvm.Exit) { s.logExec(e.life, sandbox, command, began, exit) }
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		told(nil)
		return
	}
	w := e.sandboxes[sandbox.ID]
	if w == nil {
		watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
		w = &exitWatch{pending: map[string][]func(*stacyvm.Exit){}, ended: map[string]*stacyvm.Exit{}, cancel: cancel}
		w.idle = time.AfterFunc(watchIdle, func() { e.endIdle(sandbox.ID, w) })
		e.sandboxes[sandbox.ID] = w
		kept := context.AfterFunc(e.life, cancel)
		e.running.Go(func() {
			defer func() { kept(); cancel() }()
			s.watchExits(watching, sandbox.ID, w)
			e.giveUp(sandbox.ID, w)
		})
	}
	exit, over := w.ended[command.ProcessID]
	if !over {
		w.idle.Stop()
		w.pending[command.ProcessID] = append(w.pending[command.ProcessID], told)
	}
	e.mu.Unlock()
	if over {
		told(exit)
	}
}

// watchExits reads the stream of a sandbox's ends, and opens it again where it broke, until ctx ends or its guest is given up.
func (s *Service) watchExits(ctx context.Context, id stacyvm.SandboxID, w *exitWatch) {
	pause, giveUp := reconnectFirst, time.Time{}
	for {
		asked := time.Now()
		_, err := s.once(ctx, id, guest.ScopeExec, func(client *guest.Client) error {
			return client.WatchExits(ctx, w.last, func(number uint64, process string, exit *stacyvm.Exit) {
				if number != w.last+1 {
					s.findMissed(ctx, client, w)
				}
				s.exits.note(w, number, process, exit)
			})
		})
		if !broken(err) || ctx.Err() != nil {
			return
		}
		if time.Since(asked) > reconnectWithin || giveUp.IsZero() { // it was well until now
			pause, giveUp = reconnectFirst, time.Now().Add(reconnectWithin)
		}
		if time.Now().After(giveUp) || sleep(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, reconnectMost)
	}
}

// note takes in one end.
func (e *exitWatcher) note(w *exitWatch, number uint64, process string, exit *stacyvm.Exit) {
	e.mu.Lock()
	told := w.pending[process]
	delete(w.pending, process)
	w.last = number
	w.ended[process] = exit
	if w.order = append(w.order, process); len(w.order) > keptEnds {
		delete(w.ended, w.order[0])
		w.order = w.order[1:]
	}
	if len(told) > 0 && len(w.pending) == 0 {
		w.idle.Reset(watchIdle)
	}
	e.mu.Unlock()
	for _, tell := range told {
		tell(exit)
	}
}

// findMissed asks for the commands whose end may be among those that the guest does not tell of any more.
func (s *Service) findMissed(ctx context.Context, client *guest.Client, w *exitWatch) {
	processes, err := client.Processes(ctx)
	if err != nil {
		return // the stream breaks as well
	}
	running, exits := map[string]bool{}, map[string]*stacyvm.Exit{}
	for _, p := range processes {
		running[p.ID], exits[p.ID] = p.Exit == nil, p.Exit
	}
	e := s.exits
	e.mu.Lock()
	missed := map[string][]func(*stacyvm.Exit){}
	for process, told := range w.pending {
		if !running[process] {
			missed[process] = told
			delete(w.pending, process)
		}
	}
	e.mu.Unlock()
	for process, told := range missed {
		for _, tell := range told {
			tell(exits[process])
		}
	}
}

// endIdle ends a watch that nobody needs.
func (e *exitWatcher) endIdle(id stacyvm.SandboxID, w *exitWatch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(w.pending) == 0 && e.sandboxes[id] == w {
		delete(e.sandboxes, id)
		w.cancel()
	}
}

// giveUp ends a watch whose stream is over: how its commands end is not known.
func (e *exitWatcher) giveUp(id stacyvm.SandboxID, w *exitWatch) {
	e.mu.Lock()
	if e.sandboxes[id] == w {
		delete(e.sandboxes, id)
	}
	w.idle.Stop()
	pending := w.pending
	w.pending = nil
	e.mu.Unlock()
	for _, told := range pending {
		for _, tell := range told {
			tell(nil)
		}
	}
}
