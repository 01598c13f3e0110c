package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
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
	// BeginNew claims those of the keys that nobody has, and tells of each whether it was. Begin is
	// for the others.
	BeginNew(ctx context.Context, claims []IdempotencyRecord) ([]bool, error)
	// Finish stores the answers, each claim's Status and Body, in the claim for that one's own
	// sandbox, if there is one.
	Finish(ctx context.Context, claims ...IdempotencyRecord) error
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
	for range 2 {
		c := clause{args: []any{claim.Scope, claim.Key, claim.BodyHash, string(claim.Sandbox)}}
		term, err := t.NowTerm(ctx, c.arg)
		if err != nil {
			return nil, err
		}
		changed, err := t.Exec(ctx, `
			INSERT INTO idempotency_keys (`+keyFields+`, created_us) VALUES ($1, $2, $3, $4, FALSE, 0, NULL, `+term+`)
			ON CONFLICT (scope, request_key) DO NOTHING`, c.args...)
		if err != nil || changed > 0 {
			return nil, err
		}
		now, err := t.NowUS(ctx)
		if err != nil {
			return nil, err
		}
		lapsed := now - KeyLife.Microseconds()
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

// BeginNew implements Idempotency.
func (t idempotency) BeginNew(ctx context.Context, claims []IdempotencyRecord) ([]bool, error) {
	mine := map[stacyvm.SandboxID]bool{}
	// in one order, so that two who claim the same keys do not wait for each other crosswise
	sorted := slices.SortedStableFunc(slices.Values(claims), func(a, b IdempotencyRecord) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Key, b.Key))
	})
	for part := range inParts(sorted) {
		var c clause
		now, err := t.NowTerm(ctx, c.arg)
		if err != nil {
			return nil, err
		}
		var rows []string
		for _, claim := range part {
			rows = append(
				rows,
				fmt.Sprintf(`(%s, %s, %s, %s, FALSE, 0, NULL, %s)`, c.arg(claim.Scope), c.arg(claim.Key),
					c.arg(claim.BodyHash), c.arg(string(claim.Sandbox)), now),
			)
		}
		_, err = sqldb.All(ctx, t.Tx, func(row sqldb.Scanner) (id string, err error) {
			err = row.Scan(&id)
			mine[stacyvm.SandboxID(id)] = true
			return id, err
		}, `INSERT INTO idempotency_keys (`+keyFields+`, created_us) VALUES `+strings.Join(rows, ", ")+`
			ON CONFLICT (scope, request_key) DO NOTHING RETURNING sandbox_id`, c.args...)
		if err != nil {
			return nil, err
		}
	}
	begun := make([]bool, len(claims))
	for i, claim := range claims {
		begun[i] = mine[claim.Sandbox]
	}
	return begun, nil
}

// Finish implements Idempotency.
func (t idempotency) Finish(ctx context.Context, claims ...IdempotencyRecord) error {
	for part := range inParts(claims) {
		var c clause
		var rows []string
		for _, claim := range part {
			rows = append(rows, fmt.Sprintf(
				`(%s, %s, %s, CAST(%s AS BIGINT), CAST(%s AS %s))`,
				c.arg(claim.Scope),
				c.arg(claim.Key),
				c.arg(string(claim.Sandbox)),
				c.arg(int64(claim.Status)),
				c.arg(claim.Body),
				t.Dialect.Bytes,
			))
		}
		err := t.Later(ctx, `
			WITH answers (scope, request_key, sandbox_id, status, body) AS (VALUES `+strings.Join(rows, ", ")+`)
			UPDATE idempotency_keys AS k SET done = TRUE, status = answers.status, body = answers.body FROM answers
			WHERE k.scope = answers.scope AND k.request_key = answers.request_key AND k.sandbox_id = answers.sandbox_id`,
			c.args...)
		if err != nil {
			return err
		}
	}
	return nil
}

// Abandon implements Idempotency.
func (t idempotency) Abandon(ctx context.Context, claim IdempotencyRecord) error {
	return t.Later(
		ctx,
		`DELETE FROM idempotency_keys WHERE scope = $1 AND request_key = $2 AND sandbox_id = $3 AND NOT done`,
		claim.Scope,
		claim.Key,
		string(claim.Sandbox),
	)
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
