package remote

import (
	"context"
	"slices"
	"sync"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// confirmations remembers the highest fence that was confirmed of each sandbox, so that a fence is
// asked for once.
type confirmations struct {
	ask func(context.Context, stacyvm.Ref) error // nil: everything is confirmed

	mu      sync.Mutex
	highest map[stacyvm.SandboxID]stacyvm.Fence
	asked   map[stacyvm.Ref]*question
}

// question is asked once for all who wait for its answer.
type question struct {
	done chan struct{} // closed when err is set
	err  error
	left bool // who asked stopped waiting: the answer says nothing
}

// confirm gives nil when the fence is the highest confirmed one, CodeStaleEpoch when it is not the
// sandbox's.
func (c *confirmations) confirm(ctx context.Context, ref stacyvm.Ref) error {
	if c.ask == nil {
		return nil
	}
	for {
		q, mine, err := c.look(ref)
		if q == nil {
			return err
		}
		if mine {
			return c.resolve(ctx, ref, q)
		}
		select {
		case <-q.done:
			if !q.left {
				return q.err
			}
		case <-ctx.Done():
			return ended(ctx)
		}
	}
}

// look finds the answer, or the question to wait for; mine: to ask it.
func (c *confirmations) look(ref stacyvm.Ref) (q *question, mine bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.highest[ref.ID]; ok {
		switch order := ref.Fence.Compare(known); {
		case order == 0:
			return nil, false, nil
		case order < 0:
			return nil, false, errStale
		}
	}
	if q = c.asked[ref]; q != nil {
		return q, false, nil
	}
	if c.asked == nil {
		c.asked, c.highest = map[stacyvm.Ref]*question{}, map[stacyvm.SandboxID]stacyvm.Fence{}
	}
	q = &question{done: make(chan struct{})}
	c.asked[ref] = q
	return q, true, nil
}

var errStale = stacyvm.Errorf(stacyvm.CodeStaleEpoch, "the sandbox has a newer owner")

// no are the codes that say that a fence is not the sandbox's; others say nothing.
var no = []stacyvm.Code{stacyvm.CodeNotFound, stacyvm.CodeConflict, stacyvm.CodeStaleEpoch}

// resolve asks and tells the others.
func (c *confirmations) resolve(ctx context.Context, ref stacyvm.Ref, q *question) error {
	q.err = c.ask(ctx, ref)
	q.left = q.err != nil && ctx.Err() != nil
	if slices.Contains(no, stacyvm.CodeOf(q.err)) {
		q.err = stacyvm.Wrap(stacyvm.CodeStaleEpoch, q.err, "the fence is not the sandbox's")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asked, ref)
	if q.err == nil && ref.Fence.Compare(c.highest[ref.ID]) >= 0 {
		c.highest[ref.ID] = ref.Fence
	}
	close(q.done)
	return q.err
}

// forget drops a sandbox that was destroyed with this fence: the worker itself refuses it from now
// on.
func (c *confirmations) forget(ref stacyvm.Ref) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.highest[ref.ID] == ref.Fence {
		delete(c.highest, ref.ID)
	}
}
