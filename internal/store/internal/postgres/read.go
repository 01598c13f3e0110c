package postgres

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Read runs read, which reads with one statement.
func (s *DB) Read(ctx context.Context, read func(*sqldb.Tx) error) error {
	return s.run(ctx, func() (bool, error) { return s.readOnce(ctx, read) })
}

// readOnce is attempt without a transaction: what begin asks the server goes with the statement.
func (s *DB) readOnce(ctx context.Context, read func(*sqldb.Tx) error) (again bool, err error) {
	conn, err := s.take(ctx)
	if err != nil {
		return isTransient(err), s.dialect.ContextError(ctx, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	t := &sqldb.Tx{
		Conn:    conn,
		Rows:    lookup{conn, s},
		Dialect: s.dialect,
		Clock:   s.clock,
		Limit:   s.limit + answerWithin,
	}
	defer t.End()
	err = read(t)
	if err == nil && t.Err() == nil {
		s.clock.Answered(time.Now())
		return false, nil
	}
	if again, err = s.judge(ctx, conn, t, err); again && conn.dead() {
		s.closeIdle() // it had ended while it waited in the pool
	}
	return again, err
}

// take takes a connection from the pool.
func (s *DB) take(ctx context.Context) (conn pgConn, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.connectTimeout)
	defer cancel()
	if conn.Conn, err = s.db.Conn(ctx); err != nil {
		s.clock.Missed()
	}
	return conn, err
}

// lookup reads on a connection with statements that stand alone.
type lookup struct {
	conn pgConn
	s    *DB
}

// ReadRows implements sqldb.RowReader: one message with the statement, its bound on the server's
// side and the question for the timeline. The server takes a message for a transaction, so that
// the bound holds for nothing else, and both are answered by the same server.
func (l lookup) ReadRows(ctx context.Context, text string, args []any, read func(sqldb.Scanner) error) error {
	return l.conn.driver(func(conn *pgx.Conn) (err error) {
		var batch pgx.Batch
		batch.Queue(`SELECT `+l.s.history.timeline+`, set_config('statement_timeout', $1, TRUE)`,
			strconv.FormatInt(l.s.limit.Milliseconds(), 10))
		batch.Queue(text, args...)
		results := conn.SendBatch(ctx, &batch)
		defer func() {
			if closing := results.Close(); err == nil {
				err = closing
			}
		}()
		var timeline string
		if err := results.QueryRow().Scan(&timeline, nil); err != nil {
			return err
		}
		if timeline != l.s.timeline.Load() {
			return errMoved
		}
		rows, err := results.Query()
		return readAll(rows, err, read)
	})
}

func readAll(rows pgx.Rows, err error, read func(sqldb.Scanner) error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := read(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// serverClock reads the clock where no begin of a transaction brought it.
func serverClock(ctx context.Context, on sqldb.Querier) (us int64, err error) {
	rows, err := on.QueryContext(ctx, `SELECT `+pgTime)
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	if rows.Next() {
		err = rows.Scan(&us)
	}
	return us, errors.Join(err, rows.Err())
}
