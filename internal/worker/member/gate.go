package member

import (
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

var (
	errNotYet = stacyvm.Errorf(stacyvm.CodeLeaseLost, "the worker has not renewed its leases yet")
	errLost   = stacyvm.Errorf(stacyvm.CodeLeaseLost, "the worker could not renew its leases in time")
	errLeft   = stacyvm.Errorf(stacyvm.CodeLeaseLost, "the worker has ended")
	errFenced = stacyvm.Errorf(
		stacyvm.CodeConflict,
		"another process is this worker now: this one has ended, and its sandboxes go on under the other",
	)
)

// gate is open while the worker can know that its leases are its own. The zero gate is closed.
type gate struct {
	mu     sync.Mutex
	opened bool
	until  time.Duration // of the member's clock
	closed error         // for good
	taken  bool          // closed because another process is the worker
}

// check gives nil when the gate is open at a time.
func (g *gate) check(now time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed != nil:
		return g.closed
	case !g.opened:
		return errNotYet
	case now >= g.until:
		return errLost
	}
	return nil
}

// extend opens the gate for StopAfter from when a renewal that succeeded was sent.
func (g *gate) extend(sent time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened, g.until = true, sent+StopAfter
}

// shut closes it for good; the first reason stays.
func (g *gate) shut(reason *stacyvm.Error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		g.closed = reason
	}
}

// fence closes it because another process is the worker.
func (g *gate) fence() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed, g.taken = stacyvm.Errorf(stacyvm.CodeLeaseLost, "%s", errFenced.Message), true
}

func (g *gate) fenced() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken
}
