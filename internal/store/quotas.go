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

// quotas implements Quotas.
type quotas struct{ tx }

const quotaColumns = `owner_id, max_sandboxes, max_ttl_us, max_exec_timeout_us, created_us, updated_us`

func readQuota(row sqldb.Scanner) (q stacyvm.Quota, err error) {
	var ttl, timeout, created, updated int64
	err = row.Scan(&q.OwnerID, &q.MaxSandboxes, &ttl, &timeout, &created, &updated)
	q.MaxTTL, q.MaxExecTimeout, q.CreatedAt, q.UpdatedAt = fromMicros(ttl), fromMicros(timeout), fromUS(created), fromUS(updated)
	return q, err
}

// Save implements Quotas.
func (t quotas) Save(ctx context.Context, q stacyvm.Quota) (stacyvm.Quota, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return q, err
	}
	var c clause
	values := c.list(q.OwnerID, int64(q.MaxSandboxes), q.MaxTTL.Microseconds(), q.MaxExecTimeout.Microseconds(), now, now)
	saved, _, err := sqldb.One(ctx, t.Tx, readQuota, `INSERT INTO owner_quotas (`+quotaColumns+`) VALUES `+values+`
		ON CONFLICT (owner_id) DO UPDATE SET max_sandboxes = excluded.max_sandboxes, max_ttl_us = excluded.max_ttl_us,
			max_exec_timeout_us = excluded.max_exec_timeout_us, updated_us = excluded.updated_us
		RETURNING `+quotaColumns, c.args...)
	return saved, err
}

// Get implements Quotas.
func (t quotas) Get(ctx context.Context, owner string) (stacyvm.Quota, error) {
	return found(ctx, t.tx, readQuota, "the quota of %.64q", owner, `SELECT `+quotaColumns+` FROM owner_quotas WHERE owner_id = $1`)
}

// List implements Quotas.
func (t quotas) List(ctx context.Context, page Page) ([]stacyvm.Quota, error) {
	var c clause
	text := `SELECT ` + quotaColumns + ` FROM owner_quotas` + c.byKey("owner_id", page)
	return sqldb.All(ctx, t.Tx, readQuota, text, c.args...)
}

// Delete implements Quotas.
func (t quotas) Delete(ctx context.Context, owner string) error {
	return t.remove(ctx, "the quota of %.64q", owner, `DELETE FROM owner_quotas WHERE owner_id = $1`)
}
