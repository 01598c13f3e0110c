package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Quotas bound owners.
type Quotas interface {
	// Save writes an owner's quota, new or not, and returns it with its times.
	Save(ctx context.Context, quota stacyvm.Quota) (stacyvm.Quota, error)
	// Get finds an owner's quota. CodeNotFound.
	Get(ctx context.Context, owner string) (stacyvm.Quota, error)
	// List gives all, by owner.
	List(ctx context.Context, page Page) ([]stacyvm.Quota, error)
	// Delete lets the server's limits hold again. CodeNotFound.
	Delete(ctx context.Context, owner string) error
}

// ProviderConfigs are what operators set for engines at run time.
type ProviderConfigs interface {
	// Save writes an engine's settings, new or not.
	Save(ctx context.Context, config stacyvm.ProviderConfig) (stacyvm.ProviderConfig, error)
	// Get finds an engine's settings. CodeNotFound.
	Get(ctx context.Context, name string) (stacyvm.ProviderConfig, error)
	// List gives all, by name.
	List(ctx context.Context, page Page) ([]stacyvm.ProviderConfig, error)
	// Delete forgets them. CodeNotFound.
	Delete(ctx context.Context, name string) error
}

// quotas implements Quotas, providerConfigs ProviderConfigs.
type (
	quotas          struct{ keyed[stacyvm.Quota, string] }
	providerConfigs struct {
		keyed[stacyvm.ProviderConfig, string]
	}
)

var quotaTable = table[stacyvm.Quota, string]{
	name: "owner_quotas", entity: "the quota of %.64q", key: "owner_id",
	columns: `owner_id, max_sandboxes, max_ttl_us, max_exec_timeout_us, created_us, updated_us`,
	read: func(row sqldb.Scanner) (q stacyvm.Quota, err error) {
		var ttl, timeout, created, updated int64
		err = row.Scan(&q.OwnerID, &q.MaxSandboxes, &ttl, &timeout, &created, &updated)
		q.MaxTTL, q.MaxExecTimeout, q.CreatedAt, q.UpdatedAt = fromMicros(
			ttl,
		), fromMicros(
			timeout,
		), fromUS(
			created,
		), fromUS(
			updated,
		)
		return q, err
	},
}

var providerTable = table[stacyvm.ProviderConfig, string]{
	name: "provider_configs", entity: "the configuration of provider %.64q", key: "name",
	columns: `name, config, enabled, updated_us`,
	read: func(row sqldb.Scanner) (p stacyvm.ProviderConfig, err error) {
		var config string
		var updated int64
		err = row.Scan(&p.Name, &config, &p.Enabled, &updated)
		p.Config, p.UpdatedAt = opaque(config), fromUS(updated)
		return p, err
	},
}

// Save implements Quotas.
func (t quotas) Save(ctx context.Context, q stacyvm.Quota) (stacyvm.Quota, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return q, err
	}
	return t.save(
		ctx,
		q.OwnerID,
		int64(q.MaxSandboxes),
		q.MaxTTL.Microseconds(),
		q.MaxExecTimeout.Microseconds(),
		now,
		now,
	)
}

// Save implements ProviderConfigs.
func (t providerConfigs) Save(ctx context.Context, p stacyvm.ProviderConfig) (stacyvm.ProviderConfig, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return p, err
	}
	return t.save(ctx, p.Name, string(p.Config), p.Enabled, now)
}
