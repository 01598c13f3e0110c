package store

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// JoinTokens let new workers in.
type JoinTokens interface {
	// Create keeps a new one. It is made now, by the database's clock, and lives for as long as
	// its own times are apart. CodeConflict: the id exists.
	Create(ctx context.Context, token stacyvm.JoinToken) (stacyvm.JoinToken, error)
	// Get finds one. CodeNotFound.
	Get(ctx context.Context, id string) (stacyvm.JoinToken, error)
	// List gives all, newest first.
	List(ctx context.Context, page Page) ([]stacyvm.JoinToken, error)
	// Use marks one as used by a worker, if it is there, unused and has not expired. CodeConflict:
	// it changed nothing. Of many callers one succeeds.
	Use(ctx context.Context, id string, worker stacyvm.WorkerID) (stacyvm.JoinToken, error)
	// Delete makes one worthless. CodeNotFound.
	Delete(ctx context.Context, id string) error
	// Purge forgets those that expired longer ago than keep, and returns their number.
	Purge(ctx context.Context, keep time.Duration) (int, error)
}

// joinTokens implements JoinTokens.
type joinTokens struct {
	keyed[stacyvm.JoinToken, string]
}

var joinTokenTable = table[stacyvm.JoinToken, string]{
	name: "join_tokens", entity: "join token %.64q", key: "id",
	columns: `id, hash, worker, created_us, expires_us, used_us, used_by`,
	read:    readJoinToken,
}

func readJoinToken(row sqldb.Scanner) (j stacyvm.JoinToken, err error) {
	var hash string
	var created, expires, used int64
	if err = row.Scan(&j.ID, &hash, &j.Worker, &created, &expires, &used, &j.UsedBy); err != nil {
		return j, err
	}
	if n, err := hex.Decode(j.Hash[:], []byte(hash)); err != nil || n != len(j.Hash) {
		return j, stacyvm.Errorf(stacyvm.CodeInternal, "the hash of join token %s is damaged", j.ID)
	}
	j.CreatedAt, j.ExpiresAt = fromUS(created), fromUS(expires)
	if used > 0 {
		j.UsedAt = fromUS(used)
	}
	return j, nil
}

// Create implements JoinTokens.
func (t joinTokens) Create(ctx context.Context, j stacyvm.JoinToken) (stacyvm.JoinToken, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return j, err
	}
	expires := now + j.ExpiresAt.Sub(j.CreatedAt).Microseconds()
	return t.insert(ctx, j.ID, j.ID, hex.EncodeToString(j.Hash[:]), j.Worker, now, expires, int64(0), "")
}

// List implements JoinTokens.
func (t joinTokens) List(ctx context.Context, page Page) ([]stacyvm.JoinToken, error) {
	var c clause
	return t.all(ctx, &c, c.newest(page))
}

// Use implements JoinTokens.
func (t joinTokens) Use(ctx context.Context, id string, worker stacyvm.WorkerID) (stacyvm.JoinToken, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return stacyvm.JoinToken{}, err
	}
	used, ok, err := sqldb.One(
		ctx,
		t.Tx,
		readJoinToken,
		`UPDATE join_tokens SET used_us = $3, used_by = $2 WHERE id = $1 AND used_us = 0 AND expires_us > $3
		RETURNING `+joinTokenTable.columns,
		id,
		string(worker),
		now,
	)
	if err == nil && !ok {
		err = stacyvm.Errorf(stacyvm.CodeConflict, joinTokenTable.entity+" has been used or has expired", id)
	}
	return used, err
}

// Purge implements JoinTokens.
func (t joinTokens) Purge(ctx context.Context, keep time.Duration) (int, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return 0, err
	}
	purged, err := t.Exec(ctx, `DELETE FROM join_tokens WHERE expires_us < $1`, now-keep.Microseconds())
	return int(purged), err
}
