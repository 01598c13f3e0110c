package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/control/placement"
	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// storeWithin bounds the store's part of a create, and undoWithin the removal of what a
	// failed one left.
	storeWithin = 15 * time.Second
	undoWithin  = 20 * time.Second
)

// Create makes a sandbox and returns when its guest answers; replayed means that the key was
// answered before. A worker starts a few at a time, the others wait in their order. A caller
// whose context ends while it waits, for room or for its turn, leaves the line. From its turn on
// a create goes on when the caller's context ends: the sandbox is then in the lists, or gone when
// it could not be made; its time counts from there too. A create that fails leaves a tombstone
// with the reason create_failed, or a sandbox in state error while leftovers are being removed.
//
// CodeInvalid names the field; CodeNotFound: no such provider, template or image; CodeLimit;
// CodeKeyReused and CodeInProgress tell of the key; CodeUnsupported, CodeStorageFull,
// CodeUnavailable as the worker says.
func (s *Service) Create(
	ctx context.Context, request CreateRequest, key Idempotency,
) (sandbox stacyvm.Sandbox, replayed bool, err error) {
	c := creation{caller: auth.From(ctx), key: key}
	draft, err := s.draft(c, request)
	if err != nil {
		return stacyvm.Sandbox{}, false, s.audit.Record(ctx, c.caller, "sandbox.spawn", stacyvm.Sandbox{},
			request.Image, err)
	}
	placed, err := s.placement.Place(ctx, placement.Request{
		Caller: c.caller,
		Draft:  draft,
		Key:    c.claimed(draft.ID),
		Claim: func(ctx context.Context, tx store.Tx) (*stacyvm.Sandbox, error) {
			return claim(ctx, tx, c, draft.ID)
		},
	})
	if err != nil {
		refused := stacyvm.Sandbox{Provider: draft.Provider, TenantID: draft.TenantID}
		return stacyvm.Sandbox{}, false, s.audit.Record(ctx, c.caller, "sandbox.spawn", refused, request.Image, err)
	}
	if placed.Earlier != nil {
		return *placed.Earlier, true, nil
	}
	c.cluster = placed.Cluster
	turn := s.placement.Enter(placed)
	c.made = sync.OnceFunc(turn.End)
	defer c.made()
	if sandbox, err = turn.Await(ctx); err != nil {
		return sandbox, false, s.undo(ctx, c, failure{sandbox: sandbox, cause: err})
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stacyvm.CreateWithin+storeWithin)
	defer cancel()
	sandbox, err = s.build(ctx, c, sandbox)
	return sandbox, false, err
}

// creation is what is the same from a create's request to its answer.
type creation struct {
	caller  stacyvm.Principal
	key     Idempotency
	cluster string
	made    func() // lets the next create start
}

// failure is how a create failed.
type failure struct {
	sandbox stacyvm.Sandbox
	cause   error
	asked   bool // the worker has heard of it
	gone    bool // nothing is left of it
	// moved: the sandbox has a newer owner, which is left the wish to destroy it, as its caller
	// never learns that it is there.
	moved bool
}

// draft checks who asks and what for, and gives the row to write.
func (s *Service) draft(c creation, request CreateRequest) (draft stacyvm.Sandbox, err error) {
	if err := c.caller.Require(auth.ScopeAPISandboxes); err != nil {
		return draft, err
	}
	if err := c.key.check(); err != nil {
		return draft, err
	}
	if err := s.full(); err != nil {
		return draft, err
	}
	return s.plan(c.caller, request)
}

// build has the worker make the runtime and confirms it.
func (s *Service) build(ctx context.Context, c creation, sandbox stacyvm.Sandbox) (stacyvm.Sandbox, error) {
	making, cancel := context.WithTimeout(ctx, stacyvm.CreateWithin)
	defer cancel()
	for try := 1; ; try++ {
		created, err := s.makeRuntime(making, c, sandbox)
		if err == nil {
			c.made() // what is left to do is the store's
			var running stacyvm.Sandbox
			if running, err = s.confirm(ctx, c, sandbox, created); stacyvm.CodeOf(err) != stacyvm.CodeStaleEpoch {
				return running, err
			}
		}
		if stacyvm.CodeOf(err) != stacyvm.CodeStaleEpoch || try == staleTries {
			return sandbox, s.undo(ctx, c, failure{sandbox: sandbox, cause: err, asked: true})
		}
		now, failed := s.read(ctx, sandbox.ID)
		switch {
		case failed == nil && now.State == stacyvm.StateRunning: // reconciliation was faster
			return s.confirm(ctx, c, now, created)
		case failed != nil || now.Fence == sandbox.Fence || now.State != stacyvm.StateCreating:
			return sandbox, s.undo(ctx, c, failure{sandbox: sandbox, cause: err, asked: true})
		}
		sandbox = now // its worker started anew meanwhile: it finds what it has made, under the new fence
	}
}

// makeRuntime has the sandbox's worker make the runtime.
func (s *Service) makeRuntime(
	ctx context.Context, c creation, sandbox stacyvm.Sandbox,
) (created worker.Created, err error) {
	w, err := s.workers(sandbox.WorkerID)
	if err != nil {
		return created, err
	}
	return w.Create(ctx, stacyvm.Ref{ID: sandbox.ID, Fence: sandbox.Fence}, worker.CreateRequest{
		Cluster: c.cluster, Spec: sandbox.Spec, OwnerID: sandbox.OwnerID, TenantID: sandbox.TenantID,
		ExpiresAt: sandbox.Expiry(),
	})
}

