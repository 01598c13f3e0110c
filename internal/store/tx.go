package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// backend is a database with transactions that know no tables.
type backend interface {
	View(ctx context.Context, read func(*sqldb.Tx) error) error
	Update(ctx context.Context, write func(*sqldb.Tx) error) error
	Cluster(ctx context.Context) (Cluster, error)
	Watch(ctx context.Context) <-chan struct{}
	Ping(ctx context.Context) error
	Close() error
}

// database implements Store: a backend and the tables.
type database struct{ backend }

// View implements Store.
func (d database) View(ctx context.Context, read func(Tx) error) error {
	return d.backend.View(ctx, func(t *sqldb.Tx) error { return read(tx{t}) })
}

// Update implements Store.
func (d database) Update(ctx context.Context, write func(Tx) error) error {
	return d.backend.Update(ctx, func(t *sqldb.Tx) error { return write(tx{t}) })
}

// tx implements Tx.
type tx struct{ *sqldb.Tx }

func (t tx) Sandboxes() Sandboxes             { return sandboxes{t} }
func (t tx) Leases() Leases                   { return leases{t} }
func (t tx) Workers() Workers                 { return workers{workerTable.in(t)} }
func (t tx) Audit() Audit                     { return audit{t} }
func (t tx) Idempotency() Idempotency         { return idempotency{t} }
func (t tx) AdminAudit() AdminAudit           { return adminAudit{t} }
func (t tx) Quotas() Quotas                   { return quotas{quotaTable.in(t)} }
func (t tx) ProviderConfigs() ProviderConfigs { return providerConfigs{providerTable.in(t)} }
func (t tx) Templates() Templates             { return templates{templateTable.in(t)} }
func (t tx) Environments() Environments       { return environments{environmentTable.in(t)} }
func (t tx) Builds() Builds                   { return builds{buildTable.in(t)} }
func (t tx) Connections() Connections         { return connections{connectionTable.in(t)} }
func (t tx) Tenants() Tenants                 { return tenants{tenantTable.in(t)} }
func (t tx) Members() Members                 { return members{memberTable.in(t)} }
func (t tx) Policies() Policies               { return policies{policyTable.in(t)} }
func (t tx) JoinTokens() JoinTokens           { return joinTokens{joinTokenTable.in(t)} }
func (t tx) Events() Events                   { return events{t} }
