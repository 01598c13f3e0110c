package storetest

import (
	"context"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// sandboxHeld writes rows together with their leases: all of it or nothing.
func sandboxHeld(r *rig) {
	insert := func(s stacyvm.Sandbox, session string) (kept stacyvm.Sandbox, err error) {
		err = r.try(func(ctx context.Context, tx store.Tx) (err error) {
			rows, err := tx.Sandboxes().InsertHeld(ctx, session, stacyvm.LeaseTTL, s)
			if err == nil {
				kept = rows[0]
			}
			return err
		})
		return kept, err
	}
	fresh := stacyvm.Sandbox{
		ID: stacyvm.NewSandboxID(), State: stacyvm.StateCreating, Desired: stacyvm.DesiredRunning, WorkerID: "w",
		Spec: stacyvm.Spec{TTL: time.Hour}, Fence: stacyvm.Fence{Incarnation: 7},
	}
	first, err := insert(fresh, "s")
	r.must(err)
	if diff := cmp.Diff(first, r.row(fresh.ID)); diff != "" || first.Fence != (stacyvm.Fence{Incarnation: 7, Epoch: 1}) || first.ExpiresAt.Sub(first.CreatedAt) != time.Hour {
		r.Errorf("the row %+v is not as it was given:\n%s", first, diff)
	}
	want := stacyvm.Lease{
		Resource: string(fresh.ID), Type: "sandbox", Holder: "w", Session: "s", Epoch: 1, Generation: 1,
		ExpiresAt: first.CreatedAt.Add(stacyvm.LeaseTTL),
	}
	held, err := r.lease(string(fresh.ID))
	r.must(err)
	if diff := cmp.Diff(want, held); diff != "" {
		r.Errorf("the lease:\n%s", diff)
	}
	_, err = r.acquire(store.LeaseRequest{Resource: string(fresh.ID), Type: "sandbox", Holder: "w", Session: "s", TTL: stacyvm.LeaseTTL})
	r.must(err)
	if epoch := r.row(fresh.ID).Fence.Epoch; epoch != 2 {
		r.Errorf("taken again, the row has the epoch %d", epoch)
	}

	_, err = insert(fresh, "another") // the id is known
	r.want(stacyvm.CodeConflict, err)
	if held, err = r.lease(string(fresh.ID)); err != nil || held.Session != "s" || held.Epoch != 2 {
		r.Errorf("a refused insert changed the lease to %+v: %v", held, err)
	}
	plain := r.insert(nil) // a row without a lease
	_, err = insert(plain, "s")
	r.want(stacyvm.CodeConflict, err)
	_, err = r.lease(string(plain.ID))
	r.want(stacyvm.CodeNotFound, err)
}

// sandboxWanted changes rows only as long as somebody wants them so.
func sandboxWanted(r *rig) {
	change := store.Change{Wanted: stacyvm.DesiredRunning, State: stacyvm.StateRunning}
	row := r.insert(func(s *stacyvm.Sandbox) { s.State, s.Desired = stacyvm.StateCreating, stacyvm.DesiredDestroyed })
	_, err := r.apply(row.ID, row.Fence, change)
	r.want(stacyvm.CodeConflict, err)
	if diff := cmp.Diff(row, r.row(row.ID)); diff != "" {
		r.Errorf("a refused change left:\n%s", diff)
	}
	row = r.insert(func(s *stacyvm.Sandbox) { s.State, s.Desired = stacyvm.StateCreating, stacyvm.DesiredRunning })
	changed, err := r.apply(row.ID, row.Fence, change)
	r.must(err)
	if changed.State != stacyvm.StateRunning {
		r.Errorf("it is %s", changed.State)
	}
}
