package placement

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	// startTouchEvery is how often the rows of those that wait are touched, so that nobody takes
	// their creates for abandoned.
	startTouchEvery = stacyvm.CreateAbandonedAfter / 3
	// startTouched is how many rows one transaction touches.
	startTouched = 100
	// queuedAfter is how long a create may wait before its row says so and subscribers are told: to
	// write down each short wait would be more work than many a create itself.
	queuedAfter = 500 * time.Millisecond
)

// starts is the lines of creates that wait until their worker starts them, one line for each
// worker. They have their rows and their places; a machine that starts all at once starts none in
// time. Each control plane has lines of its own.
type starts struct {
	store store.Store
	log   *slog.Logger

	mu     sync.Mutex
	closed bool // nobody may wait any more
	lines  map[stacyvm.WorkerID]*startLine
	byID   map[stacyvm.SandboxID]*Turn // those that wait
}

// startLine is what one worker starts, and what waits for that, first come first.
type startLine struct {
	limit   int // how many are started at a time
	running int
	waiting []*Turn
}

// Turn is one create's place in the line of its worker, from its row to its end.
type Turn struct {
	starts  *starts
	line    *startLine
	sandbox stacyvm.Sandbox
	turn    chan struct{} // closed when it may start
	refused chan struct{} // closed when it may not any more; why says the reason
	why     error
}

func newStarts(s store.Store, log *slog.Logger) *starts {
	return &starts{store: s, log: log, lines: map[stacyvm.WorkerID]*startLine{}, byID: map[stacyvm.SandboxID]*Turn{}}
}

// enter puts a create at the end of its worker's line, or lets it start at once. limit 0: the
// worker starts any number.
func (s *starts) enter(sandbox stacyvm.Sandbox, limit int) *Turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := s.lines[sandbox.WorkerID]
	if line == nil {
		line = &startLine{}
		s.lines[sandbox.WorkerID] = line
	}
	line.limit = limit
	c := &Turn{starts: s, line: line, sandbox: sandbox, turn: make(chan struct{}), refused: make(chan struct{})}
	line.waiting = append(line.waiting, c)
	s.byID[c.sandbox.ID] = c
	s.advance(line)
	if s.closed {
		s.turnAway(c, errStopping)
	}
	return c
}

// advance gives turns; s.mu is held.
func (s *starts) advance(line *startLine) {
	for len(line.waiting) > 0 && (line.limit == 0 || line.running < line.limit) {
		next := line.waiting[0]
		line.waiting = line.waiting[1:]
		line.running++
		delete(s.byID, next.sandbox.ID)
		close(next.turn)
	}
}

// End takes a create out of its line, whether it waits or was started, and lets the next one
// start. It may be called once.
func (c *Turn) End() {
	s := c.starts
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := slices.Index(c.line.waiting, c); at >= 0 {
		c.line.waiting = slices.Delete(c.line.waiting, at, at+1)
		delete(s.byID, c.sandbox.ID)
		return
	}
	select {
	case <-c.turn:
		c.line.running--
		s.advance(c.line)
	default: // it was refused
	}
}

// refuse ends the waiting of a create; one that does not wait is left alone.
func (s *starts) refuse(id stacyvm.SandboxID, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byID[id]; c != nil {
		s.turnAway(c, why)
	}
}

// turnAway ends the waiting of a create, if it waits; s.mu is held.
func (s *starts) turnAway(c *Turn, why error) {
	if at := slices.Index(c.line.waiting, c); at >= 0 {
		c.line.waiting = slices.Delete(c.line.waiting, at, at+1)
		delete(s.byID, c.sandbox.ID)
		c.why = why
		close(c.refused)
	}
}

// close turns away those who wait, and lets nobody wait any more.
func (s *starts) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, c := range s.byID {
		s.turnAway(c, errStopping)
	}
}

// waiting lists the creates that wait.
func (s *starts) waiting() []stacyvm.SandboxID {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]stacyvm.SandboxID, 0, len(s.byID))
	for id := range s.byID {
		ids = append(ids, id)
	}
	return ids
}

// places gives the place in line of every create that waits; the next one has 1.
func (s *starts) places() map[stacyvm.SandboxID]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	places := make(map[stacyvm.SandboxID]int, len(s.byID))
	for _, line := range s.lines {
		for i, c := range line.waiting {
			places[c.sandbox.ID] = i + 1
		}
	}
	return places
}

