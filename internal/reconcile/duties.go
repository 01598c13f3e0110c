package reconcile

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// sureFor is how long this process trusts its duties without a renewal that succeeded: they
	// end before anybody else can take them.
	sureFor = stacyvm.LeaseTTL - renewWithin
	// quietFor is how long after taking the upkeep over no worker is called stale: when the
	// database was away, the workers tell first that they live.
	quietFor = heartbeatEvery + 15*time.Second
	// tokensKept is how long after their end join tokens are kept, so that it can be seen who used
	// them.
	tokensKept = 7 * 24 * time.Hour
	// visits is how many workers are visited at once.
	visits = 64
	// releaseWithin bounds the release of the duties at the end.
	releaseWithin = 5 * time.Second
)

// duties are what this process does for others: it holds what nobody else holds.
type duties struct {
	process
	own       stacyvm.WorkerID // the worker in this process, which needs no duty; "": none
	workers   func(stacyvm.WorkerID) (worker.Worker, error)
	retention time.Duration
	begin     func(*duty) // is told of each that is gained
	follows   bool        // of Keep alone: what an earlier process of the same name has left is ours

	mu      sync.Mutex
	held    map[string]*duty
	renewed time.Time // when the last renewal that succeeded was sent; monotonic
}

func newDuties(p process, config Config) *duties {
	d := &duties{
		process:   p,
		workers:   config.Workers,
		retention: config.AuditRetention,
		begin:     func(*duty) {},
		follows:   true,
		held:      map[string]*duty{},
	}
	if config.Worker != nil {
		d.own = p.self
	}
	if d.workers == nil {
		d.workers = func(id stacyvm.WorkerID) (worker.Worker, error) {
			return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "worker %s cannot be called", id)
		}
	}
	return d
}

// run holds duties and does them until ctx ends, and lets go of them then. started is called when
// the store has answered.
func (d *duties) run(ctx context.Context, started func()) {
	var work, loops sync.WaitGroup
	defer d.finish(&work)
	defer loops.Wait()
	room := make(chan struct{}, visits)
	d.begin = func(gained *duty) {
		if gained.machine == nil {
			return
		}
		work.Go(func() { gained.run(room) })
	}
	settling := func(ctx context.Context) error { _, err := d.settlesAt(ctx); return err }
	if !d.until(ctx, "settle", stepWithin, settling) || !d.until(ctx, "duties", renewWithin, d.Keep) {
		return
	}
	started()
	loops.Go(func() { d.keepUp(ctx, "duties", renewWithin, d.Keep) })
	loops.Go(func() {
		d.loop(ctx, "reap", reapEvery, stepWithin, func(ctx context.Context) error { return d.reap(ctx, work.Go) })
	})
	loops.Go(func() { d.loop(ctx, "stale", heartbeatEvery, stepWithin, d.staleInTime) })
	loops.Go(func() { d.loop(ctx, "purge", purgeEvery, stepWithin, d.Purge) })
}

// finish ends what is under way and lets go of everything, so that others need not wait.
func (d *duties) finish(work *sync.WaitGroup) {
	held := slices.Collect(maps.Values(d.snapshot()))
	d.drop(func(string) bool { return true })
	work.Wait()
	if len(held) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseWithin)
	defer cancel()
	if err := d.store.Update(ctx, func(tx store.Tx) error { return d.release(ctx, tx, held) }); err != nil {
		d.log.Warn("duties are not released; others take them when their leases run out", "error", err)
	}
}

// Keep renews the duties that are held, takes those that nobody holds and lets go of those that
// are no longer needed.
func (d *duties) Keep(ctx context.Context) error {
	sent := time.Now()
	err := d.keep(ctx, sent)
	if err != nil {
		d.drop(func(string) bool { return sent.Sub(d.renewed) > sureFor })
	}
	return err
}

func (d *duties) keep(ctx context.Context, sent time.Time) error {
	wanted, free, err := d.look(ctx)
	if err != nil {
		return err
	}
	var held []store.Held
	var needless []*duty
	for name, one := range d.snapshot() {
		if _, needed := wanted[name]; needed {
			held = append(held, store.Held{Resource: name, Epoch: one.epoch})
		} else {
			needless = append(needless, one)
		}
	}
	var gained []stacyvm.Lease
	alive := map[string]bool{}
	if len(held)+len(free)+len(needless) > 0 {
		err = d.store.Update(ctx, func(tx store.Tx) (err error) {
			renewed, err := tx.Leases().Renew(ctx, d.self, d.session, held, stacyvm.LeaseTTL)
			if err != nil {
				return err
			}
			clear(alive)
			for _, lease := range renewed {
				alive[lease.Resource] = true
			}
			open := slices.Clone(free)
			for _, h := range held { // what ran out may be free
				if !alive[h.Resource] {
					open = append(open, h.Resource)
				}
			}
			if gained, err = d.acquire(ctx, tx, open); err != nil {
				return err
			}
			return d.release(ctx, tx, needless)
		})
	}
	if err != nil {
		return err
	}
	d.follows = false
	d.drop(func(name string) bool { return !alive[name] })
	d.gain(gained, wanted, sent)
	return nil
}

