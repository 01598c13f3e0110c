package control

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/control/placement"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// Extend sets a sandbox's expiry to now plus ttl, by the database's clock; it may be earlier than
// before. Its worker is told before the answer, so that nothing ends it early when this process
// dies; where the worker cannot be called now, it is told later. CodeInvalid: ttl is not
// positive; CodeLimit: over the maximum; CodeNotFound; CodeConflict: it has expired, or is being
// destroyed.
func (s *Service) Extend(ctx context.Context, id stacyvm.SandboxID, ttl time.Duration) (stacyvm.Sandbox, error) {
	t := targetOf(ctx, id)
	sandbox, err := s.extend(ctx, t, ttl)
	if err != nil {
		return stacyvm.Sandbox{}, s.record(ctx, t, "sandbox.extend", ttl.String(), err)
	}
	if sandbox.State != stacyvm.StateCreating { // its worker is told at the end of the create
		s.sendExpiry(ctx, sandbox)
	}
	return sandbox, nil
}

// sendExpiry tells the sandbox's worker when it expires. When that fails, or the worker is known
// to be away, reconciliation sends it.
func (s *Service) sendExpiry(ctx context.Context, sandbox stacyvm.Sandbox) {
	if sandbox.Reason == stacyvm.ReasonWorkerStale || sandbox.Reason == stacyvm.ReasonWorkerUnreachable {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reachWithin)
	defer cancel()
	w, err := s.workers(sandbox.WorkerID)
	if err == nil {
		err = worker.Expire(ctx, w, stacyvm.Ref{ID: sandbox.ID, Fence: sandbox.Fence}, sandbox.ExpiresAt)
	}
	if err != nil && stacyvm.CodeOf(err) != stacyvm.CodeUnsupported {
		s.log.Warn("a sandbox's new expiry could not be sent to its worker yet",
			"sandbox", sandbox.ID, "worker", sandbox.WorkerID, "error", err)
	}
}

func (s *Service) extend(ctx context.Context, t target, ttl time.Duration) (extended stacyvm.Sandbox, err error) {
	if err := t.caller.Require(auth.ScopeAPISandboxes); err != nil {
		return extended, err
	}
	if err := checkTTL(ttl); err != nil {
		return extended, err
	}
	if limit := s.defaults.MaxTTL; limit > 0 && ttl > limit {
		return extended, placement.OverTTL(limit)
	}
	id := t.row.ID
	defer s.rows.drop(id)
	err = s.store.Update(ctx, func(tx store.Tx) error {
		sandbox, err := visible(ctx, tx.Sandboxes(), t.caller, id)
		if err != nil {
			return err
		}
		now, err := tx.Now(ctx)
		switch {
		case err != nil:
			return err
		case sandbox.State == stacyvm.StateExpired ||
			sandbox.State != stacyvm.StateCreating && !now.Before(sandbox.ExpiresAt):
			return stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %s has expired", id)
		case sandbox.Desired == stacyvm.DesiredDestroyed:
			return stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %s is being destroyed", id)
		}
		if extended, err = tx.Sandboxes().Want(ctx, id, store.Wish{TTL: ttl}); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Operation(t.caller, "sandbox.extend", extended, ttl.String(), nil))
	})
	return extended, err
}
