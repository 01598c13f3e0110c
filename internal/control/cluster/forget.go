package cluster

import (
	"context"
	"fmt"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// forgetBatch is how many sandboxes of a worker one transaction ends.
const forgetBatch = 100

// lost is the cause of a sandbox whose worker is gone.
var lost = stacyvm.Cause{Reason: stacyvm.ReasonLost, Detail: "its worker is not registered any more"}

// DeleteWorker forgets a worker. With force its sandboxes end first, as lost: nobody could remove
// them any more, and they would count against limits for ever. A worker that lives all the same
// registers anew, and removes what is left of them. CodeNotFound; CodeConflict: without force, it
// is online or has sandboxes.
func (r *Registry) DeleteWorker(ctx context.Context, id stacyvm.WorkerID, force bool) error {
	caller := auth.From(ctx)
	ended, err := 0, caller.Require(auth.ScopeAdminWorkers)
	if err == nil {
		ended, err = r.forget(ctx, id, force)
	}
	detail := string(id)
	if ended > 0 {
		detail = fmt.Sprintf("%s, with %d sandboxes", id, ended)
	}
	return r.audit.Record(ctx, caller, "worker.delete", stacyvm.Sandbox{}, detail, err)
}

func (r *Registry) forget(ctx context.Context, id stacyvm.WorkerID, force bool) (ended int, err error) {
	err = r.store.Update(ctx, func(tx store.Tx) error {
		w, err := tx.Workers().Hold(ctx, id)
		if err != nil {
			return err
		}
		if !force {
			return needless(ctx, tx, w)
		}
		w.Capacity.Drained = true // nothing new comes while its sandboxes end
		_, err = tx.Workers().Mark(ctx, w)
		return err
	})
	if err != nil {
		return 0, err
	}
	for force {
		n, err := r.endLost(ctx, id)
		if ended += n; err != nil {
			return ended, err
		}
		if n == 0 {
			break
		}
	}
	return ended, r.store.Update(ctx, func(tx store.Tx) error {
		w, err := tx.Workers().Hold(ctx, id)
		if err == nil && !force {
			err = needless(ctx, tx, w) // a create may have come in between
		}
		if err != nil {
			return err
		}
		return tx.Workers().Delete(ctx, id)
	})
}

// needless refuses to forget a worker that is in use. It reads the row's own heartbeat: a worker
// that is stale acts for nobody.
func needless(ctx context.Context, tx store.Tx, w stacyvm.Worker) error {
	list, err := Judge(ctx, tx, w)
	if err != nil {
		return err
	}
	rows, err := tx.Sandboxes().Count(ctx, store.SandboxFilter{Worker: w.ID})
	if err != nil {
		return err
	}
	lives := !list[0].Stale && w.Status.Acts()
	switch {
	case rows > 0 && lives:
		return stacyvm.Errorf(stacyvm.CodeConflict,
			"worker %.64s is %s and has %d sandboxes: drain it and stop it when they have ended, or remove it "+
				"with force, which ends them",
			string(w.ID), w.Status, rows)
	case rows > 0:
		return stacyvm.Errorf(stacyvm.CodeConflict,
			"worker %.64s has %d sandboxes: start it again, or remove it with force, which ends them "+
				"as lost",
			string(w.ID), rows)
	case lives:
		return stacyvm.Errorf(stacyvm.CodeConflict,
			"worker %.64s is %s and would register anew: stop it first, or remove it "+
				"with force",
			string(w.ID), w.Status)
	}
	return nil
}

// endLost ends some of a worker's sandboxes and tells how many.
func (r *Registry) endLost(ctx context.Context, id stacyvm.WorkerID) (ended int, err error) {
	var rows []stacyvm.Sandbox
	err = r.store.View(ctx, func(tx store.Tx) (err error) {
		rows, err = tx.Sandboxes().List(ctx, store.SandboxFilter{Worker: id, Page: store.Page{Limit: forgetBatch}})
		return err
	})
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	err = r.store.Update(ctx, func(tx store.Tx) error {
		for _, row := range rows {
			current, err := tx.Sandboxes().Get(ctx, row.ID)
			if err != nil {
				return err
			}
			if err := EndLost(ctx, tx, current); err != nil {
				return err
			}
		}
		return nil
	})
	for _, row := range rows {
		r.changed(row.ID)
	}
	return len(rows), err
}

// EndLost makes a sandbox without a worker a tombstone. One that was there for its user is told
// to be lost first.
func EndLost(ctx context.Context, tx store.Tx, sandbox stacyvm.Sandbox) error {
	if sandbox.State.Active() && sandbox.State.CanBecome(stacyvm.StateUnhealthy) {
		_, err := tx.Sandboxes().Apply(ctx, sandbox.ID, sandbox.Fence,
			store.Change{State: stacyvm.StateUnhealthy, Cause: &lost})
		if err != nil {
			return err
		}
	}
	_, err := lease.End(ctx, tx, sandbox, lost)
	return err
}

// Forgotten reports whether a worker is neither this process's own nor registered: nobody will
// ever act for its sandboxes.
func (r *Registry) Forgotten(ctx context.Context, id stacyvm.WorkerID) bool {
	if id == r.self {
		return false
	}
	err := r.store.View(ctx, func(tx store.Tx) error {
		_, err := tx.Workers().Get(ctx, id)
		return err
	})
	return stacyvm.CodeOf(err) == stacyvm.CodeNotFound
}
