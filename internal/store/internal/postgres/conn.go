package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

const (
	// idleWithin is how long the server waits for the next statement of a transaction. A process
	// that was stopped in the middle of one lets go of its rows before a lease's grace is over.
	idleWithin = 5 * time.Second
	// endWithin bounds a rollback.
	endWithin = 10 * time.Second
	// answerWithin is how much longer than the server this side waits, so that the server's answer
	// comes first.
	answerWithin = 2 * time.Second
)

// CommitTimeout bounds a commit: its caller waits, and learns nothing better by waiting longer.
const CommitTimeout = 5 * time.Second

// pgTime reads the server's clock in microseconds.
const pgTime = `CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)`

// pgNow is pgTime at the begin of the transaction.
const pgNow = `CAST(extract(epoch FROM now()) * 1000000 AS BIGINT)`

// pgConn is a connection of the pool.
type pgConn struct{ *sql.Conn }

// inOne sends statements in one message, and gives what the server says to the last.
func inOne(ctx context.Context, conn *pgx.Conn, statements []sqldb.Statement) (tag pgconn.CommandTag, err error) {
	var batch pgx.Batch
	for _, s := range statements {
		batch.Queue(s.Text, s.Args...)
	}
	results := conn.SendBatch(ctx, &batch)
	for range statements {
		if tag, err = results.Exec(); err != nil {
			break
		}
	}
	if closing := results.Close(); err == nil {
		err = closing
	}
	return tag, err
}

// errUndone is a commit that the server answered with a rollback.
var errUndone = errors.New("the transaction was rolled back")

// commit runs what was put off and ends the transaction; known is whether its outcome is certain
// when it fails.
func (c pgConn) commit(ctx context.Context, t *sqldb.Tx) (known bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), CommitTimeout)
	defer cancel()
	if c.dead() {
		return true, driver.ErrBadConn
	}
	var tag pgconn.CommandTag
	err = c.driver(func(conn *pgx.Conn) error {
		tag, err = inOne(ctx, conn, append(t.Pending(), sqldb.Statement{Text: "COMMIT"}))
		return err
	})
	switch {
	case err == nil && tag.String() != "COMMIT":
		return true, errUndone
	case err == nil:
		return true, nil
	}
	// An ERROR is the server's refusal. Anything worse may have struck after the commit was on
	// disk; pgconn.SafeToRetry is no help, it also holds for a connection that ended before the
	// answer.
	failed, ok := errors.AsType[*pgconn.PgError](err)
	return ok && failed.SeverityUnlocalized == "ERROR", err
}

// rollback ends the transaction. When it fails the connection is closed, and the server rolls
// back.
func (c pgConn) rollback(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
	defer cancel()
	if !c.dead() {
		_, _ = c.send(ctx, "ROLLBACK")
	}
}

// send runs statements without arguments in one round trip.
func (c pgConn) send(ctx context.Context, text string) (results []*pgconn.Result, err error) {
	err = c.raw(func(conn *pgconn.PgConn) error {
		results, err = conn.Exec(ctx, text).ReadAll()
		return err
	})
	return results, err
}

// dead reports whether the connection is closed.
func (c pgConn) dead() bool {
	dead := true
	_ = c.raw(func(conn *pgconn.PgConn) error {
		dead = conn.IsClosed()
		return nil
	})
	return dead
}

func (c pgConn) raw(use func(*pgconn.PgConn) error) error {
	return c.driver(func(conn *pgx.Conn) error { return use(conn.PgConn()) })
}

func (c pgConn) driver(use func(*pgx.Conn) error) error {
	return c.Raw(func(conn any) error {
		own, ok := conn.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("a connection is a %T", conn)
		}
		return use(own.Conn())
	})
}
