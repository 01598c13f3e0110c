package reconcile

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// machine is one worker's sandboxes: their rows on one side, the worker's runtimes on the other.
// It is the same for the worker in this process and for one on another machine.
type machine struct {
	process // whose store refuses writes from when this process is no longer the one that acts for the worker
	id      stacyvm.WorkerID
	// reach finds the worker. CodeUnavailable: it cannot be called.
	reach func() (worker.Worker, error)
	// registered gives the session of the worker's own process, which holds its leases.
	registered func(context.Context, store.Tx) (string, error)

	// interrupted holds creates whose maker is known to be gone. Of all others, the maker may be
	// at work.
	interrupted map[stacyvm.SandboxID]bool
	// sighted holds what the last complete pass of Recover would have done after one more
	// sighting.
	sighted map[sighting]bool
	// settling is until when the database settles, as Recover last saw it; zero: it does not.
	settling time.Time
}

func newMachine(p process, id stacyvm.WorkerID) *machine {
	return &machine{process: p, id: id, interrupted: map[stacyvm.SandboxID]bool{}, sighted: map[sighting]bool{}}
}

// claim takes over what the worker's registered process does not hold, and gives what it took.
func (m *machine) claim(ctx context.Context) (taken []stacyvm.Sandbox, err error) {
	var holder lease.Holder
	err = m.store.View(ctx, func(tx store.Tx) error {
		holder, err = m.holder(ctx, tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	taken, refused, err := holder.TakeOver(ctx, m.store, func(ctx context.Context, tx store.Tx) error {
		now, err := m.holder(ctx, tx)
		if err == nil && now != holder {
			err = stacyvm.Errorf(stacyvm.CodeConflict, "worker %s has another process now", m.id)
		}
		return err
	})
	for _, row := range refused {
		m.log.Warn("a sandbox of this worker is leased by another", "sandbox", row.ID, "worker", m.id)
	}
	return taken, err
}

// holder is the worker's registered process, until the end of the transaction.
func (m *machine) holder(ctx context.Context, tx store.Tx) (lease.Holder, error) {
	session, err := m.registered(ctx, tx)
	return lease.Holder{Worker: m.id, Session: session}, err
}

// acquire takes a sandbox's lease for the worker's registered session; the row's fence rises with
// it.
func (m *machine) acquire(ctx context.Context, tx store.Tx, id stacyvm.SandboxID) (stacyvm.Lease, error) {
	holder, err := m.holder(ctx, tx)
	if err != nil {
		return stacyvm.Lease{}, err
	}
	return holder.Acquire(ctx, tx, id, stacyvm.LeaseTTL)
}
