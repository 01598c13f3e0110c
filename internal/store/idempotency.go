package store

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// KeyLife is how long an answer is kept for repeats of its request.
const KeyLife = 24 * time.Hour

// Idempotency keeps the answers to requests that carry a key, for KeyLife.
type Idempotency interface {
	// Begin claims a key. It returns nil when the caller now owns it; the record when the key is
	// known. A claim stays until it is answered or abandoned: whether its request is still under
	// way, the sandbox's row tells.
	Begin(ctx context.Context, claim IdempotencyRecord) (*IdempotencyRecord, error)
	// Finish stores the answer, claim's Status and Body. It changes nothing but the claim for
	// claim's own sandbox. CodeNotFound: there is none.
	Finish(ctx context.Context, claim IdempotencyRecord) error
	// Abandon frees the claim for claim's own sandbox, so that the request can be tried again. An
	// answered key stays.
	Abandon(ctx context.Context, claim IdempotencyRecord) error
	// Purge removes records older than KeyLife and returns their number.
	Purge(ctx context.Context) (int, error)
}

// IdempotencyRecord is one key.
type IdempotencyRecord struct {
	Scope    string // tenant, principal and route
	Key      string
	BodyHash string            // SHA-256 of the canonical body
	Sandbox  stacyvm.SandboxID // that the create made
	Done     bool
	Status   int
	Body     []byte
}

// idempotency implements Idempotency.
type idempotency struct{ tx }

const keyFields = `scope, request_key, body_hash, sandbox_id, done, status, body`

// Begin implements Idempotency. A repeat locks nothing: many of them would keep the first request
// from storing its answer.
func (t idempotency) Begin(ctx context.Context, claim IdempotencyRecord) (*IdempotencyRecord, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return nil, err
	}
	lapsed := now - KeyLife.Microseconds()
	for range 2 {
		changed, err := t.Exec(ctx, `
			INSERT INTO idempotency_keys (`+keyFields+`, created_us) VALUES ($1, $2, $3, $4, FALSE, 0, NULL, $5)
			ON CONFLICT (scope, request_key) DO NOTHING`,
			claim.Scope, claim.Key, claim.BodyHash, string(claim.Sandbox), now)
		if err != nil || changed > 0 {
			return nil, err
		}
		known, ok, err := sqldb.One(ctx, t.Tx, func(row sqldb.Scanner) (r IdempotencyRecord, err error) {
			err = row.Scan(&r.Scope, &r.Key, &r.BodyHash, &r.Sandbox, &r.Done, &r.Status, &r.Body)
			return r, err
		}, `SELECT `+keyFields+` FROM idempotency_keys WHERE scope = $1 AND request_key = $2 AND created_us > $3`, claim.Scope, claim.Key, lapsed)
		if err != nil {
			return nil, err
		}
		if ok {
			return &known, nil
		}
		// It was freed at this moment, or its time is over.
		if _, err := t.Exec(
			ctx,
			`DELETE FROM idempotency_keys WHERE scope = $1 AND request_key = $2 AND created_us <= $3`,
			claim.Scope,
			claim.Key,
			lapsed,
		); err != nil {
			return nil, err
		}
	}
	return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "the key was freed at this moment: try again")
}

// Finish implements Idempotency.
func (t idempotency) Finish(ctx context.Context, claim IdempotencyRecord) error {
	changed, err := t.Exec(ctx, `
		UPDATE idempotency_keys SET done = TRUE, status = $4, body = $5
		WHERE scope = $1 AND request_key = $2 AND sandbox_id = $3`,
		claim.Scope, claim.Key, string(claim.Sandbox), int64(claim.Status), claim.Body)
	if err == nil && changed == 0 {
		return stacyvm.Errorf(stacyvm.CodeNotFound, "the key is not claimed")
	}
	return err
}

// Abandon implements Idempotency.
func (t idempotency) Abandon(ctx context.Context, claim IdempotencyRecord) error {
	_, err := t.Exec(
		ctx,
		`DELETE FROM idempotency_keys WHERE scope = $1 AND request_key = $2 AND sandbox_id = $3 AND NOT done`,
		claim.Scope,
		claim.Key,
		string(claim.Sandbox),
	)
	return err
}

// Purge implements Idempotency.
func (t idempotency) Purge(ctx context.Context) (int, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return 0, err
	}
	changed, err := t.Exec(ctx, `DELETE FROM idempotency_keys WHERE created_us <= $1`, now-KeyLife.Microseconds())
	return int(changed), err
}
