package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// storeWithin bounds the store's part of a change, and undoWithin the removal of what a failed one left.
	storeWithin = 15 * time.Second
	undoWithin  = 20 * time.Second
)

// Create makes a sandbox and returns when its guest answers; replayed means that the key was answered before. A worker starts a
// few at a time, the others wait in their order. A caller whose context ends while it waits, for room or for its turn, leaves
// the line. From its turn on a create goes on when the caller's context ends: the sandbox is then in the lists, or gone when it
// could not be made; its time counts from there too. A create that fails
// leaves a tombstone with the reason create_failed, or a sandbox in state error while leftovers are being removed.
//
// CodeInvalid names the field; CodeNotFound: no such provider, template or image; CodeLimit; CodeKeyReused and
// CodeInProgress tell of the key; CodeUnsupported, CodeStorageFull, CodeUnavailable as the worker says.
func (s *Service) Create(ctx context.Context, request CreateRequest, key Idempotency) (sandbox stacyvm.Sandbox, replayed bool, err error) {
	r, err := s.reserve(ctx, request, key)
	if err != nil {
		return stacyvm.Sandbox{}, false, s.audited(ctx, "sandbox.spawn", r.made, request.Image, err)
	}
	if r.first != nil {
		return *r.first, true, nil
	}
	turn := s.starts.enter(r.made, r.limit)
	defer s.starts.end(turn)
	if sandbox, err = s.awaitTurn(ctx, turn, r.made); err != nil {
		return sandbox, false, s.undo(ctx, sandbox, key, false, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stacyvm.CreateWithin+storeWithin)
	defer cancel()
	sandbox, err = s.build(ctx, sandbox, r.cluster, key)
	return sandbox, false, err
}

// insert writes the row, takes the lease for the row's worker and adds the audit line.
func (s *Service) insert(ctx context.Context, tx store.Tx, sandbox stacyvm.Sandbox, p *placement) (stacyvm.Sandbox, error) {
	session := p.session
	if p.worker == s.self {
		session = s.session
	}
	sandbox.WorkerID = p.worker
	sandbox, err := tx.Sandboxes().InsertHeld(ctx, sandbox, session, stacyvm.LeaseTTL)
	if err != nil {
		return sandbox, err
	}
	return sandbox, audit.Append(ctx, tx, audit.Operation(auth.From(ctx), "sandbox.spawn", sandbox, sandbox.Image, nil))
}

// build has the worker make the runtime and confirms it.
func (s *Service) build(ctx context.Context, sandbox stacyvm.Sandbox, cluster string, key Idempotency) (stacyvm.Sandbox, error) {
	making, cancel := context.WithTimeout(ctx, stacyvm.CreateWithin)
	defer cancel()
	for try := 1; ; try++ {
		created, err := s.makeRuntime(making, sandbox, cluster)
		if err == nil {
			var running stacyvm.Sandbox
			if running, err = s.confirm(ctx, sandbox, created, key); stacyvm.CodeOf(err) != stacyvm.CodeStaleEpoch {
				return running, err
			}
		}
		if stacyvm.CodeOf(err) != stacyvm.CodeStaleEpoch || try == staleTries {
			return sandbox, s.undo(ctx, sandbox, key, true, err)
		}
		now, failed := s.read(ctx, sandbox.ID)
		switch {
		case failed == nil && now.State == stacyvm.StateRunning: // reconciliation was faster
			return s.confirm(ctx, now, created, key)
		case failed != nil || now.Fence == sandbox.Fence || now.State != stacyvm.StateCreating:
			return sandbox, s.undo(ctx, sandbox, key, true, err)
		}
		sandbox = now // its worker started anew meanwhile: it finds what it has made, under the new fence
	}
}

// makeRuntime has the sandbox's worker make the runtime.
func (s *Service) makeRuntime(ctx context.Context, sandbox stacyvm.Sandbox, cluster string) (created worker.Created, err error) {
	w, err := s.workers(sandbox.WorkerID)
	if err != nil {
		return created, err
	}
	return w.Create(ctx, stacyvm.Ref{ID: sandbox.ID, Fence: sandbox.Fence}, worker.CreateRequest{
		Cluster: cluster, Spec: sandbox.Spec, OwnerID: sandbox.OwnerID, TenantID: sandbox.TenantID,
		ExpiresAt: sandbox.Expiry(),
	})
}

// confirm makes the sandbox running and stores the key's answer. Reconciliation may have done the first already, under a newer
// fence too; a destroy may have come in between. CodeStaleEpoch: the sandbox has a newer fence and is not running yet.
func (s *Service) confirm(ctx context.Context, sandbox stacyvm.Sandbox, created worker.Created, key Idempotency) (stacyvm.Sandbox, error) {
	var running stacyvm.Sandbox
	unwanted := false
	err := s.store.Update(ctx, func(tx store.Tx) (err error) {
		unwanted = false
		running, err = tx.Sandboxes().Apply(ctx, sandbox.ID, sandbox.Fence, store.Change{
			Wanted: stacyvm.DesiredRunning, State: stacyvm.StateRunning, RuntimeID: created.RuntimeID, Unenforced: created.Unenforced,
		})
		if code := stacyvm.CodeOf(err); code == stacyvm.CodeConflict || code == stacyvm.CodeStaleEpoch {
			current, failed := tx.Sandboxes().Get(ctx, sandbox.ID)
			if failed != nil {
				return failed
			}
			unwanted = current.Desired == stacyvm.DesiredDestroyed || current.State == stacyvm.StateDestroyed
			if unwanted {
				return nil
			}
			if current.State == stacyvm.StateRunning {
				running, err = current, nil
			}
		}
		if err != nil {
			return err
		}
		return finish(ctx, tx, key, running)
	})
	s.rows.drop(sandbox.ID)
	switch {
	case unwanted && err == nil:
		return sandbox, s.undo(ctx, sandbox, key, true, errDestroyedEarly)
	case err != nil:
		// The runtime is there: reconciliation finds it and finishes what could not be written.
		return sandbox, err
	}
	if running.ExpiresAt.Sub(sandbox.Expiry()).Abs() > stacyvm.ExpiryDrift {
		// It was extended while it was being created.
		s.sendExpiry(ctx, running)
	}
	return running, nil
}

// undo removes what a failed create left, writes how it ended and gives the error for the caller. Reconciliation repeats
// what fails here. asked says that the worker has heard of it.
func (s *Service) undo(ctx context.Context, sandbox stacyvm.Sandbox, key Idempotency, asked bool, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
	defer cancel()
	defer s.rows.drop(sandbox.ID)
	s.log.Warn("create failed", "sandbox", sandbox.ID, "worker", sandbox.WorkerID, "error", cause)
	left := cause
	switch {
	case !asked:
		left = nil
	case !silent(cause): // it would not hear of that either
		left = s.removeRuntime(ctx, sandbox)
	}
	var told []stacyvm.Notice
	if asked {
		told = audit.ProviderFailed(sandbox, createError(cause).Code)
	}
	err := s.writeFailure(ctx, sandbox, key, cause, told, left == nil, false)
	if stacyvm.CodeOf(err) == stacyvm.CodeStaleEpoch {
		err = s.writeFailure(ctx, sandbox, key, cause, told, false, true)
	}
	if err != nil || left != nil {
		s.log.Warn("create is not undone yet", "sandbox", sandbox.ID, "runtime", left, "row", err)
	}
	return createError(cause)
}

// writeFailure writes how a create ended, and what subscribers are told of it. With gone nothing is left of it. With moved the sandbox
// has a newer owner, who is left the wish to destroy it: its caller never learns that it is there.
func (s *Service) writeFailure(
	ctx context.Context, sandbox stacyvm.Sandbox, key Idempotency, cause error, told []stacyvm.Notice, gone, moved bool,
) error {
	why := stacyvm.Cause{Reason: stacyvm.ReasonCreateFailed, Detail: createError(cause).Message}
	return s.store.Update(ctx, func(tx store.Tx) error {
		if err := abandon(ctx, tx, key, sandbox.ID); err != nil {
			return err
		}
		if err := audit.Append(ctx, tx, audit.Operation(auth.From(ctx), "sandbox.spawn", sandbox, sandbox.Image, cause)); err != nil {
			return err
		}
		if err := tx.Events().Append(ctx, told); err != nil {
			return err
		}
		if gone {
			_, err := lease.End(ctx, tx, sandbox, why)
			return err
		}
		if _, err := tx.Sandboxes().Want(ctx, sandbox.ID, store.Wish{Desired: stacyvm.DesiredDestroyed}); err != nil || moved {
			return err
		}
		_, err := tx.Sandboxes().Apply(ctx, sandbox.ID, sandbox.Fence, store.Change{State: stacyvm.StateError, Cause: &why})
		return err
	})
}

// createError is what a caller learns of a worker's failure.
func createError(cause error) *stacyvm.Error {
	var known *stacyvm.Error
	switch {
	case errors.Is(cause, context.DeadlineExceeded):
		return stacyvm.Wrap(stacyvm.CodeUnavailable, cause, fmt.Sprintf("the sandbox did not start within %s", stacyvm.CreateWithin))
	case errors.As(cause, &known):
		return known
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, cause, "the sandbox could not be started")
}
