package sqldb

import (
	"context"
	"sync"
	"time"
)

// Notifier wakes watchers. It keeps nothing for them: a watcher that is late reads more at once.
type Notifier struct {
	Every    time.Duration // between wake-ups without a broadcast; 0: none
	mu       sync.Mutex
	watchers map[chan struct{}]struct{}
	poll     *time.Timer // runs while there are watchers, unless Every is 0
}

// Watch gives a channel that gets a value after each broadcast, until ctx ends. At most one value
// waits in it.
func (n *Notifier) Watch(ctx context.Context) <-chan struct{} {
	woken := make(chan struct{}, 1)
	if ctx.Err() != nil {
		return woken
	}
	n.mu.Lock()
	if n.watchers == nil {
		n.watchers = map[chan struct{}]struct{}{}
	}
	n.watchers[woken] = struct{}{}
	switch {
	case n.Every == 0:
	case n.poll == nil:
		n.poll = time.AfterFunc(n.Every, n.tick)
	case len(n.watchers) == 1:
		n.poll.Reset(n.Every)
	}
	n.mu.Unlock()
	context.AfterFunc(ctx, func() { n.leave(woken) })
	return woken
}

func (n *Notifier) leave(woken chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.watchers, woken)
	if len(n.watchers) == 0 && n.poll != nil {
		n.poll.Stop()
	}
}

// Watched reports whether anybody watches.
func (n *Notifier) Watched() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.watchers) > 0
}

// Broadcast wakes every watcher.
func (n *Notifier) Broadcast() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for woken := range n.watchers {
		select {
		case woken <- struct{}{}:
		default: // it has not looked since the last time
		}
	}
}

func (n *Notifier) tick() {
	n.Broadcast()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.watchers) > 0 {
		n.poll.Reset(n.Every)
	}
}
