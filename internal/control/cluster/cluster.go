// Package cluster answers what worker processes ask of a control plane, and what administrators
// ask about workers: registration and heartbeats, leases, joining, and forgetting a worker. It
// knows the store and who is calling; it calls no worker and knows none of the product's verbs.
package cluster

import (
	"log/slog"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// Config is what a Registry is made from.
type Config struct {
	Store store.Store
	Self  stacyvm.WorkerID // the worker in this process
	// Authority signs workers' certificates; nil: another control plane's does.
	Authority Authority
	// Issuer signs workers' tokens; nil: there is no key for that.
	Issuer *auth.WorkerIssuer
	Audit  *audit.Writer
	// Changed is called for each sandbox whose row was changed here, so that nobody goes on with
	// an older one.
	Changed func(stacyvm.SandboxID)
	Logger  *slog.Logger
}

// Registry is the workers of the cluster. All methods may be called concurrently.
type Registry struct {
	store     store.Store
	self      stacyvm.WorkerID
	authority Authority
	issuer    *auth.WorkerIssuer
	audit     *audit.Writer
	changed   func(stacyvm.SandboxID)
	log       *slog.Logger
}

// NewRegistry makes a registry.
func NewRegistry(c Config) *Registry {
	return &Registry{c.Store, c.Self, c.Authority, c.Issuer, c.Audit, c.Changed, c.Logger}
}
