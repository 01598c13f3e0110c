package sqldb

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
)

// Tx is one caller's transaction, for both dialects. It is not safe for concurrent use.
type Tx struct {
	Conn    Querier
	Rows    RowReader // reads in place of Conn; nil: Conn does
	Pipe    Pipeliner // nil where a statement costs no message
	Dialect *Dialect
	Clock   *Clock
	// Shared: other callers' changes stand in the same database transaction. An interrupted
	// statement would roll all of them back, so a context is asked between statements only.
	Shared  bool
	Writes  bool
	Limit   time.Duration // of a statement; 0: none
	Notify  bool          // events were appended: watchers want to know of the commit
	Touched Touched       // what of rows that are kept in memory is changed

	ended  atomic.Bool
	broken error     // the first statement that failed; nothing more is done after it
	cause  error     // broken, as the driver gave it
	now    int64     // microseconds; 0: not read yet
	wall   int64     // now without a test's skew
	read   time.Time // when now was read, for the monotonic clock

	pending  []Statement // put off to the next message
	identity *Cluster    // nil: not read yet
}

// Touched names sandboxes whose rows are changed.
type Touched struct {
	IDs []string
	All bool // more than IDs tell
}

// Add adds what another transaction touched.
func (t *Touched) Add(other Touched) {
	t.IDs, t.All = append(t.IDs, other.IDs...), t.All || other.All
}

// Any reports whether anything was touched.
func (t *Touched) Any() bool { return t.All || len(t.IDs) > 0 }

// Statement is a text with its arguments.
type Statement struct {
	Text string
	Args []any
}

// Pipeliner sends several statements in one message, and stops at the first that fails. The begin of
// the transaction may go with them: then it sets the transaction's clock and identity. Each row of
// the last one goes to read, if that is not nil; changed is how many rows it changed.
type Pipeliner interface {
	Pipeline(ctx context.Context, t *Tx, statements []Statement, read func(Scanner) error) (changed int64, err error)
}

// End refuses all further statements.
func (t *Tx) End() { t.ended.Store(true) }

// Err is the first failure of a statement, nil without one. Nothing more is done after it.
func (t *Tx) Err() error { return t.broken }

// Cause is Err as the driver gave it.
func (t *Tx) Cause() error { return t.cause }

// Pending are the statements that were put off and not sent yet.
func (t *Tx) Pending() []Statement { return t.pending }

// Now is the database's clock, the same within a transaction.
func (t *Tx) Now(ctx context.Context) (time.Time, error) {
	us, err := t.NowUS(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return time.UnixMicro(us).UTC(), nil
}

// NowUS is Now in microseconds.
func (t *Tx) NowUS(ctx context.Context) (int64, error) {
	if t.now != 0 {
		return t.now, nil
	}
	if t.Pipe != nil { // the begin brings it
		err := t.Flush(ctx)
		return t.now, err
	}
	if err := t.usable(ctx); err != nil {
		return 0, err
	}
	statement, done := t.bounded(ctx)
	defer done()
	us, err := t.Dialect.Clock(statement, t.Conn)
	if err != nil {
		return 0, t.Fail(err)
	}
	t.SetNow(us)
	return t.now, nil
}

// NowTerm is NowUS as a term of a statement; arg adds a value to the statement and gives its
// placeholder. Where the begin of the transaction may go with the statement, the clock need not be
// known here yet.
func (t *Tx) NowTerm(ctx context.Context, arg func(any) string) (string, error) {
	if t.now == 0 && t.Pipe != nil && t.Dialect.Now != "" {
		return `(` + t.Dialect.Now + ` + CAST(` + arg(t.Clock.Skewed(0)) + ` AS BIGINT))`, nil
	}
	now, err := t.NowUS(ctx)
	return arg(now), err
}

// SetNow notes the database's clock in microseconds, once.
func (t *Tx) SetNow(us int64) { t.wall, t.read, t.now = us, time.Now(), t.Clock.Skewed(us) }

// MayTakeOver reports whether leases of others may be taken over. It follows NowUS.
func (t *Tx) MayTakeOver() bool { return t.Clock.MayTakeOver(t.wall, t.read) }

// Flush runs what was put off, the begin of the transaction too.
func (t *Tx) Flush(ctx context.Context) error {
	_, err := t.send(ctx, nil)
	return err
}

// send runs what was put off and statements in one message.
func (t *Tx) send(ctx context.Context, read func(Scanner) error, statements ...Statement) (changed int64, err error) {
	if err := t.usable(ctx); err != nil {
		return 0, err
	}
	statement, done := t.bounded(ctx)
	defer done()
	if changed, err = t.Pipe.Pipeline(statement, t, append(t.pending, statements...), read); err != nil {
		return 0, t.Fail(err)
	}
	t.pending = nil
	return changed, nil
}

// usable refuses statements that must not run any more.
func (t *Tx) usable(ctx context.Context) error {
	switch {
	case t.ended.Load():
		return stacyvm.Errorf(stacyvm.CodeInternal, "a transaction was used after its end")
	case t.broken != nil:
		return t.broken
	}
	return dberr.Context(ctx)
}

// bounded is the context that a statement runs with; done follows its last row.
func (t *Tx) bounded(ctx context.Context) (_ context.Context, done context.CancelFunc) {
	switch {
	case t.Shared:
		return context.WithoutCancel(ctx), func() {}
	case t.Limit == 0:
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, t.Limit)
}

// RowLock is appended to a SELECT of a row by its key. In an Update the row then stays as it is
// until the end, so that what was read may decide what is written.
func (t *Tx) RowLock() string {
	if t.Writes {
		return t.Dialect.RowLock
	}
	return ""
}

// AdvisoryLock makes the Updates that lock the same scope take turns: the next one goes on when
// this one has ended. Where all writers take turns it does nothing.
func (t *Tx) AdvisoryLock(ctx context.Context, scope string) error {
	if !t.Writes || t.Dialect.AdvisoryLock == "" {
		return nil
	}
	_, err := t.Exec(ctx, t.Dialect.AdvisoryLock, scope)
	return err
}

// Fail ends the transaction's work: after an error the database may have rolled back already, and
// a further statement would stand alone.
func (t *Tx) Fail(err error) error {
	t.cause, t.broken = err, t.Dialect.Translate(err)
	return t.broken
}

// Abort is Fail for an error that no driver gave.
func (t *Tx) Abort(err error) error {
	t.broken = err
	return err
}

// Later runs a statement that gives nothing to read: where statements are messages, together with
// the next one, which may be the commit. It may fail then.
func (t *Tx) Later(ctx context.Context, text string, args ...any) error {
	if t.Pipe == nil {
		_, err := t.Exec(ctx, text, args...)
		return err
	}
	if err := t.usable(ctx); err != nil {
		return err
	}
	t.pending = append(t.pending, Statement{text, args})
	return nil
}

// Exec runs a statement and gives the number of rows that it changed.
func (t *Tx) Exec(ctx context.Context, text string, args ...any) (int64, error) {
	if t.Pipe != nil {
		return t.send(ctx, nil, Statement{text, args})
	}
	if err := t.usable(ctx); err != nil {
		return 0, err
	}
	statement, done := t.bounded(ctx)
	defer done()
	result, err := t.Conn.ExecContext(statement, text, args...)
	if err != nil {
		return 0, t.Fail(err)
	}
	changed, err := result.RowsAffected()
	if err != nil {
		return 0, t.Fail(err)
	}
	return changed, nil
}
