package storetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// takes makes a row of a worker that takes so much.
func takes(worker stacyvm.WorkerID, memory, vcpus int) func(*stacyvm.Sandbox) {
	return func(s *stacyvm.Sandbox) { s.WorkerID, s.Spec.MemoryMB, s.Spec.VCPUs = worker, memory, vcpus }
}

// workerLoads adds up each worker's sandboxes.
func workerLoads(r *rig) {
	loads := func() (found map[stacyvm.WorkerID]stacyvm.Usage) {
		r.view(func(ctx context.Context, tx store.Tx) (err error) {
			found, err = tx.Workers().Loads(ctx)
			return err
		})
		return found
	}
	if got := loads(); len(got) != 0 {
		r.Errorf("an empty database has %v", got)
	}
	for i, worker := range []stacyvm.WorkerID{"w1", "w1", "w2", "w1", "w3"} {
		row := r.insert(takes(worker, 100<<i, i))
		if i > 2 {
			_, err := r.apply(row.ID, row.Fence, store.Change{State: stacyvm.StateDestroyed})
			r.must(err)
		}
	}
	want := map[stacyvm.WorkerID]stacyvm.Usage{"w1": {Sandboxes: 2, MemoryMB: 300, VCPUs: 1}, "w2": {Sandboxes: 1, MemoryMB: 400, VCPUs: 2}}
	if diff := cmp.Diff(want, loads()); diff != "" {
		r.Error(diff)
	}
}

// sandboxSums adds up what a filter selects, large numbers too.
func sandboxSums(r *rig) {
	r.insert(takes("w1", 1<<40, 3))
	r.insert(takes("w1", 1<<40, 0))
	r.insert(takes("w2", 512, 1))
	r.insert(func(s *stacyvm.Sandbox) { takes("w1", 7, 7)(s); s.State = stacyvm.StateDestroyed })
	for worker, want := range map[stacyvm.WorkerID]stacyvm.Usage{
		"w1": {Sandboxes: 2, MemoryMB: 2 << 40, VCPUs: 3}, "w2": {Sandboxes: 1, MemoryMB: 512, VCPUs: 1}, "w3": {},
		"": {Sandboxes: 3, MemoryMB: 2<<40 + 512, VCPUs: 4},
	} {
		sum := func(ctx context.Context, tx store.Tx) error {
			got, err := tx.Sandboxes().Sum(ctx, store.SandboxFilter{Worker: worker})
			if got != want {
				r.Errorf("%q has %+v, want %+v", worker, got, want)
			}
			return err
		}
		r.view(sum)
		r.update(sum)
	}
}

// txReservation has two servers take 200 creates for what fits: memory for ten on one worker, processors for ten on another.
func txReservation(r *rig) {
	const callers, fit = 200, 10
	stores := []store.Store{r.Store, r.another()}
	errFull := stacyvm.Errorf(stacyvm.CodeLimit, "full")
	workers := map[stacyvm.WorkerID]stacyvm.Usage{"memory": {MemoryMB: 512*fit + 511, VCPUs: callers}, "vcpus": {MemoryMB: 512 * callers, VCPUs: 2*fit + 1}}
	var wait sync.WaitGroup
	for worker, limit := range workers {
		var admitted atomic.Int32
		for i := range callers {
			wait.Go(func() {
				err := stores[i%2].Update(r.Context(), func(tx store.Tx) error {
					used, err := tx.Sandboxes().Sum(r.Context(), store.SandboxFilter{Worker: worker})
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
		loads, err := tx.Workers().Loads(ctx)
		want := stacyvm.Usage{Sandboxes: fit, MemoryMB: 512 * fit, VCPUs: 2 * fit}
		if diff := cmp.Diff(map[stacyvm.WorkerID]stacyvm.Usage{"memory": want, "vcpus": want}, loads); diff != "" {
			r.Error(diff)
		}
		return err
	})
}
