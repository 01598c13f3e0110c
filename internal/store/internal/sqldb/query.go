package sqldb

import "context"

// Scanner reads the present row.
type Scanner interface{ Scan(into ...any) error }

// All runs a query and reads every row.
func All[T any](ctx context.Context, t *Tx, read func(Scanner) (T, error), text string, args ...any) ([]T, error) {
	var found []T
	collect := func(row Scanner) error {
		one, err := read(row)
		if err == nil {
			found = append(found, one)
		}
		return err
	}
	if t.Pipe != nil {
		if _, err := t.send(ctx, collect, Statement{text, args}); err != nil {
			return nil, err
		}
		return found, nil
	}
	if err := t.usable(ctx); err != nil {
		return nil, err
	}
	statement, done := t.bounded(ctx)
	defer done()
	if err := t.eachRow(statement, text, args, collect); err != nil {
		return nil, t.Fail(err)
	}
	return found, nil
}

// RowReader reads rows by itself rather than through database/sql.
type RowReader interface {
	// ReadRows runs a query and gives each row to read. It stops at the first error.
	ReadRows(ctx context.Context, text string, args []any, read func(Scanner) error) error
}

func (t *Tx) eachRow(ctx context.Context, text string, args []any, read func(Scanner) error) error {
	if t.Rows != nil {
		return t.Rows.ReadRows(ctx, text, args, read)
	}
	rows, err := t.Conn.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := read(rows); err != nil {
			return err
		}
	}
	return rows.Err()
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
