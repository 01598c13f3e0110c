// Package lease is how a worker's process holds its sandboxes' leases, whoever writes them for it:
// the control plane that the worker asks, or the one that the worker is a part of.
package lease

import (
	"context"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	// TypeSandbox is the type of sandboxes' leases.
	TypeSandbox = "sandbox"
	// batch is how many leases one transaction takes.
	batch = 200
)

// Holder is a worker's registered process.
type Holder struct {
	Worker  stacyvm.WorkerID
	Session string
}

// Registered fails when a process is no longer its worker's; else it is until the end of the
// transaction. It is asked in each transaction that writes leases, and its error ends what was
// under way.
type Registered func(context.Context, store.Tx) error

// Acquire takes a sandbox's lease for ttl as the successor of the worker's earlier processes; the
// row's fence rises with it. CodeConflict: another worker has it, or the sandbox is gone.
func (h Holder) Acquire(
	ctx context.Context,
	tx store.Tx,
	id stacyvm.SandboxID,
	ttl time.Duration,
) (stacyvm.Lease, error) {
	return tx.Leases().Acquire(ctx, h.request(id, ttl, true))
}

func (h Holder) request(id stacyvm.SandboxID, ttl time.Duration, successor bool) store.LeaseRequest {
	return store.LeaseRequest{
		Resource: string(
			id,
		),
		Type:      TypeSandbox,
		Holder:    h.Worker,
		Session:   h.Session,
		TTL:       ttl,
		Grace:     stacyvm.LeaseGrace,
		Successor: successor,
	}
}

// Renewed is what a renewal came to.
type Renewed struct {
	Leases []stacyvm.Lease // that the process holds now
	Lapsed int             // leases that ran out and are still to be taken again
}

// Renew extends the process's leases in one statement, and takes those again that ran out
// meanwhile: they get a new epoch. After an outage these may be all. So they are taken in batches,
// each in a transaction of its own, for as long as within says: what is taken counts at once, and
// stays taken when a later batch fails. While Lapsed is not 0 the caller is to renew again at
// once.
func (h Holder) Renew(
	ctx context.Context,
	s store.Store,
	registered Registered,
	ttl, within time.Duration,
) (Renewed, error) {
	renewed, lapsed, err := h.extend(ctx, s, registered, ttl)
	if err != nil {
		return Renewed{}, err
	}
	began := time.Now()
	for len(lapsed) > 0 && time.Since(began) < within {
		ids := lapsed[:min(batch, len(lapsed))]
		// a later process of the worker may have them
		again, _, err := h.acquireBatch(ctx, s, registered, ids, ttl, false)
		if err != nil {
			return Renewed{renewed, len(lapsed)}, err
		}
		renewed, lapsed = append(renewed, again...), lapsed[len(ids):]
	}
	return Renewed{renewed, len(lapsed)}, nil
}

// extend renews what has not run out, and lists what has.
func (h Holder) extend(
	ctx context.Context,
	s store.Store,
	registered Registered,
	ttl time.Duration,
) (renewed []stacyvm.Lease, lapsed []stacyvm.SandboxID, err error) {
	err = s.Update(ctx, func(tx store.Tx) error {
		if err := registered(ctx, tx); err != nil {
			return err
		}
		leases, err := tx.Leases().List(ctx, h.Worker, store.Page{})
		if err != nil {
			return err
		}
		var held []store.Held
		for _, l := range leases {
			if l.Type == TypeSandbox && l.Session == h.Session {
				held = append(held, store.Held{Resource: l.Resource, Epoch: l.Epoch})
			}
		}
		if renewed, err = tx.Leases().Renew(ctx, h.Worker, h.Session, held, ttl); err != nil {
			return err
		}
		alive := make(map[string]bool, len(renewed))
		for _, l := range renewed {
			alive[l.Resource] = true
		}
		lapsed = nil // it may run again
		for _, one := range held {
			if !alive[one.Resource] {
				lapsed = append(lapsed, stacyvm.SandboxID(one.Resource))
			}
		}
		return nil
	})
	return renewed, lapsed, err
}

// acquireBatch takes several leases in one transaction, as a successor also from the worker's
// earlier processes. refused are those that another has, or whose sandbox has ended.
func (h Holder) acquireBatch(
	ctx context.Context,
	s store.Store,
	registered Registered,
	ids []stacyvm.SandboxID,
	ttl time.Duration,
	successor bool,
) (
	taken []stacyvm.Lease, refused []stacyvm.SandboxID, err error,
) {
	// in one order, so that two who take the same do not wait for each other crosswise
	ids = slices.Sorted(slices.Values(ids))
	err = s.Update(ctx, func(tx store.Tx) error {
		taken, refused = nil, nil // it may run again
		if err := registered(ctx, tx); err != nil {
			return err
		}
		for _, id := range ids {
			lease, err := tx.Leases().Acquire(ctx, h.request(id, ttl, successor))
			switch stacyvm.CodeOf(err) {
			case "":
				taken = append(taken, lease)
			case stacyvm.CodeConflict:
				refused = append(refused, id)
			default:
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return taken, refused, nil
}
