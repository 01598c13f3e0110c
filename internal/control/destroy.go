package control

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// pruneAtOnce is how many sandboxes Prune removes at the same time: one that sticks holds up none
// of the others.
const pruneAtOnce = 16

// staleTries is how often a create or destroy follows a sandbox to its new owner.
const staleTries = 3

// Destroy removes a sandbox. The wish is durable before anything is tried, so that it is
// fulfilled after a crash too, and the call goes on when the caller's context ends. CodeNotFound:
// no such sandbox, or destroyed before; CodeUnavailable: its worker does not answer now, the
// sandbox will be removed when it does.
func (s *Service) Destroy(ctx context.Context, id stacyvm.SandboxID) error {
	return s.destroy(ctx, targetOf(ctx, id))
}

func (s *Service) destroy(ctx context.Context, t target) error {
	id := t.row.ID
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stacyvm.CreateWithin)
	defer cancel()
	if err := t.caller.Require(auth.ScopeAPISandboxes); err != nil {
		return s.record(ctx, t, "sandbox.destroy", "", err)
	}
	sandbox, err := s.markForDestroy(ctx, t)
	if stacyvm.CodeOf(err) == stacyvm.CodeStorageFull {
		sandbox, err = s.makeRoom(ctx, t, err)
	}
	if err != nil {
		return s.record(ctx, t, "sandbox.destroy", "", err)
	}
	s.placement.Refuse(id)
	for range staleTries {
		if err = s.remove(ctx, sandbox); stacyvm.CodeOf(err) != stacyvm.CodeStaleEpoch {
			break
		}
		if sandbox, err = s.read(ctx, id); err != nil || !sandbox.State.Active() {
			break
		}
	}
	if err != nil {
		s.log.Warn("destroy is left to reconciliation", "sandbox", id, "worker", sandbox.WorkerID, "error", err)
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err,
			"the sandbox cannot be removed now; it will be as soon as its worker answers")
	}
	return nil
}

// makeRoom removes a sandbox's runtime although the wish could not be written for lack of space,
// and writes it then: what it frees may be all the room that there is.
func (s *Service) makeRoom(ctx context.Context, t target, full error) (sandbox stacyvm.Sandbox, err error) {
	err = s.store.View(ctx, func(tx store.Tx) (err error) {
		sandbox, err = visible(ctx, tx.Sandboxes(), t.caller, t.row.ID)
		return err
	})
	if err != nil {
		return sandbox, err
	}
	if s.removeRuntime(ctx, sandbox) != nil {
		return sandbox, full
	}
	return s.markForDestroy(ctx, t)
}

// markForDestroy writes the wish and its audit line.
func (s *Service) markForDestroy(ctx context.Context, t target) (sandbox stacyvm.Sandbox, err error) {
	id := t.row.ID
	defer s.rows.drop(id)
	if !id.Valid() {
		return sandbox, absent(id)
	}
	err = s.store.Update(ctx, func(tx store.Tx) error {
		sandbox, err = tx.Sandboxes().Want(ctx, id, store.Wish{Desired: stacyvm.DesiredDestroyed})
		switch {
		case stacyvm.CodeOf(err) == stacyvm.CodeNotFound || err == nil && !t.caller.Sees(sandbox.TenantID):
			return absent(id) // the wish for another tenant's is taken back
		case err != nil:
			return err
		}
		return audit.Append(ctx, tx, audit.Operation(t.caller, "sandbox.destroy", sandbox, "", nil))
	})
	if err != nil {
		return stacyvm.Sandbox{}, err
	}
	return sandbox, nil
}

// remove has the worker remove the runtime and makes the row a tombstone. CodeStaleEpoch: the
// sandbox has a new owner.
func (s *Service) remove(ctx context.Context, sandbox stacyvm.Sandbox) error {
	err := s.removeRuntime(ctx, sandbox)
	lost := stacyvm.CodeOf(err) == stacyvm.CodeUnavailable && s.Forgotten(ctx, sandbox.WorkerID)
	if err != nil && !lost {
		return err
	}
	defer s.rows.drop(sandbox.ID)
	return s.store.Update(ctx, func(tx store.Tx) error {
		if lost {
			return cluster.EndLost(ctx, tx, sandbox)
		}
		_, err := lease.End(ctx, tx, sandbox, stacyvm.Cause{})
		return err
	})
}

// removeRuntime asks the sandbox's worker; a runtime that is not there is a success.
func (s *Service) removeRuntime(ctx context.Context, sandbox stacyvm.Sandbox) error {
	w, err := s.workers(sandbox.WorkerID)
	if err != nil {
		return err
	}
	return w.Destroy(ctx, stacyvm.Ref{ID: sandbox.ID, Fence: sandbox.Fence})
}

// read reads a row without regard to who asks.
func (s *Service) read(ctx context.Context, id stacyvm.SandboxID) (sandbox stacyvm.Sandbox, err error) {
	err = s.store.View(ctx, func(tx store.Tx) error {
		sandbox, err = tx.Sandboxes().Get(ctx, id)
		return err
	})
	return sandbox, err
}

// Prune destroys every sandbox of the caller's tenant whose time has passed and gives their
// number. One that cannot be removed now does not keep the others; the error tells of them.
func (s *Service) Prune(ctx context.Context) (int, error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeAPISandboxes); err != nil {
		return 0, s.audit.Record(ctx, caller, "sandbox.prune", stacyvm.Sandbox{}, "", err)
	}
	var expired []stacyvm.Sandbox
	err := s.store.View(ctx, func(tx store.Tx) (err error) {
		expired, err = tx.Sandboxes().List(ctx, store.SandboxFilter{Tenant: caller.Tenant, Expired: true})
		return err
	})
	if err != nil {
		return 0, err
	}
	var all sync.WaitGroup
	var pruned atomic.Int64
	slots := make(chan struct{}, pruneAtOnce)
	failures := make([]error, len(expired))
	for i, sandbox := range expired {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			err := s.destroy(ctx, target{caller: caller, row: row{Sandbox: stacyvm.Sandbox{ID: sandbox.ID}}})
			switch stacyvm.CodeOf(err) {
			case "":
				pruned.Add(1)
			case stacyvm.CodeNotFound: // somebody else was faster
			default:
				failures[i] = err
			}
		})
	}
	all.Wait()
	failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
	if len(failures) == 0 {
		return int(pruned.Load()), nil
	}
	return int(pruned.Load()), stacyvm.Wrap(stacyvm.CodeUnavailable, failures[0],
		fmt.Sprintf("%d sandboxes are removed, %d cannot be now; they will be as soon as their workers answer",
			pruned.Load(), len(failures)))
}
