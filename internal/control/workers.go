package control

import (
	"context"
	"slices"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// The statuses that a worker may tell of itself.
const (
	statusOnline   = "online"
	statusDraining = "draining"
	statusStarting = "starting"
)

var statuses = []string{statusStarting, statusOnline, statusDraining, "offline", "unhealthy"}

// WorkerStatus is a worker as callers see it.
type WorkerStatus struct {
	stacyvm.Worker
	Stale bool // its last heartbeat is older than stacyvm.WorkerStaleAfter, by the database's clock
}

// Workers lists all workers.
func (s *Service) Workers(ctx context.Context) (list []WorkerStatus, err error) {
	if err := auth.From(ctx).Require(auth.ScopeReadSandboxes); err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx store.Tx) error {
		workers, err := tx.Workers().List(ctx, store.Page{})
		if err != nil {
			return err
		}
		list, err = judged(ctx, tx, workers...)
		return err
	})
	return list, err
}

// Worker finds one. CodeNotFound.
func (s *Service) Worker(ctx context.Context, id stacyvm.WorkerID) (WorkerStatus, error) {
	if err := auth.From(ctx).Require(auth.ScopeReadSandboxes); err != nil {
		return WorkerStatus{}, err
	}
	return s.oneWorker(ctx, s.store.View, func(tx store.Tx) (stacyvm.Worker, error) { return tx.Workers().Get(ctx, id) })
}

// judged says who is stale.
func judged(ctx context.Context, tx store.Tx, workers ...stacyvm.Worker) ([]WorkerStatus, error) {
	now, err := tx.Now(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]WorkerStatus, len(workers))
	for i, w := range workers {
		list[i] = WorkerStatus{w, now.Sub(w.LastHeartbeat) > stacyvm.WorkerStaleAfter}
	}
	return list, nil
}

// oneWorker runs a transaction that ends with a worker.
func (s *Service) oneWorker(ctx context.Context, in func(context.Context, func(store.Tx) error) error, do func(store.Tx) (stacyvm.Worker, error)) (found WorkerStatus, err error) {
	err = in(ctx, func(tx store.Tx) error {
		w, err := do(tx)
		if err != nil {
			return err
		}
		list, err := judged(ctx, tx, w)
		if err == nil {
			found = list[0]
		}
		return err
	})
	return found, err
}

// DrainWorker places nothing new on a worker, also after it starts anew; ResumeWorker takes that back. CodeNotFound.
func (s *Service) DrainWorker(ctx context.Context, id stacyvm.WorkerID) (WorkerStatus, error) {
	return s.setDrained(ctx, id, "worker.drain", true)
}

// ResumeWorker takes DrainWorker back. CodeNotFound.
func (s *Service) ResumeWorker(ctx context.Context, id stacyvm.WorkerID) (WorkerStatus, error) {
	return s.setDrained(ctx, id, "worker.resume", false)
}

func (s *Service) setDrained(ctx context.Context, id stacyvm.WorkerID, action string, drained bool) (WorkerStatus, error) {
	found, err := WorkerStatus{}, auth.From(ctx).Require(auth.ScopeAdminWorkers)
	if err == nil {
		found, err = s.oneWorker(ctx, s.store.Update, func(tx store.Tx) (stacyvm.Worker, error) {
			w, err := tx.Workers().Hold(ctx, id)
			if err != nil {
				return w, err
			}
			w.Capacity.Drained = drained
			switch {
			case drained && w.Status == statusOnline:
				w.Status = statusDraining
			case !drained && w.Status == statusDraining:
				w.Status = statusOnline
			}
			return tx.Workers().Mark(ctx, w)
		})
	}
	return found, s.audited(ctx, action, stacyvm.Sandbox{}, string(id), err)
}

// asWorker refuses who is neither that worker, with the scope, nor an administrator.
func asWorker(ctx context.Context, id stacyvm.WorkerID, scope string) error {
	caller := auth.From(ctx)
	if caller.May(auth.ScopeAdminWorkers) {
		return nil
	}
	if caller.Subject != (auth.WorkerIdentity{WorkerID: id}).Principal().Subject {
		return stacyvm.Errorf(stacyvm.CodeForbidden, "the worker credential is another worker's")
	}
	return auth.From(ctx).Require(scope)
}

// reserved refuses calls in the name of a worker in a control plane's own process: that process needs none, and whoever else uses the
// name, with whatever credential of workers, would take its sandboxes. So is this process's own name where no record has it. known and
// err are what reading the worker's record gave.
func (s *Service) reserved(ctx context.Context, id stacyvm.WorkerID, known stacyvm.Worker, err error) error {
	absent := stacyvm.CodeOf(err) == stacyvm.CodeNotFound
	switch {
	case err != nil && !absent:
		return err
	case auth.From(ctx).May(auth.ScopeAdminWorkers):
		return nil
	case absent && id == s.self, !absent && slices.Contains(known.Capabilities, stacyvm.CapabilityResident):
		return stacyvm.Errorf(stacyvm.CodeForbidden, "the id %.64q is a control plane's own: set another worker.id, or, when that control plane is gone for good, remove its record (stacyvm worker rm)", string(id))
	}
	return nil
}

// unreserved is reserved for what reads no record itself.
func (s *Service) unreserved(ctx context.Context, id stacyvm.WorkerID) error {
	return s.store.View(ctx, func(tx store.Tx) error {
		known, err := tx.Workers().Get(ctx, id)
		return s.reserved(ctx, id, known, err)
	})
}

// Beat is a worker's heartbeat.
type Beat struct {
	stacyvm.Worker      // ID, Hostname, Status, Session, Providers, Capabilities, Capacity and Problems
	Register       bool // Session becomes the one that counts
}

// Heartbeat keeps what a worker tells of itself. With Register its process takes the worker's sandboxes over before this returns,
// and no earlier process can do anything more. CodeConflict: another process is registered; CodeNotFound: none is; CodeForbidden: it is
// the worker in a control plane.
func (s *Service) Heartbeat(ctx context.Context, beat Beat) (WorkerStatus, error) {
	if err := asWorker(ctx, beat.ID, auth.ScopeHeartbeat); err != nil {
		return WorkerStatus{}, err
	}
	if beat.Status == "" {
		beat.Status = statusOnline
	}
	if err := beat.check(); err != nil {
		return WorkerStatus{}, err
	}
	found, err := s.oneWorker(ctx, s.store.Update, func(tx store.Tx) (stacyvm.Worker, error) { return s.kept(ctx, tx, beat) })
	if err != nil || !beat.Register {
		return found, err
	}
	return found, s.takeOver(ctx, beat.ID, beat.Session)
}

// kept writes a heartbeat. What an operator has said stays, and so does the session when the heartbeat is of none.
func (s *Service) kept(ctx context.Context, tx store.Tx, beat Beat) (stacyvm.Worker, error) {
	known, err := tx.Workers().Hold(ctx, beat.ID)
	if refused := s.reserved(ctx, beat.ID, known, err); refused != nil {
		return known, refused
	}
	beat.Capabilities = slices.DeleteFunc(beat.Capabilities, func(c string) bool { return c == stacyvm.CapabilityResident && !slices.Contains(known.Capabilities, c) })
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
	if beat.Capacity.Drained = known.Capacity.Drained; beat.Capacity.Drained && beat.Status == statusOnline {
		beat.Status = statusDraining
	}
	if err := tx.Events().Append(ctx, machineNotices(known, beat, !absent)); err != nil {
		return known, err
	}
	return tx.Workers().Save(ctx, beat.Worker)
}
