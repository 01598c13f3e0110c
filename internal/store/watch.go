package store

import (
	"context"
	"sync"
	"time"
)

// watchEvery is how often watchers look without being told: another process may have written, or its message got lost.
const watchEvery = 500 * time.Millisecond

// bell wakes watchers. It keeps nothing for them: whoever is late reads more at once.
type bell struct {
	every    time.Duration // between looks without being told; 0: somebody else looks
	mu       sync.Mutex
	watchers map[chan struct{}]struct{}
	poll     *time.Timer // runs while there are watchers, unless every is 0
}

// Watch implements Store.
func (b *bell) Watch(ctx context.Context) <-chan struct{} {
	woken := make(chan struct{}, 1)
	if ctx.Err() != nil {
		return woken
	}
	b.mu.Lock()
	if b.watchers == nil {
		b.watchers = map[chan struct{}]struct{}{}
	}
	b.watchers[woken] = struct{}{}
	switch {
	case b.every == 0:
	case b.poll == nil:
		b.poll = time.AfterFunc(b.every, b.tick)
	case len(b.watchers) == 1:
		b.poll.Reset(b.every)
	}
	b.mu.Unlock()
	context.AfterFunc(ctx, func() { b.leave(woken) })
	return woken
}

func (b *bell) leave(woken chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.watchers, woken)
	if len(b.watchers) == 0 && b.poll != nil {
		b.poll.Stop()
	}
}

// watched reports whether anybody watches.
func (b *bell) watched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.watchers) > 0
}

// ring wakes everybody.
func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for woken := range b.watchers {
		select {
		case woken <- struct{}{}:
		default: // it has not looked since the last time
		}
	}
}

func (b *bell) tick() {
	b.ring()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.watchers) > 0 {
		b.poll.Reset(b.every)
	}
}