// withPlaces fills in the places in line of sandboxes that are still being created.
func (s *starts) withPlaces(sandboxes []stacyvm.Sandbox) []stacyvm.Sandbox {
	if !slices.ContainsFunc(sandboxes, func(s stacyvm.Sandbox) bool { return s.State == stacyvm.StateCreating }) {
		return sandboxes
	}
	places := s.places()
	for i := range sandboxes {
		sandboxes[i].QueuePlace = places[sandboxes[i].ID]
	}
	return sandboxes
}

// Await returns when the worker may start the create, with the row as it is by then, or as it was
// when the wait began if that was short. It gives up with its caller, and when the sandbox is
// destroyed or the server stops; the row is given with the error too. The row of one that waits for
// longer says so.
func (c *Turn) Await(ctx context.Context) (stacyvm.Sandbox, error) {
	short := time.NewTimer(queuedAfter)
	defer short.Stop()
	if over, err := c.wait(ctx, short.C); over || err != nil {
		return c.sandbox, err
	}
	if err := c.markQueued(ctx); err != nil {
		return c.sandbox, err
	}
	if _, err := c.wait(ctx, nil); err != nil {
		return c.sandbox, err
	}
	return c.markStarted(context.WithoutCancel(ctx))
}

// wait reports whether it is the create's turn before until fires.
func (c *Turn) wait(ctx context.Context, until <-chan time.Time) (turn bool, err error) {
	select {
	case <-c.turn: // also for a caller that has left
		return true, nil
	default:
	}
	select {
	case <-c.turn:
		return true, nil
	case <-c.refused:
		return false, c.why
	case <-ctx.Done():
		return false, stacyvm.Wrap(stacyvm.CodeUnavailable, ctx.Err(),
			"the caller stopped waiting for the sandbox's turn")
	case <-until:
		return false, nil
	}
}

// markQueued writes that a create waits for its turn, and tells subscribers.
func (c *Turn) markQueued(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWithin)
	defer cancel()
	queued := c.sandbox.Event()
	queued.Kind = stacyvm.KindSandboxQueued
	place := c.starts.places()[c.sandbox.ID]
	if place == 0 {
		return nil // not any more
	}
	queued.Data["place"] = place
	change := store.Change{Wanted: stacyvm.DesiredRunning, Cause: &stacyvm.Cause{Reason: stacyvm.ReasonQueued}}
	return c.starts.store.Update(ctx, func(tx store.Tx) error {
		_, err := tx.Sandboxes().Apply(ctx, c.sandbox.ID, c.sandbox.Fence, change)
		if code := stacyvm.CodeOf(err); code == stacyvm.CodeStaleEpoch || code == stacyvm.CodeConflict {
			return nil // its turn will find out what became of it
		}
		if err != nil {
			return err
		}
		return tx.Events().Append(ctx, []stacyvm.Event{queued})
	})
}

// markStarted writes that a create waits no longer. Its time counts from here on. CodeConflict:
// it was destroyed.
func (c *Turn) markStarted(ctx context.Context) (stacyvm.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, storeWithin)
	defer cancel()
	current := c.sandbox
	err := c.starts.store.Update(ctx, func(tx store.Tx) (err error) {
		if current, err = tx.Sandboxes().Get(ctx, c.sandbox.ID); err != nil {
			return err
		}
		if current.State != stacyvm.StateCreating || current.Desired != stacyvm.DesiredRunning {
			return ErrDestroyed
		}
		current, err = tx.Sandboxes().Apply(ctx, c.sandbox.ID, current.Fence,
			store.Change{Wanted: stacyvm.DesiredRunning, Cause: &stacyvm.Cause{}})
		return err
	})
	if err != nil {
		return c.sandbox, err
	}
	return current, nil
}

// ErrDestroyed is why a create ends when its sandbox was destroyed meanwhile.
var ErrDestroyed = stacyvm.Errorf(stacyvm.CodeConflict, "the sandbox was destroyed while it was being created")

// touch keeps the rows of those that wait young until ctx ends.
func (s *starts) touch(ctx context.Context) {
	for retry.Sleep(ctx, startTouchEvery) == nil {
		for ids := range slices.Chunk(s.waiting(), startTouched) {
			err := s.store.Update(ctx, func(tx store.Tx) error {
				for _, id := range ids {
					if _, err := tx.Sandboxes().Want(ctx, id, store.Wish{}); err != nil &&
						stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
						return err
					}
				}
				return nil
			})
			if err != nil && ctx.Err() == nil {
				s.log.Warn("creates that wait cannot be marked as alive", "creates", len(ids), "error", err)
			}
		}
	}
}
