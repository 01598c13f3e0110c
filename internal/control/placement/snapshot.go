package placement

import (
	"context"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/schedule"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// snapshot is a full count. Between two of them only the sandboxes that were made after the
// cutoff are counted: what has ended is missed for so long, and what a count costs does not grow
// with the number of sandboxes.
type snapshot struct {
	workers []schedule.Candidate // by id; Used is what was made before cutoff
	cutoff  time.Time            // by the database's clock
}

// refresh makes sure that the workers were counted lately. While one goroutine counts, others go
// on with what they know, unless it is too old.
func (f *fleet) refresh(ctx context.Context) error {
	f.mu.Lock()
	now, full, recent := time.Now(), f.fullAt, f.countedAt
	old, crowded := now.Sub(f.fullAt) > fleetLife, f.placed > len(f.known)/fleetPlaced && len(f.known) > fleetPlaced
	switch {
	case f.counting != nil && old:
		full = f.running
	case f.counting != nil || now.Before(f.restUntil):
	case old:
		full = now
	case crowded:
		recent = now
	}
	f.mu.Unlock()
	return f.ensure(ctx, full, recent)
}

// ensure makes sure that a full count began after one moment, and a count of either kind after
// another. Callers that wait for the same share one count.
func (f *fleet) ensure(ctx context.Context, full, recent time.Time) error {
	for {
		f.mu.Lock()
		all := f.fullAt.IsZero() || f.fullAt.Before(full)
		if !all && !f.countedAt.Before(recent) {
			f.mu.Unlock()
			return nil
		}
		running := f.counting
		if running == nil {
			f.counting, f.running = make(chan struct{}), time.Now()
		}
		f.mu.Unlock()
		if running == nil {
			if err := f.count(ctx, all); err != nil {
				return err
			}
			continue
		}
		select {
		case <-running:
		case <-ctx.Done():
			return stacyvm.Wrap(stacyvm.CodeUnavailable, ctx.Err(), "the workers were not counted in time")
		}
	}
}

// count reads what the workers' sandboxes take: all, or what was made lately.
func (f *fleet) count(ctx context.Context, all bool) error {
	f.mu.Lock()
	began, c := f.running, f.snapshot
	var ended []*slot // that this count must find
	for s, over := range f.open {
		if over {
			ended = append(ended, s)
		}
	}
	f.mu.Unlock()
	var recent map[stacyvm.WorkerID]stacyvm.Usage
	err := f.store.View(ctx, func(tx store.Tx) (err error) {
		if all {
			c, recent, err = f.countAll(ctx, tx)
		} else {
			recent, err = tx.Workers().Loads(ctx, c.cutoff)
		}
		return err
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { close(f.counting); f.counting = nil }()
	if err != nil {
		return err
	}
	f.countedAt, f.restUntil, f.placed = began, time.Now().Add(fleetShare*time.Since(began)), 0
	if all {
		f.fullAt, f.snapshot, f.known = began, c, append([]schedule.Candidate(nil), c.workers...)
		clear(f.at)
		for i := range f.known {
			f.at[f.known[i].Worker.ID] = i
		}
	}
	for i := range f.known {
		f.known[i].Used = c.workers[i].Used.Plus(recent[f.known[i].Worker.ID])
	}
	for _, s := range ended {
		delete(f.open, s)
	}
	for s := range f.open {
		f.add(s.worker, s.takes)
	}
	return nil
}

// countAll makes a snapshot, and gives what was made after its cutoff.
func (f *fleet) countAll(
	ctx context.Context, tx store.Tx,
) (c snapshot, recent map[stacyvm.WorkerID]stacyvm.Usage, err error) {
	workers, err := tx.Workers().List(ctx, store.Page{})
	if err != nil {
		return c, nil, err
	}
	now, err := tx.Now(ctx)
	if err != nil {
		return c, nil, err
	}
	c.cutoff = now.Add(-fleetOverlap)
	loads, err := tx.Workers().Loads(ctx, time.Time{})
	if err != nil {
		return c, nil, err
	}
	if recent, err = tx.Workers().Loads(ctx, c.cutoff); err != nil {
		return c, nil, err
	}
	alike := map[string][]string{}
	c.workers = make([]schedule.Candidate, len(workers))
	for i, w := range workers {
		w.Providers = shared(alike, w.Providers)
		c.workers[i] = f.assess(w, loads[w.ID].Plus(recent[w.ID].Times(-1)), now)
	}
	return c, recent, nil
}

// shared gives one list for all equal ones: a choice looks at those of all workers, and finds one
// in the processor's cache.
func shared(alike map[string][]string, list []string) []string {
	key := strings.Join(list, "\x00")
	if known, ok := alike[key]; ok {
		return known
	}
	alike[key] = list
	return list
}
