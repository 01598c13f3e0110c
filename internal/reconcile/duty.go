package reconcile

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	typeDuty = "duty"
	// upkeep is what is done once for the whole cluster.
	upkeep = "upkeep"
	// patience is how many passes in a row must miss a worker before its sandboxes are said to be
	// out of reach.
	patience = 2
)

// recovery is the duty to reconcile a worker of another machine.
func recovery(id stacyvm.WorkerID) string { return "reconcile/" + string(id) }

// duty is work that this process alone does as long as it holds the lease. Its process is the one
// that acts: the writes of its store change nothing from when another has taken the duty.
type duty struct {
	process
	name   string
	epoch  int64
	gained time.Time // monotonic
	life   context.Context
	end    context.CancelFunc

	machine *machine // nil: upkeep
	missed  int      // passes in a row that could not ask the worker; of one goroutine
	away    atomic.Bool
	reaping atomic.Bool
}

// newDuty makes what a lease stands for; id is the worker that it is about, if any.
func newDuty(
	p process,
	lease stacyvm.Lease,
	id stacyvm.WorkerID,
	workers func(stacyvm.WorkerID) (worker.Worker, error),
) *duty {
	d := &duty{process: p, name: lease.Resource, epoch: lease.Epoch, gained: time.Now()}
	d.life, d.end = context.WithCancel(context.Background())
	d.store = guarded{p.store, func(ctx context.Context, tx store.Tx) error { return d.check(ctx, tx) }}
	if id == "" {
		return d
	}
	d.machine = newMachine(d.process, id)
	d.machine.reach = func() (worker.Worker, error) { return workers(id) }
	d.machine.registered = func(ctx context.Context, tx store.Tx) (string, error) {
		w, err := tx.Workers().Hold(ctx, id) // it must not change before its lease is written
		return w.Session, err
	}
	return d
}

// check fails when another process has taken the duty. The lease stays as it is until the end of
// the transaction.
func (d *duty) check(ctx context.Context, tx store.Tx) error {
	lease, err := tx.Leases().Get(ctx, d.name)
	if err != nil {
		return err
	}
	if lease.Holder != d.self || lease.Session != d.session || lease.Epoch != d.epoch {
		return stacyvm.Errorf(stacyvm.CodeStaleEpoch, "the duty %s is another's", d.name)
	}
	return nil
}

// guarded is a store whose writes are checked first.
type guarded struct {
	store.Store
	check func(context.Context, store.Tx) error
}

// Update implements store.Store.
func (g guarded) Update(ctx context.Context, write func(store.Tx) error) error {
	return g.Store.Update(ctx, func(tx store.Tx) error {
		if err := g.check(ctx, tx); err != nil {
			return err
		}
		return write(tx)
	})
}

// run visits the worker again and again for as long as the duty is held. room bounds how many are
// visited at once.
func (d *duty) run(room chan struct{}) {
	for ok := true; ok; ok = retry.Sleep(d.life, retry.Jitter(recoverEvery)) == nil {
		select {
		case room <- struct{}{}:
			_ = d.attempt(d.life, d.name, stepWithin, d.visit) // logged; the next pass tries again
			<-room
		case <-d.life.Done():
			return
		}
	}
}

// visit makes one pass over a worker of another machine. A worker that misses several passes is
// out of reach: its sandboxes are told to be unhealthy, until a pass succeeds again and gives them
// back.
func (d *duty) visit(ctx context.Context) error {
	if _, err := d.settlesAt(ctx); err != nil { // before anything is taken over
		return err
	}
	if d.missed == 0 {
		if _, err := d.machine.claim(ctx); err != nil {
			return err
		}
	}
	err := d.machine.Recover(ctx)
	if _, missed := errors.AsType[unreachable](err); !missed || ctx.Err() != nil {
		if err == nil {
			d.missed = 0
			d.away.Store(false)
		}
		return err
	}
	d.missed++
	if d.missed < patience {
		return err
	}
	d.away.Store(true)
	rows, failed := list(ctx, d.store, store.SandboxFilter{Worker: d.machine.id, States: ownedStates})
	if failed != nil {
		return failed
	}
	if failed := d.markUnreachable(ctx, d.machine.id, rows, stacyvm.ReasonWorkerUnreachable); failed != nil {
		return failed
	}
	return err
}

// reap ends the worker's sandboxes among those whose time has passed. What still runs from the
// last time is waited for by nobody.
func (d *duty) reap(ctx context.Context, expired []stacyvm.Sandbox) {
	if d.away.Load() || !d.reaping.CompareAndSwap(false, true) {
		return
	}
	defer d.reaping.Store(false)
	each(ctx, d.log, expired, d.machine.reap)
}
