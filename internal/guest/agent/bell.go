package agent

import "sync"

// bell wakes everybody who waits for a change. Listen before looking at the state, then wait: no change is missed.
type bell struct {
	mu sync.Mutex
	ch chan struct{} // nil while nobody listens
}

func (b *bell) listen() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
