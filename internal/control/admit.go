package control

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Admit tells whether a create would be let in now. CodeInvalid, CodeNotFound and CodeUnsupported
// as for Create.
func (s *Service) Admit(ctx context.Context, request CreateRequest) (stacyvm.Admission, error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeReadSandboxes); err != nil {
		return stacyvm.Admission{}, err
	}
	draft, err := s.plan(caller, request)
	if err != nil {
		return stacyvm.Admission{}, err
	}
	return s.placement.Admit(ctx, draft)
}
