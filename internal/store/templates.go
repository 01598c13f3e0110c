package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Templates are named recipes.
type Templates interface {
	// Create writes a new one. CodeConflict: the name is taken.
	Create(ctx context.Context, template stacyvm.Template) (stacyvm.Template, error)
	// Update replaces all but the name and the time of creation. CodeNotFound.
	Update(ctx context.Context, template stacyvm.Template) (stacyvm.Template, error)
	// Get finds one. CodeNotFound.
	Get(ctx context.Context, name string) (stacyvm.Template, error)
	// List gives all, by name.
	List(ctx context.Context, page Page) ([]stacyvm.Template, error)
	// Delete forgets one. CodeNotFound.
	Delete(ctx context.Context, name string) error
}

// templates implements Templates.
type templates struct {
	keyed[stacyvm.Template, string]
}

var templateTable = table[stacyvm.Template, string]{
	name: "templates", entity: "template %.64q", key: "name",
	columns: `name, version, image, provider, description, setup, allowed_hosts, memory_mb, vcpus, ttl_us,
		env, secrets, metadata, pool_size, created_us, updated_us`,
	read: readTemplate,
}

func readTemplate(row sqldb.Scanner) (m stacyvm.Template, err error) {
	var setup, hosts, env, secrets, metadata string
	var ttl, created, updated int64
	err = row.Scan(
		&m.Name,
		&m.Version,
		&m.Image,
		&m.Provider,
		&m.Description,
		&setup,
		&hosts,
		&m.MemoryMB,
		&m.VCPUs,
		&ttl,
		&env,
		&secrets,
		&metadata,
		&m.PoolSize,
		&created,
		&updated,
	)
	if err != nil {
		return m, err
	}
	m.TTL, m.CreatedAt, m.UpdatedAt = fromMicros(ttl), fromUS(created), fromUS(updated)
	return m, unpack(
		&setup,
		&m.Setup,
		&hosts,
		&m.AllowedHosts,
		&env,
		&m.Env,
		&secrets,
		&m.Secrets,
		&metadata,
		&m.Metadata,
	)
}

// templateValues are the columns between the name and the times.
func templateValues(m stacyvm.Template) []any {
	return []any{
		int64(
			m.Version,
		),
		m.Image,
		m.Provider,
		m.Description,
		packed(m.Setup),
		packed(m.AllowedHosts),
		int64(m.MemoryMB),
		int64(m.VCPUs),
		m.TTL.Microseconds(),
		packed(m.Env),
		packed(m.Secrets),
		packed(m.Metadata),
		int64(m.PoolSize),
	}
}

// Create implements Templates.
func (t templates) Create(ctx context.Context, m stacyvm.Template) (stacyvm.Template, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return m, err
	}
	return t.insert(ctx, m.Name, append(append([]any{m.Name}, templateValues(m)...), now, now)...)
}

// Update implements Templates.
func (t templates) Update(ctx context.Context, m stacyvm.Template) (stacyvm.Template, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return m, err
	}
	return t.update(
		ctx,
		m.Name,
		`version = $2, image = $3, provider = $4, description = $5, setup = $6, allowed_hosts = $7,
		memory_mb = $8, vcpus = $9, ttl_us = $10, env = $11, secrets = $12, metadata = $13, pool_size = $14, updated_us = $15`,
		append(templateValues(m), now)...)
}
