package control

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/audit"
)

// Events subscribes to what happens after a place: see audit.Subscribe. A caller with a tenant is told of its own things only.
func (s *Service) Events(ctx context.Context, after int64) (*audit.Subscription, error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeReadEvents); err != nil {
		return nil, err
	}
	return audit.Subscribe(ctx, s.store, caller.Tenant, after)
}
