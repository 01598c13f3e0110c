package sqldb

import "context"

// Scanner reads the present row.
type Scanner interface{ Scan(into ...any) error }

// All runs a query and reads every row.
func All[T any](ctx context.Context, t *Tx, read func(Scanner) (T, error), text string, args ...any) ([]T, error) {
	if err := t.ready(ctx); err != nil {
		return nil, err
	}
	statement, done := t.bounded(ctx)
	defer done()
	rows, err := t.Conn.QueryContext(statement, text, args...)
	if err != nil {
		return nil, t.Fail(err)
	}
	defer func() { _ = rows.Close() }()
	var found []T
	for rows.Next() {
		row, err := read(rows)
		if err != nil {
			return nil, t.Fail(err)
		}
		found = append(found, row)
	}
	if err := rows.Err(); err != nil {
		return nil, t.Fail(err)
	}
	return found, nil
}

// One runs a query that gives at most one row; ok is false without one.
func One[T any](
	ctx context.Context,
	t *Tx,
	read func(Scanner) (T, error),
	text string,
	args ...any,
) (row T, ok bool, err error) {
	rows, err := All(ctx, t, read, text, args...)
	if err != nil || len(rows) == 0 {
		return row, false, err
	}
	return rows[0], true, nil
}

// ScanInt reads a single integer.
func ScanInt(row Scanner) (n int64, err error) {
	err = row.Scan(&n)
	return n, err
}