// look says which duties there are, each with the worker that it is about, and which of them
// nobody holds.
func (d *duties) look(ctx context.Context) (wanted map[string]stacyvm.WorkerID, free []string, err error) {
	held := d.snapshot()
	err = d.store.View(ctx, func(tx store.Tx) error {
		now, err := tx.Now(ctx)
		if err != nil {
			return err
		}
		workers, err := tx.Workers().List(ctx, store.Page{})
		if err != nil {
			return err
		}
		wanted, free = map[string]stacyvm.WorkerID{upkeep: ""}, nil
		for _, w := range workers {
			if w.ID != d.own && w.Capacity.RPCURL != "" && acting(w, now) {
				wanted[recovery(w.ID)] = w.ID
			}
		}
		for name := range wanted {
			if held[name] != nil {
				continue
			}
			lease, err := tx.Leases().Get(ctx, name)
			if err != nil && stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
				return err
			}
			ours := lease.Holder == d.self && (d.follows || lease.Session == d.session)
			if err != nil || lease.Holder == "" || ours || !now.Before(lease.ExpiresAt.Add(stacyvm.LeaseGrace)) {
				free = append(free, name)
			}
		}
		return nil
	})
	return wanted, free, err
}

// acquire takes what is still free, in one order, so that processes that take the same ones do not
// wait for each other crosswise.
func (d *duties) acquire(ctx context.Context, tx store.Tx, free []string) (gained []stacyvm.Lease, err error) {
	slices.Sort(free)
	for _, name := range free {
		lease, err := tx.Leases().Acquire(ctx, store.LeaseRequest{
			Resource:  name,
			Type:      typeDuty,
			Holder:    d.self,
			Session:   d.session,
			TTL:       stacyvm.LeaseTTL,
			Grace:     stacyvm.LeaseGrace,
			Successor: d.follows,
		})
		if stacyvm.CodeOf(err) == stacyvm.CodeConflict {
			continue
		}
		if err != nil {
			return nil, err
		}
		gained = append(gained, lease)
	}
	return gained, nil
}

func (d *duties) release(ctx context.Context, tx store.Tx, needless []*duty) error {
	for _, one := range needless {
		err := tx.Leases().Release(ctx, one.name, d.self, one.epoch)
		if err != nil && stacyvm.CodeOf(err) != stacyvm.CodeNotFound { // not found: it is another's already
			return err
		}
	}
	return nil
}

func (d *duties) gain(leases []stacyvm.Lease, wanted map[string]stacyvm.WorkerID, sent time.Time) {
	d.mu.Lock()
	d.renewed = sent
	var gained []*duty
	for _, lease := range leases {
		one := newDuty(d.process, lease, wanted[lease.Resource], d.workers)
		d.held[lease.Resource] = one
		gained = append(gained, one)
	}
	d.mu.Unlock()
	for _, one := range gained {
		d.log.Info("duty gained", "duty", one.name, "epoch", one.epoch)
		d.begin(one)
	}
}

// drop ends the duties for which it is true that they are over.
func (d *duties) drop(over func(name string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, one := range d.held {
		if over(name) {
			one.end()
			delete(d.held, name)
		}
	}
}

func (d *duties) snapshot() map[string]*duty {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.held)
}

// holding gives a duty that this process holds, or nil.
func (d *duties) holding(name string) *duty { return d.snapshot()[name] }

// reap ends sandboxes of the workers for which this process acts; start runs what may take long.
func (d *duties) reap(ctx context.Context, start func(func())) error {
	machines := map[stacyvm.WorkerID]*duty{}
	for _, one := range d.snapshot() {
		if one.machine != nil {
			machines[one.machine.id] = one
		}
	}
	if len(machines) == 0 {
		return nil
	}
	rows, err := list(ctx, d.store, store.SandboxFilter{Expired: true})
	if err != nil {
		return err
	}
	expired := map[*duty][]stacyvm.Sandbox{}
	for _, row := range rows {
		if one := machines[row.WorkerID]; one != nil {
			expired[one] = append(expired[one], row)
		}
	}
	for one, rows := range expired {
		start(func() { one.reap(one.life, rows) })
	}
	return nil
}

// staleInTime is Stale, but for the first while after taking it over.
func (d *duties) staleInTime(ctx context.Context) error {
	if held := d.holding(upkeep); held == nil || time.Since(held.gained) < quietFor {
		return nil
	}
	return d.Stale(ctx)
}

// Purge forgets idempotency keys and events that are older than a day, join tokens that ended long
// ago, and what administrators did longer ago than is to be kept. It does nothing without the
// duty.
func (d *duties) Purge(ctx context.Context) error {
	held := d.holding(upkeep)
	if held == nil {
		return nil
	}
	return held.store.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.Idempotency().Purge(ctx); err != nil {
			return err
		}
		if _, err := tx.Events().Purge(ctx, store.EventLife, store.EventCount); err != nil {
			return err
		}
		if _, err := tx.JoinTokens().Purge(ctx, tokensKept); err != nil {
			return err
		}
		if d.retention <= 0 {
			return nil
		}
		now, err := tx.Now(ctx)
		if err != nil {
			return err
		}
		_, err = tx.AdminAudit().DeleteBefore(ctx, now.Add(-d.retention))
		return err
	})
}
