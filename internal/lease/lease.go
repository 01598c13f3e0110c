// Package lease is how a worker's process holds its sandboxes' leases, whoever writes them for it: the control plane that the worker
// asks, or the one that the worker is a part of.
package lease

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// TypeSandbox is the type of sandboxes' leases.
const TypeSandbox = "sandbox"

// Holder is a worker's registered process.
type Holder struct {
	Worker  stacyvm.WorkerID
	Session string
}

// Acquire takes a sandbox's lease for ttl as the successor of the worker's earlier processes; the row's fence rises with it.
// CodeConflict: another worker has it, or the sandbox is gone.
func (h Holder) Acquire(ctx context.Context, tx store.Tx, id stacyvm.SandboxID, ttl time.Duration) (stacyvm.Lease, error) {
	return tx.Leases().Acquire(ctx, store.LeaseRequest{
		Resource: string(id), Type: TypeSandbox, Holder: h.Worker, Session: h.Session, TTL: ttl, Grace: stacyvm.LeaseGrace, Successor: true,
	})
}

// Renew extends the process's leases in one statement, and takes those again that ran out meanwhile: they get a new epoch. It gives
// what the process holds now.
func (h Holder) Renew(ctx context.Context, tx store.Tx, ttl time.Duration) ([]stacyvm.Lease, error) {
	leases, err := tx.Leases().List(ctx, h.Worker, store.Page{})
	if err != nil {
		return nil, err
	}
	var held []store.Held
	for _, l := range leases {
		if l.Type == TypeSandbox && l.Session == h.Session {
			held = append(held, store.Held{Resource: l.Resource, Epoch: l.Epoch})
		}
	}
	renewed, err := tx.Leases().Renew(ctx, h.Worker, h.Session, held, ttl)
	if err != nil || len(renewed) == len(held) {
		return renewed, err
	}
	return h.recover(ctx, tx, held, renewed, ttl)
}

// recover takes those of held again that were not renewed.
func (h Holder) recover(ctx context.Context, tx store.Tx, held []store.Held, renewed []stacyvm.Lease, ttl time.Duration) ([]stacyvm.Lease, error) {
	alive := make(map[string]bool, len(renewed))
	for _, l := range renewed {
		alive[l.Resource] = true
	}
	for _, one := range held {
		if alive[one.Resource] {
			continue
		}
		again, err := h.Acquire(ctx, tx, stacyvm.SandboxID(one.Resource), ttl)
		switch stacyvm.CodeOf(err) {
		case "":
			renewed = append(renewed, again)
		case stacyvm.CodeConflict: // somebody else's, or gone
		default:
			return nil, err
		}
	}
	return renewed, nil
}
