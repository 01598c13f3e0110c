package control

import (
	"context"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/schedule"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// census is a whole count. Between two of them only the sandboxes that were made meanwhile are counted: what has ended is
// missed for so long, and what one costs does not grow with the number of sandboxes.
type census struct {
	workers []schedule.Candidate // by id; Used is what was made before split
	split   time.Time            // by the database's clock
}

// fresh makes sure that the workers were counted lately. While somebody counts, others go on with what they know, unless it
// is too old.
func (f *fleet) fresh(ctx context.Context) error {
	f.mu.Lock()
	now, whole, part := time.Now(), f.began, f.caught
	old, crowded := now.Sub(f.began) > fleetLife, f.placed > len(f.known)/fleetPlaced && len(f.known) > fleetPlaced
	switch {
	case f.counting != nil && old:
		whole = f.running
	case f.counting != nil || now.Before(f.rests):
	case old:
		whole = now
	case crowded:
		part = now
	}
	f.mu.Unlock()
	return f.since(ctx, whole, part)
}

// since makes sure that all was counted after one moment, and what was made lately after another. Callers that wait for the
// same share one count.
func (f *fleet) since(ctx context.Context, whole, part time.Time) error {
	for {
		f.mu.Lock()
		all := f.began.IsZero() || f.began.Before(whole)
		if !all && !f.caught.Before(part) {
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
	began, c := f.running, f.census
	var settled []*placement // that this count must find
	for p, ended := range f.open {
		if ended {
			settled = append(settled, p)
		}
	}
	f.mu.Unlock()
	var recent map[stacyvm.WorkerID]stacyvm.Usage
	err := f.store.View(ctx, func(tx store.Tx) (err error) {
		if all {
			c, recent, err = f.take(ctx, tx)
		} else {
			recent, err = tx.Workers().Loads(ctx, c.split)
		}
		return err
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { close(f.counting); f.counting = nil }()
	if err != nil {
		return err
	}
	f.caught, f.rests, f.placed = began, time.Now().Add(fleetShare*time.Since(began)), 0
	if all {
		f.began, f.census, f.known = began, c, append([]schedule.Candidate(nil), c.workers...)
		clear(f.at)
		for i := range f.known {
			f.at[f.known[i].Worker.ID] = i
		}
	}
	for i := range f.known {
		f.known[i].Used = c.workers[i].Used.Plus(recent[f.known[i].Worker.ID])
	}
	for _, p := range settled {
		delete(f.open, p)
	}
	for p := range f.open {
		f.add(p.worker, p.takes)
	}
	return nil
}

// take makes a census, and gives what was made after its split.
func (f *fleet) take(ctx context.Context, tx store.Tx) (c census, recent map[stacyvm.WorkerID]stacyvm.Usage, err error) {
	workers, err := tx.Workers().List(ctx, store.Page{})
	if err != nil {
		return c, nil, err
	}
	now, err := tx.Now(ctx)
	if err != nil {
		return c, nil, err
	}
	c.split = now.Add(-fleetOverlap)
	loads, err := tx.Workers().Loads(ctx, time.Time{})
	if err != nil {
		return c, nil, err
	}
	if recent, err = tx.Workers().Loads(ctx, c.split); err != nil {
		return c, nil, err
	}
	alike := map[string][]string{}
	c.workers = make([]schedule.Candidate, len(workers))
	for i, w := range workers {
		w.Providers = shared(alike, w.Providers)
		c.workers[i] = f.candidate(w, loads[w.ID].Plus(recent[w.ID].Times(-1)), now)
	}
	return c, recent, nil
}

// shared gives one list for all equal ones: a choice looks at those of all workers, and finds one in the processor's cache.
func shared(alike map[string][]string, list []string) []string {
	key := strings.Join(list, "\x00")
	if known, ok := alike[key]; ok {
		return known
	}
	alike[key] = list
	return list
}
