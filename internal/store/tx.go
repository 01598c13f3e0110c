package store

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// tx is one caller's transaction, for both dialects.
type tx struct {
	on      querier
	pipe    piper // nil where a statement costs no message
	dialect *dialect
	clock   *clock
	// shared: other callers' changes stand in the same database transaction. An interrupted statement would roll all of
	// them back, so a context is asked between statements only.
	shared bool
	writes bool
	limit  time.Duration // of a statement; 0: none

	ended  atomic.Bool
	broken error     // the first statement that failed; nothing more is done after it
	cause  error     // broken, as the driver gave it
	now    int64     // microseconds; 0: not read yet
	wall   int64     // now without a test's skew
	read   time.Time // when now was read, for the monotonic clock
	told   bool      // events were appended: watchers want to know of the commit

	pending  []statement // put off to the next message
	identity *Cluster    // nil: not read yet
}

// statement is a text with its arguments.
type statement struct {
	text string
	args []any
}

// piper sends several statements in one message, and stops at the first that fails.
type piper interface {
	pipeline(ctx context.Context, statements []statement) error
}

// Now implements Tx.
func (t *tx) Now(ctx context.Context) (time.Time, error) {
	us, err := t.nowUS(ctx)
	return fromUS(us), err
}

func (t *tx) nowUS(ctx context.Context) (int64, error) {
	if t.now != 0 {
		return t.now, nil
	}
	if err := t.ready(ctx); err != nil {
		return 0, err
	}
	statement, done := t.bounded(ctx)
	defer done()
	us, err := t.dialect.clock(statement, t.on)
	if err != nil {
		return 0, t.fail(err)
	}
	t.stamp(us)
	return t.now, nil
}

// stamp notes the database's clock, once.
func (t *tx) stamp(us int64) { t.wall, t.read, t.now = us, time.Now(), t.clock.skewed(us) }

func (t *tx) Sandboxes() Sandboxes             { return sandboxes{t} }
func (t *tx) Leases() Leases                   { return leases{t} }
func (t *tx) Workers() Workers                 { return workers{t} }
func (t *tx) Audit() Audit                     { return audit{t} }
func (t *tx) Idempotency() Idempotency         { return idempotency{t} }
func (t *tx) AdminAudit() AdminAudit           { return adminAudit{t} }
func (t *tx) Quotas() Quotas                   { return quotas{t} }
func (t *tx) ProviderConfigs() ProviderConfigs { return providerConfigs{t} }
func (t *tx) Templates() Templates             { return templates{t} }
func (t *tx) Environments() Environments       { return environments{t} }
func (t *tx) Builds() Builds                   { return builds{t} }
func (t *tx) Connections() Connections         { return connections{t} }
func (t *tx) Tenants() Tenants                 { return tenants{t} }
func (t *tx) Members() Members                 { return members{t} }
func (t *tx) Policies() Policies               { return policies{t} }
func (t *tx) JoinTokens() JoinTokens           { return joinTokens{t} }
func (t *tx) Events() Events                   { return events{t} }

// Cluster implements Tx.
func (t *tx) Cluster(ctx context.Context) (Cluster, error) {
	if t.identity != nil {
		return *t.identity, nil
	}
	cluster, err := identity(ctx, t)
	if err == nil {
		t.identity = &cluster
	}
	return cluster, err
}

// ready refuses statements that must not run any more, and runs those that were put off.
func (t *tx) ready(ctx context.Context) error {
	if err := t.usable(ctx); err != nil || len(t.pending) == 0 {
		return err
	}
	statement, done := t.bounded(ctx)
	defer done()
	if err := t.pipe.pipeline(statement, t.pending); err != nil {
		return t.fail(err)
	}
	t.pending = nil
	return nil
}

func (t *tx) usable(ctx context.Context) error {
	switch {
	case t.ended.Load():
		return stacyvm.Errorf(stacyvm.CodeInternal, "a transaction was used after its end")
	case t.broken != nil:
		return t.broken
	}
	return interrupted(ctx)
}

// bounded is the context that a statement runs with; done follows its last row.
func (t *tx) bounded(ctx context.Context) (_ context.Context, done context.CancelFunc) {
	switch {
	case t.shared:
		return context.WithoutCancel(ctx), func() {}
	case t.limit == 0:
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, t.limit)
}

// lock is appended to a SELECT of a row by its key. In an Update the row then stays as it is until the end, so that what
// was read may decide what is written.
func (t *tx) lock() string {
	if t.writes {
		return t.dialect.rowLock
	}
	return ""
}

// hold makes the Updates that hold the same scope take turns: the next one goes on when this one has ended. Where all
// writers take turns it does nothing.
func (t *tx) hold(ctx context.Context, scope string) error {
	if !t.writes || t.dialect.hold == "" {
		return nil
	}
	_, err := t.exec(ctx, t.dialect.hold, scope)
	return err
}

// fail ends the transaction's work: after an error the database may have rolled back already, and a further statement
// would stand alone.
func (t *tx) fail(err error) error {
	t.cause, t.broken = err, t.dialect.translate(err)
	return t.broken
}

// later runs a statement that gives nothing to read: where statements are messages, together with the next one, which may be
// the commit. It may fail then.
func (t *tx) later(ctx context.Context, text string, args ...any) error {
	if t.pipe == nil {
		_, err := t.exec(ctx, text, args...)
		return err
	}
	if err := t.usable(ctx); err != nil {
		return err
	}
	t.pending = append(t.pending, statement{text, args})
	return nil
}

// exec runs a statement and gives the number of rows that it changed.
func (t *tx) exec(ctx context.Context, text string, args ...any) (int64, error) {
	if err := t.ready(ctx); err != nil {
		return 0, err
	}
	statement, done := t.bounded(ctx)
	defer done()
	result, err := t.on.ExecContext(statement, text, args...)
	if err != nil {
		return 0, t.fail(err)
	}
	changed, err := result.RowsAffected()
	if err != nil {
		return 0, t.fail(err)
	}
	return changed, nil
}

// scanner reads the present row.
type scanner interface{ Scan(into ...any) error }

// all runs a query and reads every row.
func all[T any](ctx context.Context, t *tx, read func(scanner) (T, error), text string, args ...any) ([]T, error) {
	if err := t.ready(ctx); err != nil {
		return nil, err
	}
	statement, done := t.bounded(ctx)
	defer done()
	rows, err := t.on.QueryContext(statement, text, args...)
	if err != nil {
		return nil, t.fail(err)
	}
	defer func() { _ = rows.Close() }()
	var found []T
	for rows.Next() {
		row, err := read(rows)
		if err != nil {
			return nil, t.fail(err)
		}
		found = append(found, row)
	}
	if err := rows.Err(); err != nil {
		return nil, t.fail(err)
	}
	return found, nil
}

// one runs a query that gives at most one row; ok is false without one.
func one[T any](ctx context.Context, t *tx, read func(scanner) (T, error), text string, args ...any) (row T, ok bool, err error) {
	rows, err := all(ctx, t, read, text, args...)
	if err != nil || len(rows) == 0 {
		return row, false, err
	}
	return rows[0], true, nil
}

// number reads a single integer.
func number(row scanner) (n int64, err error) {
	err = row.Scan(&n)
	return n, err
}

// interrupted is the error of a context that ended, nil while it lives.
func interrupted(ctx context.Context) error {
	switch err := ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database did not answer in time")
	default:
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the call was given up")
	}
}

// toUS and fromUS convert times; the zero time is 0.
func toUS(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromUS(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
