package placement

import (
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/schedule"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	// fleetLife is how old what is known of the workers may be when a create is placed by it.
	// Listing and counting all of them for each create would cost the more the more there are,
	// and a place is a preference: what decides, the chosen worker's own limits, is read in the
	// create's transaction.
	fleetLife = time.Second
	// fleetShare bounds what counting costs: it rests for this many times as long as it took.
	fleetShare = 4
	// fleetPlaced is the part of the workers, one in so many, to which this process may place
	// before it looks what other control planes have placed in the meantime.
	fleetPlaced = 8
	// fleetOverlap is longer than a create's transaction takes as a rule: what was made for so
	// long before a whole count, and may not have been in it, is counted again with what came
	// after it.
	fleetOverlap = 250 * time.Millisecond
)

// fleet keeps what is known of all workers: as they were counted, and what this process has
// placed since.
type fleet struct {
	store store.Store
	self  stacyvm.WorkerID

	mu       sync.Mutex
	snapshot snapshot
	known    []schedule.Candidate // the snapshot's, with what their sandboxes take now; open are among them
	at       map[stacyvm.WorkerID]int
	open     map[*slot]bool // made here and perhaps not in the count; true: its transaction has ended
	placed   int            // since the last count, of either kind

	fullAt    time.Time     // when the last full count began
	countedAt time.Time     // when the last count of either kind began
	restUntil time.Time     // no new count before, unless it is asked for
	counting  chan struct{} // closed when the count that is under way has ended; nil without one
	running   time.Time     // when that began
}

// slot is a place that a create holds on a worker.
type slot struct {
	worker  stacyvm.WorkerID
	takes   stacyvm.Usage
	most    int    // sandboxes that the worker may have for this to be a good place
	session string // of the worker, once it was looked at itself
	starts  int    // creates that the worker starts at a time; likewise
}

func newFleet(s store.Store, self stacyvm.WorkerID) *fleet {
	return &fleet{store: s, self: self, at: map[stacyvm.WorkerID]int{}, open: map[*slot]bool{}}
}

// assess says how a worker can be used from here.
func (f *fleet) assess(w stacyvm.Worker, used stacyvm.Usage, now time.Time) schedule.Candidate {
	c := schedule.Candidate{Worker: w, Used: used, Age: now.Sub(w.LastHeartbeat), Reachable: true}
	if w.ID == f.self {
		c.Age = 0 // this process needs no message to know that it lives
	} else {
		c.Reachable = schedule.Callable(w)
	}
	return c
}

// choose picks a worker and holds a slot on it, so that the next choice of this process sees it.
// release follows. Without a worker nothing is known to be missing.
func (f *fleet) choose(spec stacyvm.Spec, seed uint64) candidate {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := candidate{choice: schedule.Pick(spec, seed, f.known), served: true}
	if c.choice.Worker != "" {
		c.slot = &slot{worker: c.choice.Worker, takes: spec.Usage(), most: c.choice.Most}
		f.open[c.slot] = false
		f.placed++
		f.add(c.slot.worker, c.slot.takes)
		return c
	}
	c.served = len(f.known) == 0
	for i := range f.known {
		c.served = c.served || schedule.Serves(f.known[i].Worker, spec.Provider)
	}
	return c
}

// release ends a slot: when a sandbox was made in it, it counts until a count must have found the
// sandbox; else it is free at once. A slot that is nil is none.
func (f *fleet) release(s *slot, made bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.open[s]; !ok {
		return
	}
	f.open[s] = true
	if !made {
		delete(f.open, s)
		f.add(s.worker, s.takes.Times(-1))
	}
}

// learn takes over what a create saw of its worker itself, beside the place that it holds.
func (f *fleet) learn(s *slot, seen schedule.Candidate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.at[s.worker]
	if !ok {
		return
	}
	if seen.Worker.Capacity.Limited() {
		f.known[at].Used = seen.Used
		for other, ended := range f.open {
			if other.worker == s.worker && !ended { // s too
				f.add(other.worker, other.takes)
			}
		}
	}
	f.known[at].Worker, f.known[at].Age, f.known[at].Reachable = seen.Worker, seen.Age, seen.Reachable
}

// limited reports whether a worker is known to have a limit.
func (f *fleet) limited(id stacyvm.WorkerID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.at[id]
	return ok && f.known[at].Worker.Capacity.Limited()
}

// add changes what a worker is known to have; f.mu is held.
func (f *fleet) add(id stacyvm.WorkerID, takes stacyvm.Usage) {
	if at, ok := f.at[id]; ok {
		f.known[at].Used = f.known[at].Used.Plus(takes)
	}
}

// remembered is what is known of the workers, without what ages.
func (f *fleet) remembered() []stacyvm.Worker {
	f.mu.Lock()
	defer f.mu.Unlock()
	workers := make([]stacyvm.Worker, len(f.known))
	for i := range f.known {
		w := f.known[i].Worker
		workers[i] = stacyvm.Worker{
			ID: w.ID, Hostname: w.Hostname, Status: w.Status,
			Providers: w.Providers, Capabilities: w.Capabilities, Capacity: w.Capacity,
		}
	}
	return workers
}