// confirm makes the sandbox running and stores the key's answer, together with creates that end at
// the same time if nothing stands against that. Reconciliation may have done the
// first already, under a newer fence too; a destroy may have come in between. CodeStaleEpoch: the
// sandbox has a newer fence and is not running yet.
func (s *Service) confirm(
	ctx context.Context, c creation, sandbox stacyvm.Sandbox, created worker.Created,
) (stacyvm.Sandbox, error) {
	one := &confirmation{ctx: ctx, creation: c, sandbox: sandbox, created: created}
	s.confirms.Do(one)
	if !one.done {
		return s.confirmAlone(ctx, c, sandbox, created)
	}
	s.rows.drop(sandbox.ID)
	if one.err == nil {
		s.sendMoved(ctx, sandbox, one.running)
	}
	return one.running, one.err
}

// confirmAlone is confirm in a transaction of the create's own.
func (s *Service) confirmAlone(
	ctx context.Context, c creation, sandbox stacyvm.Sandbox, created worker.Created,
) (stacyvm.Sandbox, error) {
	var running stacyvm.Sandbox
	unwanted := false
	err := s.store.Update(ctx, func(tx store.Tx) (err error) {
		unwanted = false
		running, err = tx.Sandboxes().Apply(ctx, sandbox.ID, sandbox.Fence, store.Change{
			Wanted: stacyvm.DesiredRunning, State: stacyvm.StateRunning,
			RuntimeID: created.RuntimeID, Unenforced: created.Unenforced,
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
		return finish(ctx, tx, c, running)
	})
	s.rows.drop(sandbox.ID)
	switch {
	case unwanted && err == nil:
		return sandbox, s.undo(ctx, c, failure{sandbox: sandbox, cause: placement.ErrDestroyed, asked: true})
	case err != nil:
		// The runtime is there: reconciliation finds it and finishes what could not be written.
		return sandbox, err
	}
	s.sendMoved(ctx, sandbox, running)
	return running, nil
}

// sendMoved tells the worker of a sandbox that was extended while it was being created.
func (s *Service) sendMoved(ctx context.Context, made, running stacyvm.Sandbox) {
	if running.ExpiresAt.Sub(made.Expiry()).Abs() > stacyvm.ExpiryDrift {
		s.sendExpiry(ctx, running)
	}
}

// undo removes what a failed create left, writes how it ended and gives the error for the caller.
// Reconciliation repeats what fails here.
func (s *Service) undo(ctx context.Context, c creation, f failure) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
	defer cancel()
	defer s.rows.drop(f.sandbox.ID)
	s.log.Warn("create failed", "sandbox", f.sandbox.ID, "worker", f.sandbox.WorkerID, "error", f.cause)
	var left error
	switch {
	case !f.asked:
	case silent(f.cause): // it would not hear of that either
		left = f.cause
	default:
		left = s.removeRuntime(ctx, f.sandbox)
	}
	f.gone = left == nil
	err := s.writeFailure(ctx, c, f)
	if stacyvm.CodeOf(err) == stacyvm.CodeStaleEpoch {
		f.gone, f.moved = false, true
		err = s.writeFailure(ctx, c, f)
	}
	if err != nil || left != nil {
		s.log.Warn("create is not undone yet", "sandbox", f.sandbox.ID, "runtime", left, "row", err)
	}
	return createError(f.cause)
}

// writeFailure writes how a create ended, and its events.
func (s *Service) writeFailure(ctx context.Context, c creation, f failure) error {
	told := createError(f.cause)
	why := stacyvm.Cause{Reason: stacyvm.ReasonCreateFailed, Detail: told.Message}
	id := f.sandbox.ID
	return s.store.Update(ctx, func(tx store.Tx) error {
		if err := abandon(ctx, tx, c, id); err != nil {
			return err
		}
		line := audit.Operation(c.caller, "sandbox.spawn", f.sandbox, f.sandbox.Image, f.cause)
		if err := audit.Append(ctx, tx, line); err != nil {
			return err
		}
		if f.asked {
			if err := tx.Events().Append(ctx, audit.ProviderFailed(f.sandbox, told.Code)); err != nil {
				return err
			}
		}
		if f.gone {
			_, err := lease.End(ctx, tx, f.sandbox, why)
			return err
		}
		_, err := tx.Sandboxes().Want(ctx, id, store.Wish{Desired: stacyvm.DesiredDestroyed})
		if err != nil || f.moved {
			return err
		}
		_, err = tx.Sandboxes().Apply(ctx, id, f.sandbox.Fence, store.Change{State: stacyvm.StateError, Cause: &why})
		return err
	})
}

// createError is what a caller learns of a worker's failure.
func createError(cause error) *stacyvm.Error {
	var known *stacyvm.Error
	switch {
	case errors.As(cause, &known) && known.Code == stacyvm.CodeUnavailable: // it says what took too long
		return known
	case errors.As(cause, &known) && known.Code == stacyvm.CodeTimeout: // not the caller's own
		return stacyvm.Wrap(stacyvm.CodeUnavailable, cause, known.Message)
	case errors.Is(cause, context.DeadlineExceeded):
		return stacyvm.Wrap(stacyvm.CodeUnavailable, cause,
			fmt.Sprintf("the sandbox did not start within %s", stacyvm.CreateWithin))
	case errors.As(cause, &known):
		return known
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, cause, "the sandbox could not be started")
}
