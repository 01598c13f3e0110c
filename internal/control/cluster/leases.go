package cluster

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	// handoverTTL is how long a worker's leases live while one process of it follows another.
	handoverTTL = 120 * time.Second
	// regainWithin is how long one renewal takes leases again that had run out: a worker gives a
	// call 5 s.
	regainWithin = 2 * time.Second
	// leaseMax bounds the life that a caller may ask for.
	leaseMax = 24 * time.Hour
)

// Renewal is every lease that a worker's process holds.
type Renewal struct {
	Cluster store.Cluster
	lease.Renewed
}

// takeOver gives the worker's sandboxes to its registered process, each with a new epoch.
func (r *Registry) takeOver(ctx context.Context, caller stacyvm.Principal, id stacyvm.WorkerID, session string) error {
	_, refused, err := lease.Holder{Worker: id, Session: session}.TakeOver(ctx, r.store,
		func(ctx context.Context, tx store.Tx) error {
			return r.registered(ctx, tx, caller, id, session)
		})
	for _, row := range refused {
		r.log.Warn("a sandbox of the worker is leased by another", "sandbox", row.ID, "worker", id)
	}
	return err
}

// registered refuses a session that is not the worker's: it is, until the end of the transaction.
// CodeNotFound, CodeConflict.
func (r *Registry) registered(
	ctx context.Context, tx store.Tx, caller stacyvm.Principal, id stacyvm.WorkerID, session string,
) error {
	known, err := tx.Workers().Hold(ctx, id)
	if refused := r.reserved(caller, id, known, err); refused != nil {
		return refused
	}
	if err == nil && known.Session != session {
		err = stacyvm.Errorf(stacyvm.CodeConflict, "another process is registered as worker %.64s", id)
	}
	return err
}

// RenewLeases extends the sandboxes' leases of a worker's registered process in one statement,
// and takes those again that had run out: they get a new epoch. While some are left the worker
// asks once more, at once. With handover they live until the next process has started.
// CodeConflict: another process is registered; CodeNotFound: none is.
func (r *Registry) RenewLeases(
	ctx context.Context, id stacyvm.WorkerID, session string, handover bool,
) (renewal Renewal, err error) {
	caller := auth.From(ctx)
	if err := asWorker(caller, id, auth.ScopeLease); err != nil {
		return renewal, err
	}
	ttl := stacyvm.LeaseTTL
	if handover {
		ttl = handoverTTL
	}
	if renewal.Cluster, err = r.store.Cluster(ctx); err != nil {
		return renewal, err
	}
	renewal.Renewed, err = lease.Holder{Worker: id, Session: session}.Renew(ctx, r.store,
		func(ctx context.Context, tx store.Tx) error {
			return r.registered(ctx, tx, caller, id, session)
		}, ttl, regainWithin)
	return renewal, err
}

// RenewLease extends one lease. CodeConflict: the worker does not hold it, or it has run out.
func (r *Registry) RenewLease(
	ctx context.Context, id stacyvm.WorkerID, resource string, ttl time.Duration,
) (renewed stacyvm.Lease, err error) {
	caller := auth.From(ctx)
	if err := asWorker(caller, id, auth.ScopeLease); err != nil {
		return renewed, err
	}
	if ttl <= 0 || ttl > leaseMax {
		return renewed, stacyvm.Invalid("ttl", "must be positive and at most %s", leaseMax)
	}
	if err := r.unreserved(ctx, caller, id); err != nil {
		return renewed, err
	}
	err = r.store.Update(ctx, func(tx store.Tx) error {
		known, err := tx.Leases().Get(ctx, resource)
		if err == nil && known.Holder == id && known.Type == lease.TypeSandbox {
			var extended []stacyvm.Lease
			extended, err = tx.Leases().Renew(ctx, id, known.Session,
				[]store.Held{{Resource: resource, Epoch: known.Epoch}}, ttl)
			if len(extended) == 1 {
				renewed = extended[0]
				return err
			}
		}
		if err == nil || stacyvm.CodeOf(err) == stacyvm.CodeNotFound {
			err = stacyvm.Errorf(stacyvm.CodeConflict, "worker %.64s does not hold %.64q, or no longer", id, resource)
		}
		return err
	})
	return renewed, err
}

// WorkerLease gives the lease under which a worker holds a sandbox, and the fence that goes with
// it. CodeNotFound: it does not hold it.
func (r *Registry) WorkerLease(
	ctx context.Context, id stacyvm.WorkerID, resource string,
) (held stacyvm.Lease, fence stacyvm.Fence, err error) {
	caller := auth.From(ctx)
	if err := asWorker(caller, id, auth.ScopeLease); err != nil {
		return held, fence, err
	}
	cluster, err := r.store.Cluster(ctx)
	if err != nil {
		return held, fence, err
	}
	err = r.store.View(ctx, func(tx store.Tx) (err error) {
		known, err := tx.Workers().Get(ctx, id)
		if refused := r.reserved(caller, id, known, err); refused != nil {
			return refused
		}
		if held, err = tx.Leases().Get(ctx, resource); err == nil &&
			(held.Holder != id || held.Type != lease.TypeSandbox) {
			err = stacyvm.Errorf(stacyvm.CodeNotFound, "worker %.64s does not hold %.64q", id, resource)
		}
		return err
	})
	return held, stacyvm.Fence{Incarnation: cluster.Incarnation, Epoch: held.Epoch}, err
}
