package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/migrations"
)

// Leases decide who should act; see docs/adr on leases.
type Leases interface {
	// Acquire takes a free or expired lease, or takes it again for the same holder, and raises the
	// epoch. For a sandbox lease it also raises the row's fence and worker. CodeConflict: held by
	// another, or the sandbox is gone; nothing is changed then.
	Acquire(ctx context.Context, request LeaseRequest) (stacyvm.Lease, error)
	// Renew extends all of these that are still held by holder and session, in one statement, and
	// returns them.
	Renew(
		ctx context.Context,
		holder stacyvm.WorkerID,
		session string,
		held []Held,
		ttl time.Duration,
	) ([]stacyvm.Lease, error)
	// Release lets go; the row and its epoch stay. CodeNotFound: not the holder.
	Release(ctx context.Context, resource string, holder stacyvm.WorkerID, epoch int64) error
	// ReleaseHeld is Release for one that may not be the holder any more: then nothing is changed.
	ReleaseHeld(ctx context.Context, resource string, holder stacyvm.WorkerID, epoch int64) error
	// Get finds a lease, free ones too.
	Get(ctx context.Context, resource string) (stacyvm.Lease, error)
	// List gives the leases of one holder, or all with an empty holder, by resource.
	List(ctx context.Context, holder stacyvm.WorkerID, page Page) ([]stacyvm.Lease, error)
	// Lapsed counts the sandboxes' leases that have run out and are neither free nor taken over,
	// by holder.
	Lapsed(ctx context.Context) (map[stacyvm.WorkerID]int, error)
}

// LeaseRequest asks for a lease.
type LeaseRequest struct {
	Resource  string
	Type      string
	Holder    stacyvm.WorkerID
	Session   string
	TTL       time.Duration
	Grace     time.Duration // how long past its expiry another's lease is left alone
	Successor bool          // the session is the registered successor of the same worker's earlier one
}

// Held names a lease by its epoch.
type Held struct {
	Resource string
	Epoch    int64
}

// leases implements Leases.
type leases struct{ tx }

const leaseColumns = `resource_id, resource_type, holder_id, holder_session, epoch, generation, expires_us`

// typeSandbox is the type of leases that move a sandbox's fence.
const typeSandbox = "sandbox"

// never is an expiry that no lease has: a takeover that asks for it finds nothing.
const never = int64(-1 << 62)

func readLease(row sqldb.Scanner) (l stacyvm.Lease, err error) {
	var holder, session sql.NullString
	var expires int64
	err = row.Scan(&l.Resource, &l.Type, &holder, &session, &l.Epoch, &l.Generation, &expires)
	l.Holder, l.Session, l.ExpiresAt = stacyvm.WorkerID(holder.String), session.String, fromUS(expires)
	return l, err
}

// Acquire implements Leases. A sandbox's lease needs its row, so that it is never raised without
// its fence.
func (t leases) Acquire(ctx context.Context, r LeaseRequest) (stacyvm.Lease, error) {
	if r.Resource == "" || r.Holder == "" || r.TTL <= 0 {
		return stacyvm.Lease{}, stacyvm.Errorf(
			stacyvm.CodeConflict,
			"a lease needs a resource, a holder and a time to live",
		)
	}
	now, err := t.NowUS(ctx)
	if err != nil {
		return stacyvm.Lease{}, err
	}
	lease, ok, err := t.take(ctx, r, now)
	if err != nil {
		return lease, err
	}
	if !ok && r.Type == typeSandbox {
		return lease, stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %.64q is leased by another, or gone", r.Resource)
	}
	if !ok {
		return lease, stacyvm.Errorf(stacyvm.CodeConflict, "%.64q is leased by another", r.Resource)
	}
	if r.Type == typeSandbox {
		err = t.raise(ctx, lease, now)
	}
	return lease, err
}

// take is the conditional upsert that decides who holds a lease. That of a sandbox needs the
// sandbox's row, which stays as it is until the end.
func (t leases) take(ctx context.Context, r LeaseRequest, now int64) (stacyvm.Lease, bool, error) {
	lapsed := now - r.Grace.Microseconds()
	if !t.MayTakeOver() {
		lapsed = never
	}
	from := `WHERE 1 = 1`
	if r.Type == typeSandbox {
		from = `FROM sandboxes WHERE id = $1 AND ` + migrations.ActiveSandbox + t.RowLock()
	}
	return sqldb.One(ctx, t.Tx, readLease, `
		INSERT INTO leases AS l (`+leaseColumns+`)
		SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), 1, 1, CAST($5 AS BIGINT) `+from+`
		ON CONFLICT (resource_id) DO UPDATE SET resource_type = excluded.resource_type, holder_id = excluded.holder_id,
			holder_session = excluded.holder_session, epoch = l.epoch + 1, generation = l.generation + 1, expires_us = excluded.expires_us
		WHERE l.holder_id IS NULL OR l.expires_us <= $6 OR (l.holder_id = excluded.holder_id AND (l.holder_session = excluded.holder_session OR $7))
		RETURNING `+leaseColumns,
		r.Resource, r.Type, string(r.Holder), r.Session, now+r.TTL.Microseconds(), lapsed, r.Successor)
}

