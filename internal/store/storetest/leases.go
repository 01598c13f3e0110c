package storetest

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// A lease of these tests lives a minute; takeovers wait ten seconds more.
const (
	leaseTTL   = time.Minute
	leaseGrace = 10 * time.Second
)

func duty(resource string, holder stacyvm.WorkerID, session string) store.LeaseRequest {
	return store.LeaseRequest{Resource: resource, Type: "duty", Holder: holder, Session: session, TTL: leaseTTL, Grace: leaseGrace}
}

func acquireOn(ctx context.Context, s store.Store, request store.LeaseRequest) (lease stacyvm.Lease, err error) {
	err = s.Update(ctx, func(tx store.Tx) (err error) {
		lease, err = tx.Leases().Acquire(ctx, request)
		return err
	})
	return lease, err
}

func (r *rig) acquire(request store.LeaseRequest) (stacyvm.Lease, error) {
	return acquireOn(r.Context(), r.Store, request)
}

// granted is acquire that must succeed, with this epoch and generation.
func (r *rig) granted(request store.LeaseRequest, epoch, generation int64) stacyvm.Lease {
	r.Helper()
	lease, err := r.acquire(request)
	r.must(err)
	if lease.Epoch != epoch || lease.Generation != generation || lease.Holder != request.Holder || lease.Session != request.Session || lease.Type != request.Type {
		r.Errorf("granted %+v, want epoch %d, generation %d", lease, epoch, generation)
	}
	return lease
}

func (r *rig) refused(request store.LeaseRequest) {
	r.Helper()
	before, _ := r.lease(request.Resource)
	_, err := r.acquire(request)
	r.want(stacyvm.CodeConflict, err)
	if after, _ := r.lease(request.Resource); after != before {
		r.Errorf("a refused acquire changed %+v to %+v", before, after)
	}
}

func (r *rig) lease(resource string) (lease stacyvm.Lease, err error) {
	err = r.View(r.Context(), func(tx store.Tx) (err error) {
		lease, err = tx.Leases().Get(r.Context(), resource)
		return err
	})
	return lease, err
}

func (r *rig) release(resource string, holder stacyvm.WorkerID, epoch int64) error {
	return r.try(func(ctx context.Context, tx store.Tx) error { return tx.Leases().Release(ctx, resource, holder, epoch) })
}

func (r *rig) renew(holder stacyvm.WorkerID, session string, held ...store.Held) (renewed []stacyvm.Lease) {
	r.Helper()
	r.update(func(ctx context.Context, tx store.Tx) (err error) {
		renewed, err = tx.Leases().Renew(ctx, holder, session, held, leaseTTL)
		return err
	})
	return renewed
}

func leaseLife(r *rig) {
	_, err := r.lease("d")
	r.want(stacyvm.CodeNotFound, err)
	lease := r.granted(duty("d", "w1", "s1"), 1, 1)
	kept, err := r.lease("d")
	r.must(err)
	if kept != lease {
		r.Errorf("kept %+v, granted %+v", kept, lease)
	}
	r.granted(duty("d", "w1", "s1"), 2, 2) // again by its holder: a new epoch
	r.want(stacyvm.CodeNotFound, r.release("d", "w2", 2))
	r.want(stacyvm.CodeNotFound, r.release("d", "w1", 1))
	r.want(stacyvm.CodeNotFound, r.release("none", "w1", 1))
	r.want("", r.release("d", "w1", 2))
	r.want(stacyvm.CodeNotFound, r.release("d", "w1", 2))
	kept, err = r.lease("d")
	r.must(err)
	if kept.Holder != "" || kept.Session != "" || kept.Epoch != 2 || kept.Generation != 3 {
		r.Errorf("after the release: %+v", kept)
	}
	r.granted(duty("d", "w2", "s9"), 3, 4) // the epoch goes on
	r.view(func(ctx context.Context, tx store.Tx) error {
		for holder, want := range map[stacyvm.WorkerID]int{"": 1, "w2": 1, "w1": 0} {
			if leases, err := tx.Leases().List(ctx, holder, store.Page{}); err != nil || len(leases) != want {
				r.Errorf("%d leases of %q, %v", len(leases), holder, err)
			}
		}
		return nil
	})
	for _, bad := range []store.LeaseRequest{
		{Type: "duty", Holder: "w", TTL: leaseTTL}, {Resource: "x", Type: "duty", TTL: leaseTTL}, {Resource: "x", Type: "duty", Holder: "w"},
	} {
		_, err := r.acquire(bad)
		r.want(stacyvm.CodeConflict, err)
	}
}

func leaseConflict(r *rig) {
	r.granted(duty("d", "w1", "s1"), 1, 1)
	r.refused(duty("d", "w2", "s2"))
	r.refused(duty("d", "w2", "s1")) // another worker, whatever its session
	r.refused(duty("d", "w1", "s2")) // another session of the worker
	successor := duty("d", "w2", "s2")
	successor.Successor = true
	r.refused(successor) // a successor of itself, not of w1
}

func leaseTakeover(r *rig) {
	r.granted(duty("d", "w1", "s1"), 1, 1)
	r.clock.advance(leaseTTL - time.Second)
	r.refused(duty("d", "w2", "s2"))
	r.clock.advance(2 * time.Second)
	if renewed := r.renew("w1", "s1", store.Held{Resource: "d", Epoch: 1}); len(renewed) != 0 {
		r.Error("a lease that ran out was renewed")
	}
	r.refused(duty("d", "w2", "s2")) // in the grace
	r.refused(duty("d", "w1", "s2")) // another session waits as others do
	r.granted(duty("d", "w1", "s1"), 2, 2)
	r.clock.advance(leaseTTL + leaseGrace - time.Second)
	r.refused(duty("d", "w2", "s2"))
	r.clock.advance(2 * time.Second)
	r.granted(duty("d", "w2", "s2"), 3, 3)
	r.refused(duty("d", "w1", "s1"))
	r.want(stacyvm.CodeNotFound, r.release("d", "w1", 2))
}

