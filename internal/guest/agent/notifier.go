package agent

import "sync"

// notifier wakes everybody who waits for a change. Listen before looking at the state, then wait:
// no change is missed.
type notifier struct {
	mu sync.Mutex
	ch chan struct{} // nil while nobody listens
}

func (b *notifier) listen() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *notifier) broadcast() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
