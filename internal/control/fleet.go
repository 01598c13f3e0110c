package control

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/schedule"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	// fleetLife is how old what is known of the workers may be when a create is placed by it. Listing and counting all of
	// them for each create would cost the more the more there are, and a place is a preference: what decides, the chosen
	// worker's own limits, is read in the create's transaction.
	fleetLife = time.Second
	// fleetShare bounds what counting costs: it rests for this many times as long as it took.
	fleetShare = 4
	// fleetPlaced is the part of the workers, one in so many, to which this process may place before it counts anew: what
	// other control planes place in the meantime is not known.
	fleetPlaced = 8
)

// fleet keeps what is known of all workers: as they were counted, and what this process has placed since.
type fleet struct {
	store store.Store
	self  stacyvm.WorkerID

	mu       sync.Mutex
	known    []schedule.Candidate // by id; Used includes open
	at       map[stacyvm.WorkerID]int
	open     map[*placement]bool // made here and perhaps not in the count; true: its transaction has ended
	placed   int                 // since the count
	began    time.Time           // when the count began
	rests    time.Duration       // no new count before, unless it is asked for
	counting chan struct{}       // closed when the count that is under way has ended; nil without one
}

// placement is a place that a create holds in the fleet.
type placement struct {
	worker  stacyvm.WorkerID
	takes   stacyvm.Usage
	session string // of the worker, once it was looked at itself
}

func newFleet(s store.Store, self stacyvm.WorkerID) *fleet {
	return &fleet{store: s, self: self, at: map[stacyvm.WorkerID]int{}, open: map[*placement]bool{}}
}

// fresh makes sure that the workers were counted lately.
func (f *fleet) fresh(ctx context.Context) error {
	f.mu.Lock()
	moment := f.began
	age := time.Since(f.began)
	if age > f.rests && (age > fleetLife || f.placed > len(f.known)/fleetPlaced && len(f.known) > fleetPlaced) {
		moment = time.Now()
	}
	f.mu.Unlock()
	return f.since(ctx, moment)
}

// since makes sure that what is known was counted after a moment. Callers that wait for the same share one count.
func (f *fleet) since(ctx context.Context, moment time.Time) error {
	for {
		f.mu.Lock()
		if !f.began.IsZero() && !f.began.Before(moment) {
			f.mu.Unlock()
			return nil
		}
		running := f.counting
		if running == nil {
			f.counting = make(chan struct{})
		}
		f.mu.Unlock()
		if running == nil {
			if err := f.count(ctx); err != nil {
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

// count reads all workers and their loads.
func (f *fleet) count(ctx context.Context) error {
	began := time.Now()
	settled := f.settled()
	var known []schedule.Candidate
	err := f.store.View(ctx, func(tx store.Tx) (err error) {
		known, err = f.read(ctx, tx)
		return err
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { close(f.counting); f.counting = nil }()
	if err != nil {
		return err
	}
	f.known, f.began, f.rests, f.placed = known, began, fleetShare*time.Since(began), 0
	clear(f.at)
	for i := range known {
		f.at[known[i].Worker.ID] = i
	}
	for _, p := range settled {
		delete(f.open, p)
	}
	for p := range f.open {
		f.add(p.worker, p.takes)
	}
	return nil
}

// settled lists the placements that a count which begins now must find.
func (f *fleet) settled() (settled []*placement) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, ended := range f.open {
		if ended {
			settled = append(settled, p)
		}
	}
	return settled
}

func (f *fleet) read(ctx context.Context, tx store.Tx) ([]schedule.Candidate, error) {
	workers, err := tx.Workers().List(ctx, store.Page{})
	if err != nil {
		return nil, err
	}
	loads, err := tx.Workers().Loads(ctx)
	if err != nil {
		return nil, err
	}
	now, err := tx.Now(ctx)
	if err != nil {
		return nil, err
	}
	known, alike := make([]schedule.Candidate, len(workers)), map[string][]string{}
	for i, w := range workers {
		w.Providers = shared(alike, w.Providers)
		known[i] = f.candidate(w, loads[w.ID], now)
	}
	return known, nil
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

// candidate judges how a worker can be used from here.
func (f *fleet) candidate(w stacyvm.Worker, used stacyvm.Usage, now time.Time) schedule.Candidate {
	c := schedule.Candidate{Worker: w, Used: used, Age: now.Sub(w.LastHeartbeat), Reachable: true}
	if w.ID == f.self {
		c.Age = 0 // this process needs no message to know that it lives
	} else {
		c.Reachable = schedule.Callable(w)
	}
	return c
}

// choose picks a worker and holds a place on it, so that the next choice of this process sees it. settle follows, unless
// there is none. served is false when no worker, in whatever state, has the engine; without a worker nothing is known to be
// missing.
func (f *fleet) choose(spec stacyvm.Spec, seed uint64) (choice schedule.Choice, p *placement, served bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	choice = schedule.Pick(spec, seed, f.known)
	if choice.Worker != "" {
		p = &placement{worker: choice.Worker, takes: spec.Usage()}
		f.open[p] = false
		f.placed++
		f.add(p.worker, p.takes)
		return choice, p, true
	}
	served = len(f.known) == 0
	for i := range f.known {
		served = served || schedule.Serves(f.known[i].Worker, spec.Provider)
	}
	return choice, nil, served
}

// settle tells what became of a placement: it stays until a count must have found it, or goes at once.
func (f *fleet) settle(p *placement, made bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.open[p]; !ok {
		return
	}
	f.open[p] = true
	if !made {
		delete(f.open, p)
		f.add(p.worker, p.takes.Times(-1))
	}
}

// learn takes over what a create saw of its worker itself, beside the place that it holds.
func (f *fleet) learn(p *placement, seen schedule.Candidate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.at[p.worker]
	if !ok {
		return
	}
	if schedule.Limited(seen.Worker.Capacity) {
		f.known[at].Used = seen.Used
		for other, ended := range f.open {
			if other.worker == p.worker && !ended { // p too
				f.add(other.worker, other.takes)
			}
		}
	}
	f.known[at].Worker, f.known[at].Age, f.known[at].Reachable = seen.Worker, seen.Age, seen.Reachable
}

// add changes what a worker is known to have; f.mu is held.
func (f *fleet) add(id stacyvm.WorkerID, takes stacyvm.Usage) {
	if at, ok := f.at[id]; ok {
		f.known[at].Used = f.known[at].Used.Plus(takes)
	}
}
