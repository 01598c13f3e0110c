package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// view runs read in a read-only transaction of its own; limit bounds each statement.
func view(ctx context.Context, db *sql.DB, d *dialect, c *clock, limit time.Duration, read func(Tx) error) error {
	if err := interrupted(ctx); err != nil {
		return err
	}
	on, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return blame(ctx, d, err)
	}
	t := &tx{on: on, dialect: d, clock: c, limit: limit}
	defer func() {
		t.ended.Store(true)
		_ = on.Rollback()
	}()
	if err := read(t); err != nil {
		if cut := interrupted(ctx); cut != nil && t.broken != nil {
			return cut // the statement failed because its caller left
		}
		return err
	}
	return t.broken
}

// blame translates an error, or names the context when that was the cause.
func blame(ctx context.Context, d *dialect, err error) error {
	if cut := interrupted(ctx); cut != nil {
		return cut
	}
	return d.translate(err)
}

// identify gives a new database its identity; a known one keeps it.
func identify(x Tx) error {
	t, ctx := x.(*tx), context.Background()
	now, err := t.nowUS(ctx)
	if err != nil {
		return err
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	_, err = t.exec(ctx, `INSERT INTO cluster (one, id, incarnation, created_us) VALUES (1, $1, 1, $2) ON CONFLICT (one) DO NOTHING`,
		hex.EncodeToString(id[:]), now)
	return err
}

func identity(ctx context.Context, t *tx) (Cluster, error) {
	cluster, ok, err := one(ctx, t, func(row scanner) (c Cluster, err error) {
		err = row.Scan(&c.ID, &c.Incarnation)
		return c, err
	}, `SELECT id, incarnation FROM cluster WHERE one = 1`)
	if err == nil && !ok {
		return cluster, stacyvm.Errorf(stacyvm.CodeInternal, "the database has no identity")
	}
	return cluster, err
}
