package store

import (
	"cmp"
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

const (
	// EventLife is how long events are kept for subscribers that come back.
	EventLife = 24 * time.Hour
	// EventCount is how many events are kept for them.
	EventCount = 100_000

	// numberedAtOnce bounds one statement that gives numbers.
	numberedAtOnce = 5000
)

// Events is the outbox: what happened, written in the transaction in which it happened, for
// whoever subscribed. See docs/adr/0005-events.md.
type Events interface {
	// Append writes events, in their order. They get their numbers no earlier than with the
	// commit.
	Append(ctx context.Context, events []stacyvm.Event) error
	// Number gives numbers to what was committed before without one, and tells whether more of it
	// may be left. See Waiting.
	Number(ctx context.Context) (more bool, err error)
	// List gives the events after a number, in order. An event that has not come once a later one
	// is there never comes.
	List(ctx context.Context, filter EventFilter) ([]stacyvm.Event, error)
	// Recent gives the newest events first, those without a number too.
	Recent(ctx context.Context, filter RecentFilter) ([]stacyvm.Event, error)
	// Span tells what List can give.
	Span(ctx context.Context) (EventSpan, error)
	// Purge forgets what is older than life, and the oldest of more than count, and returns their
	// number.
	Purge(ctx context.Context, life time.Duration, count int) (int, error)
}

// EventFilter selects events; the zero value selects all.
type EventFilter struct {
	Tenant string // only this tenant's
	After  int64  // number of the last one that was seen
	Limit  int    // 0: 100
}

// RecentFilter selects events for Recent; the zero value selects all.
type RecentFilter struct {
	Tenant string         // only this tenant's
	Kinds  []stacyvm.Kind // only these
	Reason string         // only those whose data has this reason
	Limit  int            // 0: 100
}

// EventSpan is the numbers of the oldest event that is kept and of the last one that was made:
// First is Last+1 when none is kept.
type EventSpan struct {
	First, Last int64
	// Waiting: something was committed that has no number yet, so that List does not give it.
	// While somebody watches, numbers come by themselves, soon; who cannot wait asks for them.
	Waiting bool
}

// events implements Events.
type events struct{ tx }

const eventColumns = `number, kind, sandbox_id, tenant_id, data, created_us`

// Append implements Events.
func (t events) Append(ctx context.Context, events []stacyvm.Event) error {
	if len(events) == 0 {
		return nil
	}
	next, err := t.reserve(ctx, len(events))
	if err != nil {
		return err
	}
	t.Notify = true
	return appendLines(
		ctx,
		t.tx,
		`events (`+eventColumns+`)`,
		events,
		func(c *clause, now int64, n stacyvm.Event) string {
			var number any
			if next > 0 {
				number = next
				next++
			}
			return `(CAST(` + c.arg(
				number,
			) + ` AS BIGINT), ` + c.list(string(n.Kind), string(n.SandboxID), n.TenantID, packed(n.Data), cmp.Or(toUS(n.CreatedAt), now))[1:]
		},
	)
}

// reserve takes n numbers and gives the first, where transactions commit one after the other.
// Elsewhere it gives 0: holding the counter until the commit would make all writers wait for each
// other's sync, so numbers are given after it.
func (t events) reserve(ctx context.Context, n int) (int64, error) {
	if !t.Dialect.Serial {
		return 0, nil
	}
	last, _, err := sqldb.One(
		ctx,
		t.Tx,
		sqldb.ScanInt,
		`UPDATE event_counter SET last = last + $1 WHERE one = 1 RETURNING last`,
		int64(n),
	)
	return last - int64(n) + 1, err
}

// waiting tells whether anything has no number yet, and the last number.
func (t events) waiting(ctx context.Context) (waiting bool, last int64, err error) {
	last, _, err = sqldb.One(ctx, t.Tx, sqldb.ScanInt, `SELECT last FROM event_counter WHERE one = 1`)
	if err != nil || t.Dialect.Serial {
		return false, last, err
	}
	_, waiting, err = sqldb.One(
		ctx,
		t.Tx,
		sqldb.ScanInt,
		`SELECT id FROM events WHERE number IS NULL ORDER BY id LIMIT 1`,
	)
	return waiting, last, err
}

// Number implements Events.
func (t events) Number(ctx context.Context) (more bool, err error) {
	if !t.Dialect.Serial {
		more, _, err = t.number(ctx)
	}
	return more, err
}

// number gives numbers to events that were committed without. The counter's row is locked first,
// so that those who do this take turns, and each sees all that the one before it gave: numbers
// become visible in their order. It tells whether more may wait, and the last number.
func (t events) number(ctx context.Context) (more bool, last int64, err error) {
	if last, _, err = sqldb.One(
		ctx,
		t.Tx,
		sqldb.ScanInt,
		`SELECT last FROM event_counter WHERE one = 1`+t.RowLock(),
	); err != nil {
		return false, 0, err
	}
	n, err := t.Exec(ctx, `
		WITH fresh AS (SELECT id, row_number() OVER (ORDER BY id) AS place FROM events WHERE number IS NULL ORDER BY id LIMIT $2)
		UPDATE events SET number = $1 + fresh.place FROM fresh WHERE events.id = fresh.id`, last, int64(numberedAtOnce))
	if err != nil || n == 0 {
		return false, last, err
	}
	last += n
	_, err = t.Exec(ctx, `UPDATE event_counter SET last = $1 WHERE one = 1`, last)
	return n == numberedAtOnce, last, err
}

// List implements Events.
func (t events) List(ctx context.Context, f EventFilter) ([]stacyvm.Event, error) {
	var c clause
	c.named(`tenant_id`, f.Tenant)
	c.add(`number > %s`, f.After)
	text := `SELECT ` + eventColumns + ` FROM events` + c.where() + ` ORDER BY number LIMIT ` + c.arg(
		limited(f.Limit, listed),
	)
	return sqldb.All(ctx, t.Tx, readEvent, text, c.args...)
}

func readEvent(row sqldb.Scanner) (n stacyvm.Event, err error) {
	var data string
	var created int64
	if err = row.Scan(&n.Number, &n.Kind, &n.SandboxID, &n.TenantID, &data, &created); err != nil {
		return n, err
	}
	n.CreatedAt = fromUS(created)
	return n, unpack(&data, &n.Data)
}

// Recent implements Events.
func (t events) Recent(ctx context.Context, f RecentFilter) ([]stacyvm.Event, error) {
	var c clause
	c.equal(`tenant_id`, f.Tenant)
	if len(f.Kinds) > 0 {
		kinds := make([]any, len(f.Kinds))
		for i, kind := range f.Kinds {
			kinds[i] = string(kind)
		}
		c.parts = append(c.parts, `kind IN `+c.list(kinds...))
	}
	if f.Reason != "" {
		c.add(t.Dialect.Word("data", "reason")+` = %s`, f.Reason)
	}
	text := `SELECT coalesce(number, 0), kind, sandbox_id, tenant_id, data, created_us FROM events` + c.where() +
		` ORDER BY id DESC LIMIT ` + c.arg(limited(f.Limit, listed))
	return sqldb.All(ctx, t.Tx, readEvent, text, c.args...)
}

// Span implements Events.
func (t events) Span(ctx context.Context) (EventSpan, error) {
	waiting, last, err := t.waiting(ctx)
	if err != nil {
		return EventSpan{}, err
	}
	first, ok, err := sqldb.One(
		ctx,
		t.Tx,
		sqldb.ScanInt,
		`SELECT number FROM events WHERE number IS NOT NULL ORDER BY number LIMIT 1`,
	)
	if err == nil && !ok {
		first = last + 1
	}
	return EventSpan{First: first, Last: last, Waiting: waiting}, err
}

// Purge implements Events. What is forgotten is always the beginning, so that who is behind can
// tell that it missed something.
func (t events) Purge(ctx context.Context, life time.Duration, count int) (int, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return 0, err
	}
	for more := true; more; { // what nobody listened to has no number yet
		if more, err = t.Number(ctx); err != nil {
			return 0, err
		}
	}
	purged := 0
	for _, first := range []struct { // that stays
		text  string
		bound int64
	}{
		{`coalesce((SELECT number FROM events WHERE number IS NOT NULL AND created_us > $1 ORDER BY number LIMIT 1), 9223372036854775807)`, now - life.Microseconds()},
		{`(SELECT number + 1 FROM events WHERE number IS NOT NULL ORDER BY number DESC LIMIT 1 OFFSET $1)`, int64(count)},
	} {
		n, err := t.Exec(ctx, `DELETE FROM events WHERE number < `+first.text, first.bound)
		if err != nil {
			return purged, err
		}
		purged += int(n)
	}
	return purged, nil
}