// raise gives the sandbox to the new holder: from now on only writes with the new epoch count.
func (t leases) raise(ctx context.Context, l stacyvm.Lease, now int64) error {
	changed, err := t.Exec(
		ctx,
		`UPDATE sandboxes SET fence = $2, worker_id = $3, updated_us = $4 WHERE id = $1 AND fence < $2`,
		l.Resource,
		l.Epoch,
		string(l.Holder),
		now,
	)
	if err != nil {
		return err
	}
	t.Touched.Add(sqldb.Touched{IDs: []string{l.Resource}})
	if changed == 0 {
		// The row has seen a higher epoch than the lease table: one of them is from another time.
		return t.Abort(stacyvm.Errorf(stacyvm.CodeInternal, "the lease of sandbox %s is behind its fence", l.Resource))
	}
	return nil
}

// Renew implements Leases.
func (t leases) Renew(
	ctx context.Context,
	holder stacyvm.WorkerID,
	session string,
	held []Held,
	ttl time.Duration,
) ([]stacyvm.Lease, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return nil, err
	}
	if len(held) == 0 {
		return nil, nil
	}
	terms := make(map[string]int64, len(held))
	for _, h := range held {
		terms[h.Resource] = max(terms[h.Resource], h.Epoch)
	}
	// The CASE keeps planners from starting at the holder's leases: they would look through all
	// that is held for each.
	return sqldb.All(ctx, t.Tx, readLease, `
		WITH held (resource, term) AS MATERIALIZED (SELECT key, CAST(value AS BIGINT) FROM `+t.Dialect.Members("$5")+`)
		UPDATE leases SET expires_us = $4, generation = generation + 1 FROM held
		WHERE resource_id = held.resource AND held.term = CASE WHEN holder_id = $1 AND holder_session = $2 AND expires_us > $3 THEN epoch END
		RETURNING `+leaseColumns,
		string(holder), session, now, now+ttl.Microseconds(), packed(terms))
}

const release = `
	UPDATE leases SET holder_id = NULL, holder_session = NULL, generation = generation + 1, expires_us = $4
	WHERE resource_id = $1 AND holder_id = $2 AND epoch = $3`

// ReleaseHeld implements Leases.
func (t leases) ReleaseHeld(ctx context.Context, resource string, holder stacyvm.WorkerID, epoch int64) error {
	now, err := t.NowUS(ctx)
	if err != nil {
		return err
	}
	return t.Later(ctx, release, resource, string(holder), epoch, now)
}

// Release implements Leases.
func (t leases) Release(ctx context.Context, resource string, holder stacyvm.WorkerID, epoch int64) error {
	now, err := t.NowUS(ctx)
	if err != nil {
		return err
	}
	changed, err := t.Exec(ctx, release, resource, string(holder), epoch, now)
	if err == nil && changed == 0 {
		return stacyvm.Errorf(stacyvm.CodeNotFound, "%.64q is not leased under this epoch", resource)
	}
	return err
}

// Get implements Leases.
func (t leases) Get(ctx context.Context, resource string) (stacyvm.Lease, error) {
	lease, ok, err := sqldb.One(
		ctx,
		t.Tx,
		readLease,
		`SELECT `+leaseColumns+` FROM leases WHERE resource_id = $1`+t.RowLock(),
		resource,
	)
	if err == nil && !ok {
		return lease, stacyvm.Errorf(stacyvm.CodeNotFound, "%.64q was never leased", resource)
	}
	return lease, err
}

// List implements Leases.
func (t leases) List(ctx context.Context, holder stacyvm.WorkerID, page Page) ([]stacyvm.Lease, error) {
	var c clause
	if holder != "" {
		c.add(`holder_id = %s`, string(holder))
	}
	text := `SELECT ` + leaseColumns + ` FROM leases` + c.byKey("resource_id", page)
	return sqldb.All(ctx, t.Tx, readLease, text, c.args...)
}

// Lapsed implements Leases.
func (t leases) Lapsed(ctx context.Context) (map[stacyvm.WorkerID]int, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return nil, err
	}
	lapsed := map[stacyvm.WorkerID]int{}
	_, err = sqldb.All(ctx, t.Tx, func(row sqldb.Scanner) (n int, err error) {
		var holder stacyvm.WorkerID
		err = row.Scan(&holder, &n)
		lapsed[holder] = n
		return n, err
	}, `SELECT holder_id, count(*) FROM leases WHERE resource_type = $1 AND holder_id IS NOT NULL AND expires_us <= $2
		GROUP BY holder_id`, typeSandbox, now)
	return lapsed, err
}
