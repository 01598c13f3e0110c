package cluster

import (
	"context"
	"slices"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// Worker is a worker as callers see it, with what only the database can tell.
type Worker struct {
	stacyvm.Worker
	Stale bool // its last heartbeat is older than stacyvm.WorkerStaleAfter, by the database's clock
}

// Workers lists all workers.
func (r *Registry) Workers(ctx context.Context) (list []Worker, err error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeReadSandboxes); err != nil {
		return nil, err
	}
	err = r.store.View(ctx, func(tx store.Tx) error {
		workers, err := tx.Workers().List(ctx, store.Page{})
		if err != nil {
			return err
		}
		list, err = Judge(ctx, tx, workers...)
		return err
	})
	return list, err
}

// Worker finds one. CodeNotFound.
func (r *Registry) Worker(ctx context.Context, id stacyvm.WorkerID) (Worker, error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeReadSandboxes); err != nil {
		return Worker{}, err
	}
	return r.oneWorker(ctx, r.store.View, func(tx store.Tx) (stacyvm.Worker, error) {
		return tx.Workers().Get(ctx, id)
	})
}

// Judge says who is stale.
func Judge(ctx context.Context, tx store.Tx, workers ...stacyvm.Worker) ([]Worker, error) {
	now, err := tx.Now(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Worker, len(workers))
	for i, w := range workers {
		list[i] = Worker{w, now.Sub(w.LastHeartbeat) > stacyvm.WorkerStaleAfter}
	}
	return list, nil
}

// oneWorker runs a transaction that ends with a worker.
func (r *Registry) oneWorker(
	ctx context.Context, in func(context.Context, func(store.Tx) error) error,
	do func(store.Tx) (stacyvm.Worker, error),
) (found Worker, err error) {
	err = in(ctx, func(tx store.Tx) error {
		w, err := do(tx)
		if err != nil {
			return err
		}
		list, err := Judge(ctx, tx, w)
		if err == nil {
			found = list[0]
		}
		return err
	})
	return found, err
}

// DrainWorker places nothing new on a worker, also after it starts anew; ResumeWorker takes that
// back. CodeNotFound.
func (r *Registry) DrainWorker(ctx context.Context, id stacyvm.WorkerID) (Worker, error) {
	return r.setDrained(ctx, id, "worker.drain", true)
}

// ResumeWorker takes DrainWorker back. CodeNotFound.
func (r *Registry) ResumeWorker(ctx context.Context, id stacyvm.WorkerID) (Worker, error) {
	return r.setDrained(ctx, id, "worker.resume", false)
}

func (r *Registry) setDrained(
	ctx context.Context, id stacyvm.WorkerID, action string, drained bool,
) (Worker, error) {
	caller := auth.From(ctx)
	found, err := Worker{}, caller.Require(auth.ScopeAdminWorkers)
	if err == nil {
		found, err = r.oneWorker(ctx, r.store.Update, func(tx store.Tx) (stacyvm.Worker, error) {
			w, err := tx.Workers().Hold(ctx, id)
			if err != nil {
				return w, err
			}
			w.Capacity.Drained = drained
			switch {
			case drained && w.Status == stacyvm.WorkerOnline:
				w.Status = stacyvm.WorkerDraining
			case !drained && w.Status == stacyvm.WorkerDraining:
				w.Status = stacyvm.WorkerOnline
			}
			return tx.Workers().Mark(ctx, w)
		})
	}
	return found, r.audit.Record(ctx, caller, action, stacyvm.Sandbox{}, string(id), err)
}

// asWorker refuses who is neither that worker, with the scope, nor an administrator.
func asWorker(caller stacyvm.Principal, id stacyvm.WorkerID, scope string) error {
	if caller.May(auth.ScopeAdminWorkers) {
		return nil
	}
	if caller.Subject != (auth.WorkerIdentity{WorkerID: id}).Principal().Subject {
		return stacyvm.Errorf(stacyvm.CodeForbidden, "the worker credential is another worker's")
	}
	return caller.Require(scope)
}

