package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Policies permit or forbid what sandboxes may be made of.
type Policies interface {
	// Create writes a new one. CodeConflict: the id is taken.
	Create(ctx context.Context, policy stacyvm.Policy) (stacyvm.Policy, error)
	// Get finds one. CodeNotFound.
	Get(ctx context.Context, id stacyvm.PolicyID) (stacyvm.Policy, error)
	// List gives a tenant's policies and the global ones, newest first; without a tenant only the global ones. The order in
	// which they are asked is the caller's to make.
	List(ctx context.Context, tenant string, page Page) ([]stacyvm.Policy, error)
	// Delete forgets one. CodeNotFound.
	Delete(ctx context.Context, id stacyvm.PolicyID) error
}

// policies implements Policies.
type policies struct{ tx }

const (
	policyColumns = `id, tenant_id, resource_type, effect, pattern, priority, created_us, updated_us`
	aPolicy       = "policy %.64q"
)

func readPolicy(row sqldb.Scanner) (p stacyvm.Policy, err error) {
	var created, updated int64
	err = row.Scan(&p.ID, &p.TenantID, &p.ResourceType, &p.Effect, &p.Pattern, &p.Priority, &created, &updated)
	p.CreatedAt, p.UpdatedAt = fromUS(created), fromUS(updated)
	return p, err
}

// Create implements Policies.
func (t policies) Create(ctx context.Context, p stacyvm.Policy) (stacyvm.Policy, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return p, err
	}
	return created(ctx, t.tx, readPolicy, aPolicy, string(p.ID), `INSERT INTO policies (`+policyColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT DO NOTHING RETURNING `+policyColumns,
		string(p.ID), p.TenantID, p.ResourceType, p.Effect, p.Pattern, int64(p.Priority), now)
}

// Get implements Policies.
func (t policies) Get(ctx context.Context, id stacyvm.PolicyID) (stacyvm.Policy, error) {
	return found(ctx, t.tx, readPolicy, aPolicy, id, `SELECT `+policyColumns+` FROM policies WHERE id = $1`)
}

// List implements Policies.
func (t policies) List(ctx context.Context, tenant string, page Page) ([]stacyvm.Policy, error) {
	var c clause
	c.add(`tenant_id IN ('', %s)`, tenant)
	text := `SELECT ` + policyColumns + ` FROM policies` + c.newest(page)
	return sqldb.All(ctx, t.Tx, readPolicy, text, c.args...)
}

// Delete implements Policies.
func (t policies) Delete(ctx context.Context, id stacyvm.PolicyID) error {
	return t.remove(ctx, aPolicy, string(id), `DELETE FROM policies WHERE id = $1`)
}
