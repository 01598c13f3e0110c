package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Tenants are groups of users.
type Tenants interface {
	// Create writes a new one. CodeConflict: the id is taken.
	Create(ctx context.Context, tenant stacyvm.Tenant) (stacyvm.Tenant, error)
	// Update replaces name, owner and settings. CodeNotFound.
	Update(ctx context.Context, tenant stacyvm.Tenant) (stacyvm.Tenant, error)
	// Get finds one. CodeNotFound.
	Get(ctx context.Context, id string) (stacyvm.Tenant, error)
	// List gives all, by id.
	List(ctx context.Context, page Page) ([]stacyvm.Tenant, error)
	// Delete forgets one with its members and policies; its sandboxes stay. CodeNotFound.
	Delete(ctx context.Context, id string) error
}

// Members are users' places in tenants.
type Members interface {
	// Save writes a user's place, new or not. CodeNotFound: no such tenant.
	Save(ctx context.Context, member stacyvm.Member) (stacyvm.Member, error)
	// Get finds a user's place. CodeNotFound.
	Get(ctx context.Context, tenant, user string) (stacyvm.Member, error)
	// List gives a tenant's members, by user.
	List(ctx context.Context, tenant string, page Page) ([]stacyvm.Member, error)
	// Delete ends a user's place. CodeNotFound.
	Delete(ctx context.Context, tenant, user string) error
}

// Policies permit or forbid what sandboxes may be made of.
type Policies interface {
	// Create writes a new one. CodeConflict: the id is taken.
	Create(ctx context.Context, policy stacyvm.Policy) (stacyvm.Policy, error)
	// Get finds one. CodeNotFound.
	Get(ctx context.Context, id stacyvm.PolicyID) (stacyvm.Policy, error)
	// List gives a tenant's policies and the global ones, newest first; without a tenant only the
	// global ones. The order in which they are asked is the caller's to make.
	List(ctx context.Context, tenant string, page Page) ([]stacyvm.Policy, error)
	// Delete forgets one. CodeNotFound.
	Delete(ctx context.Context, id stacyvm.PolicyID) error
}

// tenants implements Tenants, members Members, policies Policies.
type (
	tenants  struct{ keyed[stacyvm.Tenant, string] }
	members  struct{ keyed[stacyvm.Member, string] }
	policies struct {
		keyed[stacyvm.Policy, stacyvm.PolicyID]
	}
)

var tenantTable = table[stacyvm.Tenant, string]{
	name: "tenants", entity: "tenant %.64q", key: "id",
	columns: `id, name, owner_id, settings, created_us, updated_us`,
	read: func(row sqldb.Scanner) (n stacyvm.Tenant, err error) {
		var settings string
		var created, updated int64
		err = row.Scan(&n.ID, &n.Name, &n.OwnerID, &settings, &created, &updated)
		n.Settings, n.CreatedAt, n.UpdatedAt = opaque(settings), fromUS(created), fromUS(updated)
		return n, err
	},
}

var memberTable = table[stacyvm.Member, string]{
	name: "tenant_members", entity: "member %.64q", key: "tenant_id, user_id",
	columns: `tenant_id, user_id, role, created_us, updated_us`,
	read: func(row sqldb.Scanner) (m stacyvm.Member, err error) {
		var created, updated int64
		err = row.Scan(&m.TenantID, &m.UserID, &m.Role, &created, &updated)
		m.CreatedAt, m.UpdatedAt = fromUS(created), fromUS(updated)
		return m, err
	},
}

var policyTable = table[stacyvm.Policy, stacyvm.PolicyID]{
	name: "policies", entity: "policy %.64q", key: "id",
	columns: `id, tenant_id, resource_type, effect, pattern, priority, created_us, updated_us`,
	read: func(row sqldb.Scanner) (p stacyvm.Policy, err error) {
		var created, updated int64
		err = row.Scan(&p.ID, &p.TenantID, &p.ResourceType, &p.Effect, &p.Pattern, &p.Priority, &created, &updated)
		p.CreatedAt, p.UpdatedAt = fromUS(created), fromUS(updated)
		return p, err
	},
}

// Create implements Tenants.
func (t tenants) Create(ctx context.Context, n stacyvm.Tenant) (stacyvm.Tenant, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return n, err
	}
	return t.insert(ctx, n.ID, n.ID, n.Name, n.OwnerID, string(n.Settings), now, now)
}

// Update implements Tenants.
func (t tenants) Update(ctx context.Context, n stacyvm.Tenant) (stacyvm.Tenant, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return n, err
	}
	return t.update(
		ctx,
		n.ID,
		`name = $2, owner_id = $3, settings = $4, updated_us = $5`,
		n.Name,
		n.OwnerID,
		string(n.Settings),
		now,
	)
}

// Delete implements Tenants.
func (t tenants) Delete(ctx context.Context, id string) error {
	if err := t.keyed.Delete(ctx, id); err != nil {
		return err
	}
	_, err := t.Exec(ctx, `DELETE FROM policies WHERE tenant_id = $1`, id)
	return err
}

// Save implements Members.
func (t members) Save(ctx context.Context, m stacyvm.Member) (stacyvm.Member, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return m, err
	}
	if err := tenantTable.in(t.tx).lock(ctx, m.TenantID); err != nil {
		return m, err
	}
	return t.save(ctx, m.TenantID, m.UserID, m.Role, now, now)
}

// Get implements Members.
func (t members) Get(ctx context.Context, tenant, user string) (stacyvm.Member, error) {
	return t.one(
		ctx,
		user,
		`SELECT `+memberTable.columns+` FROM tenant_members WHERE tenant_id = $1 AND user_id = $2`,
		tenant,
		user,
	)
}

// List implements Members.
func (t members) List(ctx context.Context, tenant string, page Page) ([]stacyvm.Member, error) {
	var c clause
	c.add(`tenant_id = %s`, tenant)
	return t.all(ctx, &c, c.byKey("user_id", page))
}

// Delete implements Members.
func (t members) Delete(ctx context.Context, tenant, user string) error {
	n, err := t.Exec(ctx, `DELETE FROM tenant_members WHERE tenant_id = $1 AND user_id = $2`, tenant, user)
	if err == nil && n == 0 {
		return t.missing(user)
	}
	return err
}

// Create implements Policies.
func (t policies) Create(ctx context.Context, p stacyvm.Policy) (stacyvm.Policy, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return p, err
	}
	return t.insert(
		ctx,
		string(p.ID),
		string(p.ID),
		p.TenantID,
		p.ResourceType,
		p.Effect,
		p.Pattern,
		int64(p.Priority),
		now,
		now,
	)
}

// List implements Policies.
func (t policies) List(ctx context.Context, tenant string, page Page) ([]stacyvm.Policy, error) {
	var c clause
	c.add(`tenant_id IN ('', %s)`, tenant)
	return t.all(ctx, &c, c.newest(page))
}