// reserved refuses calls in the name of a worker in a control plane's own process: that process
// needs none, and whoever else uses the name, with whatever credential of workers, would take its
// sandboxes. So is this process's own name where no record has it. known and err are what reading
// the worker's record gave.
func (r *Registry) reserved(caller stacyvm.Principal, id stacyvm.WorkerID, known stacyvm.Worker, err error) error {
	absent := stacyvm.CodeOf(err) == stacyvm.CodeNotFound
	switch {
	case err != nil && !absent:
		return err
	case caller.May(auth.ScopeAdminWorkers):
		return nil
	case absent && id == r.self, !absent && slices.Contains(known.Capabilities, stacyvm.CapabilityResident):
		return stacyvm.Errorf(stacyvm.CodeForbidden,
			"the id %.64q is a control plane's own: set another worker.id, or, when that control plane is gone "+
				"for good, remove its record (stacyvm worker rm)", string(id))
	}
	return nil
}

// unreserved is reserved for what reads no record itself.
func (r *Registry) unreserved(ctx context.Context, caller stacyvm.Principal, id stacyvm.WorkerID) error {
	return r.store.View(ctx, func(tx store.Tx) error {
		known, err := tx.Workers().Get(ctx, id)
		return r.reserved(caller, id, known, err)
	})
}

// Beat is a worker's heartbeat.
type Beat struct {
	stacyvm.Worker      // ID, Hostname, Status, Session, Providers, Capabilities, Capacity and Problems
	Register       bool // Session becomes the one that counts
}

// Heartbeat keeps what a worker tells of itself. With Register its process takes the worker's
// sandboxes over before this returns, and no earlier process can do anything more. CodeConflict:
// another process is registered; CodeNotFound: none is; CodeForbidden: it is the worker in a
// control plane.
func (r *Registry) Heartbeat(ctx context.Context, beat Beat) (Worker, error) {
	caller := auth.From(ctx)
	if err := asWorker(caller, beat.ID, auth.ScopeHeartbeat); err != nil {
		return Worker{}, err
	}
	if beat.Status == "" {
		beat.Status = stacyvm.WorkerOnline
	}
	if err := beat.check(); err != nil {
		return Worker{}, err
	}
	found, err := r.oneWorker(ctx, r.store.Update,
		func(tx store.Tx) (stacyvm.Worker, error) { return r.kept(ctx, tx, caller, beat) })
	if err != nil || !beat.Register {
		return found, err
	}
	return found, r.takeOver(ctx, caller, beat.ID, beat.Session)
}

// kept writes a heartbeat. What an operator has said stays, and so does the session when the
// heartbeat is of none.
func (r *Registry) kept(
	ctx context.Context, tx store.Tx, caller stacyvm.Principal, beat Beat,
) (stacyvm.Worker, error) {
	known, err := tx.Workers().Hold(ctx, beat.ID)
	if refused := r.reserved(caller, beat.ID, known, err); refused != nil {
		return known, refused
	}
	beat.Capabilities = slices.DeleteFunc(beat.Capabilities,
		func(c string) bool { return c == stacyvm.CapabilityResident && !slices.Contains(known.Capabilities, c) })
	absent := stacyvm.CodeOf(err) == stacyvm.CodeNotFound
	switch {
	case absent && beat.Session != "" && !beat.Register:
		return known, err
	case beat.Session != "" && !beat.Register && known.Session != beat.Session:
		return known, stacyvm.Errorf(stacyvm.CodeConflict, "another process is registered as worker %.64s", beat.ID)
	}
	if beat.Session == "" {
		beat.Session = known.Session
	}
	if beat.Capacity.Drained = known.Capacity.Drained; beat.Capacity.Drained && beat.Status == stacyvm.WorkerOnline {
		beat.Status = stacyvm.WorkerDraining
	}
	if err := tx.Events().Append(ctx, machineEvents(known, beat, !absent)); err != nil {
		return known, err
	}
	return tx.Workers().Save(ctx, beat.Worker)
}
