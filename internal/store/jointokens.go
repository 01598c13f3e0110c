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
	// Create keeps a new one. It is made now, by the database's clock, and lives for as long as its own times are apart.
	// CodeConflict: the id exists.
	Create(ctx context.Context, token stacyvm.JoinToken) (stacyvm.JoinToken, error)
	// Get finds one. CodeNotFound.
	Get(ctx context.Context, id string) (stacyvm.JoinToken, error)
	// List gives all, newest first.
	List(ctx context.Context, page Page) ([]stacyvm.JoinToken, error)
	// Use marks one as used by a worker, if it is there, unused and has not expired. CodeConflict: it changed nothing. Of many
	// callers one succeeds.
	Use(ctx context.Context, id string, worker stacyvm.WorkerID) (stacyvm.JoinToken, error)
	// Delete makes one worthless. CodeNotFound.
	Delete(ctx context.Context, id string) error
	// Purge forgets those that expired longer ago than keep, and returns their number.
	Purge(ctx context.Context, keep time.Duration) (int, error)
}

// joinTokens implements JoinTokens.
type joinTokens struct{ tx }

const joinTokenColumns = `id, hash, worker, created_us, expires_us, used_us, used_by`

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
	var c clause
	values := c.list(j.ID, hex.EncodeToString(j.Hash[:]), j.Worker, now, now+j.ExpiresAt.Sub(j.CreatedAt).Microseconds(), int64(0), "")
	made, ok, err := sqldb.One(ctx, t.Tx, readJoinToken, `INSERT INTO join_tokens (`+joinTokenColumns+`) VALUES `+values+`
		ON CONFLICT (id) DO NOTHING RETURNING `+joinTokenColumns, c.args...)
	if err == nil && !ok {
		err = stacyvm.Errorf(stacyvm.CodeConflict, "join token %.64q exists", j.ID)
	}
	return made, err
}

// Get implements JoinTokens.
func (t joinTokens) Get(ctx context.Context, id string) (stacyvm.JoinToken, error) {
	return found(ctx, t.tx, readJoinToken, "join token %.64q", id, `SELECT `+joinTokenColumns+` FROM join_tokens WHERE id = $1`)
}

// List implements JoinTokens.
func (t joinTokens) List(ctx context.Context, page Page) ([]stacyvm.JoinToken, error) {
	var c clause
	text := `SELECT ` + joinTokenColumns + ` FROM join_tokens` + c.newest(page)
	return sqldb.All(ctx, t.Tx, readJoinToken, text, c.args...)
}

// Use implements JoinTokens.
func (t joinTokens) Use(ctx context.Context, id string, worker stacyvm.WorkerID) (stacyvm.JoinToken, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return stacyvm.JoinToken{}, err
	}
	used, ok, err := sqldb.One(ctx, t.Tx, readJoinToken, `UPDATE join_tokens SET used_us = $3, used_by = $2 WHERE id = $1 AND used_us = 0 AND expires_us > $3
		RETURNING `+joinTokenColumns, id, string(worker), now)
	if err == nil && !ok {
		err = stacyvm.Errorf(stacyvm.CodeConflict, "join token %.64q has been used or has expired", id)
	}
	return used, err
}

// Delete implements JoinTokens.
func (t joinTokens) Delete(ctx context.Context, id string) error {
	return t.remove(ctx, "join token %.64q", id, `DELETE FROM join_tokens WHERE id = $1`)
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
