package storetest

import (
	"context"
	"fmt"
	"sync"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// heartbeat writes a worker's record for a session if it is still the registered one; register
// makes it the registered one.
func heartbeat(id stacyvm.WorkerID, session string, register bool) step[stacyvm.Worker] {
	return func(ctx context.Context, tx store.Tx) (stacyvm.Worker, error) {
		known, err := tx.Workers().Hold(ctx, id)
		if err != nil && stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
			return known, err
		}
		if !register && known.Session != session {
			return known, stacyvm.Errorf(stacyvm.CodeConflict, "another session is registered")
		}
		return tx.Workers().Save(ctx, stacyvm.Worker{ID: id, Session: session, Capacity: known.Capacity})
	}
}

// workerSessions: whoever holds a worker decides on what it is. Processes of one worker follow
// each other while the earlier ones go on with heartbeats: none of these wins over a registration,
// and none loses what an operator wrote meanwhile.
func workerSessions(r *rig) {
	const id = "w"
	refused(r, stacyvm.CodeNotFound, func(ctx context.Context, tx store.Tx) (stacyvm.Worker, error) { return tx.Workers().Hold(ctx, id) })
	stores := []store.Store{r.Store, r.another(), r.another()}
	on := func(i int, do step[stacyvm.Worker]) error {
		return stores[i%len(stores)].Update(r.Context(), func(tx store.Tx) error { _, err := do(r.Context(), tx); return err })
	}
	for round := range testneed.Often(50, 1000) {
		session := fmt.Sprint("s", round)
		drained := round%2 == 0
		var racing sync.WaitGroup
		for i := range 4 {
			racing.Go(func() {
				if err := on(i, heartbeat(id, fmt.Sprint("s", round-1), false)); err != nil {
					r.want(stacyvm.CodeConflict, err)
				}
			})
		}
		racing.Go(func() { r.want("", on(1, heartbeat(id, session, true))) })
		if round > 0 {
			racing.Go(func() {
				r.want("", on(2, func(ctx context.Context, tx store.Tx) (stacyvm.Worker, error) {
					w, err := tx.Workers().Hold(ctx, id)
					w.Capacity.Drained = drained
					if err == nil {
						w, err = tx.Workers().Mark(ctx, w)
					}
					return w, err
				}))
			})
		}
		racing.Wait()
		kept := done(r, func(ctx context.Context, tx store.Tx) (stacyvm.Worker, error) { return tx.Workers().Get(ctx, id) })
		if kept.Session != session || round > 0 && kept.Capacity.Drained != drained {
			r.Fatalf("round %d: after the registration of %s, with drained %v, the worker is %+v", round, session, drained, kept)
		}
	}
}
