// Package coalesce lets calls that come together be done as one.
package coalesce

import "sync"

// Group does one batch at a time. What comes meanwhile makes the next one, so that nobody waits for
// company.
type Group[T any] struct {
	do   func(batch []T)
	most int

	mu      sync.Mutex
	busy    bool
	waiting []*call[T]
}

// call is one caller. turn gives it true when it is to do the next batch, which begins with its own
// item, and false when that was done.
type call[T any] struct {
	item T
	turn chan bool
}

// NewGroup makes a group whose batches hold at most so many items. do runs on one of the callers'
// goroutines.
func NewGroup[T any](most int, do func(batch []T)) *Group[T] { return &Group[T]{do: do, most: most} }

// Do returns when item was in a batch that was done.
func (g *Group[T]) Do(item T) {
	c := &call[T]{item, make(chan bool, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	lead := !g.busy
	g.busy = true
	g.mu.Unlock()
	if lead || <-c.turn {
		g.lead()
	}
}

// lead does the batch that begins with the first that waits.
func (g *Group[T]) lead() {
	g.mu.Lock()
	n := min(g.most, len(g.waiting))
	batch := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	g.mu.Unlock()
	defer func() { // also when do panics
		for _, c := range batch[1:] {
			c.turn <- false
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.busy = len(g.waiting) > 0; g.busy {
			g.waiting[0].turn <- true
		}
	}()
	items := make([]T, n)
	for i, c := range batch {
		items[i] = c.item
	}
	g.do(items)
}
