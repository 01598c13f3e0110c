package storetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// takes makes a row of a worker that takes so much.
func takes(worker stacyvm.WorkerID, memory, vcpus int) func(*stacyvm.Sandbox) {
	return func(s *stacyvm.Sandbox) { s.WorkerID, s.Spec.MemoryMB, s.Spec.VCPUs = worker, memory, vcpus }
}

// known makes a worker known.
func known(id stacyvm.WorkerID, capacity stacyvm.Capacity) step[stacyvm.Worker] {
	return func(ctx context.Context, tx store.Tx) (stacyvm.Worker, error) {
		return tx.Workers().Save(ctx, stacyvm.Worker{ID: id, Capacity: capacity})
	}
}

// workerLoads adds up each worker's sandboxes, and those that were made late.
func workerLoads(r *rig) {
	loads := func(since time.Time) (found map[stacyvm.WorkerID]stacyvm.Usage) {
		r.view(func(ctx context.Context, tx store.Tx) (err error) {
			found, err = tx.Workers().Loads(ctx, since)
			return err
		})
		return found
	}
	if got := loads(time.Time{}); len(got) != 0 {
		r.Errorf("an empty database has %v", got)
	}
	var late time.Time
	for i, worker := range []stacyvm.WorkerID{"w1", "w1", "w2", "w1", "w3", "w1"} {
		row := r.insert(takes(worker, 100<<i, i))
		switch i {
		case 2:
			late = row.CreatedAt
		case 3, 4:
			_, err := r.apply(row.ID, row.Fence, store.Change{State: stacyvm.StateDestroyed})
			r.must(err)
		}
		r.clock.advance(time.Second)
	}
	want := map[stacyvm.WorkerID]stacyvm.Usage{"w1": {Sandboxes: 3, MemoryMB: 3500, VCPUs: 6}, "w2": {Sandboxes: 1, MemoryMB: 400, VCPUs: 2}}
	if diff := cmp.Diff(want, loads(time.Time{})); diff != "" {
		r.Error(diff)
	}
	want["w1"] = stacyvm.Usage{Sandboxes: 1, MemoryMB: 3200, VCPUs: 5}
	if diff := cmp.Diff(want, loads(late)); diff != "" {
		r.Errorf("since %v: %s", late, diff)
	}
}

// offer is what a worker has, as who gives it one more is told.
func offer(id stacyvm.WorkerID) step[stacyvm.Usage] {
	return func(ctx context.Context, tx store.Tx) (stacyvm.Usage, error) {
		w, used, err := tx.Workers().Offer(ctx, id)
		if err == nil && w.ID != id {
			err = stacyvm.Errorf(stacyvm.CodeInternal, "the offer of %s is that of %s", id, w.ID)
		}
		return used, err
	}
}

// workerOffers adds up what a worker has, large numbers too, if it has any limit.
func workerOffers(r *rig) {
	for id, capacity := range map[stacyvm.WorkerID]stacyvm.Capacity{"w1": {MemoryMB: 3 << 40}, "w2": {MaxSandboxes: 1}, "w3": {VCPUs: 1}, "free": {}} {
		done(r, known(id, capacity))
	}
	r.insert(takes("w1", 1<<40, 3))
	r.insert(takes("w1", 1<<40, 0))
	r.insert(takes("w2", 512, 1))
	r.insert(takes("free", 512, 1))
	r.insert(func(s *stacyvm.Sandbox) { takes("w1", 7, 7)(s); s.State = stacyvm.StateDestroyed })
	for id, want := range map[stacyvm.WorkerID]stacyvm.Usage{
		"w1": {Sandboxes: 2, MemoryMB: 2 << 40, VCPUs: 3}, "w2": {Sandboxes: 1, MemoryMB: 512, VCPUs: 1}, "w3": {}, "free": {},
	} {
		sum := func(ctx context.Context, tx store.Tx) error {
			got, err := offer(id)(ctx, tx)
			if got != want {
				r.Errorf("%q has %+v, want %+v", id, got, want)
			}
			return err
		}
		r.view(sum)
		r.update(sum)
	}
	refused(r, stacyvm.CodeNotFound, offer("nobody"))
}

// txReservation has two servers take 40 creates for what fits: memory for ten on one worker,
// processors for ten on another.
func txReservation(r *rig) {
	const callers, fit = 40, 10
	stores := []store.Store{r.Store, r.another()}
	errFull := stacyvm.Errorf(stacyvm.CodeLimit, "full")
	workers := map[stacyvm.WorkerID]stacyvm.Usage{"memory": {MemoryMB: 512*fit + 511, VCPUs: callers}, "vcpus": {MemoryMB: 512 * callers, VCPUs: 2*fit + 1}}
	var wait sync.WaitGroup
	for worker, limit := range workers {
		done(r, known(worker, stacyvm.Capacity{MemoryMB: limit.MemoryMB, VCPUs: limit.VCPUs}))
		var admitted atomic.Int32
		for i := range callers {
			wait.Go(func() {
				err := stores[i%2].Update(r.Context(), func(tx store.Tx) error {
					_, used, err := tx.Workers().Offer(r.Context(), worker)
					if err == nil && (used.MemoryMB+512 > limit.MemoryMB || used.VCPUs+2 > limit.VCPUs) {
						return errFull
					}
					_, failed := tx.Sandboxes().Insert(r.Context(), stacyvm.Sandbox{
						ID: stacyvm.NewSandboxID(), State: stacyvm.StateCreating, WorkerID: worker, Spec: stacyvm.Spec{MemoryMB: 512, VCPUs: 2},
					})
					return errors.Join(err, failed)
				})
				switch {
				case err == nil:
					admitted.Add(1)
				case stacyvm.CodeOf(err) != stacyvm.CodeLimit:
					r.Error(err)
				}
			})
		}
		wait.Wait()
		if admitted.Load() != fit {
			r.Errorf("%s: %d were let in, %d fit", worker, admitted.Load(), fit)
		}
	}
	r.view(func(ctx context.Context, tx store.Tx) error {
		loads, err := tx.Workers().Loads(ctx, time.Time{})
		want := stacyvm.Usage{Sandboxes: fit, MemoryMB: 512 * fit, VCPUs: 2 * fit}
		if diff := cmp.Diff(map[stacyvm.WorkerID]stacyvm.Usage{"memory": want, "vcpus": want}, loads); diff != "" {
			r.Error(diff)
		}
		return err
	})
}
