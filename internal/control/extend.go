package control

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// Extend sets a sandbox's expiry to now plus ttl, by the database's clock; it may be earlier than before. CodeInvalid: ttl
// is not positive; CodeLimit: over the maximum; CodeNotFound; CodeConflict: it has expired, or is being destroyed.
func (s *Service) Extend(ctx context.Context, id stacyvm.SandboxID, ttl time.Duration) (stacyvm.Sandbox, error) {
	sandbox, err := s.extend(ctx, id, ttl)
	if err != nil {
		return stacyvm.Sandbox{}, s.audited(ctx, "sandbox.extend", stacyvm.Sandbox{ID: id}, ttl.String(), err)
	}
	return sandbox, nil
}

func (s *Service) extend(ctx context.Context, id stacyvm.SandboxID, ttl time.Duration) (extended stacyvm.Sandbox, err error) {
	if err := authorise(ctx, scopeSandbox); err != nil {
		return extended, err
	}
	if err := checkTTL(ttl); err != nil {
		return extended, err
	}
	if limit := s.defaults.MaxTTL; limit > 0 && ttl > limit {
		return extended, overTTL(limit)
	}
	defer s.rows.drop(id)
	err = s.store.Update(ctx, func(tx store.Tx) error {
		sandbox, err := visible(ctx, tx, id)
		if err != nil {
			return err
		}
		now, err := tx.Now(ctx)
		switch {
		case err != nil:
			return err
		case sandbox.State == stacyvm.StateExpired || sandbox.State != stacyvm.StateCreating && !now.Before(sandbox.ExpiresAt):
			return stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %s has expired", id)
		case sandbox.Desired == stacyvm.DesiredDestroyed:
			return stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %s is being destroyed", id)
		}
		if extended, err = tx.Sandboxes().Want(ctx, id, store.Wish{TTL: ttl}); err != nil {
			return err
		}
		return auditIn(ctx, tx, operation(ctx, "sandbox.extend", extended, ttl.String(), nil))
	})
	return extended, err
}
