package control

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// maxAudit is how many lines an answer holds at most.
const maxAudit = 500

// AdminAuditRequest selects lines of the administrators' audit; empty fields select all.
type AdminAuditRequest struct {
	Actor  string
	Method string
	Path   string // part of the path; capitals count
	Status int
	Before int64 // lines that are older than the one with this ID; 0: from the newest on
	Limit  int   // 0: 100; more than 500 are 500
}

// AuditAdmin keeps a line of a call of an administrative route, whatever came of it. With
// audit.sync it is on disk before this returns; a line that cannot be written is for the log
// then: the call has been answered.
func (s *Service) AuditAdmin(ctx context.Context, call stacyvm.AdminCall) {
	s.audit.RecordAdmin(ctx, call)
}

// AdminAudit gives lines of the administrators' audit, newest first; to a caller of a tenant its
// tenant's. The newest lines are up to 100 ms late.
func (s *Service) AdminAudit(ctx context.Context, r AdminAuditRequest) (calls []stacyvm.AdminCall, err error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeAdminAudit); err != nil {
		return nil, err
	}
	filter := store.AdminFilter{
		Actor: r.Actor, Method: r.Method, Path: r.Path, Status: r.Status, Before: r.Before,
		Limit: min(r.Limit, maxAudit), Tenant: caller.Tenant,
	}
	err = s.store.View(ctx, func(tx store.Tx) error {
		calls, err = tx.AdminAudit().List(ctx, filter)
		return err
	})
	return calls, err
}

// Events subscribes to what happens after a place: see audit.Feed.Subscribe. A caller with a
// tenant is told of its own things only.
func (s *Service) Events(ctx context.Context, after int64) (*audit.Subscription, error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeReadEvents); err != nil {
		return nil, err
	}
	return s.events.Subscribe(ctx, caller.Tenant, after)
}
