package reconcile

import (
	"context"
	"slices"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// startBatch is how many leases one transaction takes over.
const startBatch = 200

// capabilities is what every single-node worker can do.
var capabilities = []string{"api", "single_node", "spawn", "exec", "files"}

// Start registers this process as its worker's present session and takes the worker's sandboxes over: each gets a new
// epoch, so that an earlier process can no longer write.
func (r *Reconciler) Start(ctx context.Context) error {
	if err := r.register(ctx, "online"); err != nil {
		return err
	}
	if _, err := r.settle(ctx); err != nil { // before anything is reaped or taken over
		return err
	}
	rows, err := r.inherited(ctx)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(rows, startBatch) {
		if err := r.succeed(ctx, batch); err != nil {
			return err
		}
	}
	for _, row := range rows {
		if row.State == stacyvm.StateCreating {
			r.interrupted[row.ID] = true
		}
	}
	r.start.Do(func() { close(r.started) })
	return nil
}

// inherited lists the worker's sandboxes whose lease this session does not hold. It may have made some already: requests are
// answered while the loops start.
func (r *Reconciler) inherited(ctx context.Context) (rows []stacyvm.Sandbox, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		leases, err := tx.Leases().List(ctx, r.self, store.Page{})
		if err != nil {
			return err
		}
		own := map[string]bool{}
		for _, lease := range leases {
			own[lease.Resource] = lease.Session == r.session
		}
		if rows, err = tx.Sandboxes().List(ctx, store.SandboxFilter{Worker: r.self}); err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(row stacyvm.Sandbox) bool { return own[string(row.ID)] })
		return nil
	})
	return rows, err
}

// succeed takes leases as the registered successor of the worker's earlier session.
func (r *Reconciler) succeed(ctx context.Context, rows []stacyvm.Sandbox) error {
	return r.store.Update(ctx, func(tx store.Tx) error {
		for _, row := range rows {
			_, err := r.acquire(ctx, tx, row.ID)
			if stacyvm.CodeOf(err) == stacyvm.CodeConflict {
				r.log.Warn("a sandbox of this worker is leased by another", "sandbox", row.ID)
				continue
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// acquire takes a sandbox's lease for this session; the row's fence rises with it.
func (r *Reconciler) acquire(ctx context.Context, tx store.Tx, id stacyvm.SandboxID) (stacyvm.Lease, error) {
	return tx.Leases().Acquire(ctx, store.LeaseRequest{
		Resource: string(id), Type: "sandbox", Holder: r.self, Session: r.session,
		TTL: stacyvm.LeaseTTL, Grace: stacyvm.LeaseGrace, Successor: true,
	})
}

// Heartbeat tells that this worker lives. It leaves a status alone that an operator has set.
func (r *Reconciler) Heartbeat(ctx context.Context) error {
	status := "online"
	err := r.store.View(ctx, func(tx store.Tx) error {
		known, err := tx.Workers().Get(ctx, r.self)
		if err == nil {
			status = known.Status
		}
		return err
	})
	if err != nil && stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
		return err
	}
	return r.register(ctx, status)
}

func (r *Reconciler) register(ctx context.Context, status string) error {
	providers, err := r.worker.Providers(ctx)
	if err != nil {
		return err
	}
	names := make([]string, len(providers))
	for i, p := range providers {
		names[i] = p.Name
	}
	record := stacyvm.Worker{
		ID: r.self, Hostname: r.hostname, Status: status, Session: r.session,
		Providers: names, Capabilities: capabilities, Capacity: r.capacity,
	}
	return r.store.Update(ctx, func(tx store.Tx) error {
		_, err := tx.Workers().Save(ctx, record)
		return err
	})
}

// Renew extends the leases of this session in one statement, and takes those again that ran out meanwhile.
func (r *Reconciler) Renew(ctx context.Context) error {
	return r.store.Update(ctx, func(tx store.Tx) error {
		leases, err := tx.Leases().List(ctx, r.self, store.Page{})
		if err != nil {
			return err
		}
		var held []store.Held
		for _, lease := range leases {
			if lease.Type == "sandbox" && lease.Session == r.session {
				held = append(held, store.Held{Resource: lease.Resource, Epoch: lease.Epoch})
			}
		}
		if len(held) == 0 {
			return nil
		}
		renewed, err := tx.Leases().Renew(ctx, r.self, r.session, held, stacyvm.LeaseTTL)
		if err != nil {
			return err
		}
		if len(renewed) == len(held) {
			return nil
		}
		alive := map[string]bool{}
		for _, lease := range renewed {
			alive[lease.Resource] = true
		}
		for _, h := range held {
			if alive[h.Resource] {
				continue
			}
			if _, err := r.acquire(ctx, tx, stacyvm.SandboxID(h.Resource)); err != nil && stacyvm.CodeOf(err) != stacyvm.CodeConflict {
				return err
			}
		}
		return nil
	})
}

// Purge forgets idempotency keys and events that are older than a day.
func (r *Reconciler) Purge(ctx context.Context) error {
	return r.store.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.Idempotency().Purge(ctx); err != nil {
			return err
		}
		_, err := tx.Events().Purge(ctx, store.EventLife, store.EventCount)
		return err
	})
}

// rows reads a list of sandboxes.
func (r *Reconciler) rows(ctx context.Context, filter store.SandboxFilter) (rows []stacyvm.Sandbox, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		rows, err = tx.Sandboxes().List(ctx, filter)
		return err
	})
	return rows, err
}
