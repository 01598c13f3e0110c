package control

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// loadLife is how old the workers' loads may be when a create is placed by them. Counting them anew for each create would
// cost the more the more sandboxes there are, and a place is a preference: limits are counted exactly.
const loadLife = time.Second

// loads keeps how many sandboxes each worker has: as counted, and what this process has placed since.
type loads struct {
	mu     sync.Mutex
	counts map[stacyvm.WorkerID]stacyvm.Usage
	stale  time.Time // monotonic
}

// read gives the loads, counted in tx when they are too old.
func (l *loads) read(ctx context.Context, tx store.Tx) (map[stacyvm.WorkerID]stacyvm.Usage, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.stale) {
		return maps.Clone(l.counts), nil
	}
	counts, err := tx.Workers().Loads(ctx)
	if err != nil {
		return nil, err
	}
	l.counts, l.stale = counts, time.Now().Add(loadLife)
	return maps.Clone(counts), nil
}

// placed notes that one more sandbox went to a worker.
func (l *loads) placed(id stacyvm.WorkerID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counts != nil {
		l.counts[id] = l.counts[id].Plus(stacyvm.Usage{Sandboxes: 1})
	}
}
