package reconcile

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// reasonStale tells that a sandbox's worker sends no heartbeat.
const reasonStale = "worker_stale"

// Stale tells the truth of sandboxes whose worker is gone: unhealthy, and expired when their time has passed. Nothing is
// destroyed; the worker gets them back when it returns. While the database settles every worker looks gone, and nothing is
// said of them.
func (r *Reconciler) Stale(ctx context.Context) error {
	if until, err := r.settle(ctx); err != nil || !until.IsZero() {
		return err
	}
	rows, err := r.rows(ctx, store.SandboxFilter{States: []stacyvm.State{
		stacyvm.StateRunning, stacyvm.StatePaused, stacyvm.StateUnhealthy,
	}})
	if err != nil {
		return err
	}
	var now time.Time
	fresh := map[stacyvm.WorkerID]bool{r.self: true}
	err = r.store.View(ctx, func(tx store.Tx) error {
		if now, err = tx.Now(ctx); err != nil {
			return err
		}
		workers, err := tx.Workers().List(ctx, store.Page{})
		for _, w := range workers {
			if now.Sub(w.LastHeartbeat) <= stacyvm.WorkerStaleAfter && (w.Status == "online" || w.Status == "draining") {
				fresh[w.ID] = true
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	var abandoned []stacyvm.Sandbox
	for _, row := range rows {
		if !fresh[row.WorkerID] {
			abandoned = append(abandoned, row)
		}
	}
	each(ctx, r, abandoned, func(ctx context.Context, row stacyvm.Sandbox) error { return r.abandon(ctx, row, now) })
	return nil
}

func (r *Reconciler) abandon(ctx context.Context, row stacyvm.Sandbox, now time.Time) error {
	state, reason := stacyvm.StateUnhealthy, reasonStale
	if !now.Before(row.ExpiresAt) {
		state = stacyvm.StateExpired
	}
	if !row.State.CanBecome(state) {
		return nil
	}
	return r.change(ctx, row, state, reason)
}