func leaseSuccessor(r *rig) {
	r.granted(duty("d", "w1", "s1"), 1, 1)
	successor := duty("d", "w1", "s2")
	successor.Successor = true
	r.granted(successor, 2, 2)
	if renewed := r.renew("w1", "s1", store.Held{Resource: "d", Epoch: 1}, store.Held{Resource: "d", Epoch: 2}); len(renewed) != 0 {
		r.Errorf("the old session renewed %+v", renewed)
	}
	r.refused(duty("d", "w1", "s1"))
	if renewed := r.renew("w1", "s2", store.Held{Resource: "d", Epoch: 2}); len(renewed) != 1 {
		r.Error("the new session cannot renew")
	}
}

func leaseRenewal(r *rig) {
	var held []store.Held
	for _, resource := range []string{"a", "b", "c", "d \"quoted\" ü", "taken", "released"} {
		r.granted(duty(resource, "w1", "s1"), 1, 1)
		held = append(held, store.Held{Resource: resource, Epoch: 1})
	}
	successor := duty("taken", "w1", "s2")
	successor.Successor = true
	r.granted(successor, 2, 2)
	r.must(r.release("released", "w1", 1))
	r.clock.advance(leaseTTL / 2)
	held = append(held, store.Held{Resource: "never", Epoch: 1})
	held[2].Epoch = 9 // c, by an epoch that never was
	var names []string
	for _, lease := range r.renew("w1", "s1", held...) {
		names = append(names, lease.Resource)
		if lease.Epoch != 1 || lease.Generation != 2 {
			r.Errorf("renewed %+v", lease)
		}
		kept, err := r.lease(lease.Resource)
		if err != nil || kept != lease {
			r.Errorf("kept %+v, renewed %+v, %v", kept, lease, err)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"a", "b", "d \"quoted\" ü"}) {
		r.Errorf("renewed %v", names)
	}
	if renewed := r.renew("w2", "s1", held...); len(renewed) != 0 {
		r.Errorf("another worker renewed %d", len(renewed))
	}
	if renewed := r.renew("w1", "s1"); len(renewed) != 0 {
		r.Errorf("no leases, %d renewed", len(renewed))
	}
	r.clock.advance(leaseTTL - time.Second)
	if renewed := r.renew("w1", "s1", held...); len(renewed) != 2+1 {
		r.Errorf("%d renewed before their new expiry", len(renewed))
	}
}

func leaseFence(r *rig) {
	row := r.insert(func(s *stacyvm.Sandbox) { s.WorkerID = "" })
	of := func(id stacyvm.SandboxID, holder stacyvm.WorkerID) store.LeaseRequest {
		request := duty(string(id), holder, "s-"+string(holder))
		request.Type = "sandbox"
		return request
	}
	first := r.granted(of(row.ID, "w1"), 1, 1)
	if got := r.row(row.ID); got.Fence != (stacyvm.Fence{Incarnation: 1, Epoch: 1}) || got.WorkerID != "w1" {
		r.Errorf("after the first acquire: fence %v, worker %s", got.Fence, got.WorkerID)
	}
	r.refused(of(row.ID, "w2"))
	r.wantLapsed(map[stacyvm.WorkerID]int{})
	r.clock.advance(leaseTTL + leaseGrace + time.Second)
	r.wantLapsed(map[stacyvm.WorkerID]int{"w1": 1})
	second := r.granted(of(row.ID, "w2"), 2, 2)
	_, err := r.apply(row.ID, stacyvm.Fence{Incarnation: 1, Epoch: first.Epoch}, store.Change{State: stacyvm.StateRunning})
	r.want(stacyvm.CodeStaleEpoch, err)
	got, err := r.apply(row.ID, stacyvm.Fence{Incarnation: 1, Epoch: second.Epoch}, store.Change{State: stacyvm.StateRunning})
	r.must(err)
	r.wantLapsed(map[stacyvm.WorkerID]int{})
	if got.WorkerID != "w2" {
		r.Errorf("the row's worker is %s", got.WorkerID)
	}
	if renewed := r.renew("w2", "s-w2", store.Held{Resource: string(row.ID), Epoch: 2}); len(renewed) != 1 || r.row(row.ID).Fence.Epoch != 2 {
		r.Error("a renewal must leave the fence alone")
	}
	// A lease is never raised without a fence to raise, even when the caller goes on after the
	// refusal.
	_, err = r.apply(row.ID, got.Fence, store.Change{State: stacyvm.StateDestroyed})
	r.must(err)
	for _, gone := range []stacyvm.SandboxID{row.ID, stacyvm.NewSandboxID()} {
		before, _ := r.lease(string(gone))
		r.update(func(ctx context.Context, tx store.Tx) error {
			_, err := tx.Leases().Acquire(ctx, of(gone, "w2"))
			r.want(stacyvm.CodeConflict, err)
			return nil
		})
		if after, _ := r.lease(string(gone)); after != before {
			r.Errorf("the lease of a sandbox that is gone went from %+v to %+v", before, after)
		}
	}
}

// wantLapsed demands what the leases say of those that have run out; those of duties do not count.
func (r *rig) wantLapsed(want map[stacyvm.WorkerID]int) {
	r.Helper()
	r.view(func(ctx context.Context, tx store.Tx) error {
		lapsed, err := tx.Leases().Lapsed(ctx)
		if !maps.Equal(lapsed, want) {
			r.Errorf("lapsed are %v, want %v", lapsed, want)
		}
		return err
	})
}
