package control

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// Sandbox gives one sandbox. CodeNotFound: absent, destroyed, or of another tenant.
func (s *Service) Sandbox(ctx context.Context, id stacyvm.SandboxID) (sandbox stacyvm.Sandbox, err error) {
	if err := authorise(ctx, scopeRead); err != nil {
		return sandbox, err
	}
	err = s.store.View(ctx, func(tx store.Tx) error {
		sandbox, err = visible(ctx, tx, id)
		return err
	})
	return sandbox, err
}

// Sandboxes gives the sandboxes that the caller may see, newest first, without destroyed ones.
func (s *Service) Sandboxes(ctx context.Context) (sandboxes []stacyvm.Sandbox, err error) {
	if err := authorise(ctx, scopeRead); err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx store.Tx) error {
		sandboxes, err = tx.Sandboxes().List(ctx, store.SandboxFilter{Tenant: auth.From(ctx).Tenant})
		return err
	})
	return sandboxes, err
}
