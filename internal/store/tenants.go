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

// tenants implements Tenants, members Members.
type (
	tenants struct{ tx }
	members struct{ tx }
)

const (
	tenantColumns = `id, name, owner_id, settings, created_us, updated_us`
	aTenant       = "tenant %.64q"

	memberColumns = `tenant_id, user_id, role, created_us, updated_us`
	aMember       = "member %.64q"
)

func readTenant(row sqldb.Scanner) (n stacyvm.Tenant, err error) {
	var settings string
	var created, updated int64
	err = row.Scan(&n.ID, &n.Name, &n.OwnerID, &settings, &created, &updated)
	n.Settings, n.CreatedAt, n.UpdatedAt = opaque(settings), fromUS(created), fromUS(updated)
	return n, err
}

func readMember(row sqldb.Scanner) (m stacyvm.Member, err error) {
	var created, updated int64
	err = row.Scan(&m.TenantID, &m.UserID, &m.Role, &created, &updated)
	m.CreatedAt, m.UpdatedAt = fromUS(created), fromUS(updated)
	return m, err
}

// Create implements Tenants.
func (t tenants) Create(ctx context.Context, n stacyvm.Tenant) (stacyvm.Tenant, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return n, err
	}
	return created(ctx, t.tx, readTenant, aTenant, n.ID, `INSERT INTO tenants (`+tenantColumns+`) VALUES ($1, $2, $3, $4, $5, $5)
		ON CONFLICT DO NOTHING RETURNING `+tenantColumns, n.ID, n.Name, n.OwnerID, string(n.Settings), now)
}

// Update implements Tenants.
func (t tenants) Update(ctx context.Context, n stacyvm.Tenant) (stacyvm.Tenant, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return n, err
	}
	return changed(ctx, t.tx, readTenant, aTenant, n.ID, `UPDATE tenants SET name = $2, owner_id = $3, settings = $4, updated_us = $5
		WHERE id = $1 RETURNING `+tenantColumns, n.ID, n.Name, n.OwnerID, string(n.Settings), now)
}

// Get implements Tenants.
func (t tenants) Get(ctx context.Context, id string) (stacyvm.Tenant, error) {
	return found(ctx, t.tx, readTenant, aTenant, id, `SELECT `+tenantColumns+` FROM tenants WHERE id = $1`)
}

// List implements Tenants.
func (t tenants) List(ctx context.Context, page Page) ([]stacyvm.Tenant, error) {
	var c clause
	text := `SELECT ` + tenantColumns + ` FROM tenants` + c.byKey("id", page)
	return sqldb.All(ctx, t.Tx, readTenant, text, c.args...)
}

// Delete implements Tenants.
func (t tenants) Delete(ctx context.Context, id string) error {
	if err := t.remove(ctx, aTenant, id, `DELETE FROM tenants WHERE id = $1`); err != nil {
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
	if _, err := found(ctx, t.tx, sqldb.ScanInt, aTenant, m.TenantID, `SELECT 1 FROM tenants WHERE id = $1`+t.RowLock()); err != nil {
		return m, err
	}
	saved, _, err := sqldb.One(ctx, t.Tx, readMember, `INSERT INTO tenant_members (`+memberColumns+`) VALUES ($1, $2, $3, $4, $4)
		ON CONFLICT (tenant_id, user_id) DO UPDATE SET role = excluded.role, updated_us = excluded.updated_us
		RETURNING `+memberColumns, m.TenantID, m.UserID, m.Role, now)
	return saved, err
}

// Get implements Members.
func (t members) Get(ctx context.Context, tenant, user string) (stacyvm.Member, error) {
	return changed(ctx, t.tx, readMember, aMember, user,
		`SELECT `+memberColumns+` FROM tenant_members WHERE tenant_id = $1 AND user_id = $2`, tenant, user)
}

// List implements Members.
func (t members) List(ctx context.Context, tenant string, page Page) ([]stacyvm.Member, error) {
	var c clause
	c.add(`tenant_id = %s`, tenant)
	text := `SELECT ` + memberColumns + ` FROM tenant_members` + c.byKey("user_id", page)
	return sqldb.All(ctx, t.Tx, readMember, text, c.args...)
}

// Delete implements Members.
func (t members) Delete(ctx context.Context, tenant, user string) error {
	n, err := t.Exec(ctx, `DELETE FROM tenant_members WHERE tenant_id = $1 AND user_id = $2`, tenant, user)
	if err == nil && n == 0 {
		return missing(aMember, user)
	}
	return err
}
