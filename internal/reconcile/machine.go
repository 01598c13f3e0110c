package reconcile

import (
	"context"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// machine is one worker's sandboxes: their rows on one side, the worker's runtimes on the other. It is the same for the worker
// in this process and for one on another machine.
type machine struct {
	process // whose store refuses writes from when this process is no longer the one that acts for the worker
	id      stacyvm.WorkerID
	// reach finds the worker. CodeUnavailable: it cannot be called.
	reach func() (worker.Worker, error)
	// registered gives the session of the worker's own process, which holds its leases.
	registered func(context.Context, store.Tx) (string, error)

	// interrupted holds creates whose maker is known to be gone. Of all others, the maker may be at work.
	interrupted map[stacyvm.SandboxID]bool
	// sighted holds what the last complete pass of Recover would have done after one more sighting.
	sighted map[sighting]bool
	// settling is until when the database settles, as Recover last saw it; zero: it does not.
	settling time.Time
}

func newMachine(p process, id stacyvm.WorkerID) *machine {
	return &machine{process: p, id: id, interrupted: map[stacyvm.SandboxID]bool{}, sighted: map[sighting]bool{}}
}

// claim takes over what the worker's registered process does not hold: what an earlier process of the same worker had, and what
// was placed while the one followed the other. Each gets a new epoch, so that the earlier process can no longer write.
func (m *machine) claim(ctx context.Context) ([]stacyvm.Sandbox, error) {
	rows, err := m.inherited(ctx)
	if err != nil {
		return nil, err
	}
	for batch := range slices.Chunk(rows, claimBatch) {
		if err := m.succeed(ctx, batch); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// claimBatch is how many leases one transaction takes over.
const claimBatch = 200

// inherited lists the worker's sandboxes whose lease its present process does not hold. A resident may have made some already:
// requests are answered while the loops start.
func (m *machine) inherited(ctx context.Context) (rows []stacyvm.Sandbox, err error) {
	err = m.store.View(ctx, func(tx store.Tx) error {
		session, err := m.registered(ctx, tx)
		if err != nil {
			return err
		}
		leases, err := tx.Leases().List(ctx, m.id, store.Page{})
		if err != nil {
			return err
		}
		own := map[string]bool{}
		for _, l := range leases {
			own[l.Resource] = l.Session == session
		}
		if rows, err = tx.Sandboxes().List(ctx, store.SandboxFilter{Worker: m.id}); err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(row stacyvm.Sandbox) bool { return own[string(row.ID)] })
		return nil
	})
	return rows, err
}

// succeed takes leases as the registered successor of the worker's earlier session.
func (m *machine) succeed(ctx context.Context, rows []stacyvm.Sandbox) error {
	return m.store.Update(ctx, func(tx store.Tx) error {
		for _, row := range rows {
			_, err := m.acquire(ctx, tx, row.ID)
			if stacyvm.CodeOf(err) == stacyvm.CodeConflict {
				m.log.Warn("a sandbox of this worker is leased by another", "sandbox", row.ID, "worker", m.id)
				continue
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// acquire takes a sandbox's lease for the worker's registered session; the row's fence rises with it.
func (m *machine) acquire(ctx context.Context, tx store.Tx, id stacyvm.SandboxID) (stacyvm.Lease, error) {
	session, err := m.registered(ctx, tx)
	if err != nil {
		return stacyvm.Lease{}, err
	}
	return lease.Holder{Worker: m.id, Session: session}.Acquire(ctx, tx, id, stacyvm.LeaseTTL)
}
