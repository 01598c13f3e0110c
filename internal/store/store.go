// Package store keeps rows: sandboxes, leases, workers, audits, exec log and idempotency keys. It
// knows SQL and the vocabulary; it makes no decisions. Statements are written once for both
// dialects. Time comes from the database only.
//
// Errors: CodeNotFound, CodeConflict (a name or key is taken), CodeStaleEpoch (a fenced write
// changed nothing), CodeStorageFull, CodeUnavailable (also for a context that ended),
// CodeInternal. No message holds SQL or a path.
package store

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Store is the database. All methods may be called concurrently.
type Store interface {
	// View runs read with a consistent view.
	View(ctx context.Context, read func(Tx) error) error
	// Sandboxes reads sandboxes without a transaction: each call is one statement with a view of
	// its own, and one message to a database that is a server. It sees every Update that returned
	// nil before it. Nobody may change what its rows point to: other calls share it.
	Sandboxes() SandboxReader
	// Update runs write in one transaction: all or nothing, durable when it returns nil. write may
	// run more than once (a busy database), so it must have no effect outside the transaction. An
	// error from write rolls back, and so does a context that ends before write returned. Write
	// must not call Update itself: writers may take turns.
	//
	// A sandbox, lease or key that is read by its name stays as it was read until the end, and a
	// Count or Sum too; another list may be out of date before the end. CodeUnavailable may mean
	// that a commit got no answer: whether it took place is then not known.
	Update(ctx context.Context, write func(Tx) error) error
	// Cluster gives this database's identity.
	Cluster(ctx context.Context) (Cluster, error)
	// Watch tells of commits that may hold new events: the channel gets a value soon after each,
	// whichever process made it, and now and then without a cause. At most one value waits in it.
	// It is never closed; it falls silent when ctx ends.
	Watch(ctx context.Context) <-chan struct{}
	// Ping checks that the database answers.
	Ping(ctx context.Context) error
	// Close ends all connections.
	Close() error
}

// Cluster is the identity of a database.
type Cluster = sqldb.Cluster

// Tx is one transaction's view of the tables. It is not safe for concurrent use and ends with the
// callback.
type Tx interface {
	// Now is the database's clock, the same within a transaction.
	Now(ctx context.Context) (time.Time, error)
	// Cluster is the database's identity, as Store.Cluster gives it.
	Cluster(ctx context.Context) (Cluster, error)
	Sandboxes() Sandboxes
	Leases() Leases
	Workers() Workers
	Audit() Audit
	Idempotency() Idempotency
	AdminAudit() AdminAudit
	Quotas() Quotas
	ProviderConfigs() ProviderConfigs
	Templates() Templates
	Environments() Environments
	Builds() Builds
	Connections() Connections
	Tenants() Tenants
	Members() Members
	Policies() Policies
	JoinTokens() JoinTokens
	Events() Events
}

// backend is a database with transactions that know no tables.
type backend interface {
	View(ctx context.Context, read func(*sqldb.Tx) error) error
	// Read is View for read's only statement.
	Read(ctx context.Context, read func(*sqldb.Tx) error) error
	Update(ctx context.Context, write func(*sqldb.Tx) error) error
	Cluster(ctx context.Context) (Cluster, error)
	Watch(ctx context.Context) <-chan struct{}
	Ping(ctx context.Context) error
	Close() error
}

// database implements Store: a backend and the tables.
type database struct {
	backend
	cache *rowCache
}

// View implements Store.
func (d database) View(ctx context.Context, read func(Tx) error) error {
	return d.backend.View(ctx, func(t *sqldb.Tx) error { return read(tx{t}) })
}

// Close implements Store.
func (d database) Close() error {
	d.cache.close()
	return d.backend.Close()
}

// Sandboxes implements Store.
func (d database) Sandboxes() SandboxReader { return sandboxReader(d) }

// Update implements Store.
func (d database) Update(ctx context.Context, write func(Tx) error) error {
	return d.backend.Update(ctx, func(t *sqldb.Tx) error { return write(tx{t}) })
}

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
