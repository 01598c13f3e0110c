// Package auth knows who is calling and what they may do: principals, scopes and API keys. It
// knows no transport.
package auth

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

type principalKey struct{}

// With puts the authenticated principal into the context.
func With(ctx context.Context, principal stacyvm.Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, principal)
}

// From gives the context's principal; the zero principal may do nothing.
func From(ctx context.Context) stacyvm.Principal {
	principal, _ := ctx.Value(principalKey{}).(stacyvm.Principal)
	return principal
}
