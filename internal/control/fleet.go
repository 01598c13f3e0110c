package control

import (
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
	// fleetPlaced is the part of the workers, one in so many, to which this process may place before it looks what other
	// control planes have placed in the meantime.
	fleetPlaced = 8
	// fleetOverlap is longer than a create's transaction takes as a rule: what was made for so long before a whole count, and
	// may not have been in it, is counted again with what came after it.
	fleetOverlap = 250 * time.Millisecond
)

// fleet keeps what is known of all workers: as they were counted, and what this process has placed since.
type fleet struct {
	store store.Store
	self  stacyvm.WorkerID

	mu     sync.Mutex
	census census
	known  []schedule.Candidate // the census's, with what their sandboxes take now; open are among them
	at     map[stacyvm.WorkerID]int
	open   map[*placement]bool // made here and perhaps not in the count; true: its transaction has ended
	placed int                 // since the last count, of either kind

	began    time.Time     // when the last whole count began
	caught   time.Time     // when the last count of either kind began
	rests    time.Time     // no new count before, unless it is asked for
	counting chan struct{} // closed when the count that is under way has ended; nil without one
	running  time.Time     // when that began
}

// placement is a place that a create holds in the fleet.
type placement struct {
	worker  stacyvm.WorkerID
	takes   stacyvm.Usage
	most    int    // sandboxes that the worker may have for this to be a good place
	session string // of the worker, once it was looked at itself
	starts  int    // creates that the worker starts at a time; likewise
}

func newFleet(s store.Store, self stacyvm.WorkerID) *fleet {
	return &fleet{store: s, self: self, at: map[stacyvm.WorkerID]int{}, open: map[*placement]bool{}}
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
		p = &placement{worker: choice.Worker, takes: spec.Usage(), most: choice.Most}
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
	if seen.Worker.Capacity.Limited() {
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
