package sqldb

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Identify gives a new database its identity; a known one keeps it.
func Identify(t *Tx) error {
	ctx := context.Background()
	now, err := t.NowUS(ctx)
	if err != nil {
		return err
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	_, err = t.Exec(
		ctx,
		`INSERT INTO cluster (one, id, incarnation, created_us) VALUES (1, $1, 1, $2) ON CONFLICT (one) DO NOTHING`,
		hex.EncodeToString(id[:]),
		now,
	)
	return err
}

// ReadCluster reads the database's identity anew. CodeInternal: it has none.
func ReadCluster(ctx context.Context, t *Tx) (Cluster, error) {
	cluster, ok, err := One(ctx, t, func(row Scanner) (c Cluster, err error) {
		err = row.Scan(&c.ID, &c.Incarnation)
		return c, err
	}, `SELECT id, incarnation FROM cluster WHERE one = 1`)
	if err == nil && !ok {
		return cluster, stacyvm.Errorf(stacyvm.CodeInternal, "the database has no identity")
	}
	return cluster, err
}

// Cluster is the database's identity.
func (t *Tx) Cluster(ctx context.Context) (Cluster, error) {
	if t.identity != nil {
		return *t.identity, nil
	}
	if t.Pipe != nil && t.now == 0 { // the begin brings it
		if err := t.Flush(ctx); err != nil || t.identity != nil {
			return *cmp.Or(t.identity, new(Cluster)), err
		}
	}
	cluster, err := ReadCluster(ctx, t)
	if err == nil {
		t.identity = &cluster
	}
	return cluster, err
}

// SetCluster notes the database's identity, where the begin of the transaction brings it.
func (t *Tx) SetCluster(cluster Cluster) { t.identity = &cluster }
